/* answering.c: see answering.h. */
#include "server/answering.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/mem.h"
#include "sample/grammar_mask.h"
#include "server/access_log.h"
#include "server/extras.h"
#include "server/routes.h"
#include "token/py_json.h"

/* ---- bytes to the client ---- */

static void send_out(struct hd_answer *a, struct hd_str *out)
{
    struct hd_server *s = a->server;

    if (a->x && out->n) {
        if (!a->x->status)
            hd_exchange_begin(a->x, 200, a->ask.stream ? "text/event-stream; charset=utf-8" : "application/json");
        if (a->x)
            hd_exchange_write(a->x, out->s, out->n);
        a->written = hd_http_now();
        if (a->x && a->x->full && !a->paused) {
            a->paused = true;
            for (int i = 0; i < a->n_choice; i++)
                if (a->choice[i].submitted && !a->choice[i].ended)
                    s->runner.pause(s->runner.self, a->choice[i].run, true);
        }
    }
    hd_str_reset(out);
}

static struct hd_str *scratch(struct hd_answer *a)
{
    hd_str_reset(&a->server->out);
    return &a->server->out;
}

static void begin(struct hd_answer *a)
{
    struct hd_str *out = scratch(a);

    if (a->begun)
        return;
    a->begun = true;
    if (a->ask.stream && a->shape->begin) {
        a->shape->begin(a, out);
        send_out(a, out);
    }
}

/* ---- logprobs ---- */

static void keep_pick(struct hd_pick_list *l, const struct hd_pick *p)
{
    struct hd_pick_line *line;

    if (!HD_GROW(l->line, l->cap, l->n + 1, (size_t)1 << 26))
        return;
    line = &l->line[l->n++];
    line->id = p->id;
    line->logprob = p->logprob;
    line->n_top = p->n_top < HD_TOP_MAX + 1 ? p->n_top : HD_TOP_MAX + 1;
    memcpy(line->top_id, p->top_id, (size_t)line->n_top * sizeof *line->top_id);
    memcpy(line->top_logprob, p->top_logprob, (size_t)line->n_top * sizeof *line->top_logprob);
}

/* The tokens since the last text belong to this one. */
static void settle_picks(struct hd_choice *c, struct hd_pick_list *to)
{
    struct hd_pick_list *from = &c->waiting_picks;

    if (from->n && HD_GROW(to->line, to->cap, to->n + from->n, (size_t)1 << 26)) {
        memcpy(to->line + to->n, from->line, from->n * sizeof *from->line);
        to->n += from->n;
    }
    from->n = 0;
}

/* ---- what a model says ---- */

static void show_text(struct hd_choice *c, bool reasoning, struct hd_view text)
{
    struct hd_answer *a = c->answer;
    struct hd_str *out = scratch(a);

    if (!text.n)
        return;
    hd_str_add(reasoning ? &c->reasoning : &c->content, text.p, text.n);
    settle_picks(c, reasoning ? &c->reasoning_picks : &c->content_picks);
    if (a->ask.stream && a->shape->text) {
        a->shape->text(c, reasoning, text, out);
        send_out(a, out);
    }
}

/* Content on its way past the stop strings. p NULL: the rest. */
static void pass_content(struct hd_choice *c, const char *p, size_t n)
{
    struct hd_str ready;

    hd_str_init(&ready, 0);
    if (p)
        hd_text_stream_push_text(&c->stops, p, n, &ready);
    else
        hd_text_stream_finish(&c->stops, &ready);
    show_text(c, false, (struct hd_view){hd_str_get(&ready), ready.n});
    hd_str_release(&ready);
}

static struct hd_tool_call *new_call(struct hd_choice *c, const struct hd_parse_event *e)
{
    struct hd_tool_call *call;

    if (!HD_GROW(c->call, c->cap_call, c->n_call + 1, 1024))
        return NULL;
    call = &c->call[c->n_call++];
    hd_str_init(&call->name, 0);
    hd_str_init(&call->id, 0);
    hd_str_init(&call->args, 0);
    call->complete = call->sound = false;
    hd_str_add(&call->name, e->name.p, e->name.n);
    hd_str_add(&call->id, e->id.p, e->id.n);
    return call;
}

