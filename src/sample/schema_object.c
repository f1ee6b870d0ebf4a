/* schema_object.c: see schema_compiler.h: objects as JSON text, their members in order. */
#include "sample/schema_compiler.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "token/py_json.h"

#define NAMES_MAX 4096
#define NAME_BYTES 1024               /* of declared names, beside free ones */

static int add_name(struct hd_schema_compiler *c, struct hd_schema_names *m, const char *name, bool required)
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
        return hd_schema_no_memory(c);
    m->name[m->n] = name;
    m->required[m->n++] = required;
    return HD_OK;
}

int hd_schema_names(struct hd_schema_compiler *c, const struct hd_schema_parts *p, struct hd_schema_names *m)
{
    const char *key;
    json_t *v;
    size_t k;

    *m = (struct hd_schema_names){.index = json_object()};
    if (!m->index)
        return hd_schema_no_memory(c);
    for (int i = 0; i < p->n; i++)
        json_object_foreach(json_object_get(p->s[i], "properties"), key, v) HD_TRY(add_name(c, m, key, false));
    for (int i = 0; i < p->n; i++)
        json_array_foreach(json_object_get(p->s[i], "required"), k, v) HD_TRY(add_name(c, m, json_string_value(v), true));
    return HD_OK;
}

void hd_schema_names_release(struct hd_schema_names *m)
{
    hd_free(m->name);
    hd_free(m->required);
    json_decref(m->index);
}

/* May there be others? What they must fit. */
int hd_schema_others(struct hd_schema_compiler *c, const struct hd_schema_parts *p, bool *may, struct hd_schema_parts *out)
{
    bool declared = false, said = false;

    *out = (struct hd_schema_parts){.n = 0};
    for (int i = 0; i < p->n; i++) {
        const json_t *s = json_object_get(p->s[i], "additionalProperties");

        declared |= json_object_get(p->s[i], "properties") != NULL;
        said |= s != NULL;
        if (s)
            HD_TRY(hd_schema_add_part(c, out, s));
    }
    *may = !out->never && (said || !declared);
    return HD_OK;
}

/* Names, n of them, agree in their bytes before at; from: those were written. */
static int add_free_name(struct hd_schema_compiler *c, const struct hd_schema_free *f, char **name, size_t n, size_t at, uint32_t from)
{
    uint32_t *first = hd_malloc((n + 1 + (size_t)f->n_never) * sizeof *first), rule;
    bool itself = n && !name[0][at];
    int n_first = 0, rc = HD_OK;

    if (!first)
        return hd_schema_no_memory(c);
    if (!itself && (at || f->may_be_empty))
        hd_grammar_skip(c->g, from, f->end);
    for (size_t i = itself, k; i < n && rc == HD_OK; i = k) {
        uint32_t next = hd_grammar_state(c->g);
        int len;
        int32_t ch = hd_utf8_get(name[i] + at, strlen(name[i] + at), &len);

        for (k = i + 1; k < n && !strncmp(name[i] + at, name[k] + at, (size_t)len); k++)
            ;
        first[n_first++] = (uint32_t)ch;
        if (!hd_spelling_set(f->spelling, &first[n_first - 1], 1, false, &rule))
            break;
        hd_grammar_call(c->g, from, rule, next);
        rc = add_free_name(c, f, name + i, k - i, at + (size_t)len, next);
        if (rc == HD_OK)
            rc = hd_schema_full(c);
    }
    for (int i = 0; i < f->n_never; i++)
        first[n_first++] = f->never[i];
    if (rc == HD_OK && !hd_spelling_set(f->spelling, first, n_first, true, &rule))
        rc = hd_err_set(c->err, HD_ERR_LIMIT, "an object's properties begin in too many ways to leave others beside them; say additionalProperties: false");
    if (rc == HD_OK)
        hd_grammar_call(c->g, from, rule, f->any);
    hd_free(first);
    return rc;
}

int hd_schema_free_name(struct hd_schema_compiler *c, const struct hd_schema_names *m, const struct hd_schema_free *f, uint32_t from)
{
    char **name = hd_malloc((m->n + 1) * sizeof *name);
    int rc = HD_OK;

    if (!name)
        return hd_schema_no_memory(c);
    for (size_t i = 0; i < m->n; i++) {
        name[i] = (char *)m->name[i];
        if (strlen(name[i]) > NAME_BYTES)
            rc = hd_err_set(c->err, HD_ERR_LIMIT, "a property's name has more than %d bytes", NAME_BYTES);
    }
    qsort(name, m->n, sizeof *name, hd_schema_by_text);
    if (rc == HD_OK)
        rc = add_free_name(c, f, name, m->n, 0, from);
    hd_free(name);
    return rc;
}

