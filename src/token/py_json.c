/* py_json.c: see py_json.h. */
#include "token/py_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "token/json_scan.h"

#define DIGITS_MAX 4300               /* Python refuses longer integers */

/* ---- numbers too large ---- */

/* Is p a JSON number that int64 or double may not hold? Then what is written for it, or NULL. */
static const char *large(const char *p, size_t n, char text[DIGITS_MAX + 2])
{
    struct hd_json_scan scan;
    bool real = false;

    if (n < 4 || n > DIGITS_MAX + 1)
        return NULL;
    hd_json_scan_init(&scan);
    for (size_t i = 0; i < n; i++) {
        real |= !strchr("-0123456789", p[i]);
        if (!hd_json_scan_byte(&scan, p[i]))
            return NULL;
    }
    if (!hd_json_scan_whole(&scan) || (!real && n <= 18))
        return NULL;
    memcpy(text, p, n);
    text[n] = 0;
    if (real)
        return isinf(strtod(text, NULL)) ? *p == '-' ? "-Infinity" : "Infinity" : NULL;
    return text;
}

/* The same text with such numbers as strings. */
static bool widen(const char *p, size_t n, struct hd_str *out)
{
    char text[DIGITS_MAX + 2];
    const char *number;

    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        if (p[i] == '"') {
            while (end < n && p[end] != '"')
                end += p[end] == '\\' ? 2 : 1;
            end = end < n ? end + 1 : n;
        } else if (p[i] && strchr("-0123456789", p[i])) {
            while (end < n && p[end] && strchr("+-.eE0123456789", p[end]))
                end++;
            if ((number = large(p + i, end - i, text))) {
                hd_str_printf(out, "\"\\u0000%s\"", number);
                continue;
            }
        }
        hd_str_add(out, p + i, end - i);
    }
    return !out->failed;
}

static json_t *parse(const char *p, size_t n, size_t flags, json_error_t *e)
{
    json_t *v;

    hd_json_init();
    v = json_loadb(p, n, flags | JSON_ALLOW_NUL, e);
    if (!v && json_error_code(e) == json_error_numeric_overflow) {
        struct hd_str s;

        hd_str_init(&s, 0);
        if (widen(p, n, &s))
            v = json_loadb(hd_str_get(&s), s.n, flags | JSON_ALLOW_NUL, e);
        hd_str_release(&s);
    }
    return v;
}

json_t *hd_py_json_parse(const char *p, size_t n)
{
    json_error_t e;

    return parse(p, n, JSON_DECODE_ANY, &e);
}

json_t *hd_py_json_read(const char *path, size_t max_bytes, struct hd_err *err)
{
    json_error_t e;
    json_t *v;
    char *p;
    size_t n;

    if (hd_file_read(path, max_bytes, &p, &n, err) < 0)
        return NULL;
    v = parse(p, n, JSON_REJECT_DUPLICATES, &e);
    hd_free(p);
    if (!v)
        hd_json_error(&e, path, err);
    return v;
}

/* The digits of a number kept as a string, NULL for a string. */
static const char *number_of(const char *p, size_t n)
{
    const char *digits = p + 1 + (n > 1 && p[1] == '-');

    if (n < 2 || *p || digits + strlen(digits) != p + n)
        return NULL;
    return !strcmp(digits, "Infinity") || (n > 18 && !digits[strspn(digits, "0123456789")]) ? p + 1 : NULL;
}

bool hd_py_json_is_string(const json_t *v)
{
    return json_is_string(v) && !number_of(json_string_value(v), json_string_length(v));
}

/* ---- writing ---- */

static void put_string(const char *p, size_t n, struct hd_str *out)
{
    const char *number = number_of(p, n);

    if (number) {
        hd_str_puts(out, number);
        return;
    }
    hd_str_putc(out, '"');
    for (size_t i = 0; i < n; i++) {
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        unsigned char c = (unsigned char)p[i];
        const char *esc = c ? strchr(from, c) : NULL;

        if (esc) {
            hd_str_putc(out, '\\');
            hd_str_putc(out, to[esc - from]);
        } else if (c < 32) {
            hd_str_printf(out, "\\u%04x", c);
        } else {
            hd_str_putc(out, (char)c);
        }
    }
    hd_str_putc(out, '"');
}

/* The shortest digits that read back as x, in Python's notation: exponents below -4 and from 16 on. */
static void put_real(double x, struct hd_str *out)
{
    char e[40], digits[24];
    int exp, n = 0;

    for (int p = 0; p < 17; p++) {
        snprintf(e, sizeof e, "%.*e", p, fabs(x));
        if (strtod(e, NULL) == fabs(x))
            break;
    }
    for (const char *c = e; *c && *c != 'e'; c++)
        if (*c != '.')
            digits[n++] = *c;
    exp = atoi(strchr(e, 'e') + 1);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (signbit(x))
        hd_str_putc(out, '-');
    if (exp < -4 || exp >= 16) {
        hd_str_putc(out, digits[0]);
        if (n > 1) {
            hd_str_putc(out, '.');
            hd_str_add(out, digits + 1, (size_t)n - 1);
        }
        hd_str_printf(out, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
        return;
    }
    if (exp < 0) {
        hd_str_puts(out, "0.");
        for (int i = -1; i > exp; i--)
            hd_str_putc(out, '0');
        hd_str_add(out, digits, (size_t)n);
        return;
    }
    for (int i = 0; i <= exp; i++)
        hd_str_putc(out, i < n ? digits[i] : '0');
    hd_str_putc(out, '.');
    if (n > exp + 1)
        hd_str_add(out, digits + exp + 1, (size_t)(n - exp - 1));
    else
        hd_str_putc(out, '0');
}

void hd_py_json(const json_t *v, struct hd_str *out)
{
    const char *key;
    const json_t *e;
    size_t i, len;
    bool first = true;

    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT:
        hd_str_putc(out, '{');
        json_object_keylen_foreach((json_t *)v, key, len, e)
        {
            hd_str_puts(out, first ? "" : ", ");
            put_string(key, len, out);
            hd_str_puts(out, ": ");
            hd_py_json(e, out);
            first = false;
        }
        hd_str_putc(out, '}');
        break;
    case JSON_ARRAY:
        hd_str_putc(out, '[');
        json_array_foreach((json_t *)v, i, e)
        {
            hd_str_puts(out, i ? ", " : "");
            hd_py_json(e, out);
        }
        hd_str_putc(out, ']');
        break;
    case JSON_STRING: put_string(json_string_value(v), json_string_length(v), out); break;
    case JSON_INTEGER: hd_str_printf(out, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: put_real(json_real_value(v), out); break;
    case JSON_TRUE: hd_str_puts(out, "true"); break;
    case JSON_FALSE: hd_str_puts(out, "false"); break;
    case JSON_NULL: hd_str_puts(out, "null"); break;
    }
}
