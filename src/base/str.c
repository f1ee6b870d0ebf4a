/* str.c: see str.h. */
#include "base/str.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void hd_str_init(struct hd_str *b, size_t max)
{
    memset(b, 0, sizeof *b);
    b->max = max ? max : (size_t)1 << 30;
}

void hd_str_release(struct hd_str *b)
{
    hd_free(b->s);
    hd_str_init(b, b->max);
}

void hd_str_reset(struct hd_str *b)
{
    b->n = 0;
    b->failed = false;
    if (b->s)
        b->s[0] = 0;
}

static bool make_room(struct hd_str *b, size_t n)
{
    if (b->failed || n > b->max || b->n > b->max - n || !HD_GROW(b->s, b->cap, b->n + n + 1, b->max + 1)) {
        b->failed = true;
        return false;
    }
    return true;
}

bool hd_str_add(struct hd_str *b, const void *p, size_t n)
{
    if (!make_room(b, n))
        return false;
    if (n)
        memcpy(b->s + b->n, p, n);
    b->n += n;
    b->s[b->n] = 0;
    return true;
}

bool hd_str_puts(struct hd_str *b, const char *s)
{
    return hd_str_add(b, s, strlen(s));
}

bool hd_str_putc(struct hd_str *b, char c)
{
    return hd_str_add(b, &c, 1);
}

bool hd_str_printf(struct hd_str *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !make_room(b, (size_t)n))
        return false;
    va_start(ap, fmt);
    vsnprintf(b->s + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
    return true;
}

bool hd_str_json(struct hd_str *b, const char *p, size_t n)
{
    hd_str_putc(b, '"');
    for (size_t i = 0; i < n;) {
        int len;
        int32_t cp = hd_utf8_get(p + i, n - i, &len);

        if (cp < 0)
            hd_str_puts(b, "\xEF\xBF\xBD");
        else if (cp == '"' || cp == '\\')
            hd_str_printf(b, "\\%c", (char)cp);
        else if (cp == '\n')
            hd_str_puts(b, "\\n");
        else if (cp == '\t')
            hd_str_puts(b, "\\t");
        else if (cp == '\r')
            hd_str_puts(b, "\\r");
        else if (cp < 0x20 || cp == 0x7F)
            hd_str_printf(b, "\\u%04x", (unsigned)cp);
        else
            hd_str_add(b, p + i, (size_t)len);
        i += (size_t)len;
    }
    return hd_str_putc(b, '"');
}

const char *hd_str_get(const struct hd_str *b)
{
    return b->s ? b->s : "";
}

int32_t hd_utf8_get(const char *p, size_t n, int *len)
{
    const unsigned char *s = (const unsigned char *)p;
    static const int32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    int k = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;
    int32_t cp;

    *len = 1;
    if (k == 1)
        return s[0];
    if (k == 0 || (size_t)k > n)
        return -1;
    cp = s[0] & (0x7F >> k);
    for (int i = 1; i < k; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return -1;
        cp = cp << 6 | (s[i] & 0x3F);
    }
    if (cp < least[k] || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
        return -1;
    *len = k;
    return cp;
}

int hd_utf8_put(char *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t hd_utf8_whole(const char *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)p[n - back];
        size_t k;

        if ((c & 0xC0) == 0x80)
            continue;
        k = c >= 0xF0 && c < 0xF5 ? 4 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xC2 && c < 0xE0 ? 2 : 1;
        return k > back ? n - back : n;
    }
    return n;
}

static const char *scaled(char *buf, double v, double base, const char *const *unit, int n_unit)
{
    int u = 0;

    while (u + 1 < n_unit && fabs(v) >= base * 0.9995) {
        v /= base;
        u++;
    }
    snprintf(buf, 32, u == 0 ? "%.0f%s" : fabs(v) < 10 ? "%.2f%s" : fabs(v) < 100 ? "%.1f%s" : "%.0f%s", v, unit[u]);
    return buf;
}

const char *hd_fmt_bytes(char buf[32], int64_t n)
{
    static const char *const unit[] = {" B", " kB", " MB", " GB", " TB", " PB"};

    return scaled(buf, (double)n, 1000, unit, 6);
}

const char *hd_fmt_count(char buf[32], int64_t n)
{
    static const char unit[] = " KMBT";
    double v = (double)n;
    int u = 0;

    while (v >= 999.95 && unit[u + 1]) {
        v /= 1000;
        u++;
    }
    if (u)
        snprintf(buf, 32, "%.1f%c", v, unit[u]);
    else
        snprintf(buf, 32, "%lld", (long long)n);
    return buf;
}

bool hd_parse_i64(const char *s, int64_t lo, int64_t hi, int64_t *out)
{
    char *end;
    long long v;

    errno = 0;
    v = strtoll(s, &end, 10);
    if (end == s || *end || errno || v < lo || v > hi || (s[0] != '-' && (s[0] < '0' || s[0] > '9')))
        return false;
    *out = v;
    return true;
}

bool hd_parse_f64(const char *s, double lo, double hi, double *out)
{
    char *end;
    double v;

    errno = 0;
    v = strtod(s, &end);
    if (end == s || *end || errno || !(v >= lo && v <= hi) || s[0] == ' ')
        return false;
    *out = v;
    return true;
}
