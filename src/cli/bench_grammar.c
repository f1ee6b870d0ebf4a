/* bench_grammar.c: hadal bench --grammar: what a constraint costs a token, on a model's own vocabulary. Noise writes under a few grammars; times
 * are this thread's, so that a busy machine does not count. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/bench_grammar.h"
#include "cli/cli.h"
#include "sample/call_grammar.h"

#define N_TOKEN 400
#define N_TEXT 8                      /* answers of one grammar */

static const struct {
    const char *name, *schema;
} cases[] = {
    {"any object", "{\"type\": \"object\"}"},
    {"text", "{\"type\": \"string\"}"},
    {"text of at most 500", "{\"type\": \"string\", \"maxLength\": 500}"},
    {"pattern", "{\"type\": \"array\", \"items\": {\"type\": \"string\", \"pattern\": \"^[a-z_][a-z0-9_]{2,60}$\"}, \"minItems\": 20}"},
    {"list of records", "{\"type\": \"array\", \"minItems\": 10, \"items\": {\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"integer\", \"minimum\": 1}, \"name\": {\"type\": \"string\"},"
                        " \"kind\": {\"enum\": [\"book\", \"film\", \"song\"]}, \"score\": {\"type\": \"number\", \"minimum\": 0, \"maximum\": 1}, \"tags\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}},"
                        " \"required\": [\"id\", \"name\", \"kind\", \"score\", \"tags\"], \"additionalProperties\": false}}"},
    {"calls of tools", NULL},
};

static const char tools[] = "[{\"type\": \"object\", \"properties\": {\"command\": {\"type\": \"string\"}, \"timeout\": {\"type\": \"integer\", \"minimum\": 1}}, \"required\": [\"command\"], \"additionalProperties\": false},"
                            " {\"type\": \"object\", \"properties\": {\"path\": {\"type\": \"string\"}, \"old\": {\"type\": \"string\"}, \"new\": {\"type\": \"string\"}, \"all\": {\"type\": \"boolean\"}},"
                            " \"required\": [\"path\", \"old\", \"new\"], \"additionalProperties\": false},"
                            " {\"type\": \"object\", \"properties\": {\"items\": {\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"},"
                            " \"state\": {\"enum\": [\"open\", \"done\"]}}, \"required\": [\"text\", \"state\"], \"additionalProperties\": false}}}, \"required\": [\"items\"], \"additionalProperties\": false}]";

struct times {
    double *t;
    size_t n, cap;
};

struct bench {
    struct hd_tokenizer *tok;
    struct hd_json_vocab *v;
    float *logits;
    uint64_t rng;
    struct times first, again, take;
};

