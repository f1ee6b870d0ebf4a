/* cmd_bench.c: hadal bench: prefill and decode, each beside what the machine allows. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"

#define REPEAT 3
#define MAX_LIST 16

static int parse_list(const char *s, int64_t lo, int64_t *out, struct hd_err *err)
{
    int n = 0;

    while (*s && n < MAX_LIST) {
        char *end;
        long long v = strtoll(s, &end, 10);

        if (end == s || v < lo || v > 1 << 24 || (*end && *end != ','))
            return hd_err_set(err, HD_ERR_USAGE, "found \"%.40s\"; expected numbers of at least %lld with commas between", s, (long long)lo);
        out[n++] = v;
        s = *end ? end + 1 : end;
    }
    return n;
}

struct result {
    int64_t tokens, depth, batch;
    double tps, share;
};

static int median3(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Tokens that mean nothing but differ. */
static void fill_ids(int32_t *ids, int64_t n, int64_t n_vocab)
{
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % n_vocab);
}

static int prefill(struct hd_engine *e, const struct hd_roofline *r, int64_t n, struct result *out, struct hd_err *err)
{
    int32_t *ids = hd_malloc((size_t)n * sizeof *ids);
    double sec[REPEAT], ideal = 0;
    int rc = ids ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld ids", (long long)n);

    if (ids)
        fill_ids(ids, n, e->model.hp.n_vocab);
    for (int rep = 0; rep < REPEAT && rc == HD_OK; rep++) {
        struct hd_session ss;
        double t0 = hd_now();

        if ((rc = hd_session_open(&ss, e, err)) < 0)
            break;
        ideal = 0;
        for (int64_t done = 0; done < n && rc == HD_OK;) {
            int64_t k = n - done < e->opt.chunk ? n - done : e->opt.chunk;
            struct hd_step_item it = {.session = &ss, .ids = ids + done, .n_tok = k, .want = done + k == n ? HD_WANT_LAST : HD_WANT_NONE};

            rc = hd_engine_step(e, &it, 1, err);
            ideal += hd_roofline_seconds(r, &e->last);
            done += k;
        }
        sec[rep] = hd_now() - t0;
        hd_session_close(&ss);
    }
    hd_free(ids);
    if (rc < 0)
        return rc;
    qsort(sec, REPEAT, sizeof *sec, median3);
    *out = (struct result){.tokens = n, .tps = (double)n / sec[REPEAT / 2], .share = ideal / sec[REPEAT / 2]};
    return HD_OK;
}

