/* err.h: how the library says that the world went wrong.
 *
 * A function that can fail returns an int: HD_OK, or a status below zero after writing one line into *err, where
 * the facts are (which file, tensor or field; what was found; what was expected). Outputs stay untouched on failure.
 * HD_AGAIN is an answer, not an error. A bug of ours is an HD_ASSERT, which stays in release builds.
 */
#ifndef HD_BASE_ERR_H
#define HD_BASE_ERR_H

#include <stdarg.h>

enum hd_status {
    HD_OK = 0,
    HD_AGAIN = 1,             /* not yet: call again later */
    HD_ERR_IO = -1,           /* open, read, write, map */
    HD_ERR_FORMAT = -2,       /* a file's content is not what its format says */
    HD_ERR_SHAPE = -3,        /* dimensions or number formats do not fit */
    HD_ERR_MEMORY = -4,       /* an allocation failed, or a plan does not fit */
    HD_ERR_USAGE = -5,        /* the caller asked for something impossible */
    HD_ERR_LIMIT = -6,        /* a stated limit was reached */
    HD_ERR_UNSUPPORTED = -7,  /* well formed, and not something hadal can do */
    HD_ERR_CANCELLED = -8     /* the caller asked to stop */
};

struct hd_err {
    int code;                 /* enum hd_status */
    char msg[512];            /* one line, no newline; untrusted text in it is made printable */
};

/* Writes the message and returns code. Control characters and malformed UTF-8 in the result become '?'. err may be NULL. */
int hd_err_set(struct hd_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int hd_err_setv(struct hd_err *err, int code, const char *fmt, va_list ap);

/* "what: " in front of the message that is there; returns the code that is there. */
int hd_err_prepend(struct hd_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* errno's text after the message: "PATH: cannot open: No such file or directory". */
int hd_err_errno(struct hd_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The code's name in lower case, for JSON output: "format". */
const char *hd_status_name(int code);

#define HD_TRY(call)                    \
    do {                                \
        int hd_try_rc_ = (call);        \
        if (hd_try_rc_ < 0)             \
            return hd_try_rc_;          \
    } while (0)

_Noreturn void hd_assert_fail(const char *expr, const char *file, int line, const char *func);

#define HD_ASSERT(e) ((e) ? (void)0 : hd_assert_fail(#e, __FILE__, __LINE__, __func__))

#define HD_LEN(a) ((int)(sizeof(a) / sizeof((a)[0])))

#endif
