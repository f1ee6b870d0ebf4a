/* api_completions.c: OpenAI's legacy Completions: prompts without a chat, echo with log-probabilities, and fill-in-the-middle. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/answering.h"
#include "server/api.h"
#include "server/logprobs.h"
#include "server/prep.h"

#define PROMPTS_MAX 1024

/* ---- prompts ---- */

struct prompts {
    struct hd_server *s;
    struct hd_ask *a;
    struct hd_problem *p;
    bool add_special, parse_special;
};

static int no_memory(struct hd_problem *p)
{
    return hd_problem_set(p, 500, NULL, "no memory");
}

static int push_id(struct prompts *q, struct hd_ids *out, int64_t id)
{
    if (!HD_GROW(out->id, out->cap, out->n + 1, (size_t)1 << 28))
        return no_memory(q->p);
    out->id[out->n++] = (int32_t)id;
    return HD_OK;
}

static int add_text(struct prompts *q, const char *text, size_t n, struct hd_ids *out)
{
    struct hd_err err;

    if (hd_tokenize(hd_prep_tokenizer(q->s), text, n, q->parse_special ? HD_TOK_SPECIAL : 0, out, &err) < 0)
        return hd_problem_from(q->p, &err);
    return HD_OK;
}

static int add_string(struct prompts *q, const json_t *v, struct hd_ids *out)
{
    int32_t bos = hd_tokenizer_bos(q->s->tok);
    struct hd_ids text = {0};
    int rc = add_text(q, json_string_value(v), json_string_length(v), &text);

    if (rc == HD_OK && q->add_special && bos >= 0 && !(text.n && text.id[0] == bos))
        rc = push_id(q, out, bos);
    for (size_t i = 0; rc == HD_OK && i < text.n; i++)
        rc = push_id(q, out, text.id[i]);
    hd_ids_release(&text);
    return rc;
}

static int add_ids(struct prompts *q, const json_t *list, struct hd_ids *out)
{
    const json_t *v;
    size_t i;

    json_array_foreach((json_t *)list, i, v)
    {
        if (!json_is_integer(v))
            return hd_problem_set(q->p, 400, "prompt", "prompt: token %zu: expected an integer", i);
        if (json_integer_value(v) < 0 || json_integer_value(v) >= hd_tokenizer_size(q->s->tok))
            return hd_problem_set(q->p, 422, "prompt", "prompt: token %zu: found %lld; expected an id below %lld", i, (long long)json_integer_value(v),
                                  (long long)hd_tokenizer_size(q->s->tok));
        HD_TRY(push_id(q, out, json_integer_value(v)));
    }
    return HD_OK;
}

static int add_prompt(struct prompts *q, const json_t *v)
{
    struct hd_ids *out = &q->a->prompt[q->a->n_prompt++];

    if (json_is_string(v))
        return add_string(q, v, out);
    if (json_is_array(v))
        return add_ids(q, v, out);
    return hd_problem_set(q->p, 400, "prompt", "prompt: expected a string, token ids, or a list of them");
}

static int read_prompts(struct prompts *q)
{
    const json_t *v = json_object_get(q->a->body, "prompt"), *item;
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t i, n = many ? json_array_size(v) : 1;

    if (json_is_array(v) && !json_array_size(v))
        return hd_problem_set(q->p, 400, "prompt", "prompt: the list is empty");
    if (n > PROMPTS_MAX)
        return hd_problem_set(q->p, 400, "prompt", "prompt: found %zu; at most %d expected", n, PROMPTS_MAX);
    if (!(q->a->prompt = hd_calloc(n, sizeof *q->a->prompt)))
        return no_memory(q->p);
    if (!many)
        return add_prompt(q, v);
    json_array_foreach((json_t *)v, i, item) HD_TRY(add_prompt(q, item));
    return HD_OK;
}

