/* speculate.c: see speculate.h. */
#include "engine/speculate.h"

#include <string.h>

#include "base/clock.h"

#define FADE 0.98                     /* what a trial is worth when the next one comes */
#define PRIOR_TRIED 2.0               /* before anything is known: two of three stand */
#define PRIOR_STOOD 1.4
#define PATIENCE_MIN 16
#define PATIENCE_MAX 512
#define REFRESH 64                    /* choices until a plain step is timed again */
#define LOOKUP_DEPTH 8

int hd_speculate_init(struct hd_speculate *sp, struct hd_engine *e, const struct hd_speculate_options *opt, struct hd_err *err)
{
    int64_t module = e->model.draft.depth;

    *sp = (struct hd_speculate){.engine = e, .kind = opt->kind, .depth = opt->depth, .propose = opt->propose, .arg = opt->arg, .patience = PATIENCE_MIN};
    if (sp->kind == HD_DRAFT_AUTO)
        sp->kind = module ? HD_DRAFT_MODULE : HD_DRAFT_OFF;
    if (sp->kind == HD_DRAFT_MODULE && !module)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: has no draft module; expected a checkpoint with one (proposals from earlier text work with any)", e->model.store.path);
    sp->depth_max = sp->kind == HD_DRAFT_MODULE ? module : sp->depth ? HD_DRAFT_MAX : LOOKUP_DEPTH;
    if (sp->depth_max > HD_DRAFT_MAX)
        sp->depth_max = HD_DRAFT_MAX;
    if (sp->kind != HD_DRAFT_OFF && (sp->depth < 0 || sp->depth > sp->depth_max))
        return hd_err_set(err, HD_ERR_USAGE, "draft depth: found %lld; expected 1 to %lld%s", (long long)sp->depth, (long long)sp->depth_max,
                          sp->kind == HD_DRAFT_MODULE ? ", what the model's draft module proposes" : "");
    for (int i = 0; i < HD_DRAFT_MAX; i++) {
        sp->tried[i] = PRIOR_TRIED;
        sp->stood[i] = PRIOR_STOOD;
    }
    return HD_OK;
}

/* ---- choosing ---- */

double hd_speculate_expect(const struct hd_speculate *sp, int64_t k)
{
    double all = 1, n = 1;

    for (int64_t i = 0; i < k; i++) {
        all *= sp->stood[i] / sp->tried[i];
        n += all;
    }
    return n;
}

/* Between the measured neighbours; beyond the last one as fast as that: who has not been tried gets a chance. */
static double interpolate(const double *s, int64_t n, int64_t at)
{
    int64_t lo = at, hi = at;

    while (lo >= 0 && s[lo] <= 0)
        lo--;
    while (hi <= n && s[hi] <= 0)
        hi++;
    if (lo < 0)
        return hi <= n ? s[hi] : 0;
    if (hi > n || hi == lo)
        return s[lo];
    return s[lo] + (s[hi] - s[lo]) * (double)(at - lo) / (double)(hi - lo);
}

static int64_t best(const struct hd_speculate *sp, int64_t n_seq, int64_t most)
{
    double top = 0;
    int64_t at = 0;

    for (int64_t k = 0; k <= most; k++) {
        double s = interpolate(sp->step_s, HD_SPECULATE_ROWS, n_seq * (1 + k)) + (k ? interpolate(sp->draft_s, HD_DRAFT_MAX, k) : 0);
        double rate = s > 0 ? hd_speculate_expect(sp, k) / s : 0;

        if (rate > top) {
            top = rate;
            at = k;
        }
    }
    return at;
}

