/* schema.c: see schema.h. A value must fit a list of schemas at once (allOf, $ref with keywords beside it, properties of merged objects); such a
 * list becomes a rule. Its anyOf, oneOf and $ref are multiplied out first, into alternatives that are lists of schemas with plain keywords. */
#include "sample/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "sample/pattern.h"
#include "sample/schema_check.h"
#include "sample/schema_number.h"
#include "token/py_json.h"

#define PARTS_MAX 24
#define ALTS_MAX 512
#define EXPAND_MAX 40                 /* references and combinations inside one another, without a value between */
#define WORK_MAX 400000               /* pairs that are compared, alternatives that are made */
#define NAMES_MAX 4096
#define NAME_BYTES 1024               /* of declared names, beside free ones */

enum { T_NULL = 1, T_BOOL = 2, T_INT = 4, T_REAL = 8, T_STRING = 16, T_ARRAY = 32, T_OBJECT = 64, T_ALL = 127 };

/* All of them must hold. */
struct parts {
    const json_t *s[PARTS_MAX];
    int n;
    bool never;                       /* false was among them */
};

struct alts {
    struct parts *a;
    size_t n, cap;
};

struct value_rule {
    struct parts parts;
    uint32_t rule;
};

struct number_rule {
    struct hd_schema_range range;
    uint32_t rule;
};

struct compiler {
    struct hd_grammar *g;
    struct number_rule *number;
    size_t n_number, cap_number;
    struct hd_spelling json, raw;
    struct hd_schema_places places;
    struct value_rule *rule;
    size_t n_rule, cap_rule;
    int64_t work;
    struct hd_err *err;
};

static int no_memory(struct compiler *c)
{
    return hd_err_set(c->err, HD_ERR_MEMORY, "no memory for a schema");
}

static int refuse(struct compiler *c, int code, const json_t *s, const char *key, const char *what)
{
    return hd_err_set(c->err, code, "%.300s/%s: %s", hd_schema_path(&c->places, s), key, what);
}

/* ---- lists of schemas, in the order of the document ---- */

static int add_part(struct compiler *c, struct parts *p, const json_t *s)
{
    int i = 0;

    if (json_is_false(s))
        p->never = true;
    if (json_is_boolean(s))
        return HD_OK;
    while (i < p->n && p->s[i] != s && hd_schema_order(&c->places, p->s[i]) < hd_schema_order(&c->places, s))
        i++;
    if (i < p->n && p->s[i] == s)
        return HD_OK;
    if (p->n == PARTS_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "%.300s: more than %d schemas hold at once", hd_schema_path(&c->places, s), PARTS_MAX);
    memmove(p->s + i + 1, p->s + i, (size_t)(p->n - i) * sizeof p->s[0]);
    p->s[i] = s;
    p->n++;
    return HD_OK;
}

static int add_parts(struct compiler *c, struct parts *p, const struct parts *q)
{
    p->never |= q->never;
    for (int i = 0; i < q->n; i++)
        HD_TRY(add_part(c, p, q->s[i]));
    return HD_OK;
}

/* ---- what is known of alternatives ---- */

static unsigned type_named(const char *t)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {{"null", T_NULL}, {"boolean", T_BOOL}, {"integer", T_INT}, {"number", T_INT | T_REAL}, {"string", T_STRING}, {"array", T_ARRAY}, {"object", T_OBJECT}};

    for (int i = 0; i < HD_LEN(types); i++)
        if (!strcmp(types[i].name, t))
            return types[i].bits;
    return 0;
}

static unsigned type_of(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return T_OBJECT;
    case JSON_ARRAY: return T_ARRAY;
    case JSON_STRING: return T_STRING;
    case JSON_INTEGER: return T_INT;
    case JSON_REAL: return json_real_value(v) == floor(json_real_value(v)) ? T_INT : T_REAL;
    case JSON_NULL: return T_NULL;
    default: return T_BOOL;
    }
}

static unsigned said_types(const json_t *s)
{
    const json_t *t = json_object_get(s, "type"), *x;
    unsigned bits = 0;
    size_t i;

    if (!t)
        return T_ALL;
    if (json_is_string(t))
        return type_named(json_string_value(t));
    json_array_foreach((json_t *)t, i, x) bits |= type_named(json_string_value(x));
    return bits;
}