static void on_call(struct hd_choice *c, const struct hd_parse_event *e)
{
    struct hd_answer *a = c->answer;
    struct hd_tool_call *call = e->kind == HD_PARSE_CALL_BEGIN ? new_call(c, e) : c->n_call ? &c->call[c->n_call - 1] : NULL;
    bool stream = a->ask.stream;
    struct hd_str *out;

    c->waiting_picks.n = 0;           /* markup has no logprobs to show */
    if (!call)
        return;
    if (e->kind == HD_PARSE_CALL_BEGIN)
        pass_content(c, NULL, 0);
    out = scratch(a);
    if (e->kind == HD_PARSE_CALL_BEGIN && stream && a->shape->call)
        a->shape->call(c, call, out);
    if (e->kind == HD_PARSE_CALL_ARGS) {
        hd_str_add(&call->args, e->text.p, e->text.n);
        if (stream && a->shape->args)
            a->shape->args(c, call, e->text, out);
    }
    if (e->kind == HD_PARSE_CALL_END) {
        call->complete = e->complete;
        if (stream && a->shape->call_end)
            a->shape->call_end(c, call, out);
    }
    send_out(a, out);
}

static int on_parse(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    struct hd_choice *c = arg;

    if (c->over)
        return HD_OK;
    switch (e->kind) {
    case HD_PARSE_REASONING:
        show_text(c, true, e->text);
        break;
    case HD_PARSE_CONTENT:
        c->in_reasoning = false;
        pass_content(c, e->text.p, e->text.n);
        break;
    case HD_PARSE_CALL_BEGIN:
    case HD_PARSE_CALL_ARGS:
    case HD_PARSE_CALL_END:
        c->in_reasoning = false;
        on_call(c, e);
        break;
    case HD_PARSE_END:
        break;
    }
    return HD_OK;
}

/* Random, so that nobody can guess another's. */
static void make_call_id(void *arg, int index, char id[64])
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    struct hd_choice *c = arg;
    unsigned char b[24];
    int n = snprintf(id, 64, c->answer->shape->anthropic ? "toolu_%02d_" : "call_%02d_", index % 100);

    if (getrandom(b, sizeof b, 0) != sizeof b)
        memset(b, 0, sizeof b);
    for (int i = 0; i < 24; i++)
        id[n + i] = digits[b[i] % 62];
    id[n + 24] = 0;
}

/* ---- the end of a choice ---- */

/* Enough has been said: the runner may stop; its END completes the choice. */
static void cut_short(struct hd_choice *c, const char *finish)
{
    struct hd_server *s = c->answer->server;

    c->over = true;
    c->finish = finish;
    if (!c->ended)
        s->runner.cancel(s->runner.self, c->run);
}

static const char *found_stop(const struct hd_choice *c)
{
    const struct hd_text_stream *t = &c->stops;
    const char *best = NULL;

    for (int i = 0; i < t->n_stop; i++) {
        size_t n = strlen(t->stop[i]);

        if (n <= t->pending.n && !memcmp(t->pending.s, t->stop[i], n) && (!best || n > strlen(best)))
            best = t->stop[i];
    }
    return best;
}

/* Are all calls' arguments JSON objects? */
static bool check_calls(struct hd_choice *c)
{
    bool sound = c->n_call > 0;

    for (size_t i = 0; i < c->n_call; i++) {
        json_t *v = hd_py_json_parse(hd_str_get(&c->call[i].args), c->call[i].args.n);

        c->call[i].sound = json_is_object(v);
        sound &= c->call[i].sound;
        json_decref(v);
    }
    return sound;
}

static const char *finish_of(struct hd_choice *c, enum hd_finish finish)
{
    bool sound = check_calls(c);

    if (finish == HD_FINISH_LENGTH || finish == HD_FINISH_CONTEXT)
        return "length";
    return sound ? "tool_calls" : "stop";
}

static void free_choice(struct hd_choice *c)
{
    struct hd_pick_list *lists[] = {&c->reasoning_picks, &c->content_picks, &c->waiting_picks, &c->prompt_picks};

    for (size_t i = 0; i < c->n_call; i++) {
        hd_str_release(&c->call[i].name);
        hd_str_release(&c->call[i].id);
        hd_str_release(&c->call[i].args);
    }
    for (int i = 0; i < HD_LEN(lists); i++)
        hd_free(lists[i]->line);
    hd_free(c->call);
    hd_ids_release(&c->ids);
    hd_str_release(&c->reasoning);
    hd_str_release(&c->content);
    hd_text_stream_release(&c->stops);
}

