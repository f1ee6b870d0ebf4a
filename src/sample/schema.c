/* schema.c: see schema.h. What must fit a list of schemas (schema_parts.c) becomes a rule; a rule's values are written here. */
#include "sample/schema_compiler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "token/py_json.h"

#define WORK_MAX 400000               /* pairs of schemas that are compared */

/* ---- rules ---- */

/* The rule of values that fit all of p; it is filled later. */
int hd_schema_rule(struct hd_schema_compiler *c, const struct hd_schema_parts *p, uint32_t *rule)
{
    for (size_t i = 0; i < c->n_rule; i++) {
        const struct hd_schema_parts *q = &c->rule[i].parts;

        if (q->n == p->n && q->never == p->never && !memcmp(q->s, p->s, (size_t)p->n * sizeof p->s[0])) {
            *rule = c->rule[i].rule;
            return HD_OK;
        }
    }
    if ((c->work += (int64_t)c->n_rule / 64) > WORK_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "it holds too many schemas");
    if (!HD_GROW(c->rule, c->cap_rule, c->n_rule + 1, HD_GRAMMAR_STATES))
        return hd_schema_no_memory(c);
    *rule = hd_grammar_rule(c->g);
    c->rule[c->n_rule++] = (struct hd_schema_value_rule){*p, *rule};
    return HD_OK;
}

int hd_schema_full(struct hd_schema_compiler *c)
{
    return c->g->failed && !c->g->no_memory ? hd_err_set(c->err, HD_ERR_LIMIT, "it needs more than %d states", HD_GRAMMAR_STATES) : c->g->failed ? hd_schema_no_memory(c) : HD_OK;
}

/* ---- values that are named ---- */

int hd_schema_by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Texts from one state to another; those that begin alike share what they begin with. */
static void add_texts(struct hd_schema_compiler *c, char **text, size_t n, uint32_t from, uint32_t to)
{
    uint32_t *at = NULL;
    size_t cap = 0;

    qsort(text, n, sizeof *text, hd_schema_by_text);
    for (size_t i = 0; i < n; i++) {
        size_t k = 0, len = strlen(text[i]);

        if (i && !strcmp(text[i], text[i - 1]))
            continue;
        if (!HD_GROW(at, cap, len + 1, (size_t)1 << 28)) {
            c->g->failed = c->g->no_memory = true;
            break;
        }
        at[0] = from;
        while (i && k < len && text[i][k] == text[i - 1][k])
            k++;
        for (; k < len && !c->g->failed; k++)
            at[k + 1] = hd_grammar_text(c->g, at[k], text[i] + k, 1);
        hd_grammar_skip(c->g, at[len], to);
    }
    hd_free(at);
}

static const char *structural(const json_t *s, const json_t *v)
{
    static const char *const of_object[] = {"properties", "required", "additionalProperties", "minProperties", "maxProperties"};
    static const char *const of_array[] = {"items", "prefixItems", "minItems", "maxItems"}, *const of_string[] = {"pattern", "format"};
    const char *const *key = json_is_object(v) ? of_object : json_is_array(v) ? of_array : of_string;
    int n = json_is_object(v) ? HD_LEN(of_object) : json_is_array(v) ? HD_LEN(of_array) : json_is_string(v) ? HD_LEN(of_string) : 0;

    for (int i = 0; i < n; i++)
        if (json_object_get(s, key[i]))
            return key[i];
    return NULL;
}

struct texts {
    char **text;
    size_t n, cap;
};

static int add_value_text(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const json_t *v, bool raw, struct texts *t)
{
    struct hd_str text;
    bool fits;

    for (int i = 0; i < p->n; i++) {
        const char *key = structural(p->s[i], v);

        if (key)
            return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, p->s[i], key, "not supported beside enum or const");
    }
    hd_str_init(&text, 0);
    if (raw && json_is_string(v))
        hd_str_puts(&text, json_string_value(v));
    else
        hd_py_json(v, &text);
    fits = !text.failed && HD_GROW(t->text, t->cap, t->n + 1, (size_t)1 << 24) && (t->text[t->n] = hd_strdup(hd_str_get(&text)));
    t->n += fits;
    hd_str_release(&text);
    return fits ? HD_OK : hd_schema_no_memory(c);
}