/* "name": of a member that is none of m. */
static int json_name(struct hd_schema_compiler *c, const struct hd_schema_names *m, uint32_t from, uint32_t to)
{
    struct hd_schema_free f = {.spelling = &c->json, .any = hd_grammar_state(c->g), .end = hd_grammar_state(c->g), .may_be_empty = true};

    hd_grammar_call(c->g, f.any, hd_spelling_any(&c->json), f.any);
    hd_grammar_skip(c->g, f.any, f.end);
    hd_grammar_text_to(c->g, f.end, "\": ", 3, to);
    return hd_schema_free_name(c, m, &f, hd_grammar_text(c->g, from, "\"", 1));
}

/* "name": from one state to the one that is returned. */
static uint32_t write_name(struct hd_schema_compiler *c, const char *name, uint32_t from)
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

void hd_schema_pass(struct hd_grammar *g, bool required, uint32_t next, uint32_t *none, uint32_t *some)
{
    uint32_t still = hd_grammar_state(g);         /* of a required member: nobody comes here */

    if (!required) {
        hd_grammar_skip(g, *none, still);
        hd_grammar_skip(g, *some, next);
    }
    *none = still;
    *some = next;
}

/* Members in order: a state for "none is there yet" and one for "some are" before each name, and what leads on from both. */
static int add_members(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const struct hd_schema_names *m, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    uint32_t none = hd_grammar_text(g, from, "{", 1), some = hd_grammar_state(g), rule;
    struct hd_schema_parts member;
    bool may;

    for (size_t i = 0; i < m->n; i++) {
        uint32_t name = hd_grammar_state(g), next = hd_grammar_state(g);

        HD_TRY(hd_schema_member(c, p, m->name[i], &member));
        HD_TRY(hd_schema_rule(c, &member, &rule));
        hd_grammar_skip(g, none, name);
        hd_grammar_text_to(g, some, ", ", 2, name);
        hd_grammar_call(g, write_name(c, m->name[i], name), rule, next);
        hd_schema_pass(g, m->required[i], next, &none, &some);
    }
    hd_grammar_text_to(g, none, "}", 1, to);
    hd_grammar_text_to(g, some, "}", 1, to);
    HD_TRY(hd_schema_others(c, p, &may, &member));
    if (may) {
        uint32_t name = hd_grammar_state(g), value = hd_grammar_state(g);

        hd_grammar_skip(g, none, name);
        hd_grammar_text_to(g, some, ", ", 2, name);
        HD_TRY(json_name(c, m, name, value));
        HD_TRY(hd_schema_rule(c, &member, &rule));
        hd_grammar_call(g, value, rule, some);
    }
    return hd_schema_full(c);
}

/* Numbers of members are counted by nobody: they may say what holds anyway. */
int hd_schema_check_counts(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const struct hd_schema_names *m)
{
    struct hd_schema_parts others;
    int64_t n_required = 0;
    bool may;

    HD_TRY(hd_schema_others(c, p, &may, &others));
    for (size_t i = 0; i < m->n; i++)
        n_required += m->required[i];
    for (int i = 0; i < p->n; i++) {
        if (hd_schema_count(p->s[i], "minProperties", 0) > n_required)
            return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, p->s[i], "minProperties", "more than are required is not supported");
        if (may ? json_object_get(p->s[i], "maxProperties") != NULL : hd_schema_count(p->s[i], "maxProperties", INT64_MAX) < (int64_t)m->n)
            return hd_schema_refuse(c, HD_ERR_UNSUPPORTED, p->s[i], "maxProperties", "less than the properties that there are is not supported");
    }
    return HD_OK;
}

int hd_schema_add_object(struct hd_schema_compiler *c, const struct hd_schema_parts *p, uint32_t from, uint32_t to)
{
    struct hd_schema_names m;
    int rc = hd_schema_names(c, p, &m);

    if (rc == HD_OK)
        rc = hd_schema_check_counts(c, p, &m);
    if (rc == HD_OK)
        rc = add_members(c, p, &m, from, to);
    hd_schema_names_release(&m);
    if (rc < 0 && p->n && c->err->msg[0] != '#')
        hd_err_prepend(c->err, "%.300s/properties", hd_schema_path(&c->places, p->s[0]));
    return rc;
}