static bool same_value(const json_t *a, const json_t *b)
{
    return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal((json_t *)a, (json_t *)b);
}

static int64_t count_of(const json_t *s, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(s, key);

    return v ? json_integer_value(v) : otherwise;
}

static int64_t n_char(const json_t *v)
{
    int64_t n = 0;

    for (const char *p = json_string_value(v); *p; p++)
        n += (*p & 0xC0) != 0x80;
    return n;
}

/* Does one schema's own keywords take a scalar? Patterns, formats and what is inside of lists and objects are not looked at. of: the enum
 * that v is from, or NULL. */
static bool may_take(const json_t *s, const json_t *v, const json_t *of)
{
    const json_t *list = json_object_get(s, "enum"), *only = json_object_get(s, "const"), *x;
    bool found = !list || list == of;
    size_t i;

    if (!found)
        json_array_foreach((json_t *)list, i, x) found |= same_value(x, v);
    if (!found || (only && !same_value(only, v)) || !(said_types(s) & type_of(v)))
        return false;
    if (json_is_number(v)) {
        double d = json_number_value(v);
        const json_t *lo = json_object_get(s, "minimum"), *hi = json_object_get(s, "maximum");
        const json_t *above = json_object_get(s, "exclusiveMinimum"), *below = json_object_get(s, "exclusiveMaximum");

        return (!lo || d >= json_number_value(lo)) && (!hi || d <= json_number_value(hi)) && (!above || d > json_number_value(above)) &&
               (!below || d < json_number_value(below)) && (!json_object_get(s, "multipleOf") || d == floor(d));
    }
    if (json_is_string(v))
        return n_char(v) >= count_of(s, "minLength", 0) && n_char(v) <= count_of(s, "maxLength", INT64_MAX);
    return true;
}

static bool all_may_take(const struct parts *p, const json_t *v, const json_t *of)
{
    for (int i = 0; i < p->n; i++)
        if (!may_take(p->s[i], v, of))
            return false;
    return true;
}

/* The shortest list of values that are named, or NULL. one: storage for a const. */
static const json_t *named_values(const struct parts *p, const json_t **one)
{
    const json_t *best = NULL;

    *one = NULL;
    for (int i = 0; i < p->n; i++) {
        const json_t *list = json_object_get(p->s[i], "enum"), *only = json_object_get(p->s[i], "const");

        if (only)
            *one = only;
        if (list && (!best || json_array_size(list) < json_array_size(best)))
            best = list;
    }
    return best;
}

static unsigned types_of(const struct parts *p)
{
    unsigned bits = T_ALL;

    for (int i = 0; i < p->n; i++) {
        bits &= said_types(p->s[i]);
        if (json_object_get(p->s[i], "multipleOf"))
            bits &= ~(unsigned)T_REAL;
    }
    return p->never ? 0 : bits;
}

static int expand(struct compiler *c, const struct parts *p, int depth, struct alts *out);

/* The schemas of a member, by what is said alone. */
static int member_parts(struct compiler *c, const struct parts *p, const char *name, struct parts *out)
{
    *out = (struct parts){.n = 0};
    for (int i = 0; i < p->n; i++) {
        const json_t *s = json_object_get(json_object_get(p->s[i], "properties"), name);

        if (!s)
            s = json_object_get(p->s[i], "additionalProperties");
        if (s)
            HD_TRY(add_part(c, out, s));
    }
    return HD_OK;
}

/* *out: surely nothing fits. */
static int is_never(struct compiler *c, const struct parts *p, int depth, bool *out)
{
    const json_t *one, *list = named_values(p, &one), *v;
    unsigned types = types_of(p);
    size_t i;

    if (++c->work > WORK_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "its anyOf, oneOf and allOf combine in too many ways");
    *out = types == 0 || (one && !all_may_take(p, one, NULL));
    if (!*out && list) {
        bool some = false;

        json_array_foreach((json_t *)list, i, v) some |= all_may_take(p, v, list);
        if (p->n > 1)
            c->work += (int64_t)(json_array_size(list) * json_array_size(list) / 64);
        *out = !some;
    }
    if (*out || types != T_OBJECT || depth > 1)
        return HD_OK;
    for (int k = 0; k < p->n && !*out; k++)
        json_array_foreach(json_object_get(p->s[k], "required"), i, v)
        {
            struct parts member;
            struct alts alts = {0};
            int rc;

            HD_TRY(member_parts(c, p, json_string_value(v), &member));
            if (member.n < 2 && !member.never)
                continue;
            rc = expand(c, &member, EXPAND_MAX - 6 + 3 * depth, &alts);
            hd_free(alts.a);
            if (rc == HD_ERR_MEMORY)
                return rc;
            *out |= rc == HD_OK && !alts.n;
        }
    return HD_OK;
}