static int add_named(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const json_t *list, const json_t *one, unsigned types, bool raw, uint32_t from, uint32_t to)
{
    struct texts t = {0};
    const json_t *v;
    int rc = HD_OK;
    size_t i;

    if (one && (types & hd_schema_type_of(one)) && hd_schema_all_may_take(p, one, NULL))
        rc = add_value_text(c, p, one, raw, &t);
    if (!one)
        json_array_foreach((json_t *)list, i, v) if (rc == HD_OK && (types & hd_schema_type_of(v)) && hd_schema_all_may_take(p, v, list)) rc = add_value_text(c, p, v, raw, &t);
    if (rc == HD_OK && t.n)
        add_texts(c, t.text, t.n, from, to);
    for (i = 0; i < t.n; i++)
        hd_free(t.text[i]);
    hd_free(t.text);
    return rc;
}

/* ---- strings ---- */

#define DAY "((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
#define DATE "[1-9][0-9]{3}-" DAY
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P([0-9]{1,6}W|[0-9]{1,6}D(T[0-9]{1,6}[HMS])?|T([0-9]{1,6}H)?[0-9]{1,6}M|T[0-9]{1,6}[HS])$"},
    {"email", "^[A-Za-z0-9_+-]{1,20}(\\.[A-Za-z0-9_+-]{1,20}){0,2}@" LABEL "(\\." LABEL "){1,2}$"},
    {"hostname", "^" LABEL "(\\." LABEL "){0,2}$"},
    {"ipv4", "^(" OCTET "\\.){3}" OCTET "$"},
    {"ipv6", "^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"},
    {"uuid", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    {"uri", "^https?://" LABEL "(\\." LABEL "){0,4}(/[A-Za-z0-9._~-]*)*(\\?[A-Za-z0-9._~&=-]*)?$"},
};

static int pattern_of(struct hd_schema_compiler *c, const json_t *s, const char **out, const char **key)
{
    const char *pattern = json_string_value(json_object_get(s, "pattern")), *format = json_string_value(json_object_get(s, "format")), *of_format = NULL;

    for (int i = 0; format && i < HD_LEN(formats); i++)
        if (!strcmp(formats[i].name, format))
            of_format = formats[i].pattern;
    if (format && !of_format)
        return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, s, "format", "found one that is not supported; those are: date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri");
    if (pattern && of_format)
        return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, s, "pattern", "not supported beside format");
    *out = pattern ? pattern : of_format;
    *key = pattern ? "pattern" : "format";
    return HD_OK;
}

static int add_string(struct hd_schema_compiler *c, const struct hd_schema_parts *p, bool raw, uint32_t from, uint32_t to)
{
    int64_t lo = 0, hi = -1;
    const char *pattern = NULL, *key = "maxLength";
    const json_t *said_by = p->n ? p->s[0] : NULL;
    uint32_t last;
    int rc;

    for (int i = 0; i < p->n; i++) {
        int64_t least = hd_schema_count(p->s[i], "minLength", 0), most = hd_schema_count(p->s[i], "maxLength", -1);
        const char *more = NULL, *its = NULL;

        lo = least > lo ? least : lo;
        hi = most >= 0 && (hi < 0 || most < hi) ? most : hi;
        if (most >= 0 || least > 0)
            said_by = p->s[i];
        HD_TRY(pattern_of(c, p->s[i], &more, &its));
        if (more && pattern && strcmp(more, pattern))
            return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, p->s[i], its, "not supported beside another pattern or format for the same string");
        if (more) {
            pattern = more;
            key = its;
            said_by = p->s[i];
        }
    }
    if (hi >= 0 && lo > hi)
        return HD_OK;
    from = hd_grammar_text(c->g, from, "\"", !raw);
    last = hd_grammar_state(c->g);
    hd_grammar_text_to(c->g, last, "\"", !raw, to);
    rc = hd_pattern_add(raw ? &c->raw : &c->json, pattern, lo, hi, from, last, c->err);
    if (rc < 0 && said_by)
        hd_err_prepend(c->err, "%.300s/%s", hd_schema_path(&c->places, said_by), pattern ? key : hi >= 0 ? "maxLength" : "minLength");
    return rc;
}

