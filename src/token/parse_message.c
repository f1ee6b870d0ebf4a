/* parse_message.c: the events of parse.h gathered into a message. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "token/parse.h"

void hd_parse_message_init(struct hd_parse_message *m)
{
    memset(m, 0, sizeof *m);
    hd_str_init(&m->reasoning, 0);
    hd_str_init(&m->content, 0);
}

void hd_parse_message_release(struct hd_parse_message *m)
{
    for (size_t i = 0; i < m->n_call; i++) {
        hd_str_release(&m->call[i].name);
        hd_str_release(&m->call[i].id);
        hd_str_release(&m->call[i].type);
        hd_str_release(&m->call[i].arguments);
    }
    hd_free(m->call);
    hd_str_release(&m->reasoning);
    hd_str_release(&m->content);
    memset(m, 0, sizeof *m);
}

static bool add_call(struct hd_parse_message *m, const struct hd_parse_event *e)
{
    struct hd_parse_call *c;

    if (!HD_GROW(m->call, m->cap_call, m->n_call + 1, (size_t)1 << 24))
        return false;
    c = &m->call[m->n_call++];
    memset(c, 0, sizeof *c);
    hd_str_init(&c->name, 0);
    hd_str_init(&c->id, 0);
    hd_str_init(&c->type, 0);
    hd_str_init(&c->arguments, 0);
    return hd_str_add(&c->name, e->name.p, e->name.n) && hd_str_add(&c->id, e->id.p, e->id.n) && hd_str_add(&c->type, e->type.p, e->type.n);
}

int hd_parse_gather(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    struct hd_parse_message *m = arg;
    bool ok = true;

    switch (e->kind) {
    case HD_PARSE_REASONING: ok = hd_str_add(&m->reasoning, e->text.p, e->text.n); break;
    case HD_PARSE_CONTENT: ok = hd_str_add(&m->content, e->text.p, e->text.n); break;
    case HD_PARSE_CALL_BEGIN: ok = add_call(m, e); break;
    case HD_PARSE_CALL_ARGS: ok = hd_str_add(&m->call[e->index].arguments, e->text.p, e->text.n); break;
    case HD_PARSE_CALL_END: m->call[e->index].complete = e->complete; break;
    case HD_PARSE_END: m->how = e->how; break;
    }
    return ok ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for the answer");
}

static json_t *text(const struct hd_str *s)
{
    return json_stringn(hd_str_get(s), s->n);
}

json_t *hd_parse_message_json(const struct hd_parse_message *m)
{
    json_t *out, *calls;

    hd_json_init();
    out = json_pack("{s:s}", "role", "assistant");
    if (m->reasoning.n)
        json_object_set_new(out, "reasoning_content", text(&m->reasoning));
    json_object_set_new(out, "content", m->n_call && !m->content.n ? json_null() : text(&m->content));
    calls = json_array();
    for (size_t i = 0; i < m->n_call; i++) {
        const struct hd_parse_call *c = &m->call[i];

        json_array_append_new(calls, json_pack("{s:o, s:o, s:{s:o, s:o}}", "id", text(&c->id), "type", text(&c->type), "function", "name", text(&c->name), "arguments",
                                               text(&c->arguments)));
    }
    if (m->n_call)
        json_object_set(out, "tool_calls", calls);
    if (!out || !calls || json_array_size(calls) != m->n_call || (m->n_call && !json_object_get(out, "tool_calls"))) {
        json_decref(out);
        out = NULL;
    }
    json_decref(calls);
    return out;
}
