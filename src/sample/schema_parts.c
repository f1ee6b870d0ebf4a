/* schema_parts.c: see schema_compiler.h. A value must fit a list of schemas at once (allOf, $ref with keywords beside it, properties of merged
 * objects). Its anyOf, oneOf and $ref are multiplied out, into alternatives that are lists of schemas with plain keywords. */
#include "sample/schema_compiler.h"

#include <math.h>
#include <string.h>

#define ALTS_MAX 512
#define EXPAND_MAX 40                 /* references and combinations inside one another, without a value between */
#define WORK_MAX 400000               /* pairs that are compared, alternatives that are made */

int hd_schema_no_memory(struct hd_schema_compiler *c)
{
    return hd_err_set(c->err, HD_ERR_MEMORY, "no memory for a schema");
}

int hd_schema_refuse(struct hd_schema_compiler *c, int code, const json_t *s, const char *key, const char *what)
{
    return hd_err_set(c->err, code, "%.300s/%s: %s", hd_schema_path(&c->places, s), key, what);
}

/* ---- lists of schemas, in the order of the document ---- */

int hd_schema_add_part(struct hd_schema_compiler *c, struct hd_schema_parts *p, const json_t *s)
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

static int add_parts(struct hd_schema_compiler *c, struct hd_schema_parts *p, const struct hd_schema_parts *q)
{
    p->never |= q->never;
    for (int i = 0; i < q->n; i++)
        HD_TRY(hd_schema_add_part(c, p, q->s[i]));
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

unsigned hd_schema_type_of(const json_t *v)
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

int64_t hd_schema_count(const json_t *s, const char *key, int64_t otherwise)
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
    if (!found || (only && !same_value(only, v)) || !(said_types(s) & hd_schema_type_of(v)))
        return false;
    if (json_is_number(v)) {
        double d = json_number_value(v);
        const json_t *lo = json_object_get(s, "minimum"), *hi = json_object_get(s, "maximum");
        const json_t *above = json_object_get(s, "exclusiveMinimum"), *below = json_object_get(s, "exclusiveMaximum");

        return (!lo || d >= json_number_value(lo)) && (!hi || d <= json_number_value(hi)) && (!above || d > json_number_value(above)) &&
               (!below || d < json_number_value(below)) && (!json_object_get(s, "multipleOf") || d == floor(d));
    }
    if (json_is_string(v))
        return n_char(v) >= hd_schema_count(s, "minLength", 0) && n_char(v) <= hd_schema_count(s, "maxLength", INT64_MAX);
    return true;
}

bool hd_schema_all_may_take(const struct hd_schema_parts *p, const json_t *v, const json_t *of)
{
    for (int i = 0; i < p->n; i++)
        if (!may_take(p->s[i], v, of))
            return false;
    return true;
}

/* The shortest list of values that are named, or NULL. one: storage for a const. */
const json_t *hd_schema_named_values(const struct hd_schema_parts *p, const json_t **one)
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

unsigned hd_schema_types(const struct hd_schema_parts *p)
{
    unsigned bits = T_ALL;

    for (int i = 0; i < p->n; i++) {
        bits &= said_types(p->s[i]);
        if (json_object_get(p->s[i], "multipleOf"))
            bits &= ~(unsigned)T_REAL;
    }
    return p->never ? 0 : bits;
}

/* The schemas of a member, by what is said alone. */
int hd_schema_member(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const char *name, struct hd_schema_parts *out)
{
    *out = (struct hd_schema_parts){.n = 0};
    for (int i = 0; i < p->n; i++) {
        const json_t *s = json_object_get(json_object_get(p->s[i], "properties"), name);

        if (!s)
            s = json_object_get(p->s[i], "additionalProperties");
        if (s)
            HD_TRY(hd_schema_add_part(c, out, s));
    }
    return HD_OK;
}