/* ---- multiplying out ---- */

static int add_alt(struct compiler *c, struct alts *out, const struct parts *p)
{
    if (++c->work > WORK_MAX || out->n >= ALTS_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "its anyOf, oneOf and allOf combine in more than %d ways", ALTS_MAX);
    if (!HD_GROW(out->a, out->cap, out->n + 1, ALTS_MAX))
        return no_memory(c);
    out->a[out->n++] = *p;
    return HD_OK;
}

/* a becomes a times b, without what surely never fits. */
static int times(struct compiler *c, struct alts *a, const struct alts *b, int depth)
{
    struct alts out = {0};
    int rc = HD_OK;

    for (size_t i = 0; i < a->n && rc == HD_OK; i++)
        for (size_t k = 0; k < b->n && rc == HD_OK; k++) {
            struct parts p = a->a[i];
            bool never = false;

            rc = add_parts(c, &p, &b->a[k]);
            if (rc == HD_OK)
                rc = is_never(c, &p, depth > EXPAND_MAX - 10 ? 2 : 0, &never);
            if (rc == HD_OK && !never)
                rc = add_alt(c, &out, &p);
        }
    hd_free(a->a);
    *a = out;
    return rc;
}

static int expand_one(struct compiler *c, const json_t *s, int depth, struct alts *out)
{
    struct parts p = {.n = 0};

    HD_TRY(add_part(c, &p, s));
    return expand(c, &p, depth, out);
}

/* The alternatives of a list of schemas, one behind the other; at[i]: where those of the i-th begin. */
static int expand_list(struct compiler *c, const json_t *list, int depth, struct alts *out, size_t *at)
{
    const json_t *s;
    size_t i;

    json_array_foreach((json_t *)list, i, s)
    {
        struct alts more = {0};
        int rc = expand_one(c, s, depth, &more);

        if (at)
            at[i] = out->n;
        for (size_t k = 0; k < more.n && rc == HD_OK; k++)
            rc = add_alt(c, out, &more.a[k]);
        hd_free(more.a);
        HD_TRY(rc);
    }
    return HD_OK;
}

/* No value may fit two of a oneOf, with what stands beside it. */
static int check_apart(struct compiler *c, const json_t *s, const struct alts *beside, const struct alts *of, const size_t *at)
{
    size_t n = json_array_size(json_object_get(s, "oneOf"));

    for (size_t x = 0; x < n; x++)
        for (size_t a = at[x]; a < (x + 1 < n ? at[x + 1] : of->n); a++)
            for (size_t b = x + 1 < n ? at[x + 1] : of->n; b < of->n; b++)
                for (size_t k = 0; k < beside->n; k++) {
                    struct parts p = beside->a[k];
                    bool never;

                    HD_TRY(add_parts(c, &p, &of->a[a]));
                    HD_TRY(add_parts(c, &p, &of->a[b]));
                    HD_TRY(is_never(c, &p, 0, &never));
                    if (!never)
                        return refuse(c, HD_ERR_UNSUPPORTED, s, "oneOf", "a value might fit two of the alternatives; use anyOf, or types or const members that tell them apart");
                }
    return HD_OK;
}

