/* err.c: see err.h. Messages may quote untrusted names, so they are made printable here, once, for everybody. */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at s (1..4), 0 if malformed. */
static int utf8_len(const unsigned char *s)
{
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;

    for (int i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

static void make_printable(char *msg)
{
    unsigned char *s = (unsigned char *)msg;

    while (*s) {
        int n = utf8_len(s);

        if (n == 0 || (n == 1 && (*s < 0x20 || *s == 0x7F)) || (n == 2 && s[0] == 0xC2 && s[1] < 0xA0)) {
            *s++ = '?';
            continue;
        }
        s += n;
    }
}

int hd_err_setv(struct hd_err *err, int code, const char *fmt, va_list ap)
{
    if (err) {
        err->code = code;
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        make_printable(err->msg);
    }
    return code;
}

int hd_err_set(struct hd_err *err, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    hd_err_setv(err, code, fmt, ap);
    va_end(ap);
    return code;
}

int hd_err_errno(struct hd_err *err, int code, const char *fmt, ...)
{
    char what[400];
    int saved = errno;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return hd_err_set(err, code, "%s: %s", what, strerror(saved));
}

int hd_err_prepend(struct hd_err *err, const char *fmt, ...)
{
    char what[300], old[sizeof err->msg];
    va_list ap;

    if (!err)
        return HD_ERR_IO;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    memcpy(old, err->msg, sizeof old);
    return hd_err_set(err, err->code, "%s: %s", what, old);
}

const char *hd_status_name(int code)
{
    switch (code) {
    case HD_OK: return "ok";
    case HD_AGAIN: return "again";
    case HD_ERR_IO: return "io";
    case HD_ERR_FORMAT: return "format";
    case HD_ERR_SHAPE: return "shape";
    case HD_ERR_MEMORY: return "memory";
    case HD_ERR_USAGE: return "usage";
    case HD_ERR_LIMIT: return "limit";
    case HD_ERR_UNSUPPORTED: return "unsupported";
    case HD_ERR_CANCELLED: return "cancelled";
    }
    return "unknown";
}

_Noreturn void hd_assert_fail(const char *expr, const char *file, int line, const char *func)
{
    fprintf(stderr, "hadal: bug: %s:%d: %s: assertion failed: %s\n", file, line, func, expr);
    abort();
}
