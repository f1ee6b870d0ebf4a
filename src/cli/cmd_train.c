/* cmd_train.c: hadal train: a model from a configuration and text, with what a person wants to see while it learns. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/print_profile.h"
#include "engine/generate.h"
#include "train/ngram_loss.h"
#include "train/train_log.h"

struct progress {
    struct hd_train_run r;
    struct hd_train_log log;
    double peak_gflops;               /* of the FMA probe, the whole team; 0: not measured */
    double began, took;               /* seconds of steps alone, since began */
    int64_t first_step;
    bool tty, quiet, ended;           /* ended: the last step was taken and saved */
};

/* ---- before the start ---- */

static int print_data(const struct hd_train_run *r, struct hd_err *err)
{
    struct hd_data_report d;

    HD_TRY(hd_data_look(&r->train, r->c.hp.context, &d, err));
    fprintf(stderr, "%lld documents, the longest of %lld tokens: %lld are cut, %lld are like another; %.1f %% of all tokens are no targets\n", (long long)d.n_doc, (long long)d.longest,
            (long long)d.n_cut, (long long)d.n_same, 100.0 * (double)d.n_skip / (double)(d.n_tok ? d.n_tok : 1));
    return HD_OK;
}

/* The first document as the model gets it: what is no target in brackets. */
static void print_preview(const struct hd_data *d, const struct hd_tokenizer *tok, bool tty)
{
    const char *on = tty ? "\033[2m" : "[", *off = tty ? "\033[0m" : "]";
    int64_t n = d->n_doc ? d->doc[1] - d->doc[0] : 0;
    struct hd_str out;
    bool open = false;

    hd_str_init(&out, 1 << 20);
    for (int64_t i = 0; i < n && i < 256; i++) {
        bool skip = d->skip && d->skip[i];

        if (skip != open)
            hd_str_puts(&out, skip ? on : off);
        open = skip;
        hd_detokenize(tok, d->id + i, 1, true, &out);
    }
    fprintf(stderr, "the first: %s%s%s\n", hd_str_get(&out), open ? off : "", n > 256 ? " ..." : "");
    hd_str_release(&out);
}

static int print_plan(const struct progress *p, bool preview, struct hd_err *err)
{
    const struct hd_train_run *r = &p->r;
    const struct hd_trainer_plan *plan = &r->plan;
    char total[32], free_now[32], w[32], o[32], s[32], c[32], n[32], a[32];
    struct hd_counts count;

    hd_model_count(&r->m, &count);
    fprintf(stderr, "%s: %s parameters, %s active; %lld training and %lld validation tokens\n", r->c.out, hd_fmt_count(n, count.total), hd_fmt_count(a, count.active),
            (long long)r->train.n, (long long)r->val.n);
    if (!r->c.task.n_stage)
        HD_TRY(print_data(r, err));
    if (preview && r->tok)
        print_preview(&r->train, r->tok, p->tty);
    fprintf(stderr, "needs %s: weights and gradients %s, optimiser %s, a step %s, cache %s; %s are free\n", hd_fmt_bytes(total, plan->total), hd_fmt_bytes(w, plan->weights),
            hd_fmt_bytes(o, plan->optim), hd_fmt_bytes(s, plan->step + plan->kept), hd_fmt_bytes(c, plan->cache), hd_fmt_bytes(free_now, hd_mem_available()));
    if (r->c.hp.again)
        fprintf(stderr, "layers are computed again on the way back%s\n", r->c.again_if_needed ? ": what they make would not fit otherwise" : "");
    if (r->c.hp.bf16)
        fprintf(stderr, "products round their operands to bf16%s\n", hd_backend_cpu_bf16() ? "" : ", which is no faster here: this processor multiplies bf16 as f32 (AVX512_BF16 would be about twice as fast)");
    if (r->c.teacher)
        fprintf(stderr, "teacher %s: %.3g of the loss, against its %lld likeliest ids a token\n", r->c.teacher, r->c.teacher_share, (long long)r->teacher.top);
    if (p->peak_gflops > 0)
        fprintf(stderr, "%lld steps of %lld tokens, %.3g TFLOP each: %.0f minutes at half of the FMA probe's %.0f GF/s\n", (long long)r->c.schedule.n_step,
                (long long)r->c.step_tokens, 3e-12 * plan->flops * (double)r->c.step_tokens / (double)r->c.hp.batch_tokens,
                3e-9 * plan->flops * (double)r->c.step_tokens / (double)r->c.hp.batch_tokens * (double)(r->c.schedule.n_step - r->step) / (p->peak_gflops / 2) / 60, p->peak_gflops);
    return HD_OK;
}