static int decode(struct hd_engine *e, const struct hd_roofline *r, int64_t depth, int64_t batch, int64_t n_gen, struct result *out, struct hd_err *err)
{
    struct hd_session *ss = hd_calloc((size_t)batch, sizeof *ss);
    struct hd_step_item *it = hd_calloc((size_t)batch, sizeof *it);
    int32_t *ids = hd_malloc((size_t)(depth + batch) * sizeof *ids);
    double *sec = hd_malloc((size_t)n_gen * sizeof *sec), ideal = 0;
    int64_t opened = 0;
    int rc = ss && it && ids && sec ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for a batch of %lld", (long long)batch);

    if (rc == HD_OK)
        fill_ids(ids, depth + batch, e->model.hp.n_vocab);
    for (; opened < batch && rc == HD_OK; opened++) {
        rc = opened ? hd_session_fork(&ss[opened], &ss[0], err) : hd_session_open(&ss[0], e, err);
        if (rc < 0)
            break;
        if (opened == 0 && depth > 0)
            rc = hd_session_feed(&ss[0], ids, depth, NULL, NULL, NULL, err);
    }
    for (int64_t g = 0; g < n_gen && rc == HD_OK; g++) {
        double t0 = hd_now();

        for (int64_t i = 0; i < batch; i++)
            it[i] = (struct hd_step_item){.session = &ss[i], .ids = &ids[depth + i], .n_tok = 1, .want = HD_WANT_LAST};
        rc = hd_engine_step(e, it, (int)batch, err);
        sec[g] = hd_now() - t0;
        ideal = hd_roofline_seconds(r, &e->last);
    }
    for (int64_t i = 0; i < opened; i++)
        hd_session_close(&ss[i]);
    if (rc == HD_OK) {
        qsort(sec, (size_t)n_gen, sizeof *sec, median3);
        *out = (struct result){.depth = depth, .batch = batch, .tps = (double)batch / sec[n_gen / 2], .share = ideal / sec[n_gen / 2]};
    }
    hd_free(ss);
    hd_free(it);
    hd_free(ids);
    hd_free(sec);
    return rc;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    int64_t tokens[MAX_LIST], depth[MAX_LIST], batch[MAX_LIST], need = 1, n_gen = hd_args_int(a, "n-predict", 32);
    struct hd_engine_options o;
    struct hd_roofline r;
    struct hd_engine e;
    struct result res = {0};
    bool json = hd_args_has(a, "json");
    int n_tok, n_depth, n_batch, rc;

    HD_TRY(n_tok = parse_list(hd_args_text(a, "prompt-tokens", "128,512"), 1, tokens, err));
    HD_TRY(n_depth = parse_list(hd_args_text(a, "depth", "16,512"), 0, depth, err));
    HD_TRY(n_batch = parse_list(hd_args_text(a, "batch", "1,4"), 1, batch, err));
    HD_TRY(hd_engine_args(a, &o, err));
    for (int i = 0; i < n_tok; i++)
        need = tokens[i] > need ? tokens[i] : need;
    for (int i = 0; i < n_depth; i++)
        for (int k = 0; k < n_batch; k++)
            need = depth[i] + batch[k] * (n_gen + 128) > need ? depth[i] + batch[k] * (n_gen + 128) : need;
    if (!o.n_ctx)
        o.n_ctx = need;
    HD_TRY(hd_engine_open(&e, a->positional[0], &o, err));
    if ((rc = hd_roofline_measure(&r, e.pool, err)) < 0)
        goto out;
    hd_out_printf(json ? "{\"probes\": {\"read_gbs\": %.2f, \"fma_gflops\": %.2f, \"int8_gops\": %.2f},\n \"threads\": %d, \"cpu\": \"%s\",\n \"prefill\": ["
                       : "read %.1f GB/s, fma %.0f GF/s, int8 %.0f GOP/s with %d threads, %s\n",
                  r.read_gbs, r.fma_gflops, r.int8_gops, hd_pool_threads(e.pool), hd_backend_cpu_level());
    for (int i = 0; i < n_tok && rc == HD_OK; i++) {
        if ((rc = prefill(&e, &r, tokens[i], &res, err)) < 0)
            break;
        hd_out_printf(json ? "%s{\"tokens\": %lld, \"tps\": %.2f, \"share\": %.4f}" : "%sprefill %6lld tokens            %9.1f tok/s   %.2f of the roofline\n",
                      json && i ? ", " : "", (long long)res.tokens, res.tps, res.share);
    }
    if (json)
        hd_out_printf("],\n \"decode\": [");
    for (int i = 0; i < n_depth && rc == HD_OK; i++)
        for (int k = 0; k < n_batch && rc == HD_OK; k++) {
            if ((rc = decode(&e, &r, depth[i], batch[k], n_gen, &res, err)) < 0)
                break;
            hd_out_printf(json ? "%s{\"depth\": %lld, \"batch\": %lld, \"tps\": %.2f, \"share\": %.4f}"
                               : "%sdecode  depth %6lld, batch %3lld  %9.1f tok/s   %.2f of the roofline\n",
                          json && (i || k) ? ", " : "", (long long)res.depth, (long long)res.batch, res.tps, res.share);
        }
    if (json)
        hd_out_printf("]}\n");
out:
    hd_engine_close(&e);
    return rc;
}

static const struct hd_opt opts[] = {
    {"prompt-tokens", 0, HD_OPT_TEXT, "LIST", 0, 0, "prefill lengths (default 128,512)"},
    {"depth", 0, HD_OPT_TEXT, "LIST", 0, 0, "context lengths at which decode is measured (default 16,512)"},
    {"batch", 0, HD_OPT_TEXT, "LIST", 0, 0, "sequences decoded together (default 1,4)"},
    {"n-predict", 'n', HD_OPT_INT, "N", 1, 4096, "tokens decoded per measurement (default 32)"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_bench = {"bench", "prefill and decode speed, as shares of the machine's roofline", "bench MODEL [--json]",
                                    "Measures read bandwidth, FMA and int8 rates first, in the same process; medians of repetitions.", opts, HD_LEN(opts), 1, run};
