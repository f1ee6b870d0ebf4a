/* schema_dsml.c: see schema.h and schema_compiler.h: an object's members as the parameters of a DSML call. */
#include "sample/schema_compiler.h"

#include <string.h>

#define KEY_CHARS 64
#define KEY_BYTES 1000                /* the parser's is a little more */

/* VALUE</DSML parameter>, with the attribute that says how it is spelled. from: behind the key. */
static int add_value(struct hd_schema_compiler *c, const struct hd_schema_dsml *form, const struct hd_schema_parts *p, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    uint32_t text = hd_grammar_text(g, from, "\" string=\"true\">", 16), json = hd_grammar_text(g, from, "\" string=\"false\">", 17);
    uint32_t close = hd_grammar_state(g), tag = hd_grammar_state(g);

    HD_TRY(hd_schema_add_values(c, p, T_STRING, true, text, close));
    HD_TRY(hd_schema_add_values(c, p, T_ALL & ~(unsigned)T_STRING, false, json, close));
    hd_grammar_marker(g, hd_grammar_text(g, close, "</", 2), form->marker, tag);
    tag = hd_grammar_text(g, tag, form->parameter, strlen(form->parameter));
    hd_grammar_text_to(g, tag, ">", 1, to);
    return hd_schema_full(c);
}

/* <DSML parameter name=" */
static uint32_t open_parameter(struct hd_grammar *g, const struct hd_schema_dsml *form, uint32_t from)
{
    uint32_t tag = hd_grammar_state(g);

    hd_grammar_marker(g, hd_grammar_text(g, from, "<", 1), form->marker, tag);
    return hd_grammar_text(g, hd_grammar_text(g, tag, form->parameter, strlen(form->parameter)), " name=\"", 7);
}

/* Can a reader tell where it ends? */
static bool is_readable(const char *name)
{
    return strlen(name) <= KEY_BYTES && !strstr(name, "\">") && !strstr(name, "\" string=\"");
}

static int add_free(struct hd_schema_compiler *c, const struct hd_schema_dsml *form, const struct hd_schema_names *m, const struct hd_schema_parts *others, uint32_t from, uint32_t to)
{
    static const uint32_t never[] = {'"', '<', '>', '\\', '\n', '\r', '\t'};
    struct hd_schema_free f = {.spelling = &c->raw, .any = hd_grammar_state(c->g), .end = hd_grammar_state(c->g), .never = never, .n_never = HD_LEN(never)};
    uint32_t at = f.any, rule;

    hd_spelling_set(&c->raw, never, HD_LEN(never), true, &rule);
    for (int i = 0; i < KEY_CHARS; i++) {
        uint32_t next = hd_grammar_state(c->g);

        hd_grammar_skip(c->g, at, f.end);
        hd_grammar_call(c->g, at, rule, next);
        at = next;
    }
    hd_grammar_skip(c->g, at, f.end);
    HD_TRY(hd_schema_free_name(c, m, &f, open_parameter(c->g, form, from)));
    return add_value(c, form, others, f.end, to);
}

/* As add_members() of schema_object.c, in lines. */
static int add_parameters(struct hd_schema_compiler *c, const struct hd_schema_dsml *form, const struct hd_schema_parts *p, const struct hd_schema_names *m, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = c->g;
    uint32_t none = from, some = hd_grammar_state(g);
    struct hd_schema_parts member;
    bool may;

    for (size_t i = 0; i < m->n; i++) {
        uint32_t tag = hd_grammar_state(g), next = hd_grammar_state(g), key;

        if (!is_readable(m->name[i]))
            return hd_err_set(c->err, HD_ERR_UNSUPPORTED, "a parameter called \"%.80s\" cannot be written", m->name[i]);
        HD_TRY(hd_schema_member(c, p, m->name[i], &member));
        hd_grammar_skip(g, none, tag);
        hd_grammar_text_to(g, some, "\n", 1, tag);
        key = open_parameter(g, form, tag);
        HD_TRY(add_value(c, form, &member, hd_grammar_text(g, key, m->name[i], strlen(m->name[i])), next));
        hd_schema_pass(g, m->required[i], next, &none, &some);
    }
    hd_grammar_text_to(g, none, "\n", 1, to);
    hd_grammar_text_to(g, some, "\n", 1, to);
    HD_TRY(hd_schema_others(c, p, &may, &member));
    if (may) {
        uint32_t tag = hd_grammar_state(g);

        hd_grammar_skip(g, none, tag);
        hd_grammar_text_to(g, some, "\n", 1, tag);
        HD_TRY(add_free(c, form, m, &member, tag, some));
    }
    return hd_schema_full(c);
}

static int add_alternative(struct hd_schema_compiler *c, const struct hd_schema_dsml *form, const struct hd_schema_parts *p, uint32_t from, uint32_t to)
{
    const json_t *one, *list = hd_schema_named_values(p, &one);
    struct hd_schema_names m;
    int rc;

    if (!(hd_schema_types(p) & T_OBJECT))
        return HD_OK;
    if (list || one)
        return hd_err_set(c->err, HD_ERR_UNSUPPORTED, "#: parameters with enum or const are not supported");
    rc = hd_schema_names(c, p, &m);
    if (rc == HD_OK)
        rc = hd_schema_check_counts(c, p, &m);
    if (rc == HD_OK)
        rc = add_parameters(c, form, p, &m, from, to);
    hd_schema_names_release(&m);
    return rc;
}

int hd_schema_add_dsml(struct hd_grammar *g, const json_t *schema, const struct hd_schema_dsml *form, uint32_t from, uint32_t to, struct hd_err *err)
{
    struct hd_schema_alts alts = {0};
    struct hd_schema_compiler c;
    struct hd_schema_parts p;
    int rc;

    if (!schema) {
        hd_grammar_text_to(g, from, "\n", 1, to);
        return HD_OK;
    }
    rc = hd_schema_begin(&c, g, schema, &p, err);
    if (rc == HD_OK)
        rc = hd_schema_expand(&c, &p, 0, &alts);
    for (size_t i = 0; i < alts.n && rc == HD_OK; i++)
        rc = add_alternative(&c, form, &alts.a[i], from, to);
    if (rc == HD_OK)
        rc = hd_schema_fill(&c);
    hd_free(alts.a);
    hd_schema_end(&c);
    return rc;
}