/* ---- while it runs ---- */

static void print_step(const struct progress *p, const struct hd_step_result *s, double lr, double seconds)
{
    const struct hd_train_run *r = &p->r;
    double gflops = 1e-9 * s->flops / seconds, mean = p->took / (double)(r->step - p->first_step);
    int64_t left = (int64_t)(mean * (double)(r->c.schedule.n_step - r->step)), left_max = (int64_t)(60 * r->c.schedule.minutes - r->seconds - (hd_now() - r->since));
    static const char *const kind[HD_LEARN_KINDS] = {"index", "draft", "confidence", "z"};
    char share[32] = "", vio[32] = "", learnt[192] = "";

    if (r->c.schedule.minutes > 0 && left_max < left)
        left = left_max > 0 ? left_max : 0;
    if (p->peak_gflops > 0)
        snprintf(share, sizeof share, " (%.0f %% of peak)", 100 * gflops / p->peak_gflops);
    if (r->trainer.balance.n_gate)
        snprintf(vio, sizeof vio, "  maxvio %.2f (lately %.2f)", s->max_vio, s->max_vio_window);
    for (int k = 0; k < HD_LEARN_KINDS; k++)
        if (s->learnt[k] != 0)
            snprintf(learnt + strlen(learnt), sizeof learnt - strlen(learnt), "  %s %.4f", kind[k], s->learnt[k]);
    if (r->c.task.n_stage)
        snprintf(learnt + strlen(learnt), sizeof learnt - strlen(learnt), "  stage %d (%lld tokens) right %.1f %%", r->c.task.at, (long long)r->c.task.stage[r->c.task.at].size.n_tok, 100 * r->c.task.running);
    fprintf(stderr, "%sstep %lld/%lld  loss %.4f%s  smooth %.4f  norm %.3g  lr %.3g  %.0f tok/s  %.0f GF/s%s%s  %lld:%02lld:%02lld left%s", p->tty ? "\r\033[K" : "", (long long)r->step,
            (long long)r->c.schedule.n_step, s->loss, learnt, r->smooth, s->grad_norm, lr, (double)s->n_tok / seconds, gflops, share, vio, (long long)(left / 3600),
            (long long)(left / 60 % 60), (long long)(left % 60), p->tty ? "" : "\n");
    fflush(stderr);
}

static bool collect(void *arg, const char *text, size_t n, const struct hd_pick *pick)
{
    hd_str_add(arg, text, n);
    return !hd_interrupted;
}

/* What the saved model writes after the prompt. */
static int sample(const struct progress *p, struct hd_str *out, struct hd_err *err)
{
    const struct hd_train_config *c = &p->r.c;
    struct hd_engine_options opt = {.n_thread = hd_pool_threads(p->r.pool), .exact = HD_EXACT_F32, .kv = HD_KV_F32};
    struct hd_sample_params params;
    struct hd_sampler sampler;
    struct hd_session session;
    struct hd_ids ids = {0};
    struct hd_engine e;
    int rc;

    opt.n_ctx = c->hp.context + c->sample_tokens + 64;
    hd_sample_defaults(&params);
    params.temperature = 0.8;
    params.n_logprob = -1;
    params.seed = c->seed;
    HD_TRY(hd_engine_open(&e, c->out, &opt, err));
    rc = hd_session_open(&session, &e, err);
    if (rc == HD_OK) {
        rc = hd_tokenize(p->r.tok, c->sample_prompt, strlen(c->sample_prompt), 0, &ids, err);
        if (rc == HD_OK && !ids.n)
            rc = hd_err_set(err, HD_ERR_USAGE, "sample.prompt: has no tokens");
        if (rc == HD_OK)
            rc = hd_sampler_init(&sampler, &params, e.model.hp.n_vocab, err);
        if (rc == HD_OK) {
            struct hd_generate g = {.session = &session, .tok = p->r.tok, .sampler = &sampler, .prompt = ids.id, .n_prompt = (int64_t)ids.n, .n_max = c->sample_tokens, .text = collect, .arg = out};

            rc = hd_generate(&g, err);
            hd_sampler_release(&sampler);
        }
        hd_session_close(&session);
    }
    hd_ids_release(&ids);
    hd_engine_close(&e);
    return rc;
}

