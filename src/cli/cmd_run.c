/* cmd_run.c: hadal run: one answer, or a chat when no prompt is given. */
#include <histedit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "engine/generate.h"
#include "token/chat.h"
#include "token/parse.h"

struct job {
    const struct hd_args *args;
    struct hd_engine engine;
    struct hd_experts_stats disk;     /* at the end of the last answer */
    struct hd_session session;
    struct hd_tokenizer *tok;
    struct hd_sampler sampler;
    struct hd_speculate speculate;
    struct hd_roofline roof;
    struct hd_str answer, reasoning;  /* of this turn */
    bool quiet, json, show_progress, failed;
    enum hd_parse_family family;      /* PLAIN: the answer is all that comes */
    enum hd_parse_start start;        /* where the prompt left the model */
    struct hd_parse parse;
    struct hd_text_stream stream;     /* of the content: stop strings are looked for in it only */
    struct hd_err parse_err;
};

static bool on_loading(void *arg, int64_t done, int64_t total)
{
    const struct job *j = arg;

    if (j->show_progress)
        fprintf(stderr, "\rloading %s %3d %%", hd_path_base(j->args->positional[0]), (int)(100 * done / total));
    return !hd_interrupted;
}

static bool on_progress(void *arg, int64_t done, int64_t total)
{
    struct job *j = arg;

    if (j->show_progress && total > j->engine.opt.chunk)
        fprintf(stderr, "\rprefill %lld / %lld tokens%s", (long long)done, (long long)total, done == total ? "\r\033[K" : "");
    return !hd_interrupted;
}

static bool on_text(void *arg, const char *p, size_t n, const struct hd_pick *pick)
{
    struct job *j = arg;
    struct hd_err err;

    hd_str_add(&j->answer, p, n);
    if (j->json)
        return true;
    hd_out_text(p, n);
    if (hd_out_flush(&err) < 0)
        j->failed = true;
    return !j->failed;
}

/* Reasoning goes to stderr, dimmed on a terminal; the answer alone to stdout. */
static void show_reasoning(struct job *j, const char *p, size_t n)
{
    hd_str_add(&j->reasoning, p, n);
    if (j->quiet || j->json)
        return;
    fputs(isatty(2) ? "\033[2m" : "", stderr);
    fwrite(p, 1, n, stderr);
    fputs(isatty(2) ? "\033[22m" : "", stderr);
}

static void end_reasoning(struct job *j)
{
    if (j->reasoning.n && !j->answer.n && !j->quiet && !j->json)
        fprintf(stderr, "\n\n");
}

static int on_event(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    struct job *j = arg;
    struct hd_str ready;

    if (e->kind == HD_PARSE_REASONING)
        show_reasoning(j, e->text.p, e->text.n);
    if (e->kind != HD_PARSE_CONTENT && e->kind != HD_PARSE_END)
        return HD_OK;
    hd_str_init(&ready, 0);
    if (e->kind == HD_PARSE_CONTENT)
        hd_text_stream_push_text(&j->stream, e->text.p, e->text.n, &ready);
    else
        hd_text_stream_finish(&j->stream, &ready);
    if (ready.n) {
        end_reasoning(j);
        on_text(j, ready.s, ready.n, NULL);
    }
    hd_str_release(&ready);
    return HD_OK;
}

static bool on_token(void *arg, int32_t id)
{
    struct job *j = arg;

    return hd_parse_token(&j->parse, id, &j->parse_err) == HD_OK && !j->stream.stopped && !j->failed;
}

static bool on_cancelled(void *arg)
{
    return hd_interrupted != 0;
}

static void closing_line(struct job *j, const struct hd_generate *g)
{
    static const char *const why[] = {"length", "end", "stop", "interrupted", "context full"};
    double tps = g->decode_s > 0 ? (double)g->n_decoded / g->decode_s : 0;
    char drafts[120] = "";

    if (j->quiet || j->json)
        return;
    if (g->n_drafted)
        snprintf(drafts, sizeof drafts, "; %lld of %lld guesses stood, %.2f tokens a step", (long long)g->n_accepted, (long long)g->n_drafted,
                 (double)g->n_decoded / (double)g->n_step);
    fprintf(stderr, "%s[prompt %lld tokens at %.0f tok/s; answer %lld tokens at %.1f tok/s, %.2f of the roofline%s; %s]\n",
            j->answer.n && j->answer.s[j->answer.n - 1] == '\n' ? "" : "\n", (long long)g->n_prompt, g->prefill_s > 0 ? (double)g->n_prompt / g->prefill_s : 0,
            (long long)g->n_generated, tps, g->n_step ? hd_roofline_seconds(&j->roof, &g->decode_cost) / g->decode_s : 0, drafts, why[g->finish]);
    if (j->engine.experts) {
        struct hd_experts_stats now;

        hd_experts_stats(j->engine.experts, &now);
        hd_cli_disk_line(&j->disk, &now, g->prefill_s + g->decode_s);
        j->disk = now;
    }
}