/* ---- numbers ---- */

static int add_number(struct hd_schema_compiler *c, const struct hd_schema_parts *p, bool real, uint32_t from, uint32_t to)
{
    static const char *const key[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
    struct hd_schema_range r;
    struct hd_schema_number_rule n;

    hd_schema_range_init(&r, real);
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < 4; k++) {
            const json_t *v = json_object_get(p->s[i], key[k]);

            if (v && !hd_schema_range_bound(&r, v, k >= 2, k & 1))
                return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, p->s[i], key[k], "this bound is beyond the numbers that are written here (18 digits; 12 before the point)");
        }
    for (size_t i = 0; i < c->n_number; i++)
        if (c->number[i].range.real == real && c->number[i].range.bounded == r.bounded && c->number[i].range.lo == r.lo && c->number[i].range.hi == r.hi) {
            hd_grammar_call(c->g, from, c->number[i].rule, to);
            return HD_OK;
        }
    if (!HD_GROW(c->number, c->cap_number, c->n_number + 1, HD_GRAMMAR_STATES))
        return hd_schema_no_memory(c);
    n = (struct hd_schema_number_rule){r, hd_grammar_rule(c->g)};
    HD_TRY(hd_schema_full(c));
    c->number[c->n_number++] = n;
    hd_grammar_call(c->g, from, n.rule, to);
    return hd_schema_range_add(&r, &c->raw, c->g->rule[n.rule].entry, c->g->rule[n.rule].exit, c->err);
}

/* ---- arrays ---- */

static int item_rule(struct hd_schema_compiler *c, const struct hd_schema_parts *p, size_t k, uint32_t *rule)
{
    struct hd_schema_parts item = {.n = 0};

    for (int i = 0; i < p->n; i++) {
        const json_t *prefix = json_object_get(p->s[i], "prefixItems"), *s;

        s = k < json_array_size(prefix) ? json_array_get(prefix, k) : json_object_get(p->s[i], "items");
        if (s)
            HD_TRY(hd_schema_add_part(c, &item, s));
    }
    return hd_schema_rule(c, &item, rule);
}

static int add_array(struct hd_schema_compiler *c, const struct hd_schema_parts *p, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    int64_t lo = 0, hi = -1, n_prefix = 0;
    uint32_t at, before, rule;                    /* before: one more is about to come */

    for (int i = 0; i < p->n; i++) {
        int64_t least = hd_schema_count(p->s[i], "minItems", 0), most = hd_schema_count(p->s[i], "maxItems", -1), n = (int64_t)json_array_size(json_object_get(p->s[i], "prefixItems"));

        lo = least > lo ? least : lo;
        hi = most >= 0 && (hi < 0 || most < hi) ? most : hi;
        n_prefix = n > n_prefix ? n : n_prefix;
    }
    if (hi >= 0 && lo > hi)
        return HD_OK;
    at = hd_grammar_text(g, from, "[", 1);        /* k items are there */
    for (int64_t k = 0;; k++) {
        uint32_t next;

        if (k >= lo)
            hd_grammar_text_to(g, at, "]", 1, to);
        if (hi >= 0 && k == hi)
            break;
        before = hd_grammar_state(g);
        if (k)
            hd_grammar_text_to(g, at, ", ", 2, before);
        else
            hd_grammar_skip(g, at, before);
        HD_TRY(item_rule(c, p, (size_t)k, &rule));
        next = hd_grammar_state(g);
        hd_grammar_call(g, before, rule, next);
        at = next;
        if (hi < 0 && k + 1 >= n_prefix + 1 && k + 1 >= lo) {     /* from here on all are alike */
            hd_grammar_text_to(g, at, ", ", 2, before);
            hd_grammar_text_to(g, at, "]", 1, to);
            break;
        }
        HD_TRY(hd_schema_full(c));
    }
    return HD_OK;
}

