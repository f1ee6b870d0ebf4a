/* str.h: growing byte strings with a limit, and views of bytes that somebody else owns. */
#ifndef HD_BASE_STR_H
#define HD_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A view: not terminated, may hold any byte. */
struct hd_view {
    const char *p;
    size_t n;
};

/* Grows; s is always terminated after the first append (and "" before it through hd_str_get). */
struct hd_str {
    char *s;
    size_t n, cap, max;
    bool failed;            /* memory or max was exceeded: appends do nothing from then on */
};

void hd_str_init(struct hd_str *b, size_t max);         /* max 0: 1 GiB */
void hd_str_release(struct hd_str *b);
void hd_str_reset(struct hd_str *b);                    /* empty, storage kept, failed cleared */
bool hd_str_add(struct hd_str *b, const void *p, size_t n);
bool hd_str_puts(struct hd_str *b, const char *s);
bool hd_str_putc(struct hd_str *b, char c);
bool hd_str_printf(struct hd_str *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool hd_str_json(struct hd_str *b, const char *p, size_t n);   /* a JSON string literal with its quotes; malformed UTF-8 becomes U+FFFD */
const char *hd_str_get(const struct hd_str *b);

/* UTF-8: the code point at p (n > 0 bytes left) and its length, or -1 and length 1 where it is malformed. */
int32_t hd_utf8_get(const char *p, size_t n, int *len);
int hd_utf8_put(char *out, uint32_t cp);                /* writes 1..4 bytes, returns how many */
/* Bytes at the start of p that are whole code points; a cut sequence at the end is left for later. Malformed bytes count as whole. */
size_t hd_utf8_whole(const char *p, size_t n);

static inline bool hd_view_is(struct hd_view v, const char *s)
{
    size_t n = __builtin_strlen(s);

    return v.n == n && !__builtin_memcmp(v.p, s, n);
}

static inline bool hd_ends_with(const char *s, const char *end)
{
    size_t n = __builtin_strlen(s), k = __builtin_strlen(end);

    return n >= k && !__builtin_memcmp(s + n - k, end, k);
}

/* "1.5 GB", "512 B": for people. Returns buf. */
const char *hd_fmt_bytes(char buf[32], int64_t n);
const char *hd_fmt_count(char buf[32], int64_t n);      /* "135M", "284.3B" */

/* Whole-string numbers; false when malformed or out of range. */
bool hd_parse_i64(const char *s, int64_t lo, int64_t hi, int64_t *out);
bool hd_parse_f64(const char *s, double lo, double hi, double *out);

#endif
