/* schema_check.c: see schema_check.h. */
#include "sample/schema_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sample/schema.h"
#include "token/py_json.h"

#define PLACES_MAX ((size_t)1 << 18)

enum kind { SKIP, SCHEMA, SCHEMAS, SCHEMA_MAP, TYPE, COUNT, NUMBER, TEXT, NAMES, LIST, VALUE, FALSE, ONE };

static const struct {
    const char *name;
    enum kind kind;
} keywords[] = {
    {"type", TYPE}, {"properties", SCHEMA_MAP}, {"required", NAMES}, {"additionalProperties", SCHEMA}, {"items", SCHEMA}, {"enum", LIST}, {"const", VALUE},
    {"anyOf", SCHEMAS}, {"oneOf", SCHEMAS}, {"allOf", SCHEMAS}, {"$ref", TEXT}, {"$defs", SCHEMA_MAP}, {"definitions", SCHEMA_MAP}, {"$def", SCHEMA_MAP},
    {"prefixItems", SCHEMAS}, {"minItems", COUNT}, {"maxItems", COUNT}, {"minLength", COUNT}, {"maxLength", COUNT}, {"pattern", TEXT}, {"format", TEXT},
    {"minimum", NUMBER}, {"maximum", NUMBER}, {"exclusiveMinimum", NUMBER}, {"exclusiveMaximum", NUMBER}, {"multipleOf", ONE}, {"minProperties", COUNT},
    {"maxProperties", COUNT}, {"uniqueItems", FALSE}, {"title", SKIP}, {"description", SKIP}, {"default", SKIP}, {"example", SKIP}, {"examples", SKIP}, {"$schema", SKIP}, {"$id", SKIP},
    {"$comment", SKIP}, {"deprecated", SKIP}, {"readOnly", SKIP}, {"writeOnly", SKIP}, {"discriminator", SKIP},
};

void hd_schema_places_init(struct hd_schema_places *p)
{
    memset(p, 0, sizeof *p);
    hd_str_init(&p->paths, 0);
    hd_str_add(&p->paths, "#", 2);
}

void hd_schema_places_release(struct hd_schema_places *p)
{
    hd_free(p->place);
    hd_str_release(&p->paths);
}

/* ---- the table ---- */

static struct hd_schema_place *slot(const struct hd_schema_places *p, const json_t *s)
{
    size_t i = (size_t)(((uintptr_t)s >> 4) * 0x9E3779B97F4A7C15u >> 20) & (p->cap - 1);

    while (p->place[i].schema && p->place[i].schema != s)
        i = (i + 1) & (p->cap - 1);
    return &p->place[i];
}

static bool make_room(struct hd_schema_places *p)
{
    struct hd_schema_places old = *p;

    if (p->n * 2 < p->cap)
        return true;
    p->cap = p->cap ? p->cap * 2 : 64;
    if (p->cap > PLACES_MAX * 2 || !(p->place = hd_calloc(p->cap, sizeof *p->place))) {
        *p = old;
        return false;
    }
    for (size_t i = 0; i < old.cap; i++)
        if (old.place[i].schema)
            *slot(p, old.place[i].schema) = old.place[i];
    hd_free(old.place);
    return true;
}

const char *hd_schema_path(const struct hd_schema_places *p, const json_t *schema)
{
    const struct hd_schema_place *x = p->cap ? slot(p, schema) : NULL;

    return hd_str_get(&p->paths) + (x && x->schema ? x->path : 0);
}

size_t hd_schema_order(const struct hd_schema_places *p, const json_t *schema)
{
    const struct hd_schema_place *x = p->cap ? slot(p, schema) : NULL;

    return x && x->schema ? x->path : 0;
}

/* ---- the check ---- */

struct walk {
    struct hd_schema_places *p;
    const json_t *root;
    char path[1024];                  /* cut when it is longer: for people */
    struct hd_err *err;
};

static int bad(struct walk *w, int code, const char *key, const char *what)
{
    return hd_err_set(w->err, code, "%.300s/%.60s: %s", w->path, key, what);
}

/* A step down the path; returns where to cut it back to. */
static size_t go_down(struct walk *w, const char *key)
{
    size_t n = strlen(w->path), at = n;

    if (at < sizeof w->path - 1)
        w->path[at++] = '/';
    for (; *key && at < sizeof w->path - 3; key++)
        if (*key == '~' || *key == '/') {
            w->path[at++] = '~';
            w->path[at++] = *key == '~' ? '0' : '1';
        } else {
            w->path[at++] = *key;
        }
    w->path[at] = 0;
    return n;
}