/* PSM: begin, what stands before, hole, what stands behind, end. */
static int read_suffix(struct prompts *q)
{
    static const char *const names[] = {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};
    const json_t *prompt = json_object_get(q->a->body, "prompt"), *suffix = json_object_get(q->a->body, "suffix");
    struct hd_ids *out;
    int32_t id[3], bos = hd_tokenizer_bos(q->s->tok);

    if (!json_is_string(prompt) || !json_is_string(suffix))
        return hd_problem_set(q->p, 400, "suffix", "suffix: expected a string, and prompt one too");
    if (q->a->echo)
        return hd_problem_set(q->p, 400, "echo", "echo and suffix exclude each other");
    for (int i = 0; i < 3; i++)
        if ((id[i] = hd_tokenizer_find(q->s->tok, names[i])) < 0)
            return hd_problem_set(q->p, 400, "suffix", "suffix: this model's tokenizer has no fill-in-the-middle tokens");
    if (!(q->a->prompt = hd_calloc(1, sizeof *q->a->prompt)))
        return no_memory(q->p);
    q->a->n_prompt = 1;
    out = &q->a->prompt[0];
    if (bos >= 0)
        HD_TRY(push_id(q, out, bos));
    HD_TRY(push_id(q, out, id[0]));
    HD_TRY(add_text(q, json_string_value(prompt), json_string_length(prompt), out));
    HD_TRY(push_id(q, out, id[1]));
    HD_TRY(add_text(q, json_string_value(suffix), json_string_length(suffix), out));
    return push_id(q, out, id[2]);
}

/* ---- the request ---- */

static int read_request(struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    struct prompts q = {s, a, p, true, false};
    int64_t n_logprob = -1, best_of = -1;

    a->raw = true;
    HD_TRY(hd_ask_common(s, a, p));
    a->thinking = "off";
    HD_TRY(hd_field_bool(a->body, "echo", &a->echo, p));
    HD_TRY(hd_field_int(a->body, "logprobs", 0, HD_TOP_MAX, &n_logprob, p));
    HD_TRY(hd_field_int(a->body, "best_of", 1, INT32_MAX, &best_of, p));
    HD_TRY(hd_field_bool(a->body, "add_special_tokens", &q.add_special, p));
    HD_TRY(hd_field_bool(a->body, "parse_special", &q.parse_special, p));
    if (best_of >= 0 && best_of != a->n)
        return hd_problem_set(p, 422, "best_of", "best_of: found %lld; it must be n, which is %d", (long long)best_of, a->n);
    a->logprobs = n_logprob >= 0;
    a->n_top = n_logprob > 0 ? (int)n_logprob : 0;
    a->sample.n_logprob = a->logprobs ? a->n_top : -1;
    HD_TRY(hd_field(a->body, "suffix") ? read_suffix(&q) : read_prompts(&q));
    if (a->n_prompt * a->n > PROMPTS_MAX)
        return hd_problem_set(p, 422, "n", "n: %d prompts of %d choices each are more than %d", a->n_prompt, a->n, PROMPTS_MAX);
    if (a->echo && a->logprobs && a->n_max == 1)
        a->ignore_end = true;         /* who scores a prompt counts on exactly one token behind it */
    return HD_OK;
}

/* ---- the reply ---- */

static void put_usage(const struct hd_answer *a, struct hd_str *out)
{
    struct hd_usage u = hd_answer_usage(a);

    hd_str_printf(out,
                  "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,\"prompt_cache_hit_tokens\":%lld,\"prompt_cache_miss_tokens\":%lld,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
                  (long long)u.prompt, (long long)u.completion, (long long)(u.prompt + u.completion), (long long)u.cached, (long long)(u.prompt - u.cached), (long long)u.cached);
}