int64_t hd_speculate_depth(struct hd_speculate *sp, int64_t n_seq)
{
    int64_t most = n_seq ? HD_SPECULATE_ROWS / n_seq - 1 : 0, k;

    most = most < 0 ? 0 : most < sp->depth_max ? most : sp->depth_max;
    if (sp->kind == HD_DRAFT_OFF || !most)
        return 0;
    if (sp->depth)
        return sp->depth < most ? sp->depth : most;
    sp->asked++;
    if (sp->step_s[n_seq] <= 0)               /* what a plain step takes comes first */
        return sp->last = 0;
    k = best(sp, n_seq, most);
    if (k && sp->asked >= REFRESH) {
        sp->asked = 0;
        return sp->last = 0;
    }
    if (k && !sp->last)
        sp->patience = PATIENCE_MIN;
    if (!k && sp->asked >= sp->patience) {    /* off: once in a while one more try */
        sp->asked = 0;
        sp->patience = 2 * sp->patience < PATIENCE_MAX ? 2 * sp->patience : PATIENCE_MAX;
        return sp->kind == HD_DRAFT_LOOKUP ? most : 1;
    }
    return sp->last = k;
}

/* ---- proposing ---- */

/* Where a block's own word for what stands is so low that a row costs more than it brings: a share of a step's tokens. */
static double threshold(const struct hd_speculate *sp, int n_item)
{
    double one = sp->step_s[n_item <= HD_SPECULATE_ROWS ? n_item : HD_SPECULATE_ROWS], more;

    if (sp->depth || one <= 0 || 2 * n_item > HD_SPECULATE_ROWS)
        return 0;
    more = interpolate(sp->step_s, HD_SPECULATE_ROWS, 2 * n_item);
    return more > one ? (more - one) / more : 0;
}

/* Slow readings are mostly the system's doing: they count no more than twice what was known. */
static void learn_seconds(double *known, double s)
{
    if (s <= 0)
        return;
    s = *known > 0 && s > 2 * *known ? 2 * *known : s;
    *known = *known > 0 ? 0.8 * *known + 0.2 * s : s;
}

/* Up to the first that is no token of the model. */
static void cut(const struct hd_engine *e, struct hd_draft_item *it)
{
    int64_t n = 0;

    while (n < it->n_draft && n < it->depth && it->ids[it->n + n] >= 0 && it->ids[it->n + n] < e->model.hp.n_vocab)
        n++;
    it->n_draft = n;
}

void hd_speculate_propose(struct hd_speculate *sp, struct hd_sampler *scratch, struct hd_draft_item *it, int n_item)
{
    double t0 = hd_now();
    struct hd_err err;
    int64_t k = 0;

    for (int i = 0; i < n_item; i++) {
        k = it[i].depth > k ? it[i].depth : k;
        it[i].n_draft = sp->kind == HD_DRAFT_LOOKUP ? hd_draft_lookup(it[i].ids, it[i].n, it[i].depth, it[i].ids + it[i].n) : 0;
    }
    if (sp->kind == HD_DRAFT_MODULE && k && hd_draft_run(sp->engine, scratch, it, n_item, threshold(sp, n_item), &err) < 0)
        for (int i = 0; i < n_item; i++)
            it[i].n_draft = 0;
    if (sp->kind == HD_DRAFT_CALLER)
        sp->propose(sp->arg, it, n_item);
    for (int i = 0; i < n_item; i++)
        cut(sp->engine, &it[i]);
    if (k <= HD_DRAFT_MAX)
        learn_seconds(&sp->draft_s[k], hd_now() - t0);
}

/* ---- learning ---- */

void hd_speculate_timed(struct hd_speculate *sp, int64_t n_row, double seconds)
{
    if (n_row >= 1 && n_row <= HD_SPECULATE_ROWS)
        learn_seconds(&sp->step_s[n_row], seconds);
}

void hd_speculate_learn(struct hd_speculate *sp, int64_t n_drafted, int64_t n_accepted)
{
    if (!n_drafted)
        return;
    sp->n_step++;
    sp->n_drafted += (uint64_t)n_drafted;
    sp->n_accepted += (uint64_t)n_accepted;
    for (int64_t i = 0; i < n_drafted && i <= n_accepted; i++) {
        sp->tried[i] = FADE * sp->tried[i] + 1;
        sp->stood[i] = FADE * sp->stood[i] + (i < n_accepted);
    }
}
