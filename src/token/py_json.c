/* py_json.c: see py_json.h. */
#include "token/py_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_string(const char *p, size_t n, struct hd_str *out)
{
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