static int answer(struct job *j, const struct hd_ids *ids, struct hd_generate *g, struct hd_err *err)
{
    int rc;

    *g = (struct hd_generate){.session = &j->session,
                              .tok = j->tok,
                              .sampler = &j->sampler,
                              .prompt = ids->id,
                              .n_prompt = (int64_t)ids->n,
                              .n_max = hd_args_int(j->args, "n-predict", -1),
                              .stop = j->args->list,
                              .n_stop = j->args->n_list,
                              .progress = on_progress,
                              .text = on_text,
                              .cancelled = on_cancelled,
                              .speculate = &j->speculate,
                              .arg = j};
    hd_str_reset(&j->answer);
    hd_str_reset(&j->reasoning);
    if (j->family == HD_PARSE_PLAIN)
        return hd_generate(g, err);
    hd_parse_init(&j->parse, &(struct hd_parse_options){.family = j->family, .start = j->start, .no_tools = true, .tok = j->tok, .event = on_event, .arg = j});
    hd_text_stream_init(&j->stream, j->tok, g->stop, g->n_stop);
    g->token = on_token;
    rc = hd_generate(g, err);
    if (rc == HD_OK)
        rc = hd_parse_finish(&j->parse, g->finish == HD_FINISH_END, err);
    hd_text_stream_release(&j->stream);
    return rc;
}

static int put_prompt(struct job *j, const json_t *doc, const char *raw, size_t n_raw, struct hd_ids *ids, struct hd_err *err)
{
    struct hd_chat_options opt = {.thinking = hd_args_text(j->args, "thinking", hd_tokenizer_thinking(j->tok))};
    struct hd_chat_text c;
    int rc;

    j->family = HD_PARSE_PLAIN;
    if (!doc)
        return hd_tokenize(j->tok, raw, n_raw, 0, ids, err);
    hd_chat_text_init(&c);
    rc = hd_chat_render(j->tok, doc, &opt, &c, err);
    if (rc == HD_OK)
        rc = hd_chat_ids(j->tok, &c, ids, err);
    j->family = hd_parse_family(hd_chat_family(j->tok));
    j->start = hd_parse_start(j->family, hd_str_get(&c.text), c.text.n);
    hd_chat_text_release(&c);
    return rc;
}

static void print_json(const struct job *j, const struct hd_generate *g)
{
    static const char *const why[] = {"length", "end", "stop", "cancelled", "context"};
    struct hd_str s;

    hd_str_init(&s, 0);
    hd_str_puts(&s, "{\"text\": ");
    hd_str_json(&s, hd_str_get(&j->answer), j->answer.n);
    if (j->reasoning.n) {
        hd_str_puts(&s, ", \"reasoning\": ");
        hd_str_json(&s, hd_str_get(&j->reasoning), j->reasoning.n);
    }
    hd_str_printf(&s, ", \"finish\": \"%s\", \"prompt_tokens\": %lld, \"tokens\": %lld, \"prefill_tps\": %.2f, \"decode_tps\": %.2f, \"steps\": %lld, \"drafted\": %lld, \"accepted\": %lld, \"ids\": [", why[g->finish],
                  (long long)g->n_prompt, (long long)g->n_generated, (double)g->n_prompt / (g->prefill_s > 0 ? g->prefill_s : 1),
                  (double)g->n_decoded / (g->decode_s > 0 ? g->decode_s : 1), (long long)g->n_step, (long long)g->n_drafted, (long long)g->n_accepted);
    for (size_t i = (size_t)g->n_prompt; i < j->session.n; i++)
        hd_str_printf(&s, "%s%d", i > (size_t)g->n_prompt ? "," : "", j->session.ids[i]);
    hd_str_puts(&s, "]");
    if (j->engine.experts) {
        struct hd_experts_stats d;

        hd_experts_stats(j->engine.experts, &d);
        hd_str_printf(&s, ", \"disk\": {\"hits\": %lld, \"misses\": %lld, \"late\": %lld, \"ahead\": %lld, \"ahead_used\": %lld, \"experts_read\": %lld, \"bytes\": %lld, \"rows\": %lld, "
                          "\"row_bytes\": %lld, \"damaged\": %lld, \"wait_s\": %.3f, \"read_s\": %.3f, \"pack_s\": %.3f}",
                      (long long)d.hit, (long long)d.miss, (long long)d.late, (long long)d.ahead, (long long)d.ahead_used, (long long)d.n_read, (long long)d.bytes,
                      (long long)d.n_row, (long long)d.row_bytes, (long long)d.n_damaged, d.wait_s, d.read_s, d.pack_s);
    }
    hd_str_puts(&s, "}\n");
    hd_out_text(hd_str_get(&s), s.n);
    hd_str_release(&s);
}

