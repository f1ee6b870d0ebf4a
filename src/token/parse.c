/* parse.c: see parse.h.
 *
 * A scanner over one table. In every mode some rules may match; bytes that begin a rule are held until it is complete or
 * cannot be, other bytes are released to the mode (text of some kind, a name, junk between tags). A rule's action changes the
 * mode. No rule of a mode is the beginning of another one, so that the first complete one is the answer and how the input was
 * cut never matters. Until the first call of a block has a name everything since the block's start is kept in raw: if
 * the grammar breaks there, it was text after all.
 */
#include "token/parse_out.h"

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
        hd_parse_malformed(p);
}

/* The grammar broke. Before any call has begun the block was text; afterwards what cannot be understood is dropped. */
static void give_up(struct hd_parse *p)
{
    hd_parse_malformed(p);
    if (!p->raw_on) {
        between(p, 1 << 30);
        return;
    }
    p->raw_on = p->in_block = false;
    p->mode = p->back;
    hd_parse_text(p, p->raw, (size_t)p->n_raw);
    p->n_raw = 0;
}

static void open_block(struct hd_parse *p)
{
    p->back = p->mode;
    p->raw_on = true;
    p->n_raw = 0;
    if (p->mode == REASON)            /* no </think>: the call ends the reasoning all the same */
        hd_parse_malformed(p);
    p->malformed_before = p->n_malformed;
}

static void close_everything(struct hd_parse *p)
{
    if (p->in_call)
        hd_parse_end_call(p, false);
    else if (p->raw_on)
        give_up(p);
    hd_parse_whole_characters(p, true);
}

static void end_of_sentence(struct hd_parse *p)
{
    bool task = p->mode == CONTENT && p->opt.start == HD_PARSE_IN_TASK;

    if (p->mode != CONTENT && p->mode != AFTER)
        hd_parse_malformed(p);
    close_everything(p);
    p->how = task ? HD_PARSE_HOW_TASK : HD_PARSE_HOW_EOS;
    p->ended = true;
    p->mode = DONE;
    p->n_tag = 0;
}