/* *out: surely nothing fits. */
static int is_never(struct hd_schema_compiler *c, const struct hd_schema_parts *p, int depth, bool *out)
{
    const json_t *one, *list = hd_schema_named_values(p, &one), *v;
    unsigned types = hd_schema_types(p);
    size_t i;

    if (++c->work > WORK_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "its anyOf, oneOf and allOf combine in too many ways");
    *out = types == 0 || (one && !hd_schema_all_may_take(p, one, NULL));
    if (!*out && list) {
        bool some = false;

        json_array_foreach((json_t *)list, i, v) some |= hd_schema_all_may_take(p, v, list);
        if (p->n > 1)
            c->work += (int64_t)(json_array_size(list) * json_array_size(list) / 64);
        *out = !some;
    }
    if (*out || types != T_OBJECT || depth > 1)
        return HD_OK;
    for (int k = 0; k < p->n && !*out; k++)
        json_array_foreach(json_object_get(p->s[k], "required"), i, v)
        {
            struct hd_schema_parts member;
            struct hd_schema_alts alts = {0};
            int rc;

            HD_TRY(hd_schema_member(c, p, json_string_value(v), &member));
            if (member.n < 2 && !member.never)
                continue;
            rc = hd_schema_expand(c, &member, EXPAND_MAX - 6 + 3 * depth, &alts);
            hd_free(alts.a);
            if (rc == HD_ERR_MEMORY)
                return rc;
            *out |= rc == HD_OK && !alts.n;
        }
    return HD_OK;
}

/* ---- multiplying out ---- */

static int add_alt(struct hd_schema_compiler *c, struct hd_schema_alts *out, const struct hd_schema_parts *p)
{
    if (++c->work > WORK_MAX || out->n >= ALTS_MAX)
        return hd_err_set(c->err, HD_ERR_LIMIT, "its anyOf, oneOf and allOf combine in more than %d ways", ALTS_MAX);
    if (!HD_GROW(out->a, out->cap, out->n + 1, ALTS_MAX))
        return hd_schema_no_memory(c);
    out->a[out->n++] = *p;
    return HD_OK;
}

/* a becomes a times b, without what surely never fits. */
static int times(struct hd_schema_compiler *c, struct hd_schema_alts *a, const struct hd_schema_alts *b, int depth)
{
    struct hd_schema_alts out = {0};
    int rc = HD_OK;

    for (size_t i = 0; i < a->n && rc == HD_OK; i++)
        for (size_t k = 0; k < b->n && rc == HD_OK; k++) {
            struct hd_schema_parts p = a->a[i];
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

static int expand_one(struct hd_schema_compiler *c, const json_t *s, int depth, struct hd_schema_alts *out)
{
    struct hd_schema_parts p = {.n = 0};

    HD_TRY(hd_schema_add_part(c, &p, s));
    return hd_schema_expand(c, &p, depth, out);
}

/* The alternatives of a list of schemas, one behind the other; at[i]: where those of the i-th begin. */
static int expand_list(struct hd_schema_compiler *c, const json_t *list, int depth, struct hd_schema_alts *out, size_t *at)
{
    const json_t *s;
    size_t i;

    json_array_foreach((json_t *)list, i, s)
    {
        struct hd_schema_alts more = {0};
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
static int check_apart(struct hd_schema_compiler *c, const json_t *s, const struct hd_schema_alts *beside, const struct hd_schema_alts *of, const size_t *at)
{
    size_t n = json_array_size(json_object_get(s, "oneOf"));

    for (size_t x = 0; x < n; x++)
        for (size_t a = at[x]; a < (x + 1 < n ? at[x + 1] : of->n); a++)
            for (size_t b = x + 1 < n ? at[x + 1] : of->n; b < of->n; b++)
                for (size_t k = 0; k < beside->n; k++) {
                    struct hd_schema_parts p = beside->a[k];
                    bool never;

                    HD_TRY(add_parts(c, &p, &of->a[a]));
                    HD_TRY(add_parts(c, &p, &of->a[b]));
                    HD_TRY(is_never(c, &p, 0, &never));
                    if (!never)
                        return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, s, "oneOf", "a value might fit two of the alternatives; use anyOf, or types or const members that tell them apart");
                }
    return HD_OK;
}

static int expand_plain(struct hd_schema_compiler *c, const json_t *s, int depth, struct hd_schema_alts *cur)
{
    const json_t *any = json_object_get(s, "anyOf"), *one = json_object_get(s, "oneOf"), *all = json_object_get(s, "allOf"), *x;
    struct hd_schema_alts more = {0};
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
        more = (struct hd_schema_alts){0};
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
        more = (struct hd_schema_alts){0};
        if (k && !(at = hd_calloc(json_array_size(list), sizeof *at)))
            return hd_schema_no_memory(c);
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

int hd_schema_expand(struct hd_schema_compiler *c, const struct hd_schema_parts *p, int depth, struct hd_schema_alts *out)
{
    struct hd_schema_parts none = {.n = 0};

    if (p->never)
        return HD_OK;
    HD_TRY(add_alt(c, out, &none));
    for (int i = 0; i < p->n; i++) {
        struct hd_schema_parts self = {.s = {p->s[i]}, .n = 1};
        struct hd_schema_alts just = {&self, 1, 1}, cur = {0};
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