/* ---- the account ---- */

static const char *ending_of(const struct hd_answer *a, bool gone)
{
    return a->failed ? "error" : gone ? "abort" : a->choice[0].finish ? a->choice[0].finish : "abort";
}

static void count_calls(struct hd_answer *a)
{
    for (int i = 0; i < a->n_choice; i++)
        for (size_t k = 0; k < a->choice[i].n_call; k++) {
            const struct hd_tool_call *call = &a->choice[i].call[k];

            a->server->metrics.calls[call->complete && call->sound ? HD_CALL_OK : call->sound ? HD_CALL_RECOVERED : HD_CALL_MALFORMED]++;
        }
}

/* Before the reply's last byte. */
static void settle_account(struct hd_answer *a)
{
    struct hd_server *s = a->server;
    struct hd_usage u = hd_answer_usage(a);
    struct hd_record r = {.at = a->at, .id = a->request_id, .key = a->key, .path = a->path, .model = a->ask.model, .finish = ending_of(a, !a->x), .stream = a->ask.stream};
    struct hd_err err;

    r.status = a->failed ? a->problem.status : a->x ? 200 : 499;
    r.prompt = u.prompt;
    r.cached = u.cached;
    r.completion = u.completion;
    r.reasoning = u.reasoning;
    for (int i = 0; i < a->n_choice; i++) {
        const struct hd_choice *c = &a->choice[i];

        r.queue_s = c->queue_s > r.queue_s ? c->queue_s : r.queue_s;
        r.first_s = c->first_t > 0 && (r.first_s == 0 || c->first_t - a->t0 < r.first_s) ? c->first_t - a->t0 : r.first_s;
        r.prefill_s += c->prefill_s;
        r.decode_s += c->decode_s;
    }
    r.total_s = hd_http_now() - a->t0;
    r.cost = hd_ledger_cost(s->ledger, &r);
    count_calls(a);
    hd_metrics_record(&s->metrics, &r);
    if (hd_ledger_add(s->ledger, &r, &err) < 0)
        s->metrics.ledger_failures++;
    hd_log_record(s->opt.log_fd, &r, a->ask.user);
}

static void free_answer(struct hd_answer *a)
{
    struct hd_server *s = a->server;

    if (a->prev)
        a->prev->next = a->next;
    else
        s->answers = a->next;
    if (a->next)
        a->next->prev = a->prev;
    s->n_answer--;
    if (a->x)
        a->x->owner = NULL;
    for (int i = 0; i < a->n_choice; i++)
        free_choice(&a->choice[i]);
    hd_free(a->choice);
    if (a->ask.extra)
        a->shape->free_extra(a->ask.extra);
    hd_ask_release(&a->ask);
    hd_free(a);
}

/* Nothing more is to come from the runner. */
static void complete(struct hd_answer *a)
{
    struct hd_exchange *x = a->x;
    struct hd_str *out;

    settle_account(a);
    if (x && !a->failed) {
        out = scratch(a);
        if (a->ask.stream && a->shape->end)
            a->shape->end(a, out);
        if (!a->ask.stream)
            a->shape->whole(a, out);
        a->x->owner = NULL;
        a->x = NULL;
        if (out->failed) {
            hd_exchange_cut(x);
        } else if (x->status) {
            hd_exchange_write(x, hd_str_get(out), out->n);
            hd_exchange_end(x);
        } else {
            hd_exchange_reply(x, 200, "application/json", hd_str_get(out), out->n);
        }
    }
    free_answer(a);
}