static int check_schema(struct walk *w, const json_t *s, int nested);

static int check_below(struct walk *w, const char *key, const json_t *s, int nested)
{
    size_t back = go_down(w, key);

    HD_TRY(check_schema(w, s, nested + 1));
    w->path[back] = 0;
    return HD_OK;
}

static int check_many(struct walk *w, const char *key, json_t *v, bool map, int nested)
{
    size_t back = go_down(w, key), i;
    const char *name;
    json_t *s;

    if (map) {
        json_object_foreach(v, name, s) HD_TRY(check_below(w, name, s, nested));
    } else {
        json_array_foreach(v, i, s)
        {
            char at[24];

            snprintf(at, sizeof at, "%zu", i);
            HD_TRY(check_below(w, at, s, nested));
        }
    }
    w->path[back] = 0;
    return HD_OK;
}

static bool is_type(const json_t *v)
{
    static const char *const types[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

    for (int i = 0; json_is_string(v) && i < HD_LEN(types); i++)
        if (!strcmp(json_string_value(v), types[i]))
            return true;
    return false;
}

/* Counts what is inside; false: a number that cannot be held, or too deep. */
static bool sound_value(struct walk *w, const json_t *v, int depth)
{
    const char *key;
    json_t *x;
    size_t i;

    w->p->n_value++;
    if (depth > HD_SCHEMA_NESTED || (json_is_string(v) && !hd_py_json_is_string(v)))
        return false;
    json_array_foreach((json_t *)v, i, x) if (!sound_value(w, x, depth + 1)) return false;
    json_object_foreach((json_t *)v, key, x) if (!sound_value(w, x, depth + 1)) return false;
    return true;
}

static int check_list(struct walk *w, const char *key, const json_t *v, bool names)
{
    const json_t *x;
    size_t i;

    if (!json_is_array(v))
        return bad(w, HD_ERR_USAGE, key, "expected a list");
    json_array_foreach((json_t *)v, i, x)
    {
        if (names && !json_is_string(x))
            return bad(w, HD_ERR_USAGE, key, "expected strings");
        if (!sound_value(w, x, 0))
            return bad(w, HD_ERR_UNSUPPORTED, key, "a value that is too large or too deep");
    }
    return HD_OK;
}

static int check_keyword(struct walk *w, const char *key, json_t *v, enum kind kind, int nested)
{
    const json_t *x;
    size_t i;

    switch (kind) {
    case SKIP: return HD_OK;
    case SCHEMA: return check_below(w, key, v, nested);
    case SCHEMAS:
        if (!json_is_array(v) || !json_array_size(v))
            return bad(w, HD_ERR_USAGE, key, "expected a list of schemas");
        return check_many(w, key, v, false, nested);
    case SCHEMA_MAP: return json_is_object(v) ? check_many(w, key, v, true, nested) : bad(w, HD_ERR_USAGE, key, "expected an object of schemas");
    case TYPE:
        if (!json_is_array(v))
            return is_type(v) ? HD_OK : bad(w, HD_ERR_USAGE, key, "expected object, array, string, number, integer, boolean, null or a list of these");
        json_array_foreach(v, i, x) if (!is_type(x))
            return bad(w, HD_ERR_USAGE, key, "expected a list of object, array, string, number, integer, boolean and null");
        return HD_OK;
    case COUNT:
        return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= 1000000000 ? HD_OK : bad(w, HD_ERR_USAGE, key, "expected an integer from 0 to 1000000000");
    case NUMBER: return json_is_number(v) ? HD_OK : bad(w, HD_ERR_USAGE, key, "expected a number (of at most 64 bits)");
    case TEXT: return json_is_string(v) && hd_py_json_is_string(v) ? HD_OK : bad(w, HD_ERR_USAGE, key, "expected a string");
    case NAMES: return check_list(w, key, v, true);
    case LIST: return check_list(w, key, v, false);
    case VALUE: return sound_value(w, v, 0) ? HD_OK : bad(w, HD_ERR_UNSUPPORTED, key, "a value that is too large or too deep");
    case FALSE: return json_is_false(v) ? HD_OK : bad(w, HD_ERR_UNSUPPORTED, key, "this keyword is not supported");
    case ONE: return json_is_number(v) && json_number_value(v) == 1 ? HD_OK : bad(w, HD_ERR_UNSUPPORTED, key, "only 1 is supported");
    }
    return HD_OK;
}

static int remember(struct walk *w, const json_t *s)
{
    struct hd_schema_place *x;

    if (!make_room(w->p))
        return hd_err_set(w->err, HD_ERR_LIMIT, "the schema is too large");
    x = slot(w->p, s);
    if (x->schema)
        return HD_OK;
    *x = (struct hd_schema_place){s, w->root, w->p->paths.n};
    w->p->n++;
    return hd_str_add(&w->p->paths, w->path, strlen(w->path) + 1) ? HD_OK : hd_err_set(w->err, HD_ERR_MEMORY, "no memory for a schema");
}

static int check_schema(struct walk *w, const json_t *s, int nested)
{
    const char *key;
    json_t *v;

    if (json_is_boolean(s))
        return HD_OK;
    if (!json_is_object(s))
        return hd_err_set(w->err, HD_ERR_USAGE, "%.400s: expected a schema: an object, true or false", w->path);
    if (nested > HD_SCHEMA_NESTED)
        return hd_err_set(w->err, HD_ERR_LIMIT, "%.400s: schemas are nested more than %d deep", w->path, HD_SCHEMA_NESTED);
    HD_TRY(remember(w, s));
    json_object_foreach((json_t *)s, key, v)
    {
        int k = 0;

        while (k < HD_LEN(keywords) && strcmp(keywords[k].name, key))
            k++;
        if (k == HD_LEN(keywords))
            return bad(w, HD_ERR_UNSUPPORTED, key, "this keyword is not supported");
        HD_TRY(check_keyword(w, key, v, keywords[k].kind, nested));
        if (++w->p->n_value > HD_SCHEMA_VALUES)
            return hd_err_set(w->err, HD_ERR_LIMIT, "the schema holds more than %d values", HD_SCHEMA_VALUES);
    }
    return HD_OK;
}

int hd_schema_check(struct hd_schema_places *p, const json_t *root, struct hd_err *err)
{
    struct walk w = {.p = p, .root = root, .path = "#", .err = err};

    return check_schema(&w, root, 0);
}

/* ---- references ---- */

/* The next name of a pointer, unescaped; false: malformed. */
static bool next_name(const char **at, struct hd_str *out)
{
    hd_str_reset(out);
    for ((*at)++; **at && **at != '/'; (*at)++) {
        char c = **at, hex[3] = {0};

        if (c == '%') {
            char *end;

            memcpy(hex, *at + 1, (*at)[1] ? 2 : 1);
            c = (char)strtol(hex, &end, 16);
            if (end != hex + 2 || !c)
                return false;
            *at += 2;
        }
        if (c == '~') {
            (*at)++;
            if (**at != '0' && **at != '1')
                return false;
            c = **at == '0' ? '~' : '/';
        }
        hd_str_putc(out, c);
    }
    return !out->failed;
}

int hd_schema_resolve(const struct hd_schema_places *p, const json_t *s, const json_t **out, struct hd_err *err)
{
    const char *ref = json_string_value(json_object_get(s, "$ref")), *at = ref + 1;
    const json_t *x = slot(p, s)->root;
    struct hd_str name;
    bool fits = ref[0] == '#';

    if (!fits)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%.250s/$ref: found \"%.100s\"; only places in the same document, as #/$defs/name, are supported", hd_schema_path(p, s), ref);
    hd_str_init(&name, 65536);
    while (fits && *at) {
        int64_t i;

        fits = *at == '/' && next_name(&at, &name);
        if (json_is_array(x))
            x = fits && hd_parse_i64(hd_str_get(&name), 0, 1000000, &i) ? json_array_get(x, (size_t)i) : NULL;
        else
            x = json_object_get(x, hd_str_get(&name));
    }
    hd_str_release(&name);
    if (!fits || !x || (!json_is_boolean(x) && slot(p, x)->schema != x))
        return hd_err_set(err, HD_ERR_USAGE, "%.250s/$ref: there is no schema at \"%.150s\"", hd_schema_path(p, s), ref);
    *out = x;
    return HD_OK;
}
