/* api_admin.c: for whoever runs the server: what it is doing, and how to stop it. Who may ask: check_admin() in server.c. */
#include <string.h>

#include "server/answering.h"
#include "server/api.h"

static json_t *slot_of(const struct hd_answer *a, int i, double now)
{
    int64_t n_prompt = 0, n_cached = 0, n_token = 0;
    bool decodes = false;

    for (int k = 0; k < a->n_choice; k++) {
        const struct hd_choice *c = &a->choice[k];

        n_prompt += k % a->ask.n ? 0 : (int64_t)a->ask.prompt[c->prompt].n;
        n_cached += k % a->ask.n ? 0 : c->n_cached;
        n_token += c->n_token;
        decodes |= c->n_token > 0;
    }
    return json_pack("{s:i, s:s, s:b, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:b, s:f}", "id", i, "id_task", a->request_id, "is_processing", 1, "state",
                     decodes ? "decode" : a->begun ? "prefill" : "queue", "key", a->key, "path", a->path, "model", a->ask.model, "prompt_tokens", (json_int_t)n_prompt, "cached_tokens",
                     (json_int_t)n_cached, "generated_tokens", (json_int_t)n_token, "n", a->n_choice, "stream", a->ask.stream, "seconds", now - a->t0);
}

/* A list, as llama-server's /slots is; of requests, since there are no fixed slots. */
void hd_api_slots(struct hd_server *s, struct hd_exchange *x)
{
    json_t *list = json_array();
    double now = hd_http_now();
    int i = 0;

    for (const struct hd_answer *a = s->answers; a; a = a->next)
        if (!a->failed)
            json_array_append_new(list, slot_of(a, i++, now));
    hd_reply_value(x, 200, list);
}

/* {"id": "req_..."}: of x-request-id, the log, /slots. */
void hd_api_abort(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_problem p = {0}, why;
    json_t *body = hd_body_json(x, &p);
    const char *id = hd_text_of(body, "id");
    struct hd_answer *a = s->answers;

    while (a && (a->failed || strcmp(a->request_id, id)))
        a = a->next;
    if (body && !a)
        hd_problem_set(&p, 404, "id", "id: no request of that id is running");
    if (a) {
        hd_problem_set(&why, 503, NULL, "the request was aborted by the operator");
        hd_answer_fail(a, &why);
        hd_reply_value(x, 200, json_pack("{s:s, s:b}", "id", id, "aborted", 1));
    } else {
        hd_reply_problem(s, x, &p);
    }
    json_decref(body);
}

void hd_api_flush(struct hd_server *s, struct hd_exchange *x)
{
    s->runner.flush(s->runner.self);
    hd_replay_clear(s->replay);
    hd_reply_value(x, 200, json_pack("{s:b}", "flushed", 1));
}

/* As SIGTERM. */
void hd_api_drain(struct hd_server *s, struct hd_exchange *x)
{
    hd_reply_value(x, 200, json_pack("{s:b, s:i}", "draining", 1, "running", s->n_answer));
    hd_server_drain(s);
}