void hd_answer_fail(struct hd_answer *a, const struct hd_problem *p)
{
    struct hd_server *s = a->server;
    struct hd_exchange *x = a->x;
    struct hd_str *out;

    if (a->failed)
        return;
    a->failed = true;
    a->problem = *p;
    for (int i = 0; i < a->n_choice; i++) {
        a->choice[i].over = true;
        if (a->choice[i].submitted && !a->choice[i].ended)
            s->runner.cancel(s->runner.self, a->choice[i].run);
    }
    if (!x)
        return;
    if (x->status && a->ask.stream && !a->begun && a->shape->begin) {
        a->begun = true;              /* an error is no beginning */
        out = scratch(a);
        a->shape->begin(a, out);
        hd_exchange_write(x, hd_str_get(out), out->n);
    }
    x->owner = NULL;
    a->x = NULL;
    if (!x->status) {
        hd_reply_problem(s, x, p);
        return;
    }
    out = scratch(a);
    if (a->ask.stream && a->shape->error)
        a->shape->error(a, p, out);
    else
        hd_problem_json(p, a->shape->anthropic, x->id, out);
    hd_exchange_write(x, hd_str_get(out), out->n);
    if (a->ask.stream && !a->shape->ends_cleanly)
        hd_exchange_cut(x);
    else
        hd_exchange_end(x);
}

/* ---- events of the runner ---- */

static void take_token(struct hd_choice *c, const struct hd_pick *pick)
{
    struct hd_answer *a = c->answer;
    bool text = hd_token_text(a->server->tok, pick->id, a->ask.raw).n > 0 && pick->id != a->server->think_id && pick->id != a->server->think_end_id;
    struct hd_err err;

    if (c->over)
        return;
    begin(a);
    if (c->n_token)
        hd_metrics_observe(&a->server->metrics, &a->server->metrics.between, hd_http_now() - c->last_t);
    c->last_t = hd_http_now();
    if (!c->n_token)
        c->first_t = c->last_t;
    c->n_token++;
    if (HD_GROW(c->ids.id, c->ids.cap, c->ids.n + 1, (size_t)1 << 28))
        c->ids.id[c->ids.n++] = pick->id;
    if (a->ask.logprobs && text)
        keep_pick(&c->waiting_picks, pick);
    if (a->ask.ignore_end && hd_tokenizer_is_end(a->server->tok, pick->id))
        return;                       /* not the end, and no text */
    if (hd_extras_is_stop(&a->ask, pick->id)) {
        hd_parse_finish(&c->parse, true, &err);
        pass_content(c, NULL, 0);
        cut_short(c, finish_of(c, HD_FINISH_END));
        return;
    }
    if (hd_parse_token(&c->parse, pick->id, &err) < 0)
        return;
    c->n_reasoning += c->in_reasoning;
    if (c->stops.stopped) {
        c->stop = found_stop(c);
        cut_short(c, "stop");
    } else if (a->ask.one_call && c->n_call && c->call[0].complete) {
        check_calls(c);
        cut_short(c, "tool_calls");
    }
}

static void take_end(struct hd_choice *c, const struct hd_note *n)
{
    struct hd_answer *a = c->answer;
    struct hd_problem p;
    struct hd_str *out;
    struct hd_err err;

    c->ended = true;
    a->n_open--;
    c->queue_s = n->queue_s;
    c->prefill_s = n->prefill_s;
    c->decode_s = n->decode_s;
    c->n_drafted = n->n_drafted;
    c->n_accepted = n->n_accepted;
    if (n->failed && !c->over && !a->failed) {
        hd_problem_set(&p, n->err.code == HD_ERR_MEMORY || n->err.code == HD_ERR_LIMIT ? 503 : 500, NULL, "%s", n->err.msg);
        hd_answer_fail(a, &p);
    }
    if (!c->over && !a->failed && n->finish == HD_FINISH_CANCELLED && a->x) {
        hd_problem_set(&p, 503, NULL, "the request was cancelled");
        hd_answer_fail(a, &p);
    }
    if (!a->failed) {
        begin(a);
        if (!c->over) {
            c->n_token += n->finish == HD_FINISH_END;     /* the end token */
            hd_parse_finish(&c->parse, n->finish == HD_FINISH_END, &err);
            pass_content(c, NULL, 0);
            c->window = n->finish == HD_FINISH_CONTEXT || (n->finish == HD_FINISH_LENGTH && (int64_t)a->ask.prompt[c->prompt].n + c->n_token >= a->server->runner.n_ctx);
            if (c->stops.stopped)
                c->stop = found_stop(c);
            c->finish = c->stop ? "stop" : finish_of(c, n->finish);
            c->over = true;
            if ((!strcmp(c->finish, "tool_calls") && !a->ask.one_call) || (!a->ask.raw && n->finish == HD_FINISH_END && !c->stop && !c->n_call))
                hd_replay_keep(a->server->replay, a->tenant, c);
            if (a->ask.raw)
                settle_picks(c, &c->content_picks);   /* tokens without text count there */
        }
        out = scratch(a);
        if (a->ask.stream && a->shape->finish) {
            a->shape->finish(c, out);
            send_out(a, out);
        }
    }
    if (!a->n_open)
        complete(a);
}