/* ---- values ---- */

/* Without a type, what the keywords speak of. */
static unsigned hinted_types(const struct hd_schema_parts *p)
{
    static const struct {
        const char *key;
        unsigned bits;
    } hints[] = {{"properties", T_OBJECT}, {"required", T_OBJECT}, {"additionalProperties", T_OBJECT}, {"minProperties", T_OBJECT}, {"maxProperties", T_OBJECT},
                 {"items", T_ARRAY}, {"prefixItems", T_ARRAY}, {"minItems", T_ARRAY}, {"maxItems", T_ARRAY}, {"minLength", T_STRING}, {"maxLength", T_STRING},
                 {"pattern", T_STRING}, {"format", T_STRING}, {"minimum", T_INT | T_REAL}, {"maximum", T_INT | T_REAL}, {"exclusiveMinimum", T_INT | T_REAL},
                 {"exclusiveMaximum", T_INT | T_REAL}, {"multipleOf", T_INT}};
    unsigned bits = 0;

    for (int i = 0; i < p->n; i++) {
        if (json_object_get(p->s[i], "type"))
            return T_ALL;
        for (int k = 0; k < HD_LEN(hints); k++)
            if (json_object_get(p->s[i], hints[k].key))
                bits |= hints[k].bits;
    }
    return bits ? bits : T_ALL;
}

static int add_alternative(struct hd_schema_compiler *c, const struct hd_schema_parts *p, unsigned only, bool raw, uint32_t from, uint32_t to)
{
    const json_t *one, *list = hd_schema_named_values(p, &one);
    unsigned types = hd_schema_types(p) & only;

    if (list || one)
        return add_named(c, p, list, one, types, raw, from, to);
    types &= hinted_types(p);
    if (types & T_NULL)
        hd_grammar_text_to(c->g, from, "null", 4, to);
    if (types & T_BOOL) {
        hd_grammar_text_to(c->g, from, "true", 4, to);
        hd_grammar_text_to(c->g, from, "false", 5, to);
    }
    if (types & (T_INT | T_REAL))
        HD_TRY(add_number(c, p, types & T_REAL, from, to));
    if (types & T_STRING)
        HD_TRY(add_string(c, p, raw, from, to));
    if (types & T_ARRAY)
        HD_TRY(add_array(c, p, from, to));
    if (types & T_OBJECT)
        HD_TRY(hd_schema_add_object(c, p, from, to));
    return HD_OK;
}

int hd_schema_add_values(struct hd_schema_compiler *c, const struct hd_schema_parts *p, unsigned only, bool raw, uint32_t from, uint32_t to)
{
    struct hd_schema_alts alts = {0};
    int rc = hd_schema_expand(c, p, 0, &alts);

    for (size_t i = 0; i < alts.n && rc == HD_OK; i++)
        rc = add_alternative(c, &alts.a[i], only, raw, from, to);
    hd_free(alts.a);
    return rc;
}

int hd_schema_fill(struct hd_schema_compiler *c)
{
    for (size_t i = 0; i < c->n_rule; i++) {
        struct hd_schema_parts p = c->rule[i].parts;
        struct hd_grammar_rule r;

        HD_TRY(hd_schema_full(c));
        r = c->g->rule[c->rule[i].rule];
        HD_TRY(hd_schema_add_values(c, &p, T_ALL, false, r.entry, r.exit));
    }
    return hd_schema_full(c);
}

/* ---- the frame ---- */

int hd_schema_begin(struct hd_schema_compiler *c, struct hd_grammar *g, const json_t *schema, struct hd_schema_parts *p, struct hd_err *err)
{
    *c = (struct hd_schema_compiler){.g = g, .err = err};
    *p = (struct hd_schema_parts){.n = 0};
    hd_schema_places_init(&c->places);
    hd_spelling_init(&c->json, g, false);
    hd_spelling_init(&c->raw, g, true);
    HD_TRY(hd_schema_check(&c->places, schema, err));
    return hd_schema_add_part(c, p, schema);
}

