/* fields.c: see fields.h. */
#include "server/fields.h"

#include <math.h>
#include <string.h>

#include "token/py_json.h"

const json_t *hd_field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);

    return v && !json_is_null(v) ? v : NULL;
}

/* A number that no int64 and no double holds (py_json.h). */
static bool is_huge(const json_t *v)
{
    return json_is_string(v) && !hd_py_json_is_string(v);
}

int hd_field_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out, struct hd_problem *p)
{
    const json_t *v = hd_field(o, key);
    bool whole = json_is_integer(v) || (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
    char brief[64];

    if (!v)
        return HD_OK;
    if (is_huge(v))
        return hd_problem_set(p, 422, key, "%s: expected an integer from %lld to %lld", key, (long long)lo, (long long)hi);
    if (!whole)
        return hd_problem_set(p, 400, key, "%s: found %s; expected an integer from %lld to %lld", key, hd_json_brief(v, brief), (long long)lo, (long long)hi);
    if (json_number_value(v) < (double)lo || json_number_value(v) > (double)hi ||
        (json_is_integer(v) && (json_integer_value(v) < lo || json_integer_value(v) > hi)))
        return hd_problem_set(p, 422, key, "%s: found %s; expected an integer from %lld to %lld", key, hd_json_brief(v, brief), (long long)lo, (long long)hi);
    *out = json_is_integer(v) ? json_integer_value(v) : fabs(json_real_value(v)) < 9e18 ? (int64_t)json_real_value(v) : hi;
    return HD_OK;
}

int hd_field_real(const json_t *o, const char *key, double lo, double hi, double *out, struct hd_problem *p)
{
    const json_t *v = hd_field(o, key);
    char brief[64];

    if (!v)
        return HD_OK;
    if (is_huge(v))
        return hd_problem_set(p, 422, key, "%s: expected a number from %g to %g", key, lo, hi);
    if (!json_is_number(v))
        return hd_problem_set(p, 400, key, "%s: found %s; expected a number from %g to %g", key, hd_json_brief(v, brief), lo, hi);
    if (!(json_number_value(v) >= lo && json_number_value(v) <= hi))
        return hd_problem_set(p, 422, key, "%s: found %s; expected a number from %g to %g", key, hd_json_brief(v, brief), lo, hi);
    *out = json_number_value(v);
    return HD_OK;
}

int hd_field_bool(const json_t *o, const char *key, bool *out, struct hd_problem *p)
{
    const json_t *v = hd_field(o, key);
    char brief[64];

    if (!v)
        return HD_OK;
    if (!json_is_boolean(v))
        return hd_problem_set(p, 400, key, "%s: found %s; expected true or false", key, hd_json_brief(v, brief));
    *out = json_is_true(v);
    return HD_OK;
}

int hd_field_str(const json_t *o, const char *key, const char **out, struct hd_problem *p)
{
    const json_t *v = hd_field(o, key);
    char brief[64];

    if (!v)
        return HD_OK;
    if (!json_is_string(v))
        return hd_problem_set(p, 400, key, "%s: found %s; expected a string", key, hd_json_brief(v, brief));
    *out = json_string_value(v);
    return HD_OK;
}

const char *hd_text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

bool hd_text_is(const json_t *o, const char *key, const char *want)
{
    return !strcmp(hd_text_of(o, key), want);
}

bool hd_json_within(const char *p, size_t n, int depth_max, int64_t values_max)
{
    bool in_string = false;
    int depth = 0;

    for (size_t i = 0; i < n; i++) {
        char c = p[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        if ((c == ',' || c == '{' || c == '[') && --values_max < 0)
            return false;
        if (depth > depth_max)
            return false;
    }
    return true;
}
