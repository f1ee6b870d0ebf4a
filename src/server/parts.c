/* parts.c: see parts.h. Nothing is fetched and nothing is opened: what a part does not carry itself is refused. */
#include "server/parts.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"
#include "server/fields.h"

/* ---- base64 ---- */

/* 0 to 63; -1: none of either alphabet. */
static int digit(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

bool hd_is_base64(const char *s)
{
    int n_pad = 0;

    for (; *s; s++)
        if (*s == '=')
            n_pad++;
        else if (!is_blank(*s) && (digit(*s) < 0 || n_pad))
            return false;
    return n_pad <= 2;
}

static bool decode(const char *s, struct hd_str *out)
{
    uint32_t bits = 0;
    int n = 0;

    for (; *s && *s != '='; s++) {
        if (is_blank(*s))
            continue;
        bits = bits << 6 | (uint32_t)digit(*s);
        if ((n += 6) >= 8 && !hd_str_putc(out, (char)(bits >> (n -= 8) & 0xFF)))
            return false;
    }
    return true;
}

/* What stands behind "data:...;base64,"; NULL: it is no such URL. */
static const char *data_of(const char *url)
{
    const char *comma = strchr(url, ',');

    if (strncasecmp(url, "data:", 5) || !comma || comma - url > 200 || !memmem(url, (size_t)(comma - url), ";base64", 7) || !hd_is_base64(comma + 1))
        return NULL;
    return comma + 1;
}

/* ---- images ---- */

int hd_check_image_url(const char *url, const char *param, struct hd_problem *p)
{
    if (strncasecmp(url, "data:", 5))
        return hd_problem_set(p, 400, param, "%s: remote image URLs are disabled; send a data: URL", param);
    if (!data_of(url))
        return hd_problem_set(p, 400, param, "%s: the data: URL is not base64", param);
    return HD_OK;
}

static int add_image(const json_t *part, const char *param, struct hd_str *out, struct hd_problem *p)
{
    const json_t *u = hd_field(part, "image_url");
    const char *url = json_is_object(u) ? hd_text_of(u, "url") : json_is_string(u) ? json_string_value(u) : hd_text_of(part, "image");

    if (hd_field(part, "file_id"))
        return hd_problem_set(p, 400, param, "%s: file_id: this server keeps no files; send a data: URL", param);
    if (!url[0])
        return hd_problem_set(p, 400, param, "%s: an image without a URL", param);
    HD_TRY(hd_check_image_url(url, param, p));
    hd_str_puts(out, "[Unsupported image]");
    return HD_OK;
}

/* ---- files ---- */

static bool is_text(const char *s, size_t n)
{
    int len;

    for (size_t i = 0; i < n; i += (size_t)len)
        if (hd_utf8_get(s + i, n - i, &len) <= 0)
            return false;
    return true;
}

/* {"filename", "file_data"}; Chat has it one level down. Some send the data without the URL's head. */
static int add_file(const json_t *part, const char *param, struct hd_str *out, struct hd_problem *p)
{
    const json_t *inner = hd_field(part, "file"), *f = json_is_object(inner) ? inner : part;
    const char *url = hd_text_of(f, "file_data"), *data = data_of(url), *name = hd_text_of(f, "filename");
    struct hd_str text;
    bool ok;

    if (hd_field(f, "file_id") || hd_field(f, "file_url"))
        return hd_problem_set(p, 400, param, "%s: this server keeps and fetches no files; send file_data", param);
    if (!data && url[0] && strncasecmp(url, "data:", 5) && hd_is_base64(url))
        data = url;
    if (!data)
        return hd_problem_set(p, 400, param, "%s: file_data: expected a data: URL of base64", param);
    hd_str_init(&text, 0);
    ok = decode(data, &text) && is_text(hd_str_get(&text), text.n);
    if (ok && name[0]) {
        hd_str_puts(out, name);
        hd_str_puts(out, ":\n");
    }
    if (ok)
        hd_str_add(out, hd_str_get(&text), text.n);
    hd_str_release(&text);
    return ok ? HD_OK : hd_problem_set(p, 400, param, "%s: only files of text (UTF-8) can be read", param);
}

/* ---- contents ---- */

static int add_text(const json_t *part, const char *key, const char *param, struct hd_str *out, struct hd_problem *p)
{
    const json_t *text = json_object_get(part, key);

    if (!json_is_string(text))
        return hd_problem_set(p, 400, param, "%s: %s: expected a string", param, key);
    hd_str_add(out, json_string_value(text), json_string_length(text));
    return HD_OK;
}

static int add_part(const json_t *part, const char *param, struct hd_str *out, struct hd_problem *p)
{
    const char *type = hd_text_of(part, "type");

    if (!json_is_object(part))
        return hd_problem_set(p, 400, param, "%s: expected an object", param);
    if (out->n)
        hd_str_puts(out, "\n\n");
    if (!strcmp(type, "text") || !strcmp(type, "input_text") || !strcmp(type, "output_text"))
        return add_text(part, "text", param, out, p);
    if (!strcmp(type, "refusal"))
        return add_text(part, "refusal", param, out, p);
    if (!strcmp(type, "image_url") || !strcmp(type, "input_image") || !strcmp(type, "image"))
        return add_image(part, param, out, p);
    if (!strcmp(type, "file") || !strcmp(type, "input_file"))
        return add_file(part, param, out, p);
    return hd_problem_set(p, 400, param, "%s: unsupported content part \"%.40s\"", param, type);
}

json_t *hd_content_text(const json_t *content, const char *param, struct hd_problem *p)
{
    struct hd_str s;
    const json_t *part;
    json_t *out = NULL;
    size_t i;
    int rc = HD_OK;

    if (!content || json_is_null(content))
        return json_string("");
    if (json_is_string(content))
        return json_incref((json_t *)content);
    if (!json_is_array(content) || json_array_size(content) > HD_PARTS_MAX) {
        hd_problem_set(p, 400, param, "%s: expected a string or a list of at most %d parts", param, HD_PARTS_MAX);
        return NULL;
    }
    hd_str_init(&s, 0);
    json_array_foreach((json_t *)content, i, part)
    {
        char where[160];

        snprintf(where, sizeof where, "%s[%zu]", param, i);
        if ((rc = add_part(part, where, &s, p)) < 0)
            break;
    }
    if (rc == HD_OK && (s.failed || !(out = json_stringn(hd_str_get(&s), s.n))))
        hd_problem_set(p, 500, NULL, "no memory");
    hd_str_release(&s);
    return out;
}
