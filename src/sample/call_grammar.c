/* call_grammar.c: see call_grammar.h. */
#include "sample/call_grammar.h"

#include <string.h>

#include "base/mem.h"

/* Ids of what the family's calls are marked with. */
struct form {
    bool dsml, fenced;
    const char *calls, *invoke;       /* DSML tags */
    struct hd_schema_dsml parameter;
    int32_t begin, end, call, call_end, sep;
};

static bool find_form(enum hd_parse_family family, const struct hd_tokenizer *tok, struct form *f)
{
    *f = (struct form){.dsml = family == HD_PARSE_V4 || family == HD_PARSE_V41, .fenced = family == HD_PARSE_R1};
    if (f->dsml) {
        bool v41 = family == HD_PARSE_V41;

        f->calls = v41 ? " calls" : "tool_calls";
        f->invoke = v41 ? " invoke" : "invoke";
        f->parameter = (struct hd_schema_dsml){hd_tokenizer_find(tok, "｜DSML｜"), v41 ? " parameter" : "parameter"};
        return f->parameter.marker >= 0;
    }
    f->begin = hd_tokenizer_find(tok, "<｜tool▁calls▁begin｜>");
    f->end = hd_tokenizer_find(tok, "<｜tool▁calls▁end｜>");
    f->call = hd_tokenizer_find(tok, "<｜tool▁call▁begin｜>");
    f->call_end = hd_tokenizer_find(tok, "<｜tool▁call▁end｜>");
    f->sep = hd_tokenizer_find(tok, "<｜tool▁sep｜>");
    return (family == HD_PARSE_R1 || family == HD_PARSE_V31) && f->begin >= 0 && f->end >= 0 && f->call >= 0 && f->call_end >= 0 && f->sep >= 0;
}

bool hd_call_trigger(enum hd_parse_family family, const struct hd_tokenizer *tok, struct hd_grammar_trigger *out)
{
    struct form f;

    if (!find_form(family, tok, &f))
        return false;
    *out = f.dsml ? (struct hd_grammar_trigger){f.parameter.marker, '<', -1} : (struct hd_grammar_trigger){f.begin, -1, f.call};
    return true;
}

/* ---- pieces ---- */

static uint32_t text(struct hd_grammar *g, uint32_t from, const char *s)
{
    return hd_grammar_text(g, from, s, strlen(s));
}

static uint32_t marker(struct hd_grammar *g, uint32_t from, int32_t id)
{
    uint32_t to = hd_grammar_state(g);

    hd_grammar_marker(g, from, id, to);
    return to;
}

/* Arguments between two states: a rule of their own, so that what a refused schema has left is reached by nobody. */
static int add_arguments(struct hd_grammar *g, const struct form *f, const json_t *schema, uint32_t from, uint32_t to, struct hd_err *err)
{
    uint32_t rule = hd_grammar_rule(g), a, b;
    json_t *empty = NULL;
    int rc;

    if (g->failed)
        return HD_OK;                 /* finish says it */
    a = g->rule[rule].entry;
    b = g->rule[rule].exit;
    if (!f->dsml && !schema)
        schema = empty = json_pack("{s:s, s:b}", "type", "object", "additionalProperties", 0);
    rc = f->dsml ? hd_schema_add_dsml(g, schema, &f->parameter, a, b, err) : hd_schema_add(g, schema, a, b, err);
    json_decref(empty);
    if (rc == HD_OK)
        hd_grammar_call(g, from, rule, to);
    return rc;
}

