/* sample.c: see sample.h. The vocabulary is walked, never sorted: candidates for top-k and top-p are selected by quickselect
 * and a heap, O(V) for a few survivors. */
#include "sample/sample.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

void hd_sample_defaults(struct hd_sample_params *p)
{
    *p = (struct hd_sample_params){.temperature = 1, .top_p = 1, .repetition = 1, .penalty_window = -1, .n_logprob = -1};
}

int hd_sample_check(const struct hd_sample_params *p, int64_t n_vocab, struct hd_err *err)
{
    const struct {
        const char *name;
        double v, lo, hi;
        bool open;                            /* lo itself is not allowed */
    } range[] = {{"temperature", p->temperature, 0, 100, false}, {"top_p", p->top_p, 0, 1, true},       {"min_p", p->min_p, 0, 1, false},
                 {"repetition penalty", p->repetition, 0, 100, true}, {"presence penalty", p->presence, -2, 2, false}, {"frequency penalty", p->frequency, -2, 2, false},
                 {"logprobs", p->n_logprob, -1, HD_LOGPROBS_MAX, false}};

    for (int i = 0; i < HD_LEN(range); i++)
        if (!(range[i].v >= range[i].lo && range[i].v <= range[i].hi) || (range[i].open && range[i].v == range[i].lo))
            return hd_err_set(err, HD_ERR_USAGE, "%s: found %g; expected %s %g to %g", range[i].name, range[i].v, range[i].open ? "more than" : "at least",
                              range[i].lo, range[i].hi);
    if (p->top_k < 0)
        return hd_err_set(err, HD_ERR_USAGE, "top_k: found %lld; expected 0 (off) or more", (long long)p->top_k);
    if (p->penalty_window < -1)
        return hd_err_set(err, HD_ERR_USAGE, "penalty window: found %lld; expected -1 (all) or more", (long long)p->penalty_window);
    for (int i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || p->bias[i].id >= n_vocab)
            return hd_err_set(err, HD_ERR_USAGE, "logit bias: found id %d; expected 0 to %lld", p->bias[i].id, (long long)n_vocab - 1);
        if (!(fabsf(p->bias[i].bias) <= 1e6f))
            return hd_err_set(err, HD_ERR_USAGE, "logit bias of id %d: found %g; expected -1e6 to 1e6", p->bias[i].id, (double)p->bias[i].bias);
    }
    return HD_OK;
}

int hd_sampler_init(struct hd_sampler *s, const struct hd_sample_params *p, int64_t n_vocab, struct hd_err *err)
{
    HD_TRY(hd_sample_check(p, n_vocab, err));
    memset(s, 0, sizeof *s);
    s->params = *p;
    s->n_vocab = n_vocab;
    hd_rng_seed(&s->rng, p->seed);
    s->cand = hd_malloc((size_t)n_vocab * sizeof *s->cand);
    s->logits = hd_malloc((size_t)n_vocab * sizeof *s->logits);
    s->count = hd_calloc((size_t)n_vocab, sizeof *s->count);
    if (!s->cand || !s->logits || !s->count) {
        hd_sampler_release(s);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a sampler of %lld tokens", (long long)n_vocab);
    }
    return HD_OK;
}

void hd_sampler_release(struct hd_sampler *s)
{
    hd_free(s->cand);
    hd_free(s->logits);
    hd_free(s->count);
    memset(s, 0, sizeof *s);
}

static void penalise(struct hd_sampler *s, const int32_t *history, int64_t n)
{
    const struct hd_sample_params *p = &s->params;
    int64_t from = p->penalty_window >= 0 && n > p->penalty_window ? n - p->penalty_window : 0;

    for (int i = 0; i < p->n_bias; i++)
        s->logits[p->bias[i].id] += p->bias[i].bias;
    if (p->repetition == 1 && p->presence == 0 && p->frequency == 0)
        return;
    for (int64_t i = from; i < n; i++)
        if (history[i] >= 0 && history[i] < s->n_vocab)
            s->count[history[i]]++;
    for (int64_t i = from; i < n; i++) {
        int32_t id = history[i];
        float *x;

        if (id < 0 || id >= s->n_vocab || !s->count[id])
            continue;
        x = &s->logits[id];
        *x = *x > 0 ? *x / (float)p->repetition : *x * (float)p->repetition;
        *x -= (float)(p->presence + p->frequency * s->count[id]);
        s->count[id] = 0;                     /* done, and clean for the next call */
    }
}

static bool before(struct hd_candidate a, struct hd_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void swap(struct hd_candidate *a, struct hd_candidate *b)
{
    struct hd_candidate t = *a;

    *a = *b;
    *b = t;
}

/* The k best come first, in any order. */
static void select_best(struct hd_candidate *c, int64_t n, int64_t k)
{
    int64_t lo = 0, hi = n - 1;

    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2, i = lo, j = hi;
        struct hd_candidate pivot;

        if (before(c[mid], c[lo]))
            swap(&c[mid], &c[lo]);
        if (before(c[hi], c[lo]))
            swap(&c[hi], &c[lo]);
        if (before(c[hi], c[mid]))
            swap(&c[hi], &c[mid]);
        pivot = c[mid];
        while (i <= j) {
            while (before(c[i], pivot))
                i++;
            while (before(pivot, c[j]))
                j--;
            if (i <= j)
                swap(&c[i++], &c[j--]);
        }
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            return;
    }
}

static void sift(struct hd_candidate *c, int64_t i, int64_t n)
{
    for (int64_t k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && before(c[k + 1], c[k]))
            k++;
        if (!before(c[k], c[i]))
            return;
        swap(&c[k], &c[i]);
    }
}