void hd_answer_note(const struct hd_note *n)
{
    struct hd_choice *c = n->arg;
    struct hd_answer *a = c->answer;

    switch (n->kind) {
    case HD_RUN_PROGRESS:
        c->n_cached = n->cached;
        if (!a->failed)
            begin(a);
        break;
    case HD_RUN_PROMPT:
        keep_pick(&c->prompt_picks, &n->pick);
        break;
    case HD_RUN_TOKEN:
        take_token(c, &n->pick);
        break;
    case HD_RUN_END:
        take_end(c, n);
        break;
    }
}

void hd_answer_gone(struct hd_answer *a)
{
    struct hd_server *s = a->server;
    bool decodes = false;

    for (int i = 0; i < a->n_choice; i++)
        decodes |= a->choice[i].n_token > 0;
    s->metrics.disconnects[decodes ? HD_PHASE_DECODE : a->begun ? HD_PHASE_PREFILL : HD_PHASE_QUEUE]++;
    a->x = NULL;
    for (int i = 0; i < a->n_choice; i++)
        if (a->choice[i].submitted && !a->choice[i].ended)
            s->runner.cancel(s->runner.self, a->choice[i].run);
}

void hd_answer_flows(struct hd_answer *a)
{
    struct hd_server *s = a->server;

    a->paused = false;
    for (int i = 0; i < a->n_choice; i++)
        if (a->choice[i].submitted && !a->choice[i].ended)
            s->runner.pause(s->runner.self, a->choice[i].run, false);
}

void hd_answer_tick(struct hd_answer *a, double now)
{
    double wait = a->server->opt.keep_alive_s * (a->begun ? 3 : 1);
    struct hd_problem p;
    struct hd_str *out;

    if (a->x && now - a->t0 > a->server->opt.request_s) {
        hd_problem_set(&p, 503, NULL, "the request took longer than %.0f s", a->server->opt.request_s);
        hd_answer_fail(a, &p);
        return;
    }
    if (!a->x || wait <= 0 || now - a->written < wait || a->x->full)
        return;
    out = scratch(a);
    hd_str_puts(out, !a->ask.stream ? "\n" : a->begun ? a->shape->alive : ": keep-alive\n\n");
    send_out(a, out);
}

/* ---- the beginning ---- */

static int prepare_choice(struct hd_answer *a, int i)
{
    struct hd_choice *c = &a->choice[i];
    struct hd_server *s = a->server;

    c->answer = a;
    c->index = i;
    c->prompt = i / a->ask.n;
    c->slot = (struct hd_inbox_slot){.inbox = &s->inbox, .arg = c};
    hd_str_init(&c->reasoning, 0);
    hd_str_init(&c->content, 0);
    hd_text_stream_init(&c->stops, s->tok, a->ask.stop, a->ask.n_stop);
    hd_parse_init(&c->parse, &(struct hd_parse_options){.family = a->ask.raw ? HD_PARSE_PLAIN : s->parse_family,
                                                        .start = a->ask.start,
                                                        .no_tools = !a->ask.has_tools,
                                                        .tok = s->tok,
                                                        .event = on_parse,
                                                        .arg = c,
                                                        .make_id = make_call_id});
    c->in_reasoning = a->ask.start == HD_PARSE_IN_REASONING;
    return HD_OK;
}