/* Anything that is an object. */
static int add_any(struct hd_grammar *g, const struct form *f, uint32_t from, uint32_t to, struct hd_err *err)
{
    json_t *any = json_pack("{s:s}", "type", "object");
    int rc = any ? add_arguments(g, f, any, from, to, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a grammar");

    json_decref(any);
    return rc;
}

static int add_tool(struct hd_grammar *g, const struct form *f, const struct hd_call_tool *t, bool loose, uint32_t from, uint32_t to, struct hd_err *err)
{
    uint32_t at, end = hd_grammar_state(g);
    int rc;

    if (f->dsml) {
        at = text(g, text(g, marker(g, text(g, from, "<"), f->parameter.marker), f->invoke), " name=\"");
        at = text(g, text(g, at, t->name), "\">\n");
        hd_grammar_text_to(g, text(g, marker(g, text(g, end, "</"), f->parameter.marker), f->invoke), ">", 1, to);
    } else {
        at = marker(g, from, f->call);
        at = f->fenced ? text(g, marker(g, text(g, at, "function"), f->sep), t->name) : marker(g, text(g, at, t->name), f->sep);
        at = f->fenced ? text(g, at, "\n```json\n") : at;
        hd_grammar_marker(g, f->fenced ? text(g, end, "\n```") : end, f->call_end, to);
    }
    rc = loose && !t->strict ? HD_ERR_LIMIT : add_arguments(g, f, t->parameters, at, end, err);
    if (rc == HD_OK || rc == HD_ERR_MEMORY)
        return rc;
    if (!t->strict)
        return add_any(g, f, at, end, err);
    hd_err_prepend(err, "\"%.128s\": parameters", t->name);
    return rc;
}

/* Calls, and the end of their block. */
static int add_calls(struct hd_grammar *g, const struct form *f, const struct hd_call_request *r, bool loose, uint32_t from, uint32_t to, struct hd_err *err)
{
    uint32_t call = hd_grammar_rule(g), after = hd_grammar_state(g);

    if (g->failed)
        return HD_OK;
    hd_grammar_call(g, from, call, after);
    if (!r->one)
        hd_grammar_text_to(g, after, "\n", f->dsml || f->fenced, from);
    if (f->dsml)
        hd_grammar_text_to(g, text(g, marker(g, text(g, after, "\n</"), f->parameter.marker), f->calls), ">", 1, to);
    else
        hd_grammar_marker(g, after, f->end, to);
    for (int i = 0; i < r->n_tool; i++)
        HD_TRY(add_tool(g, f, &r->tool[i], loose, g->rule[call].entry, g->rule[call].exit, err));
    return HD_OK;
}

static int build(struct hd_grammar *g, const struct form *f, const struct hd_call_request *r, bool loose, struct hd_err *err)
{
    uint32_t root = hd_grammar_rule(g), from = 0, at;

    if (g->failed)
        return hd_grammar_finish(g, root, err);
    from = at = g->rule[root].entry;
    if (f->dsml && r->begin == HD_CALLS_ALONE)
        at = marker(g, text(g, at, "\n\n<"), f->parameter.marker);
    if (f->dsml && r->begin != HD_CALLS_OPENED)
        at = text(g, text(g, at, f->calls), ">\n");
    if (!f->dsml && r->begin == HD_CALLS_ALONE)
        at = marker(g, at, f->begin);
    if (at == from) {                             /* calls are repeated from where they begin */
        at = hd_grammar_state(g);
        hd_grammar_skip(g, from, at);
    }
    HD_TRY(add_calls(g, f, r, loose, at, g->rule[root].exit, err));
    if (r->format && r->begin == HD_CALLS_ALONE && !g->failed)
        HD_TRY(hd_schema_add(g, r->format, from, g->rule[root].exit, err));
    return hd_grammar_finish(g, root, err);
}

int hd_call_grammar(struct hd_grammar **out, const struct hd_call_request *r, struct hd_err *err)
{
    struct form f;
    int rc = HD_ERR_LIMIT;

    if (!find_form(r->family, r->tok, &f))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "this model's format or vocabulary has no markers for calls");
    for (int loose = 0; loose < 2 && rc == HD_ERR_LIMIT; loose++) {   /* too much in all: only what is strict is kept */
        struct hd_grammar *g = hd_grammar_create();

        rc = g ? build(g, &f, r, loose, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a grammar");
        if (rc == HD_OK)
            *out = g;
        else
            hd_grammar_release(g);
    }
    return rc;
}
