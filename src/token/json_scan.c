/* json_scan.c: see json_scan.h. */
#include "token/json_scan.h"

#include <string.h>

#include "base/err.h"

/* Numbers may end wherever a digit may be missing no longer: ZERO, INT, FRAC, EXP. */
enum state { VALUE, FIRST_KEY, KEY, COLON, FIRST_ITEM, AFTER, STRING, ESCAPE, HEX, WORD, MINUS, ZERO, INT, DOT, FRAC, E, SIGN, EXP, BROKEN };

void hd_json_scan_init(struct hd_json_scan *s)
{
    memset(s, 0, sizeof *s);
    s->state = VALUE;
}

static bool in_array(const struct hd_json_scan *s)
{
    return s->array[(s->depth - 1) / 64] >> (s->depth - 1) % 64 & 1;
}

static bool ends_number(int state)
{
    return state == ZERO || state == INT || state == FRAC || state == EXP;
}

bool hd_json_scan_whole(const struct hd_json_scan *s)
{
    return s->depth == 0 && (s->state == AFTER || ends_number(s->state));
}

bool hd_json_scan_in_string(const struct hd_json_scan *s)
{
    return s->state == STRING;
}

static int push(struct hd_json_scan *s, bool array)
{
    uint64_t bit = (uint64_t)1 << s->depth % 64;

    if (s->depth == HD_JSON_SCAN_DEPTH)
        return BROKEN;
    if (array)
        s->array[s->depth / 64] |= bit;
    else
        s->array[s->depth / 64] &= ~bit;
    s->depth++;
    return array ? FIRST_ITEM : FIRST_KEY;
}

static int word(struct hd_json_scan *s, const char *rest)
{
    s->rest = rest;
    return WORD;
}

static int begin_value(struct hd_json_scan *s, char c)
{
    switch (c) {
    case '{': return push(s, false);
    case '[': return push(s, true);
    case '"': s->key = false; return STRING;
    case 't': return word(s, "rue");
    case 'f': return word(s, "alse");
    case 'n': return word(s, "ull");
    case '-': return MINUS;
    case '0': return ZERO;
    default: return c >= '1' && c <= '9' ? INT : BROKEN;
    }
}

static int begin_key(struct hd_json_scan *s, char c)
{
    s->key = true;
    return c == '"' ? STRING : BROKEN;
}

static int pop(struct hd_json_scan *s, char c)
{
    if (s->depth == 0 || c != (in_array(s) ? ']' : '}'))
        return BROKEN;
    s->depth--;
    return AFTER;
}

static int after_value(struct hd_json_scan *s, char c)
{
    if (c == ',' && s->depth)
        return in_array(s) ? VALUE : KEY;
    return pop(s, c);
}

static int escape(struct hd_json_scan *s, char c)
{
    s->n_hex = 4;
    return c == 'u' ? HEX : c && strchr("\"\\/bfnrt", c) ? STRING : BROKEN;
}

static int in_number(struct hd_json_scan *s, char c)
{
    bool digit = c >= '0' && c <= '9', e = c == 'e' || c == 'E';

    switch (s->state) {
    case MINUS: return c == '0' ? ZERO : digit ? INT : BROKEN;
    case INT:
        if (digit)
            return INT;
        /* fall through */
    case ZERO: return c == '.' ? DOT : e ? E : after_value(s, c);
    case DOT: return digit ? FRAC : BROKEN;
    case FRAC: return digit ? FRAC : e ? E : after_value(s, c);
    case E: return digit ? EXP : c == '+' || c == '-' ? SIGN : BROKEN;
    case SIGN: return digit ? EXP : BROKEN;
    default: return digit ? EXP : after_value(s, c);
    }
}

static int next(struct hd_json_scan *s, char c)
{
    bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';

    switch (s->state) {
    case STRING: return c == '"' ? s->key ? COLON : AFTER : c == '\\' ? ESCAPE : (unsigned char)c < 32 ? BROKEN : STRING;
    case ESCAPE: return escape(s, c);
    case HEX: return !c || !strchr("0123456789abcdefABCDEF", c) ? BROKEN : --s->n_hex ? HEX : STRING;
    case WORD: return c != *s->rest ? BROKEN : *++s->rest ? WORD : AFTER;
    case BROKEN: return BROKEN;
    }
    if (space)
        return ends_number(s->state) ? AFTER : s->state >= MINUS ? BROKEN : s->state;
    switch (s->state) {
    case VALUE: return begin_value(s, c);
    case FIRST_KEY: return c == '}' ? pop(s, c) : begin_key(s, c);
    case KEY: return begin_key(s, c);
    case COLON: return c == ':' ? VALUE : BROKEN;
    case FIRST_ITEM: return c == ']' ? pop(s, c) : begin_value(s, c);
    case AFTER: return after_value(s, c);
    default: return in_number(s, c);
    }
}

bool hd_json_scan_byte(struct hd_json_scan *s, char c)
{
    s->state = (uint8_t)next(s, c);
    return s->state != BROKEN;
}

const char *hd_json_scan_closer(const struct hd_json_scan *s)
{
    switch (s->state) {
    case STRING: return "\"";
    case ESCAPE: return "\\";
    case HEX: return "0";
    case WORD: return s->rest;
    case VALUE: return "null";
    case KEY: return "\"\"";
    case COLON: return ":";
    case MINUS: case DOT: case E: case SIGN: return "0";
    case BROKEN: return NULL;
    default: return s->depth == 0 ? NULL : in_array(s) ? "]" : "}";
    }
}