static void leave_block(struct hd_parse *p)
{
    if (p->in_call) {
        hd_parse_malformed(p);
        hd_parse_end_call(p, false);
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
    hd_parse_malformed(p);
    hd_parse_text(p, s, n);
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
    hd_parse_malformed(p);                     /* a stray one is skipped */
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
        hd_parse_end_call(p, true);
    else if (!param)
        hd_parse_malformed(p);                 /* it closes nothing */
    if (p->closes_value && !param)
        hd_parse_malformed(p);
    between(p, 1);
}

static bool on_tag(struct hd_parse *p)
{
    switch (p->mode) {
    case REASON: case CONTENT: open_block(p); break;
    case BLOCK: case IN_CALL: check_gap(p); break;
    case AFTER: hd_parse_malformed(p); break;
    case CLOSE: hd_parse_malformed(p); closed(p, T_OTHER); return false;      /* a closing tag without its end */
    default: give_up(p); return false;
    }
    start_tag(p, OPEN);
    return true;
}

static bool on_tag_end(struct hd_parse *p, const char *s, size_t n)
{
    switch (p->mode) {
    case REASON: case CONTENT: hd_parse_malformed(p); hd_parse_text(p, s, n); return true;
    case AFTER: hd_parse_malformed(p); return true;
    case BLOCK: case IN_CALL: check_gap(p); break;
    case VALUE: hd_parse_end_value(p); break;
    case SKIP: break;
    case CLOSE: hd_parse_malformed(p); closed(p, T_OTHER); return false;
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
            hd_parse_malformed(p);
        if (p->in_call)
            hd_parse_end_call(p, false);
        p->in_block = true;
        start_tag(p, HEAD);
    } else {
        if (tag == T_PARAM || p->in_block)
            hd_parse_malformed(p);
        p->in_block = true;
        between(p, 1);
    }
}

static bool on_name_of_tag(struct hd_parse *p, enum tag tag)
{
    if (p->n_tag)
        hd_parse_malformed(p);
    if (p->mode == OPEN)
        opened(p, tag);
    else
        closed(p, tag);
    return true;
}

static bool on_tool_name(struct hd_parse *p)
{
    if (p->n_tag)
        hd_parse_malformed(p);
    start_tag(p, NAME);
    return true;
}

static bool on_tool_name_end(struct hd_parse *p)
{
    hd_parse_begin_call(p, p->name, p->n_name, "function", 8);
    between(p, 2);
    return true;
}

static bool on_key(struct hd_parse *p)
{
    if (p->n_tag || p->n_gap != 1)
        hd_parse_malformed(p);
    start_tag(p, KEY);
    return true;
}

static bool on_calls(struct hd_parse *p)
{
    switch (p->mode) {
    case REASON: case CONTENT: open_block(p); break;
    case AFTER: case LIST: hd_parse_malformed(p); break;
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
    case AFTER: hd_parse_malformed(p); break;
    case ARGS: hd_parse_malformed(p); hd_parse_end_call(p, false); break;
    default: give_up(p); return false;
    }
    p->in_block = true;
    start_tag(p, TYPE);
    return true;
}

/* V3.1 has the tool's name where V3 has the call's type. */
static void name_is_type(struct hd_parse *p)
{
    hd_parse_begin_call(p, p->name, p->n_name, "function", 8);
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
    hd_parse_begin_call(p, p->name + p->n_type, p->n_name - p->n_type, p->name, p->n_type);
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
        hd_parse_end_call(p, false);
    } else {
        hd_parse_end_call(p, true);
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
    hd_parse_whole_characters(p, true);
    if (!(r->exact >> p->opt.family & 1))
        hd_parse_malformed(p);
    switch ((enum action)r->action) {
    case THINK: return on_think(p, s, n);
    case THINK_END: return on_think_end(p);
    case END: end_of_sentence(p); return true;
    case AS_TEXT: hd_parse_text(p, s, n); return true;
    case TAG: return on_tag(p);
    case TAG_END: return on_tag_end(p, s, n);
    case NAME_OF_TAG: return on_name_of_tag(p, r->arg);
    case TOOL_NAME: return on_tool_name(p);
    case TOOL_NAME_END: return on_tool_name_end(p);
    case NO_NAME: give_up(p); return false;
    case KEY_BEGIN: return on_key(p);
    case KEY_END: hd_parse_begin_value(p, r->arg); return true;
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
        hd_parse_malformed(p);
        name_is_type(p);
        hd_parse_text(p, &c, 1);
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
        hd_parse_malformed(p);
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
    case REASON: case CONTENT: case VALUE: case ARGS: hd_parse_text(p, &c, 1); break;
    case NAME: case KEY: case TYPE: case FUNC: add_to_name(p, c); break;
    case OPEN: case CLOSE: case HEAD: case PARAM: in_tag(p, c); break;
    case BLOCK: case IN_CALL: case LIST:
        p->n_gap += p->n_gap < 1 << 20;
        p->n_gap_newline += c == '\n' && p->n_gap_newline < 1 << 20;
        break;
    case AFTER: case DONE:            /* dropped */
        if (!p->n_tag++)
            hd_parse_malformed(p);
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
            hd_parse_text(p, s, (size_t)n);    /* given up: they were the end of what is text now */
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
    hd_parse_flush(p);
    return p->rc;
}

int hd_parse_token(struct hd_parse *p, int32_t id, struct hd_err *err)
{
    struct hd_view v;

    HD_ASSERT(p->opt.tok);
    if (hd_tokenizer_is_end(p->opt.tok, id)) {
        p->err = err;
        settle(p, true);
        hd_parse_whole_characters(p, true);
        if (!p->ended)
            end_of_sentence(p);
        hd_parse_flush(p);
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
    hd_parse_whole_characters(p, true);
    if (ended && !p->ended)
        end_of_sentence(p);
    p->how = e.how = how_it_ended(p);
    close_everything(p);
    hd_parse_flush(p);
    hd_parse_send(p, &e);
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
