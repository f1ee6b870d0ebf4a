/* bench_draft.c: hadal bench --draft: what it costs to check guesses, and what they bring.
 *
 * Costs are steps of one token and of more, in turns in one run, behind the same context; a guess pays from the number of tokens a step on that the
 * ratio of the two times says. What guesses bring depends on what is said: here an answer, greedy, to a prompt without meaning, with and without.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "engine/generate.h"

#define ROUNDS 9                      /* of each size; the median counts */

static const int sizes[] = {1, 2, 3, 4, 6, 8, 12, 17};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Steps of every size behind ss, which stays as it is: medians, in seconds. */
static int time_steps(struct hd_session *ss, const int32_t *ids, double median[HD_LEN(sizes)], struct hd_err *err)
{
    double sec[HD_LEN(sizes)][ROUNDS];
    int64_t n = (int64_t)ss->n;

    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < HD_LEN(sizes); i++) {
            struct hd_step_item it = {.session = ss, .ids = ids + n, .n_tok = sizes[i], .want = HD_WANT_ALL};
            double t0 = hd_now();

            HD_TRY(hd_engine_step(ss->engine, &it, 1, err));
            sec[i][r] = hd_now() - t0;
            HD_TRY(hd_session_rewind(ss, n, err));
        }
    for (int i = 0; i < HD_LEN(sizes); i++) {
        qsort(sec[i], ROUNDS, sizeof **sec, ascending);
        median[i] = sec[i][ROUNDS / 2];
    }
    return HD_OK;
}

/* The module proposing depth tokens: the median. */
static int time_proposing(struct hd_session *ss, struct hd_speculate *sp, struct hd_sampler *sm, int32_t *ids, int64_t depth, double *out)
{
    double sec[ROUNDS];

    for (int r = 0; r < ROUNDS; r++) {
        struct hd_draft_item it = {.session = ss, .ids = ids, .n = (int64_t)ss->n + 1, .depth = depth, .sample = &sm->params, .rng = sm->rng};
        double t0 = hd_now();

        hd_speculate_propose(sp, sm, &it, 1);
        sec[r] = hd_now() - t0;
    }
    qsort(sec, ROUNDS, sizeof *sec, ascending);
    *out = sec[ROUNDS / 2];
    return HD_OK;
}

static bool go_on(void *arg, int32_t id)
{
    return !hd_interrupted;
}

/* n_gen tokens behind depth ones; sp NULL: without guesses. */
static int answer(struct hd_engine *e, struct hd_speculate *sp, struct hd_sampler *sm, const int32_t *ids, int64_t depth, int64_t n_gen, struct hd_generate *g, struct hd_err *err)
{
    struct hd_session ss;
    int rc;

    HD_TRY(hd_session_open(&ss, e, err));
    *g = (struct hd_generate){.session = &ss, .sampler = sm, .prompt = ids, .n_prompt = depth, .n_max = n_gen, .token = go_on, .speculate = sp};
    rc = hd_generate(g, err);
    hd_session_close(&ss);
    return rc;
}

static void report(const struct hd_speculate *sp, int64_t depth, const double *step, double proposing, const struct hd_generate *with, const struct hd_generate *without, bool json)
{
    double faster = without->decode_s / with->decode_s;

    hd_out_printf(json ? ",\n \"draft\": {\"depth\": %lld, \"steps\": [" : "guesses, depth %lld: a step of so many tokens, over a step of one\n ", (long long)depth);
    for (int i = 0; i < HD_LEN(sizes); i++)
        hd_out_printf(json ? "%s{\"tokens\": %d, \"s\": %.6f, \"ratio\": %.3f}" : "%s%d: %.3f ms, %.2f", i ? json ? ", " : ";  " : "", sizes[i], json ? step[i] : 1e3 * step[i],
                      step[i] / step[0]);
    hd_out_printf(json ? "], \"proposing_tokens\": %lld, \"proposing_s\": %.6f, " : "\n  proposing %lld takes %.3f ms\n", (long long)sp->depth_max, json ? proposing : 1e3 * proposing);
    hd_out_printf(json ? "\"drafted\": %lld, \"accepted\": %lld, \"tokens_per_step\": %.3f, \"tps\": %.2f, \"tps_without\": %.2f, \"ratio\": %.3f}"
                       : "  an answer: %lld proposed, %lld stood, %.2f tokens a step; %.1f tok/s, %.1f without, %.2f times\n",
                  (long long)with->n_drafted, (long long)with->n_accepted, with->n_step ? (double)with->n_decoded / (double)with->n_step : 0,
                  (double)with->n_decoded / with->decode_s, (double)without->n_decoded / without->decode_s, faster);
}

int hd_bench_draft(struct hd_engine *e, const struct hd_speculate_options *how, int64_t depth, int64_t n_gen, bool json, struct hd_err *err)
{
    struct hd_sample_params greedy;
    struct hd_generate with, without;
    struct hd_speculate sp;
    struct hd_sampler sm;
    struct hd_session ss;
    double step[HD_LEN(sizes)], proposing = 0;
    int64_t n = depth + sizes[HD_LEN(sizes) - 1] + HD_DRAFT_MAX;
    int32_t *ids;
    int rc;

    if (depth < 1)
        depth = 1;
    HD_TRY(hd_speculate_init(&sp, e, how, err));
    hd_sample_defaults(&greedy);
    greedy.temperature = 0;
    if (!(ids = hd_malloc((size_t)n * sizeof *ids)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld ids", (long long)n);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % e->model.hp.n_vocab);
    if ((rc = hd_sampler_init(&sm, &greedy, e->model.hp.n_vocab, err)) < 0) {
        hd_free(ids);
        return rc;
    }
    rc = hd_session_open(&ss, e, err);
    if (rc == HD_OK) {
        rc = hd_session_feed(&ss, ids, depth, NULL, NULL, NULL, err);
        if (rc == HD_OK)
            rc = time_steps(&ss, ids, step, err);
        if (rc == HD_OK)
            rc = time_proposing(&ss, &sp, &sm, ids, sp.depth_max, &proposing);
        hd_session_close(&ss);
    }
    if (rc == HD_OK)
        rc = answer(e, NULL, &sm, ids, depth, n_gen, &without, err);
    if (rc == HD_OK)
        rc = answer(e, &sp, &sm, ids, depth, n_gen, &with, err);
    if (rc == HD_OK)
        report(&sp, depth, step, proposing, &with, &without, json);
    hd_sampler_release(&sm);
    hd_free(ids);
    return rc;
}