/* What a prefix has begun is not known here. */
static int constrain(struct hd_answer *a, struct hd_constraint *out, struct hd_err *err)
{
    const struct hd_server *s = a->server;
    bool thinks = a->ask.start == HD_PARSE_IN_REASONING;
    struct hd_grammar_mask *g;

    if (!a->ask.grammar && a->ask.n_min)
        return hd_extras_min(s, &a->ask, out, err);
    if (!a->ask.grammar || (a->ask.partial_turn && a->ask.force == HD_TOOLS_AUTO && !a->ask.triggered) || !s->json_vocab || !s->json_vocab->spells || (thinks && s->think_end_id < 0))
        return HD_OK;
    HD_TRY(hd_grammar_mask_create(&g, a->ask.grammar, s->json_vocab, thinks ? s->think_end_id : -1, a->ask.triggered ? &a->ask.trigger : NULL, err));
    *out = (struct hd_constraint){g, hd_grammar_mask_apply, hd_grammar_mask_take, hd_grammar_mask_free};
    return HD_OK;
}

static int submit(struct hd_answer *a, int i, struct hd_problem *p)
{
    struct hd_choice *c = &a->choice[i];
    struct hd_server *s = a->server;
    const struct hd_ids *prompt = &a->ask.prompt[c->prompt];
    int64_t room = s->runner.n_ctx - (int64_t)prompt->n;
    double retry_s = 1;
    struct hd_err err;
    struct hd_run_request r = {.prompt = prompt->id,
                               .n_prompt = (int64_t)prompt->n,
                               .n_max = a->ask.n_max < room ? a->ask.n_max : room,
                               .sample = a->ask.sample,
                               .prompt_logprobs = a->ask.echo && a->ask.logprobs,
                               .ignore_end = a->ask.ignore_end,
                               .tenant = a->tenant,
                               .user = a->tenant,
                               .event = hd_inbox_event,
                               .arg = &c->slot};

    r.sample.seed += (uint64_t)(c->index % a->ask.n);
    if (constrain(a, &r.constraint, &err) < 0)
        return hd_problem_from(p, &err);
    if (s->runner.submit(s->runner.self, &r, &c->run, &retry_s, &err) == HD_OK) {
        c->submitted = true;
        a->n_open++;
        return HD_OK;
    }
    if (r.constraint.free)
        r.constraint.free(r.constraint.self);
    if (err.code == HD_ERR_LIMIT) {
        hd_problem_set(p, a->shape->anthropic ? 529 : 429, NULL, "%s", err.msg);
        p->retry_s = retry_s < 1 ? 1 : retry_s > 3600 ? 3600 : (int)ceil(retry_s);
        return HD_ERR_LIMIT;
    }
    if (err.code == HD_ERR_USAGE)
        return hd_problem_too_long(p, (int64_t)prompt->n, r.n_max, s->runner.n_ctx);
    return hd_problem_from(p, &err);
}

static void start_stream(struct hd_answer *a)
{
    hd_exchange_header(a->x, "Cache-Control", "no-cache");
    hd_exchange_header(a->x, "X-Accel-Buffering", "no");
    hd_exchange_begin(a->x, 200, "text/event-stream; charset=utf-8");
}

static struct hd_answer *new_answer(struct hd_server *s, struct hd_exchange *x, struct hd_ask *ask, const struct hd_shape *shape)
{
    int n = ask->n_prompt * ask->n;
    struct hd_answer *a = hd_calloc(1, sizeof *a);
    struct timespec t;

    if (!a || !(a->choice = hd_calloc((size_t)n, sizeof *a->choice))) {
        hd_free(a);
        return NULL;
    }
    a->server = s;
    a->x = x;
    a->shape = shape;
    a->ask = *ask;
    memset(ask, 0, sizeof *ask);
    a->n_choice = n;
    a->created = time(NULL);
    a->t0 = a->written = hd_http_now();
    snprintf(a->id, sizeof a->id, "%s", x->id + 4);
    hd_ask_tenant(&a->ask, a->tenant);
    snprintf(a->key, sizeof a->key, "%s", x->tenant);
    snprintf(a->request_id, sizeof a->request_id, "%s", x->id);
    a->path = ((const struct hd_route *)x->route)->path;
    clock_gettime(CLOCK_REALTIME, &t);
    a->at = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    if ((a->next = s->answers))
        a->next->prev = a;
    s->answers = a;
    s->n_answer++;
    for (int i = 0; i < n; i++)
        prepare_choice(a, i);
    return a;
}