static void put_head(const struct hd_answer *a, struct hd_str *out)
{
    hd_str_printf(out, "{\"id\":\"cmpl-%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":", a->id, (long long)a->created);
    hd_str_json(out, a->ask.model, strlen(a->ask.model));
    hd_str_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", a->server->fingerprint);
}

static void prompt_text(const struct hd_choice *c, struct hd_str *out)
{
    const struct hd_ids *ids = &c->answer->ask.prompt[c->prompt];

    hd_detokenize(c->answer->server->tok, ids->id, ids->n, false, out);
}

/* What a table of logprobs is made from: the prompt's tokens if they are echoed, then the answer's from line `from`. */
struct table {
    const struct hd_choice *c;
    bool echo;
    size_t from;
};

static size_t n_echo(const struct table *t)
{
    return t->echo ? t->c->answer->ask.prompt[t->c->prompt].n : 0;
}

static size_t n_row(const struct table *t)
{
    return n_echo(t) + t->c->content_picks.n - t->from;
}

/* The row's pick, or NULL for the first token of a prompt, which nothing has predicted. */
static const struct hd_pick_line *row(const struct table *t, size_t i, int32_t *id)
{
    const struct hd_pick_line *line = NULL;

    if (i < n_echo(t)) {
        *id = t->c->answer->ask.prompt[t->c->prompt].id[i];
        return i > 0 && i - 1 < t->c->prompt_picks.n ? &t->c->prompt_picks.line[i - 1] : NULL;
    }
    line = &t->c->content_picks.line[t->from + i - n_echo(t)];
    *id = line->id;
    return line;
}

static void put_top(const struct hd_server *s, const struct hd_pick_line *p, struct hd_str *out)
{
    bool own = false;
    int n = 0;

    hd_str_putc(out, '{');
    for (int k = 0; k < p->n_top; k++) {
        own |= p->top_id[k] == p->id;
        hd_str_puts(out, n++ ? "," : "");
        hd_logprob_token(s, p->top_id[k], out);
        hd_str_putc(out, ':');
        hd_logprob_value(p->top_logprob[k], out);
    }
    if (!own) {
        hd_str_puts(out, n ? "," : "");
        hd_logprob_token(s, p->id, out);
        hd_str_putc(out, ':');
        hd_logprob_value(p->logprob, out);
    }
    hd_str_putc(out, '}');
}

/* Offsets count characters; a character that is cut between two tokens belongs to the first. *offset goes on from chunk to chunk. */
static void put_offsets(const struct table *t, int *offset, struct hd_str *out)
{
    int32_t id;

    for (size_t i = 0; i < n_row(t); i++) {
        struct hd_view v;

        hd_str_printf(out, i ? ",%d" : "%d", *offset);
        row(t, i, &id);
        v = hd_token_text(t->c->answer->server->tok, id, false);
        for (size_t k = 0; k < v.n; k++)
            *offset += ((unsigned char)v.p[k] & 0xC0) != 0x80;
    }
}

static void put_logprobs(struct hd_choice *c, bool echo, struct hd_str *out)
{
    const struct hd_server *s = c->answer->server;
    struct table t = {c, echo, c->content_picks.n_shown};
    const struct hd_pick_line *p;
    int32_t id;

    if (!c->answer->ask.logprobs) {
        hd_str_puts(out, ",\"logprobs\":null");
        return;
    }
    hd_str_puts(out, ",\"logprobs\":{\"tokens\":[");
    for (size_t i = 0; i < n_row(&t); i++) {
        hd_str_puts(out, i ? "," : "");
        row(&t, i, &id);
        hd_logprob_token(s, id, out);
    }
    hd_str_puts(out, "],\"token_logprobs\":[");
    for (size_t i = 0; i < n_row(&t); i++) {
        hd_str_puts(out, i ? "," : "");
        if ((p = row(&t, i, &id)))
            hd_logprob_value(p->logprob, out);
        else
            hd_str_puts(out, "null");
    }
    hd_str_puts(out, "],\"top_logprobs\":[");
    for (size_t i = 0; i < n_row(&t); i++) {
        hd_str_puts(out, i ? "," : "");
        if ((p = row(&t, i, &id)))
            put_top(s, p, out);
        else
            hd_str_puts(out, "null");
    }
    hd_str_puts(out, "],\"text_offset\":[");
    put_offsets(&t, &c->item, out);
    hd_str_puts(out, "]}");
    c->content_picks.n_shown = c->content_picks.n;
}

/* A choice with this text; finish NULL: more is to come. */
static void put_choice(struct hd_choice *c, struct hd_view text, const char *finish, struct hd_str *out)
{
    bool echo = c->answer->ask.echo && !c->began;
    struct hd_str all;

    hd_str_init(&all, 0);
    if (echo)
        prompt_text(c, &all);
    hd_str_add(&all, text.p, text.n);
    c->began = true;
    hd_str_printf(out, "{\"index\":%d,\"text\":", c->index);
    hd_str_json(out, hd_str_get(&all), all.n);
    put_logprobs(c, echo, out);
    if (finish)
        hd_str_printf(out, ",\"finish_reason\":\"%s\"}", finish);
    else
        hd_str_puts(out, ",\"finish_reason\":null}");
    hd_str_release(&all);
}

static void put_chunk(struct hd_choice *c, struct hd_view text, const char *finish, struct hd_str *out)
{
    struct hd_answer *a = c->answer;

    hd_str_puts(out, "data: ");
    put_head(a, out);
    put_choice(c, text, finish, out);
    hd_str_puts(out, "]");
    if (a->ask.include_usage) {
        hd_str_puts(out, ",\"usage\":null");
    } else if (finish && !a->n_open) {
        hd_str_putc(out, ',');
        put_usage(a, out);
        hd_answer_timings(a, out);
    }
    hd_str_puts(out, "}\n\n");
}

static void on_text(struct hd_choice *c, bool reasoning, struct hd_view text, struct hd_str *out)
{
    put_chunk(c, text, NULL, out);
}

static void on_finish(struct hd_choice *c, struct hd_str *out)
{
    put_chunk(c, (struct hd_view){"", 0}, c->finish, out);
}

static void on_end(struct hd_answer *a, struct hd_str *out)
{
    if (a->ask.include_usage) {
        hd_str_puts(out, "data: ");
        put_head(a, out);
        hd_str_puts(out, "],");
        put_usage(a, out);
        hd_answer_timings(a, out);
        hd_str_puts(out, "}\n\n");
    }
    hd_str_puts(out, "data: [DONE]\n\n");
}

static void on_error(struct hd_answer *a, const struct hd_problem *p, struct hd_str *out)
{
    hd_str_puts(out, "data: ");
    hd_problem_json(p, false, "", out);
    hd_str_puts(out, "\n\n");
}

static void on_whole(struct hd_answer *a, struct hd_str *out)
{
    put_head(a, out);
    for (int i = 0; i < a->n_choice; i++) {
        struct hd_choice *c = &a->choice[i];

        hd_str_puts(out, i ? "," : "");
        put_choice(c, (struct hd_view){hd_str_get(&c->content), c->content.n}, c->finish, out);
    }
    hd_str_puts(out, "],");
    put_usage(a, out);
    hd_answer_timings(a, out);
    hd_str_puts(out, "}");
}

static const struct hd_shape completion_shape = {.name = "completions",
                                                 .alive = ": keep-alive\n\n",
                                                 .text = on_text,
                                                 .finish = on_finish,
                                                 .end = on_end,
                                                 .whole = on_whole,
                                                 .error = on_error};

static int prepare(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    json_t *body = hd_body_json(x, p);

    hd_ask_init(a, x, body);
    if (!body)
        return HD_ERR_USAGE;
    HD_TRY(read_request(s, a, p));
    return hd_ask_fit(s, a, p);
}

static void done(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    hd_answer_or_refuse(s, x, rc, a, &completion_shape, p);
}

void hd_api_completions(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {prepare, done, NULL};

    hd_prep(s, x, &kind);
}