static int expand_plain(struct compiler *c, const json_t *s, int depth, struct alts *cur)
{
    const json_t *any = json_object_get(s, "anyOf"), *one = json_object_get(s, "oneOf"), *all = json_object_get(s, "allOf"), *x;
    struct alts more = {0};
    size_t i, *at = NULL;
    int rc = HD_OK;

    if (depth > EXPAND_MAX)
        return hd_err_set(c->err, HD_ERR_UNSUPPORTED, "%.300s: it refers to itself with no value between, or combines too deep", hd_schema_path(&c->places, s));
    if (json_object_get(s, "$ref")) {
        const json_t *to;

        HD_TRY(hd_schema_resolve(&c->places, s, &to, c->err));
        rc = expand_one(c, to, depth + 1, &more);
        if (rc == HD_OK)
            rc = times(c, cur, &more, depth);
        hd_free(more.a);
        HD_TRY(rc);
    }
    json_array_foreach((json_t *)all, i, x)
    {
        more = (struct alts){0};
        rc = expand_one(c, x, depth + 1, &more);
        if (rc == HD_OK)
            rc = times(c, cur, &more, depth);
        hd_free(more.a);
        HD_TRY(rc);
    }
    for (int k = 0; k < 2; k++) {
        const json_t *list = k ? one : any;

        if (!list)
            continue;
        more = (struct alts){0};
        if (k && !(at = hd_calloc(json_array_size(list), sizeof *at)))
            return no_memory(c);
        rc = expand_list(c, list, depth + 1, &more, at);
        if (rc == HD_OK && k)
            rc = check_apart(c, s, cur, &more, at);
        if (rc == HD_OK)
            rc = times(c, cur, &more, depth);
        hd_free(more.a);
        hd_free(at);
        HD_TRY(rc);
    }
    return HD_OK;
}

static int expand(struct compiler *c, const struct parts *p, int depth, struct alts *out)
{
    struct parts none = {.n = 0};

    if (p->never)
        return HD_OK;
    HD_TRY(add_alt(c, out, &none));
    for (int i = 0; i < p->n; i++) {
        struct parts self = {.s = {p->s[i]}, .n = 1};
        struct alts just = {&self, 1, 1}, cur = {0};
        int rc = add_alt(c, &cur, &none);

        if (rc == HD_OK)
            rc = times(c, &cur, &just, depth);
        if (rc == HD_OK)
            rc = expand_plain(c, p->s[i], depth, &cur);
        if (rc == HD_OK)
            rc = times(c, out, &cur, depth);
        hd_free(cur.a);
        HD_TRY(rc);
    }
    return HD_OK;
}

/* ---- rules ---- */

/* The rule of values that fit all of p; it is filled later. */
static int rule_of(struct compiler *c, const struct parts *p, uint32_t *rule)
{
    for (size_t i = 0; i < c->n_rule; i++) {
        const struct parts *q = &c->rule[i].parts;

        if (q->n == p->n && q->never == p->never && !memcmp(q->s, p->s, (size_t)p->n * sizeof p->s[0])) {
            *rule = c->rule[i].rule;
            return HD_OK;
        }
    }
    if ((c->work += (int64_t)c->n_rule / 64) > WORK_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "it holds too many schemas");
    if (!HD_GROW(c->rule, c->cap_rule, c->n_rule + 1, HD_GRAMMAR_STATES))
        return no_memory(c);
    *rule = hd_grammar_rule(c->g);
    c->rule[c->n_rule++] = (struct value_rule){*p, *rule};
    return HD_OK;
}

static int full(struct compiler *c)
{
    return c->g->failed && !c->g->no_memory ? hd_err_set(c->err, HD_ERR_LIMIT, "it needs more than %d states", HD_GRAMMAR_STATES) : c->g->failed ? no_memory(c) : HD_OK;
}

