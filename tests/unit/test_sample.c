/* test_sample.c: what is drawn is distributed as the parameters say (100,000 draws, chi-square), and every filter cuts where it should. */
#include "support.h"

#include "sample/sample.h"

#define N 12
#define DRAWS 100000

static const float logits[N] = {2.0f, 1.5f, 1.4f, 0.9f, 0.5f, 0.0f, -0.2f, -1.0f, -1.5f, -2.0f, -3.0f, -20.0f};

static void open_sampler(struct hd_sampler *s, const struct hd_sample_params *p)
{
    assert_ok(hd_sampler_init(s, p, N, &test_err));
}

/* Expected probabilities, by the definition of sample.h, in double. */
static void expect(const struct hd_sample_params *p, const int32_t *history, int n_history, double *prob)
{
    double x[N], best = -1e300, sum = 0;
    int order[N], n = N;

    for (int i = 0; i < N; i++) {
        int count = 0;

        x[i] = logits[i];
        for (int b = 0; b < p->n_bias; b++)
            x[i] += p->bias[b].id == i ? p->bias[b].bias : 0;
        for (int h = 0; h < n_history; h++)
            count += history[h] == i;
        if (count) {
            x[i] = x[i] > 0 ? x[i] / p->repetition : x[i] * p->repetition;
            x[i] -= p->presence + p->frequency * count;
        }
        x[i] /= p->temperature;
        order[i] = i;
    }
    for (int i = 0; i < N; i++)
        for (int k = i + 1; k < N; k++)
            if (x[order[k]] > x[order[i]]) {
                int o = order[i];

                order[i] = order[k];
                order[k] = o;
            }
    best = x[order[0]];
    if (p->top_k && p->top_k < n)
        n = (int)p->top_k;
    for (int i = 0; i < n; i++)
        sum += exp(x[order[i]] - best);
    if (p->top_p < 1) {
        double mass = 0;
        int keep = 0;

        while (keep < n && mass < p->top_p)
            mass += exp(x[order[keep++]] - best) / sum;
        n = keep;
    }
    while (n > 1 && exp(x[order[n - 1]] - best) < p->min_p)
        n--;
    sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp(x[order[i]] - best);
    for (int i = 0; i < N; i++)
        prob[i] = 0;
    for (int i = 0; i < n; i++)
        prob[order[i]] = exp(x[order[i]] - best) / sum;
}

static void check(const struct hd_sample_params *p, const int32_t *history, int n_history, const char *what)
{
    struct hd_sampler s;
    double prob[N], chi = 0;
    int64_t seen[N] = {0};
    int dof = -1;

    expect(p, history, n_history, prob);
    open_sampler(&s, p);
    for (int k = 0; k < DRAWS; k++) {
        struct hd_pick pick;

        assert_ok(hd_sampler_pick(&s, logits, history, n_history, &pick, &test_err));
        assert_in_range(pick.id, 0, N - 1);
        seen[pick.id]++;
    }
    for (int i = 0; i < N; i++) {
        double want = prob[i] * DRAWS;

        if (prob[i] == 0 && seen[i])
            fail_msg("%s: id %d has no probability and was drawn %lld times", what, i, (long long)seen[i]);
        if (want >= 5) {
            chi += (seen[i] - want) * (seen[i] - want) / want;
            dof++;
        }
    }
    /* far beyond the 0.99999 quantile of chi-square for up to 11 degrees of freedom (42): the seed is fixed, so this never flickers */
    if (chi > 42)
        fail_msg("%s: chi-square %.1f with %d degrees of freedom", what, chi, dof);
    hd_sampler_release(&s);
}

static void test_distributions(void **state)
{
    static const int32_t history[] = {0, 2, 2, 7, 0, 0};
    static const struct hd_logit_bias bias[] = {{5, 2.5f}, {0, -100.0f}};
    struct hd_sample_params base, p;

    hd_sample_defaults(&base);
    base.seed = 11;
    check(&base, NULL, 0, "plain");
    p = base;
    p.temperature = 0.4;
    check(&p, NULL, 0, "temperature 0.4");
    p = base;
    p.temperature = 3;
    check(&p, NULL, 0, "temperature 3");
    p = base;
    p.top_k = 3;
    check(&p, NULL, 0, "top-k 3");
    p = base;
    p.top_p = 0.75;
    check(&p, NULL, 0, "top-p 0.75");
    p = base;
    p.min_p = 0.2;
    check(&p, NULL, 0, "min-p 0.2");
    p = base;
    p.repetition = 1.5;
    p.penalty_window = -1;
    check(&p, history, 6, "repetition");
    p = base;
    p.presence = 0.7;
    p.frequency = 0.3;
    p.penalty_window = -1;
    check(&p, history, 6, "presence and frequency");
    p = base;
    p.bias = bias;
    p.n_bias = 2;
    check(&p, NULL, 0, "logit bias");
    p = base;
    p.temperature = 1.3;
    p.top_k = 7;
    p.top_p = 0.9;
    p.min_p = 0.1;
    check(&p, history, 6, "all filters");
}