static int running_of(const struct hd_server *s, const char *tenant)
{
    int n = 0;

    for (const struct hd_answer *a = s->answers; a; a = a->next)
        n += !strncmp(a->tenant, tenant, strcspn(a->tenant, "/")) && !tenant[strcspn(a->tenant, "/")];
    return n;
}

static void give_up(struct hd_server *s, struct hd_exchange *x, struct hd_ask *ask, const struct hd_shape *shape, const struct hd_problem *p)
{
    hd_reply_problem(s, x, p);
    if (ask->extra)
        shape->free_extra(ask->extra);
    hd_ask_release(ask);
}

void hd_answer_start(struct hd_server *s, struct hd_exchange *x, struct hd_ask *ask, const struct hd_shape *shape)
{
    struct hd_problem p = {0};
    struct hd_answer *a;
    int64_t budget;
    int rc = HD_OK;

    if (s->opt.n_per_key && running_of(s, x->tenant) >= s->opt.n_per_key) {
        hd_problem_set(&p, 429, NULL, "this key has %d requests running already", s->opt.n_per_key);
        p.retry_s = 1;
        give_up(s, x, ask, shape, &p);
        return;
    }
    if (hd_ledger_budget(s->ledger, x->tenant, &budget) && hd_ledger_spent(s->ledger, x->tenant) >= budget) {
        hd_problem_set(&p, 402, NULL, "Insufficient Balance");
        give_up(s, x, ask, shape, &p);
        return;
    }
    if (!(a = new_answer(s, x, ask, shape))) {
        hd_problem_set(&p, 500, NULL, "no memory");
        give_up(s, x, ask, shape, &p);
        return;
    }
    json_object_del(a->ask.body, "messages");  /* the largest part, and rendered */
    json_object_del(a->ask.body, "input");
    x->owner = a;
    x->answered = true;
    if (a->ask.reasoning_missing)
        hd_exchange_header(x, "x-ds-warning", "reasoning_content missing");
    for (int i = 0; rc == HD_OK && i < a->n_choice; i++)
        rc = submit(a, i, &p);
    if (rc < 0) {
        x->answered = a->n_open > 0;
        hd_answer_fail(a, &p);
        if (!a->n_open)
            free_answer(a);
        return;
    }
    if (a->ask.stream)
        start_stream(a);
}

void hd_answer_or_refuse(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *ask, const struct hd_shape *shape, struct hd_problem *p)
{
    if (rc == HD_OK) {
        hd_answer_start(s, x, ask, shape);
        return;
    }
    hd_reply_problem(s, x, p);
    hd_ask_release(ask);
}

/* ---- sums ---- */

struct hd_usage hd_answer_usage(const struct hd_answer *a)
{
    struct hd_usage u = {0};

    for (int i = 0; i < a->n_choice; i++) {
        const struct hd_choice *c = &a->choice[i];

        if (i % a->ask.n == 0) {
            u.prompt += (int64_t)a->ask.prompt[c->prompt].n;
            u.cached += c->n_cached;
        }
        u.completion += c->n_token;
        u.reasoning += c->n_reasoning;
    }
    return u;
}

void hd_answer_timings(const struct hd_answer *a, struct hd_str *out)
{
    struct hd_usage u = hd_answer_usage(a);
    double prefill = 0, decode = 0;
    int64_t n_drafted = 0, n_accepted = 0;

    for (int i = 0; i < a->n_choice; i++) {
        prefill += a->choice[i].prefill_s;
        decode += a->choice[i].decode_s;
        n_drafted += a->choice[i].n_drafted;
        n_accepted += a->choice[i].n_accepted;
    }
    hd_str_printf(out,
                  ",\"timings\":{\"cache_n\":%lld,\"prompt_n\":%lld,\"prompt_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_n\":%lld,\"predicted_ms\":%.3f,"
                  "\"predicted_per_second\":%.3f,\"draft_n\":%lld,\"draft_n_accepted\":%lld}",
                  (long long)u.cached, (long long)(u.prompt - u.cached), prefill * 1e3, prefill > 0 ? (double)(u.prompt - u.cached) / prefill : 0, (long long)u.completion,
                  decode * 1e3, decode > 0 ? (double)u.completion / decode : 0, (long long)n_drafted, (long long)n_accepted);
}
