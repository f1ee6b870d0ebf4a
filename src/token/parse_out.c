/* parse_out.c: see parse_out.h. */
#include "token/parse_out.h"

#include <stdio.h>
#include <string.h>

/* ---- events ---- */

void hd_parse_send(struct hd_parse *p, const struct hd_parse_event *e)
{
    if (p->rc == HD_OK)
        p->rc = p->opt.event(p->opt.arg, e, p->err);
}

void hd_parse_flush(struct hd_parse *p)
{
    if (p->n_ready)
        hd_parse_send(p, &(struct hd_parse_event){.kind = p->ready_kind, .index = p->index, .text = {p->ready, (size_t)p->n_ready}});
    p->n_ready = 0;
}

/* Fewer, larger deltas: they leave when the kind changes, the buffer is full or the feed ends. n <= 8. */
static void put(struct hd_parse *p, enum hd_parse_kind kind, const char *s, size_t n)
{
    if (p->ready_kind != kind || p->n_ready + n > HD_PARSE_READY)
        hd_parse_flush(p);
    p->ready_kind = kind;
    memcpy(p->ready + p->n_ready, s, n);
    p->n_ready += (int)n;
}

static void put_args(struct hd_parse *p, const char *s)
{
    put(p, HD_PARSE_CALL_ARGS, s, strlen(s));
}

/* One character inside a JSON string, as Python's json.dumps(ensure_ascii=False) writes it (py_json.c: strings come back so). */
static void put_escaped(struct hd_parse *p, const char *s, size_t n)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *esc = s[0] ? strchr(from, s[0]) : NULL;
    char text[8];

    if (esc)
        snprintf(text, sizeof text, "\\%c", to[esc - from]);
    else if ((unsigned char)s[0] < 32)
        snprintf(text, sizeof text, "\\u%04x", (unsigned)s[0]);
    else {
        put(p, HD_PARSE_CALL_ARGS, s, n);
        return;
    }
    put_args(p, text);
}

static void put_json(struct hd_parse *p, const char *s, size_t n)
{
    put_args(p, "\"");
    for (size_t i = 0; i < n;) {
        int len;
        bool good = hd_utf8_get(s + i, n - i, &len) >= 0;

        put_escaped(p, good ? s + i : "\xEF\xBF\xBD", good ? (size_t)len : 3);
        i += (size_t)len;
    }
    put_args(p, "\"");
}

void hd_parse_malformed(struct hd_parse *p)
{
    p->n_malformed++;
}

/* ---- parameter values ---- */

static void scan_as_json(struct hd_parse *p, const char *s, size_t n)
{
    if (hd_json_scan_in_string(&p->scan) && (unsigned char)s[0] < 32) {      /* what a JSON string cannot hold, repaired */
        put_escaped(p, s, n);
        hd_parse_malformed(p);
        return;
    }
    for (size_t i = 0; i < n; i++)
        hd_json_scan_byte(&p->scan, s[i]);
    put(p, HD_PARSE_CALL_ARGS, s, n);
}

static void put_scalar(struct hd_parse *p)
{
    for (int i = 0; i < p->n_scalar; i++)
        put(p, HD_PARSE_CALL_ARGS, p->scalar + i, 1);
    p->n_scalar = 0;
}

/* What is held turns out to be no JSON: it becomes a string. */
static void to_string(struct hd_parse *p)
{
    put_args(p, "\"");
    for (int i = 0, len; i < p->n_scalar; i += len) {
        hd_utf8_get(p->scalar + i, (size_t)(p->n_scalar - i), &len);
        put_escaped(p, p->scalar + i, (size_t)len);
    }
    p->n_scalar = 0;
    p->value = HD_PARSE_VALUE_STRING;
    hd_parse_malformed(p);
}

/* A value that is to be JSON. Objects, arrays and strings stream; scalars are short and wait until it is clear that they are. */
static void hold_value(struct hd_parse *p, const char *s, size_t n)
{
    bool good = true;

    for (size_t i = 0; i < n; i++)
        good = hd_json_scan_byte(&p->scan, s[i]);
    memcpy(p->scalar + p->n_scalar, s, n);
    p->n_scalar += (int)n;
    if (!good) {
        to_string(p);
    } else if (p->scan.depth || hd_json_scan_in_string(&p->scan) || p->n_scalar + 4 > HD_PARSE_HOLD) {
        put_scalar(p);
        p->value = HD_PARSE_VALUE_JSON;
    }
}

static void put_value(struct hd_parse *p, const char *s, size_t n)
{
    switch (p->value) {
    case HD_PARSE_VALUE_STRING: put_escaped(p, s, n); break;
    case HD_PARSE_VALUE_HELD: hold_value(p, s, n); break;
    case HD_PARSE_VALUE_JSON: scan_as_json(p, s, n); break;
    case HD_PARSE_VALUE_AS_IS:
        if (!p->n_param && !strchr(" \t\r\n", s[0]))
            p->n_param = s[0] == '{' ? 1 : 2;
        for (size_t i = 0; i < n; i++)
            hd_json_scan_byte(&p->scan, s[i]);
        put(p, HD_PARSE_CALL_ARGS, s, n);
        break;
    }
}

static void complete_json(struct hd_parse *p)
{
    const char *c;

    while ((c = hd_json_scan_closer(&p->scan))) {
        put_args(p, c);
        for (; *c; c++)
            hd_json_scan_byte(&p->scan, *c);
    }
}

/* ---- text ---- */

static void put_character(struct hd_parse *p, const char *s, size_t n)
{
    if (p->mode == REASON || p->mode == CONTENT)
        put(p, p->mode == REASON ? HD_PARSE_REASONING : HD_PARSE_CONTENT, s, n);
    else
        put_value(p, s, n);
}