static int one_answer(struct job *j, const char *text, size_t n, struct hd_err *err)
{
    const char *system = hd_args_text(j->args, "system", NULL), *role[2] = {"system", "user"}, *content[2] = {system, text};
    bool raw = hd_args_has(j->args, "raw");
    json_t *doc = raw ? NULL : hd_chat_messages(role + !system, content + !system, 1 + (system != NULL));
    struct hd_generate g;
    struct hd_ids ids = {0};
    int rc;

    if (!raw && !doc)
        return hd_err_set(err, HD_ERR_FORMAT, "the prompt is not valid UTF-8 (--raw takes any bytes)");
    rc = put_prompt(j, doc, text, n, &ids, err);
    if (rc == HD_OK)
        rc = answer(j, &ids, &g, err);
    if (rc == HD_OK && j->json)
        print_json(j, &g);
    if (rc == HD_OK && !j->failed)
        closing_line(j, &g);
    hd_ids_release(&ids);
    if (doc)
        json_decref(doc);
    return rc;
}

/* ---- chat ---- */

static char *prompt_text(EditLine *el)
{
    return "> ";
}

static void add_message(json_t *doc, const char *role, const char *p, size_t n)
{
    json_array_append_new(json_object_get(doc, "messages"), json_pack("{s:s, s:s%}", "role", role, "content", p, n));
}

/* Keeps what the cache already holds of the new prompt, feeds the rest. */
static int turn(struct job *j, json_t *doc, struct hd_err *err)
{
    struct hd_generate g;
    struct hd_ids ids = {0}, rest;
    size_t same = 0;
    int rc = put_prompt(j, doc, NULL, 0, &ids, err);

    if (rc == HD_OK) {
        while (same < j->session.n && same + 1 < ids.n && j->session.ids[same] == ids.id[same])
            same++;
        rc = hd_session_rewind(&j->session, (int64_t)same, err);
    }
    if (rc == HD_OK) {
        rest = (struct hd_ids){ids.id + same, ids.n - same, 0};
        rc = answer(j, &rest, &g, err);
    }
    if (rc == HD_OK) {
        add_message(doc, "assistant", hd_str_get(&j->answer), j->answer.n);
        if (j->reasoning.n)
            json_object_set_new(json_array_get(json_object_get(doc, "messages"), json_array_size(json_object_get(doc, "messages")) - 1), "reasoning_content",
                                json_stringn(hd_str_get(&j->reasoning), j->reasoning.n));
        closing_line(j, &g);
    }
    hd_ids_release(&ids);
    return rc;
}

