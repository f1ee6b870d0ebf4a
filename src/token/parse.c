/* parse.c: see parse.h.
 *
 * A scanner over one table. In every mode some rules may match; bytes that begin a rule are held until it is complete or
 * cannot be, other bytes are released to the mode (text of some kind, a name, junk between tags). A rule's action changes the
 * mode. No rule of a mode is the beginning of another one, so that the first complete one is the answer and how the input was
 * cut never matters. Until the first call of a block has a name everything since the block's start is kept in raw: if
 * the grammar breaks there, it was text after all.
 */
#include "token/parse.h"

#include <stdio.h>
#include <string.h>

#define M(s) "\1" s "\2"              /* a special token: literal bytes do not match */
#define EOS M("<｜end▁of▁sentence｜>")
#define BOS M("<｜begin▁of▁sentence｜>")
#define DSML M("｜DSML｜")
#define CALLS M("<｜tool▁calls▁begin｜>")
#define CALLS_END M("<｜tool▁calls▁end｜>")
#define CALL M("<｜tool▁call▁begin｜>")
#define CALL_END M("<｜tool▁call▁end｜>")
#define SEP M("<｜tool▁sep｜>")

enum mode {
    REASON, CONTENT,
    OPEN, CLOSE,                      /* behind "<DSML" and "</DSML": the tag's name */
    BLOCK, IN_CALL, AFTER,            /* between tags: of the block, of a call, behind everything */
    HEAD, NAME, PARAM, KEY,           /* attributes of invoke and parameter */
    VALUE, SKIP,                      /* a parameter's text; one without a name */
    LIST, TYPE, FUNC, ARGS,           /* V3: between calls; behind the call's marker; behind the separator; arguments */
    DONE, N_MODE
};
#define B(mode) (1u << (mode))
#define TEXTS (B(REASON) | B(CONTENT))
#define EVERYWHERE (B(DONE) - 1)
#define TAGS (B(OPEN) | B(CLOSE) | B(BLOCK) | B(IN_CALL) | B(AFTER) | B(HEAD) | B(NAME) | B(PARAM) | B(KEY))
#define HEADS (B(OPEN) | B(CLOSE) | B(BLOCK) | B(HEAD) | B(NAME) | B(LIST) | B(TYPE) | B(FUNC))

#define R1 (1u << HD_PARSE_R1)
#define V31 (1u << HD_PARSE_V31)
#define V4 (1u << HD_PARSE_V4)
#define V41 (1u << HD_PARSE_V41)
#define ALL (R1 | V31 | V4 | V41)

enum action {
    THINK, THINK_END, END, AS_TEXT,
    TAG, TAG_END, NAME_OF_TAG,        /* from here on: markup of tools */
    TOOL_NAME, TOOL_NAME_END, NO_NAME, KEY_BEGIN, KEY_END, NO_KEY,
    CALLS_BEGIN, CALL_BEGIN, TYPE_END, FENCE, CALL_DONE, CALLS_DONE
};
enum tag { T_BLOCK, T_CALL, T_PARAM, T_OTHER };