static double cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add_time(struct times *s, double t)
{
    if (HD_GROW(s->t, s->cap, s->n + 1, (size_t)1 << 24))
        s->t[s->n++] = t;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double quantile(const struct times *s, double q)
{
    return s->n ? s->t[(size_t)(q * (double)(s->n - 1))] : 0;
}

static double mean(const struct times *s)
{
    double sum = 0;

    for (size_t i = 0; i < s->n; i++)
        sum += s->t[i];
    return s->n ? sum / (double)s->n : 0;
}

static uint64_t draw(struct bench *b)
{
    b->rng ^= b->rng << 13;
    b->rng ^= b->rng >> 7;
    b->rng ^= b->rng << 17;
    return b->rng >> 16;
}

/* One that may come: every third time a closing mark where one may. -1: only an end. */
static int32_t choose(struct bench *b)
{
    int64_t at = (int64_t)(draw(b) % (uint64_t)b->v->n);

    for (int k = 0; k < 4 && draw(b) % 3 == 0; k++) {
        int32_t id = b->v->byte[(unsigned char)"\",]}"[k]];

        if (id >= 0 && b->logits[id] == 0)
            return id;
    }
    for (int64_t k = 0; k < b->v->n; k++, at = at + 1 == b->v->n ? 0 : at + 1)
        if (b->logits[at] == 0 && b->v->class[at] != HD_TOKEN_END)
            return (int32_t)at;
    return -1;
}

static int write_text(struct bench *b, struct hd_grammar *g, struct hd_err *err)
{
    size_t bytes = (size_t)b->v->n * sizeof *b->logits;
    struct hd_grammar_mask *m;

    HD_TRY(hd_grammar_mask_create(&m, g, b->v, -1, NULL, err));
    for (int i = 0; i < N_TOKEN; i++) {
        int64_t known = hd_grammar_mask_known(m);
        double t0, t1, t2;
        int32_t id;

        memset(b->logits, 0, bytes);
        t0 = cpu_now();
        hd_grammar_mask_apply(m, b->logits, b->v->n);
        t1 = cpu_now();
        if ((id = choose(b)) < 0)
            break;
        add_time(hd_grammar_mask_known(m) == known ? &b->again : &b->first, t1 - t0);
        t2 = cpu_now();
        hd_grammar_mask_take(m, id);
        add_time(&b->take, cpu_now() - t2);
    }
    hd_grammar_mask_free(m);
    return HD_OK;
}

static int compile(const struct bench *b, int i, struct hd_grammar **out, struct hd_err *err)
{
    static const char *const names[] = {"run", "edit", "plan"};
    json_t *v = json_loads(cases[i].schema ? cases[i].schema : tools, 0, NULL);
    struct hd_call_tool tool[HD_LEN(names)];
    struct hd_call_request r = {.family = hd_tokenizer_find(b->tok, "｜DSML｜") >= 0 ? HD_PARSE_V4 : HD_PARSE_V31, .tok = b->tok, .tool = tool, .n_tool = HD_LEN(names)};
    int rc;

    for (int k = 0; k < HD_LEN(names); k++)
        tool[k] = (struct hd_call_tool){names[k], json_array_get(v, (size_t)k), true};
    rc = cases[i].schema ? hd_schema_compile(out, v, err) : hd_call_grammar(out, &r, err);
    json_decref(v);
    return rc;
}

static void report(struct bench *b, int i, double compile_s, bool json)
{
    struct times *all[] = {&b->first, &b->again, &b->take};
    double total = mean(&b->first) * (double)b->first.n + mean(&b->again) * (double)b->again.n + mean(&b->take) * (double)b->take.n;

    for (int k = 0; k < HD_LEN(all); k++)
        qsort(all[k]->t, all[k]->n, sizeof *all[k]->t, by_size);
    hd_out_printf(json ? "%s\n  {\"grammar\": \"%s\", \"compile_ms\": %.3f, \"tokens\": %zu, \"new_masks\": %zu, \"new_p50_ms\": %.4f, \"new_p99_ms\": %.4f, \"new_max_ms\": %.4f, \"known_p50_ms\": %.4f, "
                         "\"take_p50_ms\": %.4f, \"mean_ms\": %.4f}"
                       : "%s%-20s compiled in %6.2f ms  %5zu tokens, %4zu new masks: median %.3f, p99 %.3f, worst %.3f ms  known %.3f  taking %.4f  a token %.3f ms\n",
                  json && i ? "," : "", cases[i].name, compile_s * 1e3, b->first.n + b->again.n, b->first.n, quantile(&b->first, 0.5) * 1e3, quantile(&b->first, 0.99) * 1e3,
                  quantile(&b->first, 1) * 1e3, quantile(&b->again, 0.5) * 1e3, quantile(&b->take, 0.5) * 1e3, total / (double)(b->take.n ? b->take.n : 1) * 1e3);
    for (int k = 0; k < HD_LEN(all); k++)
        all[k]->n = 0;
}

static int measure(struct bench *b, bool json, struct hd_err *err)
{
    double t0 = cpu_now();
    int rc;

    HD_TRY(hd_json_vocab_create(&b->v, b->tok, err));
    if (!b->v->spells)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "this vocabulary cannot spell every byte, and so cannot be kept to a grammar");
    if (!(b->logits = hd_malloc((size_t)b->v->n * sizeof *b->logits)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for logits");
    hd_out_printf(json ? "{\"vocabulary\": %lld, \"trie_nodes\": %zu, \"other_nodes\": %zu, \"prepare_ms\": %.1f, \"grammars\": ["
                       : "%lld tokens, a trie of %zu nodes, %zu for those with marks of their own; prepared in %.0f ms\n",
                  (long long)b->v->n, b->v->all.n, b->v->other.n, (cpu_now() - t0) * 1e3);
    for (int i = 0; i < HD_LEN(cases) && !hd_interrupted; i++) {
        struct hd_grammar *g;
        double t1 = cpu_now(), took;

        rc = compile(b, i, &g, err);
        took = cpu_now() - t1;
        if (rc == HD_ERR_UNSUPPORTED && !cases[i].schema)
            continue;                 /* a vocabulary without markers for calls */
        HD_TRY(rc);
        b->rng = 88172645463325252u;
        for (int k = 0; k < N_TEXT && rc == HD_OK; k++)
            rc = write_text(b, g, err);
        hd_grammar_release(g);
        HD_TRY(rc);
        report(b, i, took, json);
    }
    if (json)
        hd_out_printf("]}\n");
    return HD_OK;
}

int hd_bench_grammar(const char *model, bool json, struct hd_err *err)
{
    struct bench b = {0};
    int rc;

    hd_json_init();
    HD_TRY(hd_model_tokenizer(&b.tok, model, err));
    rc = measure(&b, json, err);
    hd_free(b.logits);
    hd_free(b.first.t);
    hd_free(b.again.t);
    hd_free(b.take.t);
    hd_json_vocab_free(b.v);
    hd_tokenizer_free(b.tok);
    return rc;
}