static void test_greedy(void **state)
{
    struct hd_sample_params p;
    struct hd_sampler s;
    struct hd_pick pick;
    float x[N];

    hd_sample_defaults(&p);
    p.temperature = 0;
    p.n_logprob = 3;
    open_sampler(&s, &p);
    assert_ok(hd_sampler_pick(&s, logits, NULL, 0, &pick, &test_err));
    assert_int_equal(pick.id, 0);
    assert_int_equal(pick.n_top, 3);
    assert_int_equal(pick.top_id[1], 1);
    /* log-softmax in double */
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += exp(logits[i]);
    assert_true(fabs(pick.top_logprob[2] - (logits[2] - log(sum))) < 1e-6);
    /* equals: the lowest id */
    for (int i = 0; i < N; i++)
        x[i] = i % 5 == 3 ? 1.0f : 0.0f;
    assert_ok(hd_sampler_pick(&s, x, NULL, 0, &pick, &test_err));
    assert_int_equal(pick.id, 3);
    hd_sampler_release(&s);
}

/* NaN and infinities: an answer that is a number, or an error; the same seed the same draws. */
static void test_edges(void **state)
{
    struct hd_sample_params p;
    struct hd_sampler s, t;
    struct hd_pick a, b;
    float x[N];

    hd_sample_defaults(&p);
    p.seed = 3;
    open_sampler(&s, &p);
    open_sampler(&t, &p);
    for (int k = 0; k < 200; k++) {
        assert_ok(hd_sampler_pick(&s, logits, NULL, 0, &a, &test_err));
        assert_ok(hd_sampler_pick(&t, logits, NULL, 0, &b, &test_err));
        assert_int_equal(a.id, b.id);
    }
    for (int i = 0; i < N; i++)
        x[i] = i == 4 ? 1.0f : NAN;
    assert_ok(hd_sampler_pick(&s, x, NULL, 0, &a, &test_err));
    assert_int_equal(a.id, 4);
    for (int i = 0; i < N; i++)
        x[i] = NAN;
    assert_int_equal(hd_sampler_pick(&s, x, NULL, 0, &a, &test_err), HD_ERR_FORMAT);
    hd_sampler_release(&s);
    hd_sampler_release(&t);
}

/* Samplers of different distributions with the same random numbers: alike as often as promised; candidates in any order. */
static void test_coupled(void **state)
{
    struct hd_sampler a, b;
    struct hd_sample_params p;
    struct hd_rng rng;
    double pa = 0, pb = 0, d = 0;
    float y[N];
    int same = 0;

    hd_rng_seed(&rng, 4);
    for (int i = 0; i < N; i++)
        y[i] = logits[i] + 0.6f * (float)(hd_rng_double(&rng) - 0.5);
    for (int i = 0; i < N; i++) {
        pa += exp(logits[i]);
        pb += exp(y[i]);
    }
    for (int i = 0; i < N; i++)
        d += fabs(exp(logits[i]) / pa - exp(y[i]) / pb) / 2;
    hd_sample_defaults(&p);
    p.seed = 8;
    open_sampler(&a, &p);
    p.top_k = N - 1;                          /* a selection, which leaves candidates in no order */
    open_sampler(&b, &p);
    for (int k = 0; k < DRAWS; k++) {
        struct hd_pick x, z;

        assert_ok(hd_sampler_pick(&a, logits, NULL, 0, &x, &test_err));
        assert_ok(hd_sampler_pick(&b, y, NULL, 0, &z, &test_err));
        same += x.id == z.id;
    }
    print_message("# distance %.3f: the same in %.3f; at least %.3f expected, %.3f possible\n", d, (double)same / DRAWS, (1 - d) / (1 + d), 1 - d);
    assert_true(d > 0.05 && (double)same / DRAWS > (1 - d) / (1 + d) - 0.02);
    hd_sampler_release(&a);
    hd_sampler_release(&b);
}

static void test_refused(void **state)
{
    static const struct hd_logit_bias outside[] = {{N, 1}};
    struct hd_sample_params base, p;

    hd_sample_defaults(&base);
    p = base;
    p.temperature = -1;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    p = base;
    p.temperature = NAN;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    p = base;
    p.top_p = 1.5;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    p = base;
    p.min_p = -0.1;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    p = base;
    p.repetition = 0;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    p = base;
    p.bias = outside;
    p.n_bias = 1;
    assert_true(hd_sample_check(&p, N, &test_err) < 0);
    assert_non_null(strstr(test_err.msg, "bias"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_distributions), cmocka_unit_test(test_greedy), cmocka_unit_test(test_edges),
                                       cmocka_unit_test(test_coupled), cmocka_unit_test(test_refused)};

    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