static const struct rule {
    const char *text;
    uint32_t modes;
    uint8_t families, exact;          /* exact: the families that spell it so */
    uint8_t action, arg;
} rules[] = {
    {M("<think>"), TEXTS, ALL, R1 | V31, THINK, 0},
    {M("</think>"), TEXTS | HEADS, ALL, ALL, THINK_END, 0},
    {"\n" M("</think>"), B(REASON), R1, R1, THINK_END, 0},
    {EOS, EVERYWHERE, ALL, ALL, END, 0},
    {BOS, TEXTS, ALL, 0, AS_TEXT, 0},
    /* V4: the block's two newlines; recovery takes fewer */
    {"\n\n<" DSML, TEXTS, V4 | V41, V4 | V41, TAG, 0},
    {"\n<" DSML, TEXTS, V4 | V41, 0, TAG, 0},
    {"<" DSML, TEXTS, V4 | V41, 0, TAG, 0},
    {"<" DSML, TAGS, V4 | V41, V4 | V41, TAG, 0},
    {"</" DSML, TEXTS | TAGS | B(VALUE) | B(SKIP), V4 | V41, V4 | V41, TAG_END, 0},
    {DSML, TEXTS, V4 | V41, 0, AS_TEXT, 0},
    {"tool_calls>", B(OPEN) | B(CLOSE), V4 | V41, V4, NAME_OF_TAG, T_BLOCK},
    {" calls>", B(OPEN) | B(CLOSE), V4 | V41, V41, NAME_OF_TAG, T_BLOCK},
    {"function_calls>", B(OPEN) | B(CLOSE), V4 | V41, 0, NAME_OF_TAG, T_BLOCK},
    {"invoke", B(OPEN), V4 | V41, V4, NAME_OF_TAG, T_CALL},
    {" invoke", B(OPEN), V4 | V41, V41, NAME_OF_TAG, T_CALL},
    {"invoke>", B(CLOSE), V4 | V41, V4, NAME_OF_TAG, T_CALL},
    {" invoke>", B(CLOSE), V4 | V41, V41, NAME_OF_TAG, T_CALL},
    {"parameter", B(OPEN), V4 | V41, V4, NAME_OF_TAG, T_PARAM},
    {" parameter", B(OPEN), V4 | V41, V41, NAME_OF_TAG, T_PARAM},
    {"parameter>", B(CLOSE), V4 | V41, V4, NAME_OF_TAG, T_PARAM},
    {" parameter>", B(CLOSE), V4 | V41, V41, NAME_OF_TAG, T_PARAM},
    {">", B(OPEN) | B(CLOSE), V4 | V41, 0, NAME_OF_TAG, T_OTHER},
    {"name=\"", B(HEAD), V4 | V41, V4 | V41, TOOL_NAME, 0},
    {">", B(HEAD), V4 | V41, 0, NO_NAME, 0},
    {"\">", B(NAME), V4 | V41, V4 | V41, TOOL_NAME_END, 0},
    {"name=\"", B(PARAM), V4 | V41, V4 | V41, KEY_BEGIN, 0},
    {">", B(PARAM), V4 | V41, 0, NO_KEY, 0},
    {"\" string=\"true\">", B(KEY), V4 | V41, V4 | V41, KEY_END, HD_PARSE_VALUE_STRING},
    {"\" string=\"false\">", B(KEY), V4 | V41, V4 | V41, KEY_END, HD_PARSE_VALUE_HELD},
    {"\">", B(KEY), V4 | V41, 0, KEY_END, HD_PARSE_VALUE_HELD},
    /* V3: tokens of their own. A bare call: the template itself writes second rounds so */
    {CALLS, TEXTS | B(AFTER) | B(LIST) | B(TYPE) | B(FUNC), R1 | V31, R1 | V31, CALLS_BEGIN, 0},
    {CALL, TEXTS | B(AFTER) | B(LIST) | B(TYPE) | B(FUNC) | B(ARGS), R1 | V31, R1 | V31, CALL_BEGIN, 0},
    {"\n" CALL, TEXTS, R1 | V31, R1 | V31, CALL_BEGIN, 0},
    {SEP, B(TYPE), R1 | V31, R1 | V31, TYPE_END, 0},
    {"\n```json\n", B(FUNC), R1, R1, FENCE, 0},
    {"\n```" CALL_END, B(ARGS), R1, R1, CALL_DONE, 0},
    {"\n```\n" CALL_END, B(ARGS), R1, 0, CALL_DONE, 0},
    {CALL_END, B(ARGS) | B(TYPE) | B(FUNC), R1 | V31, V31, CALL_DONE, 0},
    {CALLS_END, B(LIST) | B(TYPE) | B(FUNC) | B(ARGS), R1 | V31, R1 | V31, CALLS_DONE, 0},
    {SEP, TEXTS, R1 | V31, 0, AS_TEXT, 0},
    {CALL_END, TEXTS, R1 | V31, 0, AS_TEXT, 0},
    {CALLS_END, TEXTS, R1 | V31, 0, AS_TEXT, 0},
};
_Static_assert(HD_LEN(rules) <= 64, "hd_parse.rules is a 64-bit set");