static int chat(struct job *j, struct hd_err *err)
{
    EditLine *el = el_init("hadal", stdin, stdout, stderr);
    History *h = history_init();
    HistEvent ev;
    json_t *doc = hd_chat_messages(NULL, NULL, 0);
    const char *system = hd_args_text(j->args, "system", NULL), *line;
    int n, rc = HD_OK;

    if (!el || !h || !doc) {
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for line editing");
        goto out;
    }
    history(h, &ev, H_SETSIZE, 500);
    el_set(el, EL_PROMPT, prompt_text);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_HIST, history, h);
    el_set(el, EL_SIGNAL, 0);
    if (system)
        add_message(doc, "system", system, strlen(system));
    if (!j->quiet)
        fprintf(stderr, "Ctrl-C ends an answer, Ctrl-D the chat; /new starts over.\n");
    while (rc == HD_OK && !j->failed) {
        hd_interrupted = 0;
        line = el_gets(el, &n);
        if (!line) {
            if (hd_interrupted)
                continue;
            break;
        }
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n == 0)
            continue;
        history(h, &ev, H_ENTER, line);
        if (n == 4 && !memcmp(line, "/new", 4)) {
            json_array_clear(json_object_get(doc, "messages"));
            if (system)
                add_message(doc, "system", system, strlen(system));
            continue;
        }
        add_message(doc, "user", line, (size_t)n);
        rc = turn(j, doc, err);
        if (rc == HD_ERR_LIMIT) {     /* no room for it: what was said before stays */
            fprintf(stderr, "%s; /new starts over\n", err->msg);
            json_array_remove(json_object_get(doc, "messages"), json_array_size(json_object_get(doc, "messages")) - 1);
        }
        if (rc == HD_ERR_CANCELLED || rc == HD_ERR_LIMIT)
            rc = HD_OK;
    }
out:
    if (doc)
        json_decref(doc);
    if (h)
        history_end(h);
    if (el)
        el_end(el);
    return rc;
}

/* ---- set-up ---- */

static int parse_bias(const char *s, struct hd_logit_bias *out, int max, struct hd_err *err)
{
    int n = 0;

    while (s && *s) {
        char *end, *end2 = NULL;
        long id = strtol(s, &end, 10);
        float b = *end == ':' ? strtof(end + 1, &end2) : 0;

        if (end == s || !end2 || end2 == end + 1 || (*end2 && *end2 != ',') || n == max)
            return hd_err_set(err, HD_ERR_USAGE, "--logit-bias: found \"%.40s\"; expected at most %d of ID:BIAS with commas between", s, max);
        out[n++] = (struct hd_logit_bias){(int32_t)id, b};
        s = *end2 ? end2 + 1 : end2;
    }
    return n;
}

static int open_sampler(struct job *j, struct hd_logit_bias *bias, struct hd_err *err)
{
    const struct hd_args *a = j->args;
    struct hd_sample_params p;

    hd_sample_defaults(&p);
    HD_TRY(p.n_bias = parse_bias(hd_args_text(a, "logit-bias", NULL), bias, 64, err));
    p.bias = bias;
    p.temperature = hd_args_real(a, "temp", 0.7);
    p.top_k = hd_args_int(a, "top-k", 0);
    p.top_p = hd_args_real(a, "top-p", 1);
    p.min_p = hd_args_real(a, "min-p", 0.05);
    p.repetition = hd_args_real(a, "repeat-penalty", 1);
    p.presence = hd_args_real(a, "presence-penalty", 0);
    p.frequency = hd_args_real(a, "frequency-penalty", 0);
    p.seed = (uint64_t)hd_args_int(a, "seed", (int64_t)(hd_now() * 1e6));
    return hd_sampler_init(&j->sampler, &p, j->engine.model.hp.n_vocab, err);
}