/* Moves the smallest set of most probable candidates whose mass reaches p to the end of c; how many. The heap pops only as
 * many as it takes. */
static int64_t top_p(struct hd_candidate *c, int64_t n, double p, float max)
{
    double total = 0, mass = 0;
    int64_t left = n;

    for (int64_t i = 0; i < n; i++)
        total += exp((double)c[i].logit - (double)max);
    for (int64_t i = n / 2; i-- > 0;)
        sift(c, i, n);
    while (left > 0 && mass < p * total) {
        mass += exp((double)c[0].logit - (double)max);
        swap(&c[0], &c[--left]);
        sift(c, 0, left);
    }
    return n - left;
}

/* In (0, 1), the draw's number for a token: splitmix64's mixer. */
static double noise(uint64_t draw, int32_t id)
{
    uint64_t z = draw + ((uint64_t)(uint32_t)id + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

/* The largest of logit - log(-log u), u a token's own number: each is it with its probability among the candidates, whatever their order. Most are out
 * by bounds that need no logarithm: 1 - u <= -log u, and exp(x) <= 1 / (1 - x) for x <= 0. */
static int32_t race(const struct hd_candidate *c, int64_t n, uint64_t draw)
{
    double best = -INFINITY;
    int32_t id = c[0].id;

    for (int64_t i = 0; i < n; i++) {
        double u = noise(draw, c[i].id), behind = (double)c[i].logit - best, score;

        if (behind <= 0 && (1 - u) * (1 - behind) > 1)
            continue;
        score = (double)c[i].logit - log(-log(u));
        if (score > best || (score == best && c[i].id < id)) {
            best = score;
            id = c[i].id;
        }
    }
    return id;
}

static int32_t draw(struct hd_sampler *s)
{
    const struct hd_sample_params *p = &s->params;
    struct hd_candidate *c = s->cand;
    int64_t n = 0;
    float max = -INFINITY;

    for (int64_t i = 0; i < s->n_vocab; i++) {
        float x = s->logits[i] / (float)p->temperature;

        if (!(x > -INFINITY))
            continue;
        c[n++] = (struct hd_candidate){(int32_t)i, x};
        max = x > max ? x : max;
    }
    if (p->top_k > 0 && p->top_k < n) {
        select_best(c, n, p->top_k);
        n = p->top_k;
    }
    if (p->top_p < 1) {
        int64_t keep = top_p(c, n, p->top_p, max);

        c += n - keep;
        n = keep;
    }
    if (p->min_p > 0) {
        int64_t k = 0;

        for (int64_t i = 0; i < n; i++)
            if (exp((double)c[i].logit - (double)max) >= p->min_p)
                c[k++] = c[i];
        n = k;
    }
    return race(c, n, hd_rng_next(&s->rng));
}

static int32_t argmax(const float *x, int64_t n)
{
    int64_t best = -1;

    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i]) && (best < 0 || x[i] > x[best]))
            best = i;
    return (int32_t)best;
}

static void logprobs(struct hd_sampler *s, const float *logits, struct hd_pick *out)
{
    int64_t n = 0, k = s->params.n_logprob;
    double max, sum = 0;

    max = (double)logits[argmax(logits, s->n_vocab)];
    for (int64_t i = 0; i < s->n_vocab; i++) {
        if (isnan(logits[i]))
            continue;
        sum += exp((double)logits[i] - max);
        s->cand[n++] = (struct hd_candidate){(int32_t)i, logits[i]};
    }
    sum = max + log(sum);
    out->logprob = (double)logits[out->id] - sum;
    k = k < n ? k : n;
    if (k > 0)
        select_best(s->cand, n, k);
    for (int64_t i = 0; i < k; i++) {         /* a handful: insertion sort */
        int64_t j = i;

        for (struct hd_candidate c = s->cand[i]; j >= 0; j--) {
            if (j == 0 || before(s->cand[j - 1], c)) {
                s->cand[j] = c;
                break;
            }
            s->cand[j] = s->cand[j - 1];
        }
    }
    out->n_top = (int)k;
    for (int64_t i = 0; i < k; i++) {
        out->top_id[i] = s->cand[i].id;
        out->top_logprob[i] = (double)s->cand[i].logit - sum;
    }
}

static bool finite_best(const float *x, int32_t best)
{
    return best >= 0 && x[best] > -INFINITY && x[best] < INFINITY;
}

static int not_finite(struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_FORMAT, "the model's logits are not finite: nothing can be sampled");
}

int hd_sampler_score(struct hd_sampler *s, const float *logits, int32_t id, struct hd_pick *out, struct hd_err *err)
{
    if (!finite_best(logits, argmax(logits, s->n_vocab)))
        return not_finite(err);
    out->id = id;
    out->n_top = 0;
    logprobs(s, logits, out);
    return HD_OK;
}

int hd_sampler_pick(struct hd_sampler *s, const float *logits, const int32_t *history, int64_t n_history, struct hd_pick *out, struct hd_err *err)
{
    int32_t best;

    memcpy(s->logits, logits, (size_t)s->n_vocab * sizeof *logits);
    penalise(s, history, n_history);
    best = argmax(s->logits, s->n_vocab);
    if (!finite_best(s->logits, best))
        return not_finite(err);
    out->n_top = 0;
    out->logprob = 0;
    out->id = s->params.temperature == 0 ? best : draw(s);
    if (s->params.n_logprob >= 0)
        logprobs(s, logits, out);
    return HD_OK;
}