/* What hd_parse_token() looks for; the same strings as in the rules. */
static const struct word {
    const char *text;
    uint8_t families;
} words[] = {{"<think>", ALL}, {"</think>", ALL}, {"｜DSML｜", V4 | V41}, {"<｜tool▁calls▁begin｜>", R1 | V31}, {"<｜tool▁calls▁end｜>", R1 | V31},
             {"<｜tool▁call▁begin｜>", R1 | V31}, {"<｜tool▁call▁end｜>", R1 | V31}, {"<｜tool▁sep｜>", R1 | V31}};
_Static_assert(HD_LEN(words) <= HD_PARSE_WORDS, "hd_parse.word_id");

/* ---- events ---- */

static void send(struct hd_parse *p, const struct hd_parse_event *e)
{
    if (p->rc == HD_OK)
        p->rc = p->opt.event(p->opt.arg, e, p->err);
}

static void flush(struct hd_parse *p)
{
    if (p->n_ready)
        send(p, &(struct hd_parse_event){.kind = p->ready_kind, .index = p->index, .text = {p->ready, (size_t)p->n_ready}});
    p->n_ready = 0;
}

/* Fewer, larger deltas: they leave when the kind changes, the buffer is full or the feed ends. n <= 8. */
static void put(struct hd_parse *p, enum hd_parse_kind kind, const char *s, size_t n)
{
    if (p->ready_kind != kind || p->n_ready + n > HD_PARSE_READY)
        flush(p);
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

static void malformed(struct hd_parse *p)
{
    p->n_malformed++;
}

/* ---- parameter values ---- */

static void scan_as_json(struct hd_parse *p, const char *s, size_t n)
{
    if (hd_json_scan_in_string(&p->scan) && (unsigned char)s[0] < 32) {      /* what a JSON string cannot hold, repaired */
        put_escaped(p, s, n);
        malformed(p);
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
    malformed(p);
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
static void whole_characters(struct hd_parse *p, bool final)
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

static void text(struct hd_parse *p, const char *s, size_t n)
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
        whole_characters(p, false);
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
static void begin_call(struct hd_parse *p, const char *name, int n_name, const char *type, int n_type)
{
    struct hd_parse_event e = {.kind = HD_PARSE_CALL_BEGIN, .index = p->index};
    char id[64], name_buf[3 * HD_PARSE_NAME], type_buf[3 * HD_PARSE_NAME];

    snprintf(id, sizeof id, "call_%d", p->index);
    if (p->opt.make_id)
        p->opt.make_id(p->opt.arg, p->index, id);
    e.name = whole_utf8(name, n_name, name_buf);
    e.type = whole_utf8(type, n_type, type_buf);
    e.id = (struct hd_view){id, strlen(id)};
    flush(p);
    send(p, &e);
    p->raw_on = false;
    p->in_call = p->sound = true;
    p->value_open = false;
    p->n_param = p->n_key = p->n_scalar = 0;
    memset(p->key, 0, sizeof p->key);
    hd_json_scan_init(&p->scan);
}

static void end_value(struct hd_parse *p)
{
    if (p->value == HD_PARSE_VALUE_HELD && (!p->n_scalar || !hd_json_scan_whole(&p->scan)))
        to_string(p);
    if (p->value == HD_PARSE_VALUE_STRING) {
        put_args(p, "\"");
    } else if (p->value == HD_PARSE_VALUE_HELD) {
        put_scalar(p);
    } else if (!hd_json_scan_whole(&p->scan)) {
        malformed(p);
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
static void end_call(struct hd_parse *p, bool proper)
{
    bool sound;

    if (p->value_open && p->value != HD_PARSE_VALUE_AS_IS)
        end_value(p);
    if (p->value_open) {
        sound = end_list_call(p, proper);
    } else {
        put_args(p, p->n_param ? "}" : "{}");
        sound = p->sound;
    }
    flush(p);
    send(p, &(struct hd_parse_event){.kind = HD_PARSE_CALL_END, .index = p->index, .complete = proper && sound});
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
            malformed(p);
            return;
        }
        if (!p->key[at]) {
            p->key[at] = h;
            p->n_key++;
            return;
        }
    }
}

static void begin_value(struct hd_parse *p, int kind)
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

/* ---- modes ---- */

static bool is_dsml(const struct hd_parse *p)
{
    return p->opt.family >= HD_PARSE_V4;
}

static void between(struct hd_parse *p, int gap_max)
{
    p->mode = !is_dsml(p) ? LIST : p->in_call ? IN_CALL : BLOCK;
    p->n_gap = p->n_gap_newline = 0;
    p->gap_max = gap_max;
}

/* Between two tags stands one newline; two behind an empty invoke; V3: at most one. */
static void check_gap(struct hd_parse *p)
{
    int least = is_dsml(p);

    if (p->n_gap != p->n_gap_newline || p->n_gap < least || p->n_gap > p->gap_max)
        malformed(p);
}

/* The grammar broke. Before any call has begun the block was text; afterwards what cannot be understood is dropped. */
static void give_up(struct hd_parse *p)
{
    malformed(p);
    if (!p->raw_on) {
        between(p, 1 << 30);
        return;
    }
    p->raw_on = p->in_block = false;
    p->mode = p->back;
    text(p, p->raw, (size_t)p->n_raw);
    p->n_raw = 0;
}

static void open_block(struct hd_parse *p)
{
    p->back = p->mode;
    p->raw_on = true;
    p->n_raw = 0;
    if (p->mode == REASON)            /* no </think>: the call ends the reasoning all the same */
        malformed(p);
    p->malformed_before = p->n_malformed;
}

static void close_everything(struct hd_parse *p)
{
    if (p->in_call)
        end_call(p, false);
    else if (p->raw_on)
        give_up(p);
    whole_characters(p, true);
}

static void end_of_sentence(struct hd_parse *p)
{
    bool task = p->mode == CONTENT && p->opt.start == HD_PARSE_IN_TASK;

    if (p->mode != CONTENT && p->mode != AFTER)
        malformed(p);
    close_everything(p);
    p->how = task ? HD_PARSE_HOW_TASK : HD_PARSE_HOW_EOS;
    p->ended = true;
    p->mode = DONE;
    p->n_tag = 0;
}

static void leave_block(struct hd_parse *p)
{
    if (p->in_call) {
        malformed(p);
        end_call(p, false);
    }
    if (p->raw_on && p->n_malformed > p->malformed_before) {
        give_up(p);
        return;
    }
    p->raw_on = p->in_block = false;  /* an empty block is none */
    p->mode = AFTER;
    p->n_tag = 0;
}

static void start_tag(struct hd_parse *p, int mode)
{
    p->mode = mode;
    p->n_tag = p->n_name = p->n_gap = 0;
}

static void start_arguments(struct hd_parse *p)
{
    p->mode = ARGS;
    p->value = HD_PARSE_VALUE_AS_IS;
    p->value_open = true;
}

/* ---- actions: true when the rule's bytes are used up, false to look at them again in the new mode ---- */

static bool on_think(struct hd_parse *p, const char *s, size_t n)
{
    if (p->fresh) {                   /* the model opens its reasoning itself, or once more */
        p->mode = REASON;
        p->fresh = false;
        p->skip_newline = p->opt.family == HD_PARSE_R1;
        return true;
    }
    malformed(p);
    text(p, s, n);
    return true;
}

static bool on_think_end(struct hd_parse *p)
{
    if (p->mode == REASON) {
        p->mode = CONTENT;
        p->fresh = false;
        p->skip_newline = p->opt.family == HD_PARSE_R1 ? 2 : 0;
        return true;
    }
    if (p->mode != CONTENT) {         /* what began in the reasoning was talk about calls */
        give_up(p);
        return false;
    }
    malformed(p);                     /* a stray one is skipped */
    return true;
}

/* The tag that CLOSE has read. closes_value: it ended a parameter's text, whatever its name. */
static void closed(struct hd_parse *p, enum tag tag)
{
    bool param = p->closes_value && tag != T_CALL && tag != T_BLOCK;

    if (tag == T_BLOCK || (tag == T_OTHER && !p->in_call)) {
        leave_block(p);
        return;
    }
    if (p->in_call && !param && tag != T_PARAM)
        end_call(p, true);
    else if (!param)
        malformed(p);                 /* it closes nothing */
    if (p->closes_value && !param)
        malformed(p);
    between(p, 1);
}

static bool on_tag(struct hd_parse *p)
{
    switch (p->mode) {
    case REASON: case CONTENT: open_block(p); break;
    case BLOCK: case IN_CALL: check_gap(p); break;
    case AFTER: malformed(p); break;
    case CLOSE: malformed(p); closed(p, T_OTHER); return false;      /* a closing tag without its end */
    default: give_up(p); return false;
    }
    start_tag(p, OPEN);
    return true;
}

static bool on_tag_end(struct hd_parse *p, const char *s, size_t n)
{
    switch (p->mode) {
    case REASON: case CONTENT: malformed(p); text(p, s, n); return true;
    case AFTER: malformed(p); return true;
    case BLOCK: case IN_CALL: check_gap(p); break;
    case VALUE: end_value(p); break;
    case SKIP: break;
    case CLOSE: malformed(p); closed(p, T_OTHER); return false;
    default: give_up(p); return false;
    }
    p->closes_value = p->mode == VALUE || p->mode == SKIP;
    start_tag(p, CLOSE);
    return true;
}

static void opened(struct hd_parse *p, enum tag tag)
{
    if (tag == T_PARAM && p->in_call) {
        start_tag(p, PARAM);
    } else if (tag == T_CALL) {
        if (p->in_call || !p->in_block)
            malformed(p);
        if (p->in_call)
            end_call(p, false);
        p->in_block = true;
        start_tag(p, HEAD);
    } else {
        if (tag == T_PARAM || p->in_block)
            malformed(p);
        p->in_block = true;
        between(p, 1);
    }
}

static bool on_name_of_tag(struct hd_parse *p, enum tag tag)
{
    if (p->n_tag)
        malformed(p);
    if (p->mode == OPEN)
        opened(p, tag);
    else
        closed(p, tag);
    return true;
}

static bool on_tool_name(struct hd_parse *p)
{
    if (p->n_tag)
        malformed(p);
    start_tag(p, NAME);
    return true;
}

static bool on_tool_name_end(struct hd_parse *p)
{
    begin_call(p, p->name, p->n_name, "function", 8);
    between(p, 2);
    return true;
}

static bool on_key(struct hd_parse *p)
{
    if (p->n_tag || p->n_gap != 1)
        malformed(p);
    start_tag(p, KEY);
    return true;
}

static bool on_calls(struct hd_parse *p)
{
    switch (p->mode) {
    case REASON: case CONTENT: open_block(p); break;
    case AFTER: case LIST: malformed(p); break;
    default: give_up(p); return false;
    }
    p->in_block = true;
    between(p, 1);
    return true;
}

static bool on_call(struct hd_parse *p)
{
    switch (p->mode) {
    case REASON: case CONTENT: open_block(p); break;
    case LIST: check_gap(p); break;
    case AFTER: malformed(p); break;
    case ARGS: malformed(p); end_call(p, false); break;
    default: give_up(p); return false;
    }
    p->in_block = true;
    start_tag(p, TYPE);
    return true;
}

/* V3.1 has the tool's name where V3 has the call's type. */
static void name_is_type(struct hd_parse *p)
{
    begin_call(p, p->name, p->n_name, "function", 8);
    start_arguments(p);
}

static bool on_type_end(struct hd_parse *p)
{
    if (p->opt.family == HD_PARSE_V31) {
        name_is_type(p);
        return true;
    }
    p->n_type = p->n_name;
    p->mode = FUNC;
    return true;
}

static void begin_function(struct hd_parse *p)
{
    begin_call(p, p->name + p->n_type, p->n_name - p->n_type, p->name, p->n_type);
    start_arguments(p);
}

static bool on_call_done(struct hd_parse *p)
{
    if (p->mode == TYPE) {
        give_up(p);
        return false;
    }
    if (p->mode == FUNC) {            /* no arguments at all */
        begin_function(p);
        end_call(p, false);
    } else {
        end_call(p, true);
    }
    between(p, 1);
    return true;
}

static bool on_calls_done(struct hd_parse *p)
{
    if (p->mode == TYPE || p->mode == FUNC) {
        give_up(p);
        return false;
    }
    leave_block(p);
    return true;
}

/* In the head of a call </think> counts only where the block began in the reasoning. */
static bool is_idle(const struct hd_parse *p, const struct rule *r)
{
    return r->action == THINK_END && !(TEXTS >> p->mode & 1) && !(p->raw_on && p->back == REASON);
}

static bool act(struct hd_parse *p, const struct rule *r, const char *s, size_t n)
{
    whole_characters(p, true);
    if (!(r->exact >> p->opt.family & 1))
        malformed(p);
    switch ((enum action)r->action) {
    case THINK: return on_think(p, s, n);
    case THINK_END: return on_think_end(p);
    case END: end_of_sentence(p); return true;
    case AS_TEXT: text(p, s, n); return true;
    case TAG: return on_tag(p);
    case TAG_END: return on_tag_end(p, s, n);
    case NAME_OF_TAG: return on_name_of_tag(p, r->arg);
    case TOOL_NAME: return on_tool_name(p);
    case TOOL_NAME_END: return on_tool_name_end(p);
    case NO_NAME: give_up(p); return false;
    case KEY_BEGIN: return on_key(p);
    case KEY_END: begin_value(p, r->arg); return true;
    case NO_KEY: p->mode = SKIP; return true;
    case CALLS_BEGIN: return on_calls(p);
    case CALL_BEGIN: return on_call(p);
    case TYPE_END: return on_type_end(p);
    case FENCE: begin_function(p); return true;
    case CALL_DONE: return on_call_done(p);
    case CALLS_DONE: return on_calls_done(p);
    }
    return true;
}

/* ---- bytes that belong to no rule ---- */

static void add_to_name(struct hd_parse *p, char c)
{
    if (p->mode == FUNC && p->n_name == p->n_type && c == '{') {      /* V3.1's form */
        malformed(p);
        name_is_type(p);
        text(p, &c, 1);
    } else if (p->n_name < HD_PARSE_NAME) {
        p->name[p->n_name++] = c;
    } else {
        give_up(p);
    }
}

static void in_tag(struct hd_parse *p, char c)
{
    if (p->mode == PARAM && c == ' ')
        p->n_gap++;
    else if (p->mode != HEAD || !strchr(" \t\r\n\v\f", c) || !c)
        p->n_tag++;
    if (p->n_tag + p->n_gap <= 64)
        return;
    if (p->mode == CLOSE) {
        malformed(p);
        closed(p, T_OTHER);
    } else {
        give_up(p);
    }
}

static bool keep_raw(struct hd_parse *p, const char *s, int n)
{
    if (p->n_raw + n > HD_PARSE_RAW)
        return false;
    memcpy(p->raw + p->n_raw, s, (size_t)n);
    p->n_raw += n;
    return true;
}

static void release(struct hd_parse *p, char c)
{
    if (p->raw_on && !keep_raw(p, &c, 1))
        give_up(p);
    switch ((enum mode)p->mode) {
    case REASON: case CONTENT: case VALUE: case ARGS: text(p, &c, 1); break;
    case NAME: case KEY: case TYPE: case FUNC: add_to_name(p, c); break;
    case OPEN: case CLOSE: case HEAD: case PARAM: in_tag(p, c); break;
    case BLOCK: case IN_CALL: case LIST:
        p->n_gap += p->n_gap < 1 << 20;
        p->n_gap_newline += c == '\n' && p->n_gap_newline < 1 << 20;
        break;
    case AFTER: case DONE:            /* dropped */
        if (!p->n_tag++)
            malformed(p);
        p->n_tag = 1;
        break;
    case SKIP: case N_MODE: break;
    }
}

/* ---- the scanner ---- */

enum fit { NOT, PARTLY, WHOLLY };

/* Is the rule the beginning of what is held (WHOLLY, *len bytes), or the other way round (PARTLY)? */
static enum fit compare(const struct hd_parse *p, const char *rule, int *len)
{
    bool special = false;
    int i = 0;

    for (; *rule; rule++) {
        if (*rule == 1 || *rule == 2) {
            special = *rule == 1;
            continue;
        }
        if (i == p->n_hold)
            return PARTLY;
        if (*rule != p->hold[i] || (special && p->literal >> i & 1))
            return NOT;
        i++;
    }
    *len = i;
    return WHOLLY;
}

static enum fit match(const struct hd_parse *p, const struct rule **r, int *len)
{
    enum fit best = NOT;

    for (uint64_t set = p->rules[p->mode]; set; set &= set - 1) {
        const struct rule *at = &rules[__builtin_ctzll(set)];
        enum fit fit = compare(p, at->text, len);

        if (fit == WHOLLY) {
            *r = at;
            return WHOLLY;
        }
        best = fit == PARTLY ? PARTLY : best;
    }
    return best;
}

static void drop_held(struct hd_parse *p, int n)
{
    p->n_hold -= n;
    memmove(p->hold, p->hold + n, (size_t)p->n_hold);
    p->literal = n < HD_PARSE_HOLD ? p->literal >> n : 0;
}

static void settle(struct hd_parse *p, bool final)
{
    while (p->n_hold) {
        const struct rule *r;
        char s[HD_PARSE_HOLD];
        bool was_raw;
        int n;
        enum fit fit = match(p, &r, &n);

        if (fit == PARTLY && !final)
            return;
        if (fit != WHOLLY || is_idle(p, r)) {
            char c = p->hold[0];

            drop_held(p, 1);
            release(p, c);
            continue;
        }
        was_raw = p->raw_on;
        memcpy(s, p->hold, (size_t)n);
        if (!act(p, r, s, (size_t)n))
            continue;
        drop_held(p, n);
        if (p->raw_on && !keep_raw(p, s, n))
            give_up(p);
        if (was_raw && !p->raw_on && TEXTS >> p->mode & 1)
            text(p, s, (size_t)n);    /* given up: they were the end of what is text now */
    }
}

int hd_parse_feed(struct hd_parse *p, const char *s, size_t n, bool literal, struct hd_err *err)
{
    p->err = err;
    for (size_t i = 0; i < n && p->rc == HD_OK; i++) {
        unsigned char c = (unsigned char)s[i];

        if (!p->n_hold && !(p->first[p->mode][c / 8] >> c % 8 & 1)) {
            release(p, s[i]);
            continue;
        }
        p->literal = (p->literal & ~((uint64_t)1 << p->n_hold)) | (uint64_t)literal << p->n_hold;
        p->hold[p->n_hold++] = s[i];
        settle(p, false);
    }
    flush(p);
    return p->rc;
}

int hd_parse_token(struct hd_parse *p, int32_t id, struct hd_err *err)
{
    struct hd_view v;

    HD_ASSERT(p->opt.tok);
    if (hd_tokenizer_is_end(p->opt.tok, id)) {
        p->err = err;
        settle(p, true);
        whole_characters(p, true);
        if (!p->ended)
            end_of_sentence(p);
        flush(p);
        return p->rc;
    }
    for (int i = 0; i < HD_LEN(words); i++)
        if (p->word_id[i] == id)
            return hd_parse_feed(p, words[i].text, strlen(words[i].text), false, err);
    v = hd_token_text(p->opt.tok, id, false);
    return hd_parse_feed(p, v.p, v.n, p->words_known, err);
}

static enum hd_parse_how how_it_ended(const struct hd_parse *p)
{
    switch ((enum mode)p->mode) {
    case REASON: return HD_PARSE_HOW_CUT_REASONING;
    case CONTENT: return HD_PARSE_HOW_CUT_CONTENT;
    case AFTER: return p->n_malformed ? HD_PARSE_HOW_MALFORMED : HD_PARSE_HOW_EOS;
    case DONE: return p->n_malformed ? HD_PARSE_HOW_MALFORMED : p->how;
    default: return HD_PARSE_HOW_CUT_CALL;
    }
}

int hd_parse_finish(struct hd_parse *p, bool ended, struct hd_err *err)
{
    struct hd_parse_event e = {.kind = HD_PARSE_END, .index = p->index};

    p->err = err;
    settle(p, true);
    whole_characters(p, true);
    if (ended && !p->ended)
        end_of_sentence(p);
    p->how = e.how = how_it_ended(p);
    close_everything(p);
    flush(p);
    send(p, &e);
    p->mode = DONE;
    p->ended = true;
    return p->rc;
}

/* ---- set-up ---- */

static bool applies(const struct hd_parse *p, const struct rule *r)
{
    return r->families >> p->opt.family & 1 && !(p->opt.no_tools && r->action >= TAG);
}

static void index_rules(struct hd_parse *p)
{
    for (int i = 0; i < HD_LEN(rules); i++) {
        unsigned char c = (unsigned char)rules[i].text[rules[i].text[0] == 1];

        for (int mode = 0; applies(p, &rules[i]) && mode < N_MODE; mode++) {
            if (!(rules[i].modes >> mode & 1))
                continue;
            p->rules[mode] |= (uint64_t)1 << i;
            p->first[mode][c / 8] |= (uint8_t)(1 << c % 8);
        }
    }
}

void hd_parse_init(struct hd_parse *p, const struct hd_parse_options *opt)
{
    _Static_assert(N_MODE <= HD_PARSE_MODES, "hd_parse.rules");
    memset(p, 0, sizeof *p);
    p->opt = *opt;
    index_rules(p);
    p->words_known = true;
    for (int i = 0; i < HD_PARSE_WORDS; i++) {
        bool used = i < HD_LEN(words) && words[i].families >> opt->family & 1;

        p->word_id[i] = used && opt->tok ? hd_tokenizer_find(opt->tok, words[i].text) : -1;
        p->words_known &= !used || p->word_id[i] >= 0;
    }
    p->fresh = opt->start != HD_PARSE_IN_TASK;
    p->mode = p->back = opt->start == HD_PARSE_IN_REASONING ? REASON : CONTENT;
    p->skip_newline = p->mode == REASON && opt->family == HD_PARSE_R1;
    if (opt->start == HD_PARSE_IN_CALLS && is_dsml(p)) {
        open_block(p);
        p->in_block = true;
        between(p, 1);
        p->n_gap = p->n_gap_newline = 1;      /* the prompt's */
    }
}

enum hd_parse_family hd_parse_family(const char *name)
{
    static const struct {
        const char *name;
        enum hd_parse_family family;
    } table[] = {{"deepseek-r1", HD_PARSE_R1}, {"deepseek-v3.1", HD_PARSE_V31}, {"deepseek-v4", HD_PARSE_V4}, {"deepseek-v4.1", HD_PARSE_V41}};

    for (int i = 0; name && i < HD_LEN(table); i++)
        if (!strcmp(name, table[i].name))
            return table[i].family;
    return HD_PARSE_PLAIN;
}

enum hd_parse_start hd_parse_start(enum hd_parse_family family, const char *prompt, size_t n)
{
    static const struct {
        const char *end;
        uint8_t families;
        enum hd_parse_start start;
    } table[] = {{"<think>", ALL, HD_PARSE_IN_REASONING},
                 {"<think>\n", R1, HD_PARSE_IN_REASONING},
                 {"<｜DSML｜tool_calls>\n", V4, HD_PARSE_IN_CALLS},
                 {"<｜DSML｜ calls>\n", V41, HD_PARSE_IN_CALLS},
                 {"<｜action｜>", V4 | V41, HD_PARSE_IN_TASK},
                 {"<｜query｜>", V4 | V41, HD_PARSE_IN_TASK},
                 {"<｜authority｜>", V4 | V41, HD_PARSE_IN_TASK},
                 {"<｜domain｜>", V4 | V41, HD_PARSE_IN_TASK},
                 {"<｜title｜>", V4 | V41, HD_PARSE_IN_TASK},
                 {"<｜read_url｜>", V4 | V41, HD_PARSE_IN_TASK}};

    for (int i = 0; i < HD_LEN(table); i++) {
        size_t len = strlen(table[i].end);

        if (table[i].families >> family & 1 && n >= len && !memcmp(prompt + n - len, table[i].end, len))
            return table[i].start;
    }
    return HD_PARSE_IN_CONTENT;
}

const char *hd_parse_how_name(enum hd_parse_how how)
{
    static const char *const name[] = {"end", "task", "cut in reasoning", "cut in content", "cut in a tool call", "malformed"};

    return name[how];
}