void hd_schema_end(struct hd_schema_compiler *c)
{
    hd_spelling_release(&c->json);
    hd_spelling_release(&c->raw);
    hd_schema_places_release(&c->places);
    hd_free(c->rule);
    hd_free(c->number);
}

int hd_schema_add(struct hd_grammar *g, const json_t *schema, uint32_t from, uint32_t to, struct hd_err *err)
{
    struct hd_schema_compiler c;
    struct hd_schema_parts p;
    uint32_t rule;
    int rc = hd_schema_begin(&c, g, schema, &p, err);

    if (rc == HD_OK)
        rc = hd_schema_rule(&c, &p, &rule);
    if (rc == HD_OK)
        hd_grammar_call(g, from, rule, to);
    if (rc == HD_OK)
        rc = hd_schema_fill(&c);
    hd_schema_end(&c);
    return rc;
}

/* A grammar whose root is what add() puts between its entry and exit. */
static int compile(struct hd_grammar **out, int (*add)(struct hd_grammar *g, const void *what, uint32_t from, uint32_t to, struct hd_err *err), const void *what, struct hd_err *err)
{
    struct hd_grammar *g = hd_grammar_create();
    uint32_t root;
    int rc;

    if (!g)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a schema");
    root = hd_grammar_rule(g);
    rc = g->failed ? hd_err_set(err, HD_ERR_MEMORY, "no memory for a schema") : add(g, what, g->rule[root].entry, g->rule[root].exit, err);
    if (rc == HD_OK)
        rc = hd_grammar_finish(g, root, err);
    if (rc == HD_OK)
        *out = g;
    else
        hd_grammar_release(g);
    return rc;
}

static int add_schema(struct hd_grammar *g, const void *schema, uint32_t from, uint32_t to, struct hd_err *err)
{
    return hd_schema_add(g, schema, from, to, err);
}

static int add_choice(struct hd_grammar *g, const void *list, uint32_t from, uint32_t to, struct hd_err *err)
{
    struct hd_schema_compiler c = {.g = g, .err = err};
    size_t n = json_array_size(list);
    char **text = hd_malloc(n * sizeof *text);

    if (!text)
        return hd_schema_no_memory(&c);
    for (size_t i = 0; i < n; i++)
        text[i] = (char *)json_string_value(json_array_get(list, i));
    add_texts(&c, text, n, from, to);
    hd_free(text);
    return HD_OK;
}

static bool is_escaped(const char *s, size_t at)
{
    size_t n = 0;

    while (n < at && s[at - 1 - n] == '\\')
        n++;
    return n & 1;
}

/* All of the text: anchors that are there are taken off, and put around the whole. */
static int add_regex(struct hd_grammar *g, const void *pattern, uint32_t from, uint32_t to, struct hd_err *err)
{
    const char *s = pattern;
    size_t n = strlen(s);
    struct hd_spelling raw;
    struct hd_str all;
    int rc;

    if (n && s[n - 1] == '$' && !is_escaped(s, n - 1))
        n--;
    if (n && s[0] == '^') {
        s++;
        n--;
    }
    hd_spelling_init(&raw, g, true);
    hd_str_init(&all, 0);
    hd_str_printf(&all, "^(?:%.*s)$", (int)n, s);
    rc = all.failed ? hd_err_set(err, HD_ERR_MEMORY, "no memory for a pattern") : hd_pattern_add(&raw, hd_str_get(&all), 0, -1, from, to, err);
    hd_str_release(&all);
    hd_spelling_release(&raw);
    return rc;
}

int hd_schema_compile(struct hd_grammar **out, const json_t *schema, struct hd_err *err)
{
    return compile(out, add_schema, schema, err);
}

int hd_schema_compile_choice(struct hd_grammar **out, const json_t *list, struct hd_err *err)
{
    return compile(out, add_choice, list, err);
}

int hd_schema_compile_regex(struct hd_grammar **out, const char *pattern, struct hd_err *err)
{
    return compile(out, add_regex, pattern, err);
}