/* ---- values that are named ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Texts from one state to another; those that begin alike share what they begin with. */
static void add_texts(struct compiler *c, char **text, size_t n, uint32_t from, uint32_t to)
{
    uint32_t *at = NULL;
    size_t cap = 0;

    qsort(text, n, sizeof *text, by_text);
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

static int add_value_text(struct compiler *c, const struct parts *p, const json_t *v, struct texts *t)
{
    struct hd_str text;
    bool fits;

    for (int i = 0; i < p->n; i++) {
        const char *key = structural(p->s[i], v);

        if (key)
            return refuse(c, HD_ERR_UNSUPPORTED, p->s[i], key, "not supported beside enum or const");
    }
    hd_str_init(&text, 0);
    hd_py_json(v, &text);
    fits = !text.failed && HD_GROW(t->text, t->cap, t->n + 1, (size_t)1 << 24) && (t->text[t->n] = hd_strdup(hd_str_get(&text)));
    t->n += fits;
    hd_str_release(&text);
    return fits ? HD_OK : no_memory(c);
}

static int add_named(struct compiler *c, const struct parts *p, const json_t *list, const json_t *one, unsigned types, uint32_t from, uint32_t to)
{
    struct texts t = {0};
    const json_t *v;
    int rc = HD_OK;
    size_t i;

    if (one && (types & type_of(one)) && all_may_take(p, one, NULL))
        rc = add_value_text(c, p, one, &t);
    if (!one)
        json_array_foreach((json_t *)list, i, v) if (rc == HD_OK && (types & type_of(v)) && all_may_take(p, v, list)) rc = add_value_text(c, p, v, &t);
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

static int pattern_of(struct compiler *c, const json_t *s, const char **out, const char **key)
{
    const char *pattern = json_string_value(json_object_get(s, "pattern")), *format = json_string_value(json_object_get(s, "format")), *of_format = NULL;

    for (int i = 0; format && i < HD_LEN(formats); i++)
        if (!strcmp(formats[i].name, format))
            of_format = formats[i].pattern;
    if (format && !of_format)
        return refuse(c, HD_ERR_UNSUPPORTED, s, "format", "found one that is not supported; those are: date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri");
    if (pattern && of_format)
        return refuse(c, HD_ERR_UNSUPPORTED, s, "pattern", "not supported beside format");
    *out = pattern ? pattern : of_format;
    *key = pattern ? "pattern" : "format";
    return HD_OK;
}

static int add_string(struct compiler *c, const struct parts *p, uint32_t from, uint32_t to)
{
    int64_t lo = 0, hi = -1;
    const char *pattern = NULL, *key = "maxLength";
    const json_t *said_by = p->n ? p->s[0] : NULL;
    uint32_t last;
    int rc;

    for (int i = 0; i < p->n; i++) {
        int64_t least = count_of(p->s[i], "minLength", 0), most = count_of(p->s[i], "maxLength", -1);
        const char *more = NULL, *its = NULL;

        lo = least > lo ? least : lo;
        hi = most >= 0 && (hi < 0 || most < hi) ? most : hi;
        if (most >= 0 || least > 0)
            said_by = p->s[i];
        HD_TRY(pattern_of(c, p->s[i], &more, &its));
        if (more && pattern && strcmp(more, pattern))
            return refuse(c, HD_ERR_UNSUPPORTED, p->s[i], its, "not supported beside another pattern or format for the same string");
        if (more) {
            pattern = more;
            key = its;
            said_by = p->s[i];
        }
    }
    if (hi >= 0 && lo > hi)
        return HD_OK;
    from = hd_grammar_text(c->g, from, "\"", 1);
    last = hd_grammar_state(c->g);
    hd_grammar_text_to(c->g, last, "\"", 1, to);
    rc = hd_pattern_add(&c->json, pattern, lo, hi, from, last, c->err);
    if (rc < 0 && said_by)
        hd_err_prepend(c->err, "%.300s/%s", hd_schema_path(&c->places, said_by), pattern ? key : hi >= 0 ? "maxLength" : "minLength");
    return rc;
}

/* ---- numbers ---- */

static int add_number(struct compiler *c, const struct parts *p, bool real, uint32_t from, uint32_t to)
{
    static const char *const key[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
    struct hd_schema_range r;
    struct number_rule n;

    hd_schema_range_init(&r, real);
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < 4; k++) {
            const json_t *v = json_object_get(p->s[i], key[k]);

            if (v && !hd_schema_range_bound(&r, v, k >= 2, k & 1))
                return refuse(c, HD_ERR_UNSUPPORTED, p->s[i], key[k], "this bound is beyond the numbers that are written here (18 digits; 12 before the point)");
        }
    for (size_t i = 0; i < c->n_number; i++)
        if (c->number[i].range.real == real && c->number[i].range.bounded == r.bounded && c->number[i].range.lo == r.lo && c->number[i].range.hi == r.hi) {
            hd_grammar_call(c->g, from, c->number[i].rule, to);
            return HD_OK;
        }
    if (!HD_GROW(c->number, c->cap_number, c->n_number + 1, HD_GRAMMAR_STATES))
        return no_memory(c);
    n = (struct number_rule){r, hd_grammar_rule(c->g)};
    HD_TRY(full(c));
    c->number[c->n_number++] = n;
    hd_grammar_call(c->g, from, n.rule, to);
    return hd_schema_range_add(&r, &c->raw, c->g->rule[n.rule].entry, c->g->rule[n.rule].exit, c->err);
}

/* ---- arrays ---- */

static int item_rule(struct compiler *c, const struct parts *p, size_t k, uint32_t *rule)
{
    struct parts item = {.n = 0};

    for (int i = 0; i < p->n; i++) {
        const json_t *prefix = json_object_get(p->s[i], "prefixItems"), *s;

        s = k < json_array_size(prefix) ? json_array_get(prefix, k) : json_object_get(p->s[i], "items");
        if (s)
            HD_TRY(add_part(c, &item, s));
    }
    return rule_of(c, &item, rule);
}

static int add_array(struct compiler *c, const struct parts *p, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    int64_t lo = 0, hi = -1, n_prefix = 0;
    uint32_t at, before, rule;                    /* before: one more is about to come */

    for (int i = 0; i < p->n; i++) {
        int64_t least = count_of(p->s[i], "minItems", 0), most = count_of(p->s[i], "maxItems", -1), n = (int64_t)json_array_size(json_object_get(p->s[i], "prefixItems"));

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
        HD_TRY(full(c));
    }
    return HD_OK;
}

/* ---- objects ---- */

struct names {
    const char **name;
    bool *required;
    size_t n, cap, cap_required;
    json_t *index;                    /* name: its number */
};

static int add_name(struct compiler *c, struct names *m, const char *name, bool required)
{
    const json_t *at = json_object_get(m->index, name);

    if (at) {
        m->required[json_integer_value(at)] |= required;
        return HD_OK;
    }
    if (m->n >= NAMES_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "an object has more than %d properties", NAMES_MAX);
    if (!HD_GROW(m->name, m->cap, m->n + 1, NAMES_MAX) || !HD_GROW(m->required, m->cap_required, m->n + 1, NAMES_MAX) ||
        json_object_set_new_nocheck(m->index, name, json_integer((json_int_t)m->n)))
        return no_memory(c);
    m->name[m->n] = name;
    m->required[m->n++] = required;
    return HD_OK;
}

static int collect_names(struct compiler *c, const struct parts *p, struct names *m)
{
    const char *key;
    json_t *v;
    size_t k;

    *m = (struct names){.index = json_object()};
    if (!m->index)
        return no_memory(c);
    for (int i = 0; i < p->n; i++)
        json_object_foreach(json_object_get(p->s[i], "properties"), key, v) HD_TRY(add_name(c, m, key, false));
    for (int i = 0; i < p->n; i++)
        json_array_foreach(json_object_get(p->s[i], "required"), k, v) HD_TRY(add_name(c, m, json_string_value(v), true));
    return HD_OK;
}

static void release_names(struct names *m)
{
    hd_free(m->name);
    hd_free(m->required);
    json_decref(m->index);
}

/* May there be others? What they must fit. */
static int free_members(struct compiler *c, const struct parts *p, bool *may, struct parts *out)
{
    bool declared = false, said = false;

    *out = (struct parts){.n = 0};
    for (int i = 0; i < p->n; i++) {
        const json_t *s = json_object_get(p->s[i], "additionalProperties");

        declared |= json_object_get(p->s[i], "properties") != NULL;
        said |= s != NULL;
        if (s)
            HD_TRY(add_part(c, out, s));
    }
    *may = !out->never && (said || !declared);
    return HD_OK;
}

/* Names n of them from at on agree in their first bytes; from: they were written. end: whole names that are none of them. */
static int add_free_name(struct compiler *c, char **name, size_t n, size_t at, uint32_t from, uint32_t any, uint32_t end)
{
    uint32_t *first = hd_malloc((n + 1) * sizeof *first), rule;
    bool itself = n && !name[0][at];
    int n_first = 0, rc = HD_OK;

    if (!first)
        return no_memory(c);
    if (!itself)
        hd_grammar_skip(c->g, from, end);
    for (size_t i = itself, k; i < n && rc == HD_OK; i = k) {
        uint32_t next = hd_grammar_state(c->g);
        int len;
        int32_t ch = hd_utf8_get(name[i] + at, strlen(name[i] + at), &len);

        for (k = i + 1; k < n && !strncmp(name[i] + at, name[k] + at, (size_t)len); k++)
            ;
        first[n_first++] = (uint32_t)ch;
        if (!hd_spelling_set(&c->json, &first[n_first - 1], 1, false, &rule))
            break;
        hd_grammar_call(c->g, from, rule, next);
        rc = add_free_name(c, name + i, k - i, at + (size_t)len, next, any, end);
        if (rc == HD_OK)
            rc = full(c);
    }
    if (rc == HD_OK && !hd_spelling_set(&c->json, first, n_first, true, &rule))
        rc = hd_err_set(c->err, HD_ERR_LIMIT, "an object's properties begin in too many ways to leave others beside them; say additionalProperties: false");
    if (rc == HD_OK)
        hd_grammar_call(c->g, from, rule, any);
    hd_free(first);
    return rc;
}

/* The name of a member that is none of m. */
static int free_name(struct compiler *c, const struct names *m, uint32_t from, uint32_t to)
{
    uint32_t any = hd_grammar_state(c->g), end = hd_grammar_state(c->g);
    char **name = hd_malloc((m->n + 1) * sizeof *name);
    int rc = HD_OK;

    if (!name)
        return no_memory(c);
    for (size_t i = 0; i < m->n; i++) {
        name[i] = (char *)m->name[i];
        if (strlen(name[i]) > NAME_BYTES)
            rc = hd_err_set(c->err, HD_ERR_LIMIT, "a property's name has more than %d bytes", NAME_BYTES);
    }
    qsort(name, m->n, sizeof *name, by_text);
    hd_grammar_call(c->g, any, hd_spelling_any(&c->json), any);
    hd_grammar_skip(c->g, any, end);
    hd_grammar_text_to(c->g, end, "\": ", 3, to);
    if (rc == HD_OK)
        rc = add_free_name(c, name, m->n, 0, hd_grammar_text(c->g, from, "\"", 1), any, end);
    hd_free(name);
    return rc;
}

/* "name": from one state to the one that is returned. */
static uint32_t write_name(struct compiler *c, const char *name, uint32_t from)
{
    json_t *text = json_string_nocheck(name);
    struct hd_str key;

    hd_str_init(&key, 0);
    if (text)
        hd_py_json(text, &key);
    hd_str_puts(&key, ": ");
    if (!text || key.failed)
        c->g->failed = c->g->no_memory = true;
    from = hd_grammar_text(c->g, from, hd_str_get(&key), key.n);
    hd_str_release(&key);
    json_decref(text);
    return from;
}

/* Members in order: a state for "none is there yet" and one for "some are" before each name, and what leads on from both. */
static int add_members(struct compiler *c, const struct parts *p, const struct names *m, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    uint32_t none = hd_grammar_text(g, from, "{", 1), some = hd_grammar_state(g), rule;
    struct parts member;
    bool may;

    for (size_t i = 0; i < m->n; i++) {
        uint32_t name = hd_grammar_state(g), next = hd_grammar_state(g);

        HD_TRY(member_parts(c, p, m->name[i], &member));
        HD_TRY(rule_of(c, &member, &rule));
        hd_grammar_skip(g, none, name);
        hd_grammar_text_to(g, some, ", ", 2, name);
        hd_grammar_call(g, write_name(c, m->name[i], name), rule, next);
        if (m->required[i]) {
            none = hd_grammar_state(g);           /* nobody comes here */
        } else {
            uint32_t still = hd_grammar_state(g);

            hd_grammar_skip(g, none, still);
            hd_grammar_skip(g, some, next);
            none = still;
        }
        some = next;
    }
    hd_grammar_text_to(g, none, "}", 1, to);
    hd_grammar_text_to(g, some, "}", 1, to);
    HD_TRY(free_members(c, p, &may, &member));
    if (may) {
        uint32_t name = hd_grammar_state(g), value = hd_grammar_state(g);

        hd_grammar_skip(g, none, name);
        hd_grammar_text_to(g, some, ", ", 2, name);
        HD_TRY(free_name(c, m, name, value));
        HD_TRY(rule_of(c, &member, &rule));
        hd_grammar_call(g, value, rule, some);
    }
    return full(c);
}

/* Numbers of members are counted by nobody: they may say what holds anyway. */
static int check_counts(struct compiler *c, const struct parts *p, const struct names *m)
{
    struct parts others;
    int64_t n_required = 0;
    bool may;

    HD_TRY(free_members(c, p, &may, &others));
    for (size_t i = 0; i < m->n; i++)
        n_required += m->required[i];
    for (int i = 0; i < p->n; i++) {
        if (count_of(p->s[i], "minProperties", 0) > n_required)
            return refuse(c, HD_ERR_UNSUPPORTED, p->s[i], "minProperties", "more than are required is not supported");
        if (may ? json_object_get(p->s[i], "maxProperties") != NULL : count_of(p->s[i], "maxProperties", INT64_MAX) < (int64_t)m->n)
            return refuse(c, HD_ERR_UNSUPPORTED, p->s[i], "maxProperties", "less than the properties that there are is not supported");
    }
    return HD_OK;
}

static int add_object(struct compiler *c, const struct parts *p, uint32_t from, uint32_t to)
{
    struct names m;
    int rc = collect_names(c, p, &m);

    if (rc == HD_OK)
        rc = check_counts(c, p, &m);
    if (rc == HD_OK)
        rc = add_members(c, p, &m, from, to);
    release_names(&m);
    if (rc < 0 && p->n && c->err->msg[0] != '#')
        hd_err_prepend(c->err, "%.300s/properties", hd_schema_path(&c->places, p->s[0]));
    return rc;
}

/* ---- values ---- */

/* Without a type, what the keywords speak of. */
static unsigned hinted_types(const struct parts *p)
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

static int add_alternative(struct compiler *c, const struct parts *p, uint32_t from, uint32_t to)
{
    const json_t *one, *list = named_values(p, &one);
    unsigned types = types_of(p);

    if (list || one)
        return add_named(c, p, list, one, types, from, to);
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
        HD_TRY(add_string(c, p, from, to));
    if (types & T_ARRAY)
        HD_TRY(add_array(c, p, from, to));
    if (types & T_OBJECT)
        HD_TRY(add_object(c, p, from, to));
    return HD_OK;
}

static int add_values(struct compiler *c, const struct parts *p, uint32_t from, uint32_t to)
{
    struct alts alts = {0};
    int rc = expand(c, p, 0, &alts);

    for (size_t i = 0; i < alts.n && rc == HD_OK; i++)
        rc = add_alternative(c, &alts.a[i], from, to);
    hd_free(alts.a);
    return rc;
}

static int fill_rules(struct compiler *c)
{
    for (size_t i = 0; i < c->n_rule; i++) {
        struct parts p = c->rule[i].parts;
        struct hd_grammar_rule r;

        HD_TRY(full(c));
        r = c->g->rule[c->rule[i].rule];
        HD_TRY(add_values(c, &p, r.entry, r.exit));
    }
    return full(c);
}

static int begin(struct compiler *c, struct hd_err *err)
{
    memset(c, 0, sizeof *c);
    c->err = err;
    hd_schema_places_init(&c->places);
    if (!(c->g = hd_grammar_create()))
        return no_memory(c);
    hd_spelling_init(&c->json, c->g, false);
    hd_spelling_init(&c->raw, c->g, true);
    return HD_OK;
}

static int end(struct compiler *c, int rc, uint32_t root, struct hd_grammar **out)
{
    if (rc == HD_OK)
        rc = hd_grammar_finish(c->g, root, c->err);
    if (rc == HD_OK)
        *out = c->g;
    else
        hd_grammar_release(c->g);
    hd_spelling_release(&c->json);
    hd_spelling_release(&c->raw);
    hd_schema_places_release(&c->places);
    hd_free(c->rule);
    hd_free(c->number);
    return rc;
}

int hd_schema_compile(struct hd_grammar **out, const json_t *schema, struct hd_err *err)
{
    struct parts p = {.n = 0};
    struct compiler c;
    uint32_t root = 0;
    int rc = begin(&c, err);

    if (rc == HD_OK)
        rc = hd_schema_check(&c.places, schema, err);
    if (rc == HD_OK)
        rc = add_part(&c, &p, schema);
    if (rc == HD_OK)
        rc = rule_of(&c, &p, &root);
    if (rc == HD_OK)
        rc = fill_rules(&c);
    return end(&c, rc, root, out);
}