static int show_sample(const struct progress *p, struct hd_err *err)
{
    struct hd_str text;
    int rc;

    hd_str_init(&text, 1 << 20);
    rc = sample(p, &text, err);
    if (rc == HD_OK)
        fprintf(stderr, "---- %s%s\n----\n", p->r.c.sample_prompt, hd_str_get(&text));
    hd_str_release(&text);
    return rc;
}

/* Validation; best: it was the least so far. */
static int evaluate(struct progress *p, bool *best, struct hd_err *err)
{
    struct hd_eval_result e;
    char beside[48] = "", vio[32] = "";

    HD_TRY(hd_train_run_eval(&p->r, &e, err));
    hd_train_log_eval(&p->log, &p->r, &e);
    if (p->log.ngram > 0)
        snprintf(beside, sizeof beside, " (%d-grams %.4f)", p->r.c.ngram, p->log.ngram);
    if (p->r.trainer.seen.n_gate)
        snprintf(vio, sizeof vio, "  maxvio %.3f", e.max_vio);
    if ((*best = e.loss < p->r.best))
        p->r.best = e.loss;
    if (!p->quiet)
        fprintf(stderr, "%sstep %lld  validation loss %.4f%s  %.4f bits per byte%s%s\n", p->tty ? "\r\033[K" : "", (long long)p->r.step, e.loss, beside, e.bits_per_byte, vio, *best ? "  (best so far)" : "");
    return HD_OK;
}

static int save(struct progress *p, bool best, struct hd_err *err)
{
    HD_TRY(hd_train_log_write(&p->log, p->r.c.out, err));
    return hd_train_run_save(&p->r, best, err);
}

static bool every(int64_t step, int64_t n)
{
    return n > 0 && step % n == 0;
}

static int one_step(struct progress *p, int64_t n_step, struct hd_err *err)
{
    const struct hd_train_config *c = &p->r.c;
    struct hd_step_result s;
    double t0 = hd_now(), lr, seconds;
    bool last, best = false, do_eval;

    HD_TRY(hd_train_run_step(&p->r, &s, &lr, err));
    if (p->r.trainer.profile && p->r.step == p->first_step + 1 && n_step != 1)
        hd_profile_reset(p->r.trainer.profile);
    seconds = hd_now() - t0;
    p->took += seconds;
    last = hd_train_run_done(&p->r) >= 1;
    p->ended = last;
    do_eval = p->r.val.n && c->eval_every && (every(p->r.step, c->eval_every) || last);
    hd_train_log_step(&p->log, &p->r, &s, lr, (double)s.n_tok / seconds);
    if (!p->quiet && (p->tty || every(p->r.step, c->log_every) || last))
        print_step(p, &s, lr, seconds);
    if (do_eval)
        HD_TRY(evaluate(p, &best, err));
    if (best || every(p->r.step, c->save_every) || last || hd_interrupted)
        HD_TRY(save(p, best, err));
    if (do_eval && c->sample_tokens && !p->quiet)
        HD_TRY(show_sample(p, err));
    return HD_OK;
}

static int train(struct progress *p, int64_t n_step, struct hd_err *err)
{
    int rc = HD_OK;

    p->first_step = p->r.step;
    if (p->r.trainer.profile)
        hd_profile_reset(p->r.trainer.profile);
    while (rc == HD_OK && !p->ended && hd_train_run_done(&p->r) < 1 && !hd_interrupted && (n_step < 0 || p->r.step - p->first_step < n_step))
        rc = one_step(p, n_step, err);
    if (p->tty && !p->quiet)
        fprintf(stderr, "\n");
    if (rc == HD_OK && !hd_interrupted && p->r.step > p->first_step && !p->ended)      /* asked to stop here, or time ran out between two steps */
        rc = save(p, false, err);
    if (rc == HD_OK && hd_interrupted)
        return hd_err_set(err, HD_ERR_CANCELLED, "interrupted at step %lld; hadal train --resume %s goes on", (long long)p->r.step, p->r.c.out);
    return rc;
}

