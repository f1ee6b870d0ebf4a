/* forcing.c: see forcing.h. Three grammars:
 *
 *   calls must come              behind the reasoning, or in the block that the prompt has opened, calls and nothing else
 *   a format                     a value of its schema, or calls where there are tools
 *   strict tools, else free      the answer is text until a block of calls begins
 */
#include "server/forcing.h"

#include <stdio.h>
#include <string.h>

#include "sample/call_grammar.h"
#include "server/history.h"

static bool thinks(const struct hd_ask *a)
{
    return strcmp(a->thinking, "off") != 0;
}

static bool is_dsml(const struct hd_server *s)
{
    return s->parse_family == HD_PARSE_V4 || s->parse_family == HD_PARSE_V41;
}

bool hd_force_opens(const struct hd_server *s, const struct hd_ask *a)
{
    return a->force == HD_TOOLS_REQUIRED && !thinks(a) && is_dsml(s);
}

static bool can_force(const struct hd_server *s, const struct hd_ask *a)
{
    return s->json_vocab && s->json_vocab->spells && (!thinks(a) || s->think_end_id >= 0);
}

/* The place in the request, for param: what stands before the first ": " behind the schema's own. */
static int refuse_schema(const struct hd_err *err, struct hd_problem *p)
{
    const char *end = strstr(err->msg, ": ");
    char param[sizeof p->param];
    int n = err->msg[0] == '#' && end ? (int)(end - err->msg) : 0;

    if (err->code == HD_ERR_MEMORY)
        return hd_problem_from(p, err);
    snprintf(param, sizeof param, "response_format.json_schema.schema%.*s", n, err->msg);
    return hd_problem_set(p, 400, param, "response_format: json_schema: schema%s%s", n ? "" : ": ", err->msg);
}

/* a->grammar from the format alone; one that need not be kept, and cannot, is forgotten. */
static int force_format(struct hd_ask *a, struct hd_problem *p)
{
    struct hd_err err;

    if (!a->format || hd_schema_compile(&a->grammar, a->format, &err) == HD_OK)
        return HD_OK;
    if (a->strict_format || err.code == HD_ERR_MEMORY)
        return refuse_schema(&err, p);
    json_decref(a->format);
    a->format = NULL;
    return HD_OK;
}

static int force_calls(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *tools = json_object_get(a->doc, "tools"), *t;
    struct hd_call_tool tool[HD_TOOLS_MAX];
    bool must = a->force == HD_TOOLS_REQUIRED, strict = json_object_size(a->strict_tools) > 0;
    struct hd_call_request r = {.family = s->parse_family, .tok = s->tok, .tool = tool, .one = a->one_call};
    struct hd_err err;
    size_t i;

    HD_TRY(force_format(a, p));
    hd_grammar_release(a->grammar);
    a->grammar = NULL;
    if (!must && !strict && !a->format)
        return HD_OK;
    r.format = must ? NULL : a->format;
    json_array_foreach((json_t *)tools, i, t)
    {
        const json_t *f = json_object_get(t, "function");
        const char *name = hd_text_of(f, "name");

        tool[r.n_tool++] = (struct hd_call_tool){name, json_object_get(f, "parameters"), json_object_get(a->strict_tools, name) != NULL};
    }
    a->triggered = !must && !a->format;
    r.begin = hd_force_opens(s, a) ? HD_CALLS_OPENED : a->triggered ? HD_CALLS_TRIGGERED : HD_CALLS_ALONE;
    if (hd_call_grammar(&a->grammar, &r, &err) == HD_OK)
        return !a->triggered || hd_call_trigger(s->parse_family, s->tok, &a->trigger) ? HD_OK : HD_ERR_UNSUPPORTED;
    if (err.code == HD_ERR_MEMORY)
        return hd_problem_from(p, &err);
    if (strict || a->strict_format || (must && !hd_force_opens(s, a)))
        return hd_problem_set(p, 400, strict || must ? "tools" : "response_format", "tools: %s", err.msg);
    return HD_OK;                     /* the model goes on as it will */
}

int hd_force(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    bool must = a->force == HD_TOOLS_REQUIRED, strict = a->has_tools && json_object_size(a->strict_tools) > 0;

    if (a->grammar && (a->has_tools || a->partial_turn))
        return hd_problem_set(p, 400, "tools", "a form of the whole answer (guided_json and such) is not supported together with tools or a prefix; send tool_choice: none, or response_format");
    if (a->grammar)
        return can_force(s, a) ? HD_OK : hd_problem_set(p, 400, NULL, "this model's vocabulary cannot be kept to a form behind its reasoning");
    if (a->n_min && (must || strict || a->format))
        return hd_problem_set(p, 400, "min_tokens", "min_tokens is not supported together with response_format, strict tools or required calls");
    if (a->strict_format && a->partial_turn && !must)
        return hd_problem_set(p, 400, "response_format", "response_format: json_schema: strict is not supported where the answer has begun already (prefix); send strict: false");
    if (must && is_dsml(s) && hd_tokenizer_find(s->tok, "｜DSML｜") < 0)
        return hd_problem_set(p, 400, "tool_choice", "tool_choice: this model's vocabulary has no token for calls");
    if (!must && !strict && !a->format)
        return HD_OK;
    if (!can_force(s, a)) {
        if (a->strict_format)
            return hd_problem_set(p, 400, "response_format", "response_format: json_schema: strict: this model's vocabulary cannot be kept to a schema");
        if (strict || (must && !hd_force_opens(s, a)))
            return hd_problem_set(p, 400, strict ? "tools" : "tool_choice", "%s: this model's vocabulary cannot be kept to a form of calls", strict ? "tools: strict" : "tool_choice");
        return HD_OK;
    }
    return a->has_tools ? force_calls(s, a, p) : force_format(a, p);
}
