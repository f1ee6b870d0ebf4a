/* schema_noise.h: random schemas, and a validator of its own to judge what was written under them. */
#ifndef HD_TESTS_SCHEMA_NOISE_H
#define HD_TESTS_SCHEMA_NOISE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* make check tries some, make check-all (HD_TEST_ALL=1) all. */
static int some_of(int some, int all)
{
    return getenv("HD_TEST_ALL") ? all : some;
}

static uint64_t rng = 1;

static uint64_t draw(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static int below(int n)
{
    return (int)((draw() >> 20) % (uint64_t)n);
}

/* ---- a validator of its own: JSON Schema, straight from its text; recursive, slow ---- */

static const json_t *root;

static bool is_integer(const json_t *v)
{
    return json_is_integer(v) || (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
}

static bool has_type(const json_t *v, const char *t)
{
    return (!strcmp(t, "null") && json_is_null(v)) || (!strcmp(t, "boolean") && json_is_boolean(v)) || (!strcmp(t, "number") && json_is_number(v)) ||
           (!strcmp(t, "integer") && is_integer(v)) || (!strcmp(t, "string") && json_is_string(v)) || (!strcmp(t, "array") && json_is_array(v)) ||
           (!strcmp(t, "object") && json_is_object(v));
}

static bool equal(const json_t *a, const json_t *b)
{
    return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal((json_t *)a, (json_t *)b);
}

static int64_t chars(const json_t *v)
{
    int64_t n = 0;

    for (const char *p = json_string_value(v); *p; p++)
        n += (*p & 0xC0) != 0x80;
    return n;
}

static bool valid(const json_t *s, const json_t *v);

static int n_valid(const json_t *list, const json_t *v)
{
    int n = 0;

    for (size_t i = 0; i < json_array_size(list); i++)
        n += valid(json_array_get(list, i), v);
    return n;
}

static bool valid_object(const json_t *s, const json_t *v)
{
    const json_t *need = json_object_get(s, "required"), *more = json_object_get(s, "additionalProperties");
    const char *key;
    json_t *x;

    for (size_t i = 0; i < json_array_size(need); i++)
        if (!json_object_get(v, json_string_value(json_array_get(need, i))))
            return false;
    json_object_foreach((json_t *)v, key, x)
    {
        const json_t *of = json_object_get(json_object_get(s, "properties"), key);

        if (of ? !valid(of, x) : more && !valid(more, x))
            return false;
    }
    return true;
}

static bool valid_array(const json_t *s, const json_t *v)
{
    const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items"), *x;
    int64_t n = (int64_t)json_array_size(v);

    if (((x = json_object_get(s, "minItems")) && n < json_integer_value(x)) || ((x = json_object_get(s, "maxItems")) && n > json_integer_value(x)))
        return false;
    for (size_t i = 0; i < (size_t)n; i++) {
        const json_t *of = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;

        if (of && !valid(of, json_array_get(v, i)))
            return false;
    }
    return true;
}

static bool valid_scalar(const json_t *s, const json_t *v)
{
    const json_t *x;

    if (json_is_string(v))
        return (!(x = json_object_get(s, "minLength")) || chars(v) >= json_integer_value(x)) && (!(x = json_object_get(s, "maxLength")) || chars(v) <= json_integer_value(x));
    if (!json_is_number(v))
        return true;
    return (!(x = json_object_get(s, "minimum")) || json_number_value(v) >= json_number_value(x)) &&
           (!(x = json_object_get(s, "maximum")) || json_number_value(v) <= json_number_value(x)) &&
           (!(x = json_object_get(s, "exclusiveMinimum")) || json_number_value(v) > json_number_value(x)) &&
           (!(x = json_object_get(s, "exclusiveMaximum")) || json_number_value(v) < json_number_value(x)) &&
           (!json_object_get(s, "multipleOf") || is_integer(v));
}

static bool valid(const json_t *s, const json_t *v)
{
    const json_t *t = json_object_get(s, "type"), *list = json_object_get(s, "enum"), *x;
    bool ok = !t && !list;

    if (json_is_boolean(s))
        return json_is_true(s);
    if (json_is_string(t) && !has_type(v, json_string_value(t)))
        return false;
    if (json_is_array(t)) {
        ok = false;
        for (size_t i = 0; i < json_array_size(t); i++)
            ok |= has_type(v, json_string_value(json_array_get(t, i)));
        if (!ok)
            return false;
    }
    if (list) {
        ok = false;
        for (size_t i = 0; i < json_array_size(list); i++)
            ok |= equal(json_array_get(list, i), v);
        if (!ok)
            return false;
    }
    if ((x = json_object_get(s, "const")) && !equal(x, v))
        return false;
    if ((x = json_object_get(s, "$ref"))) {
        const char *name = json_string_value(x);

        if (!valid(!strcmp(name, "#") ? root : json_object_get(json_object_get(root, "$defs"), name + 8), v))
            return false;
    }
    if (((x = json_object_get(s, "anyOf")) && !n_valid(x, v)) || ((x = json_object_get(s, "oneOf")) && n_valid(x, v) != 1) ||
        ((x = json_object_get(s, "allOf")) && n_valid(x, v) != (int)json_array_size(x)))
        return false;
    return json_is_object(v) ? valid_object(s, v) : json_is_array(v) ? valid_array(s, v) : valid_scalar(s, v);
}

/* ---- schemas from noise ---- */

static json_t *random_schema(int depth);

static json_t *random_object(int depth)
{
    json_t *s = json_pack("{s:s}", "type", "object"), *p = json_object(), *need = json_array();

    for (int i = below(5); i > 0; i--) {
        static const char *const names[] = {"a", "b", "ab", "é", "x y", "\"", "n"};
        const char *name = names[below(HD_LEN(names))];

        json_object_set_new(p, name, random_schema(depth - 1));
        if (below(2))
            json_array_append_new(need, json_string(name));
    }
    json_object_set_new(s, "properties", p);
    json_object_set_new(s, "required", need);
    if (below(3))
        json_object_set_new(s, "additionalProperties", below(2) ? json_false() : random_schema(depth - 1));
    return s;
}

static json_t *random_array(int depth)
{
    json_t *s = json_pack("{s:s}", "type", "array");
    int lo = below(3);

    if (below(3))
        json_object_set_new(s, "items", random_schema(depth - 1));
    if (below(3) == 0)
        json_object_set_new(s, "prefixItems", json_pack("[o, o]", random_schema(depth - 1), random_schema(depth - 1)));
    if (below(2))
        json_object_set_new(s, "minItems", json_integer(lo));
    if (below(2))
        json_object_set_new(s, "maxItems", json_integer(lo + below(4)));
    return s;
}

static json_t *random_number(void)
{
    json_t *s = json_pack("{s:s}", "type", below(2) ? "integer" : "number");
    int64_t lo = below(2000) - 1000, scale = below(2) ? 1 : 1000003;

    if (below(2))
        json_object_set_new(s, below(2) ? "minimum" : "exclusiveMinimum", below(2) ? json_integer(lo * scale) : json_real((double)lo / 7));
    if (below(2))
        json_object_set_new(s, below(2) ? "maximum" : "exclusiveMaximum", below(2) ? json_integer((lo + 2000) * scale) : json_real(((double)lo + 2000) / 7));
    return s;
}

static json_t *random_scalar(void)
{
    json_t *s;

    switch (below(6)) {
    case 0: return json_pack("{s:[i, s, n, b, f]}", "enum", below(9), "w\n\"", 1, 2.5);
    case 1: return json_pack("{s:s}", "const", "same");
    case 2: return json_pack("{s:[s, s]}", "type", "boolean", "null");
    case 3: return random_number();
    default:
        s = json_pack("{s:s}", "type", "string");
        if (below(2))
            json_object_set_new(s, "minLength", json_integer(below(4)));
        if (below(2))
            json_object_set_new(s, "maxLength", json_integer(3 + below(4)));
        return s;
    }
}

static json_t *random_schema(int depth)
{
    int kind = below(depth > 0 ? 10 : 4);

    if (kind == 4 || kind == 5)
        return random_object(depth);
    if (kind == 6)
        return random_array(depth);
    if (kind == 7)
        return json_pack("{s:[o, o]}", "anyOf", random_schema(depth - 1), random_schema(depth - 1));
    if (kind == 8)
        return json_pack("{s:[o, o]}", "allOf", random_object(depth - 1), random_object(depth - 1));
    if (kind == 9)
        return json_pack("{s:[{s:s}, {s:s}]}", "anyOf", "$ref", "#", "type", "null");
    return random_scalar();
}

#endif