/* The first step, in which memory is touched for the first time, does not count where there are more. */
static void print_profile(struct progress *p)
{
    struct hd_profile *all = p->r.trainer.profile;
    int64_t n = p->r.step - p->first_step;

    hd_profile_sort(all);
    hd_print_profile(all, "step", n > 1 ? (double)(n - 1) : 1, false);
}

static int run(struct hd_args *a, struct hd_err *err)
{
    struct progress p = {.tty = isatty(2), .quiet = hd_args_has(a, "quiet")};
    bool resume = hd_args_has(a, "resume");
    struct hd_profile profile;
    const char *path = resume ? hd_args_text(a, "resume", "") : a->n_positional ? a->positional[0] : "";
    struct hd_roofline roof;
    int rc;

    if (resume && a->n_positional)
        return hd_err_set(err, HD_ERR_USAGE, "either CONFIG or --resume DIR; usage: hadal %s", a->cmd->usage);
    HD_TRY(hd_backend_cpu_init(hd_args_text(a, "cpu", getenv("HD_CPU")), err));
    hd_train_log_init(&p.log);
    rc = hd_train_run_prepare(&p.r, path, resume, (int)hd_args_int(a, "threads", 0), err);
    if (rc == HD_OK && !p.quiet && (rc = hd_roofline_measure(&roof, p.r.pool, err)) == HD_OK) {
        p.peak_gflops = roof.fma_gflops;
        rc = print_plan(&p, hd_args_has(a, "plan"), err);
    }
    if (rc == HD_OK && !hd_args_has(a, "plan")) {
        rc = hd_train_run_open(&p.r, resume, err);
        if (rc == HD_OK && resume)
            rc = hd_train_log_read(&p.log, p.r.c.out, p.r.step, err);
        if (rc == HD_OK && p.r.c.ngram && p.r.val.n)
            rc = hd_ngram_loss(&p.r.train, &p.r.val, p.r.c.ngram, p.r.m.hp.n_vocab, &p.log.ngram, err);
        if (rc == HD_OK && hd_args_has(a, "profile"))
            p.r.trainer.profile = &profile;
        if (rc == HD_OK)
            rc = train(&p, hd_args_int(a, "steps", -1), err);
        if (rc == HD_OK && p.r.trainer.profile)
            print_profile(&p);
        if (rc == HD_OK && hd_args_has(a, "json"))
            hd_out_printf("{\"steps\": %lld, \"tokens\": %lld, \"loss\": %.6f, \"smooth\": %.6f, \"best_val_loss\": %.6f, \"seconds\": %.2f}\n", (long long)p.r.step, (long long)p.r.n_tok,
                          p.log.loss.n ? p.log.loss.y[p.log.loss.n - 1] : 0, p.r.smooth, isfinite(p.r.best) ? p.r.best : 0, p.took);
    }
    hd_train_run_close(&p.r);
    hd_train_log_release(&p.log);
    return rc;
}

static const struct hd_opt opts[] = {
    {"resume", 0, HD_OPT_TEXT, "DIR", 0, 0, "go on with the run in DIR, bit for bit"},
    {"steps", 0, HD_OPT_INT, "N", 1, 1e12, "stop (and save) after N steps of this call"},
    {"plan", 0, HD_OPT_FLAG, NULL, 0, 0, "say what it will take, and do not train"},
    {"profile", 0, HD_OPT_FLAG, NULL, 0, 0, "at the end, where the time of steps went, but for the first: ops, products by weight"},
    {"quiet", 'q', HD_OPT_FLAG, NULL, 0, 0, "errors only"},
};

const struct hd_cmd hd_cmd_train = {"train", "a model from a configuration and text", "train CONFIG|--resume DIR [--json]",
                                    "CONFIG is a JSON file (docs/training.md): model, data, optimiser, schedule, output directory. The model is saved there as `hadal run` and Hugging Face load it. "
                                    "Ctrl-C finishes the step and saves.",
                                    opts, HD_LEN(opts), 1, run, "resume"};