/* Characters that are whole, or malformed, leave; a beginning stays. */
void hd_parse_whole_characters(struct hd_parse *p, bool final)
{
    while (p->n_cut && (final || hd_utf8_whole(p->cut, (size_t)p->n_cut))) {
        int len;

        if (hd_utf8_get(p->cut, (size_t)p->n_cut, &len) >= 0)
            put_character(p, p->cut, (size_t)len);
        else
            put_character(p, "\xEF\xBF\xBD", 3);
        p->n_cut -= len;
        memmove(p->cut, p->cut + len, (size_t)p->n_cut);
    }
}

void hd_parse_text(struct hd_parse *p, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p->mode == REASON || p->mode == CONTENT) {
            if (p->skip_newline && s[i] == '\n') {
                p->skip_newline--;
                continue;
            }
            p->skip_newline = 0;
            p->fresh = false;
        }
        if (!p->n_cut && (unsigned char)s[i] < 0x80) {
            put_character(p, s + i, 1);
            continue;
        }
        p->cut[p->n_cut++] = s[i];
        hd_parse_whole_characters(p, false);
    }
}

/* ---- calls ---- */

static struct hd_view whole_utf8(const char *s, int n, char *out)
{
    size_t n_out = 0;

    for (int i = 0, len; i < n; i += len) {
        bool good = hd_utf8_get(s + i, (size_t)(n - i), &len) >= 0;
        size_t n_char = good ? (size_t)len : 3;

        memcpy(out + n_out, good ? s + i : "\xEF\xBF\xBD", n_char);
        n_out += n_char;
    }
    return (struct hd_view){out, n_out};
}

/* type and name may lie in p->name. */
void hd_parse_begin_call(struct hd_parse *p, const char *name, int n_name, const char *type, int n_type)
{
    struct hd_parse_event e = {.kind = HD_PARSE_CALL_BEGIN, .index = p->index};
    char id[64], name_buf[3 * HD_PARSE_NAME], type_buf[3 * HD_PARSE_NAME];

    snprintf(id, sizeof id, "call_%d", p->index);
    if (p->opt.make_id)
        p->opt.make_id(p->opt.arg, p->index, id);
    e.name = whole_utf8(name, n_name, name_buf);
    e.type = whole_utf8(type, n_type, type_buf);
    e.id = (struct hd_view){id, strlen(id)};
    hd_parse_flush(p);
    hd_parse_send(p, &e);
    p->raw_on = false;
    p->in_call = p->sound = true;
    p->value_open = false;
    p->n_param = p->n_key = p->n_scalar = 0;
    memset(p->key, 0, sizeof p->key);
    hd_json_scan_init(&p->scan);
}

void hd_parse_end_value(struct hd_parse *p)
{
    if (p->value == HD_PARSE_VALUE_HELD && (!p->n_scalar || !hd_json_scan_whole(&p->scan)))
        to_string(p);
    if (p->value == HD_PARSE_VALUE_STRING) {
        put_args(p, "\"");
    } else if (p->value == HD_PARSE_VALUE_HELD) {
        put_scalar(p);
    } else if (!hd_json_scan_whole(&p->scan)) {
        hd_parse_malformed(p);
        complete_json(p);
        p->sound &= hd_json_scan_whole(&p->scan);
    }
    p->value_open = false;
}

static bool end_list_call(struct hd_parse *p, bool proper)
{
    if (!proper && !p->n_param)
        put_args(p, "{}");
    else if (!proper)
        complete_json(p);
    return p->n_param == 1 && hd_json_scan_whole(&p->scan);
}

/* proper: its closing tag was there. */
void hd_parse_end_call(struct hd_parse *p, bool proper)
{
    bool sound;

    if (p->value_open && p->value != HD_PARSE_VALUE_AS_IS)
        hd_parse_end_value(p);
    if (p->value_open) {
        sound = end_list_call(p, proper);
    } else {
        put_args(p, p->n_param ? "}" : "{}");
        sound = p->sound;
    }
    hd_parse_flush(p);
    hd_parse_send(p, &(struct hd_parse_event){.kind = HD_PARSE_CALL_END, .index = p->index, .complete = proper && sound});
    p->index++;
    p->in_call = p->value_open = false;
}

/* Duplicates stay (readers of JSON take the last) and are counted. Hashes: a chance hit costs a wrong count only. */
static void note_key(struct hd_parse *p)
{
    uint64_t h = 0xcbf29ce484222325;

    for (int i = 0; i < p->n_name; i++)
        h = (h ^ (unsigned char)p->name[i]) * 0x100000001b3;
    h += !h;
    if (p->n_key >= HD_PARSE_KEYS * 3 / 4)
        return;
    for (size_t at = h % HD_PARSE_KEYS;; at = (at + 1) % HD_PARSE_KEYS) {
        if (p->key[at] == h) {
            hd_parse_malformed(p);
            return;
        }
        if (!p->key[at]) {
            p->key[at] = h;
            p->n_key++;
            return;
        }
    }
}

void hd_parse_begin_value(struct hd_parse *p, int kind)
{
    note_key(p);
    put_args(p, p->n_param++ ? ", " : "{");
    put_json(p, p->name, (size_t)p->n_name);
    put_args(p, ": ");
    if (kind == HD_PARSE_VALUE_STRING)
        put_args(p, "\"");
    p->value = kind;
    p->value_open = true;
    p->n_scalar = 0;
    hd_json_scan_init(&p->scan);
    p->mode = VALUE;
}
