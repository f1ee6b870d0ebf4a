/* json.c: see json.h. */
#include "base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

static void init_once(void)
{
    json_set_alloc_funcs(hd_malloc, hd_free);
    json_object_seed(0);
}

void hd_json_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_once);
}

int hd_json_error(const json_error_t *e, const char *what, struct hd_err *err)
{
    return hd_err_set(err, json_error_code(e) == json_error_out_of_memory ? HD_ERR_MEMORY : HD_ERR_FORMAT, "%s: line %d, byte %d: not valid JSON: %s", what, e->line,
                      e->position, e->text);
}

json_t *hd_json_parse(const char *p, size_t n, const char *what, struct hd_err *err)
{
    json_error_t e;
    json_t *j;

    hd_json_init();
    j = json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!j)
        hd_json_error(&e, what, err);
    return j;
}

json_t *hd_json_read(const char *path, size_t max_bytes, struct hd_err *err)
{
    char *p;
    size_t n;
    json_t *j;

    if (hd_file_read(path, max_bytes, &p, &n, err) < 0)
        return NULL;
    j = hd_json_parse(p, n, path, err);
    hd_free(p);
    return j;
}

const char *hd_json_brief(const json_t *v, char buf[64])
{
    if (!v)
        return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT: snprintf(buf, 64, "an object"); break;
    case JSON_ARRAY: snprintf(buf, 64, "a list of %zu", json_array_size(v)); break;
    case JSON_STRING: snprintf(buf, 64, "\"%.40s%s", json_string_value(v), json_string_length(v) > 40 ? "...\"" : "\""); break;
    case JSON_INTEGER: snprintf(buf, 64, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: snprintf(buf, 64, "%g", json_real_value(v)); break;
    case JSON_TRUE: snprintf(buf, 64, "true"); break;
    case JSON_FALSE: snprintf(buf, 64, "false"); break;
    case JSON_NULL: snprintf(buf, 64, "null"); break;
    }
    return buf;
}

static const json_t *field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);

    return v && !json_is_null(v) ? v : NULL;
}

int hd_json_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out, const char *file, struct hd_err *err)
{
    const json_t *v = field(o, key);
    char buf[64];

    /* 1e4 and 4096.0 are written by some tools: a real with an integral value counts */
    if (v && json_is_real(v) && fabs(json_real_value(v)) < 9e15 && json_real_value(v) == floor(json_real_value(v))) {
        int64_t i = (int64_t)json_real_value(v);

        if (i >= lo && i <= hi) {
            *out = i;
            return HD_OK;
        }
    }
    if (!v || !json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found %s; expected an integer from %lld to %lld", file, key, hd_json_brief(v, buf), (long long)lo,
                          (long long)hi);
    *out = json_integer_value(v);
    return HD_OK;
}

int hd_json_int_or(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, const char *file, struct hd_err *err)
{
    if (!field(o, key)) {
        *out = dflt;
        return HD_OK;
    }
    return hd_json_int(o, key, lo, hi, out, file, err);
}

int hd_json_real_or(const json_t *o, const char *key, double lo, double hi, double dflt, double *out, const char *file, struct hd_err *err)
{
    const json_t *v = field(o, key);
    char buf[64];

    if (!v) {
        *out = dflt;
        return HD_OK;
    }
    if (!json_is_number(v) || !(json_number_value(v) >= lo && json_number_value(v) <= hi))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found %s; expected a number from %g to %g", file, key, hd_json_brief(v, buf), lo, hi);
    *out = json_number_value(v);
    return HD_OK;
}

int hd_json_bool_or(const json_t *o, const char *key, bool dflt, bool *out, const char *file, struct hd_err *err)
{
    const json_t *v = field(o, key);
    char buf[64];

    if (v && !json_is_boolean(v))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found %s; expected true or false", file, key, hd_json_brief(v, buf));
    *out = v ? json_is_true(v) : dflt;
    return HD_OK;
}

int hd_json_str_or(const json_t *o, const char *key, const char *dflt, const char **out, const char *file, struct hd_err *err)
{
    const json_t *v = field(o, key);
    char buf[64];

    if (v && !json_is_string(v))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found %s; expected a string", file, key, hd_json_brief(v, buf));
    *out = v ? json_string_value(v) : dflt;
    return HD_OK;
}

int hd_jsonl_each(const char *p, size_t n, const char *file, int (*fn)(void *arg, const json_t *line, const char *what, struct hd_err *err), void *arg, struct hd_err *err)
{
    const char *end = p + n;

    for (int64_t line = 1; p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t k = (size_t)((stop ? stop : end) - p), blank = 0;
        char what[600];
        json_t *j;
        int rc;

        while (blank < k && strchr(" \t\r", p[blank]) && p[blank])
            blank++;
        if (blank < k) {
            snprintf(what, sizeof what, "%.500s: line %lld", file, (long long)line);
            if (!(j = hd_json_parse(p, k, what, err)))
                return err->code;
            rc = fn(arg, j, what, err);
            json_decref(j);
            HD_TRY(rc);
        }
        p += stop ? k + 1 : k;
    }
    return HD_OK;
}