static int read_prompt(const struct hd_args *a, char **data, const char **text, size_t *n, struct hd_err *err)
{
    const char *file = hd_args_text(a, "file", NULL);

    *text = hd_args_text(a, "prompt", NULL);
    *n = *text ? strlen(*text) : 0;
    if (!file)
        return HD_OK;
    if (*text)
        return hd_err_set(err, HD_ERR_USAGE, "-p and -f exclude each other");
    HD_TRY(hd_file_read(file, (size_t)1 << 28, data, n, err));
    *text = *data;
    return HD_OK;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    struct hd_logit_bias bias[64];
    struct job j = {.args = a, .quiet = hd_args_has(a, "quiet"), .json = hd_args_has(a, "json")};
    struct hd_speculate_options so;
    struct hd_engine_options o;
    const char *text;
    char *data = NULL;
    size_t n;
    int rc;

    hd_str_init(&j.answer, 0);
    hd_str_init(&j.reasoning, 0);
    j.show_progress = !j.quiet && isatty(2);
    HD_TRY(hd_engine_args(a, &o, err));
    HD_TRY(hd_draft_args(a, &o, &so, err));
    HD_TRY(read_prompt(a, &data, &text, &n, err));
    if (!text && hd_args_has(a, "raw")) {
        rc = hd_err_set(err, HD_ERR_USAGE, "--raw needs a prompt (-p or -f)");
        goto out;
    }
    if (j.show_progress)
        fprintf(stderr, "loading %s\r", hd_path_base(a->positional[0]));
    o.loading = on_loading;
    o.loading_arg = &j;
    o.planned = j.quiet ? NULL : hd_cli_planned;
    if ((rc = hd_engine_open(&j.engine, a->positional[0], &o, err)) < 0)
        goto out;
    if (j.show_progress)
        fprintf(stderr, "\r\033[K");
    rc = o.n_ctx > j.engine.model.hp.n_ctx ? hd_err_set(err, HD_ERR_USAGE, "--ctx %lld: the model's context is %lld tokens", (long long)o.n_ctx,
                                                        (long long)j.engine.model.hp.n_ctx)
                                           : HD_OK;
    if (rc == HD_OK)
        rc = hd_model_tokenizer(&j.tok, a->positional[0], err);
    if (rc == HD_OK && hd_tokenizer_size(j.tok) > j.engine.model.hp.n_vocab)
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: the tokenizer has %lld tokens, the model %lld", a->positional[0], (long long)hd_tokenizer_size(j.tok),
                        (long long)j.engine.model.hp.n_vocab);
    if (rc == HD_OK)
        rc = hd_speculate_init(&j.speculate, &j.engine, &so, err);
    if (rc == HD_OK)
        rc = open_sampler(&j, bias, err);
    if (rc == HD_OK)
        rc = hd_roofline_measure(&j.roof, j.engine.pool, err);
    if (rc == HD_OK)
        rc = hd_session_open(&j.session, &j.engine, err);
    if (rc == HD_OK) {
        rc = text ? one_answer(&j, text, n, err) : chat(&j, err);
        hd_session_close(&j.session);
    }
    hd_sampler_release(&j.sampler);
    hd_tokenizer_free(j.tok);
    hd_engine_close(&j.engine);
out:
    hd_str_release(&j.answer);
    hd_str_release(&j.reasoning);
    hd_free(data);
    return rc;
}

static const struct hd_opt opts[] = {
    {"prompt", 'p', HD_OPT_TEXT, "TEXT", 0, 0, "the prompt; without one a chat begins"},
    {"file", 'f', HD_OPT_TEXT, "FILE", 0, 0, "the prompt, from a file"},
    {"n-predict", 'n', HD_OPT_INT, "N", 0, 1e9, "most tokens of an answer (default: until the model ends or the context is full)"},
    {"system", 's', HD_OPT_TEXT, "TEXT", 0, 0, "system message (default: the template's own)"},
    {"raw", 0, HD_OPT_FLAG, NULL, 0, 0, "take the prompt as it is, without the chat template"},
    {"thinking", 0, HD_OPT_TEXT, "LEVEL", 0, 0, "reasoning before the answer, where the model knows it: off, on, low, high or max (default: what generation_config.json says, else off); shown on stderr"},
    {"temp", 0, HD_OPT_REAL, "T", 0, 100, "temperature; 0 takes the most probable token (default 0.7)"},
    {"top-k", 0, HD_OPT_INT, "K", 0, 1e9, "only the K most probable (default 0: off)"},
    {"top-p", 0, HD_OPT_REAL, "P", 0, 1, "only the smallest set of mass P (default 1: off)"},
    {"min-p", 0, HD_OPT_REAL, "P", 0, 1, "only those of at least P times the best (default 0.05)"},
    {"repeat-penalty", 0, HD_OPT_REAL, "R", 0, 100, "divide logits of tokens seen (default 1: off)"},
    {"presence-penalty", 0, HD_OPT_REAL, "P", -2, 2, "subtract once for tokens seen (default 0)"},
    {"frequency-penalty", 0, HD_OPT_REAL, "F", -2, 2, "subtract for each occurrence (default 0)"},
    {"logit-bias", 0, HD_OPT_TEXT, "ID:B,...", 0, 0, "add B to a token's logit"},
    {"seed", 0, HD_OPT_INT, "N", 0, 9e15, "random seed: the same seed gives the same answer"},
    HD_OPT_DRAFT,
    {"stop", 0, HD_OPT_LIST, "TEXT", 0, 0, "end the answer before this text; may be repeated"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_run = {"run", "one answer, or a chat", "run MODEL [-p TEXT] [-n N] [--temp T]",
                                  "Writes only the answer to stdout. Without a prompt a chat with line editing and history begins.", opts, HD_LEN(opts), 1, run, NULL};
