/* golden.h: a checkpoint under tests/golden with what the reference computed on it, and the engine's answer to compare. */
#ifndef HD_TESTS_GOLDEN_H
#define HD_TESTS_GOLDEN_H

#include "support.h"

#include "base/json.h"

struct golden {
    char path[512], numbers[512];     /* the checkpoint's directory, and that of the reference's answers: the same, mostly */
    const char *file;                 /* the model: path, or a GGUF file in it */
    struct hd_store ref, choices;     /* choices: of experts and rows, where they are not in ref */
    int32_t *ids;
    int64_t n, n_vocab;
    const float *logits;
    double bound;                     /* exact mode, relative to the largest logit; official: median relative L2 of a row */
    bool official, has_choices;
};

static inline void golden_load_deepseek(struct golden *g)
{
    char file[600];
    const struct hd_entry *l;
    json_t *j, *ids;

    snprintf(file, sizeof file, "%s/expected.safetensors", g->numbers);
    open_tensors(&g->ref, file);
    l = get_tensor(&g->ref, "logits");
    snprintf(file, sizeof file, "%s/tokens.json", g->numbers);
    assert_non_null(j = hd_json_read(file, (size_t)1 << 20, &test_err));
    ids = json_object_get(j, "tokens");
    g->n = (int64_t)json_array_size(ids);
    g->n_vocab = l->dim[1];
    g->logits = l->data;
    assert_int_equal(l->dim[0], g->n);
    g->ids = hd_malloc((size_t)g->n * sizeof *g->ids);
    for (int64_t i = 0; i < g->n; i++)
        g->ids[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
    json_decref(j);
    snprintf(file, sizeof file, "%s/choices.safetensors", g->numbers);
    if ((g->has_choices = hd_file_exists(file)))
        open_tensors(&g->choices, file);
}

static inline void golden_load(struct golden *g)
{
    static const char *const models[] = {"model.gguf", "model-00001-of-00002.gguf"};
    char file[600];
    const struct hd_entry *t, *l;

    g->file = NULL;
    for (int i = 0; i < HD_LEN(models) && !g->file; i++) {
        snprintf(file, sizeof file, "%s/%s", g->path, models[i]);
        if (hd_file_exists(file))
            g->file = hd_strdup(file);
    }
    if (!g->file)
        g->file = hd_strdup(g->path);
    snprintf(file, sizeof file, "%s/golden.safetensors", g->numbers);
    if (!hd_file_exists(file)) {
        golden_load_deepseek(g);
        return;
    }
    open_tensors(&g->ref, file);
    t = get_tensor(&g->ref, "tokens");
    l = get_tensor(&g->ref, "logits");
    g->n = t->dim[0];
    g->n_vocab = l->dim[1];
    g->logits = l->data;
    assert_int_equal(l->dim[0], g->n);
    g->ids = hd_malloc((size_t)g->n * sizeof *g->ids);
    for (int64_t i = 0; i < g->n; i++)
        g->ids[i] = (int32_t)((const int64_t *)t->data)[i];
}

/* Where the reference's answers for a directory are; false when it is no golden checkpoint. */
static inline bool golden_numbers(const char *name, char out[512])
{
    static const char *const files[] = {"golden.safetensors", "expected.safetensors"};
    char file[600];

    for (int shared = 0; shared < 2; shared++) {
        if (shared && strncmp(name, "gguf-", 5))
            return false;
        snprintf(out, 512, "tests/golden/%.200s", shared ? name + 5 : name);
        for (int i = 0; i < HD_LEN(files); i++) {
            snprintf(file, sizeof file, "%s/%s", out, files[i]);
            if (hd_file_exists(file))
                return true;
        }
    }
    return false;
}

static inline void golden_unload(struct golden *g)
{
    hd_free(g->ids);
    hd_free((void *)g->file);
    hd_store_close(&g->ref);
    if (g->has_choices)
        hd_store_close(&g->choices);
}

static enum hd_kv golden_kv = HD_KV_F32;      /* what engines of the fast mode keep */

static inline void golden_open(struct hd_engine *e, const struct golden *g, enum hd_exact exact, int n_thread, const char *cpu)
{
    struct hd_engine_options o = {.n_thread = n_thread, .cpu = cpu, .exact = exact, .n_ctx = 4 * g->n + 256, .kv = golden_kv};

    assert_ok(hd_engine_open(e, g->file, &o, &test_err));
    assert_int_equal(e->model.hp.n_vocab, g->n_vocab);
}

/* Logits of all tokens, fed in chunks of size chunk; 0: everything at once. */
static inline float *golden_forward(struct hd_engine *e, const struct golden *g, int64_t chunk)
{
    float *out = hd_malloc((size_t)(g->n * g->n_vocab) * sizeof *out);
    struct hd_session ss;

    assert_ok(hd_session_open(&ss, e, &test_err));
    for (int64_t at = 0; at < g->n;) {
        int64_t n = chunk && g->n - at > chunk ? chunk : g->n - at;
        struct hd_step_item it = {.session = &ss, .ids = g->ids + at, .n_tok = n, .want = HD_WANT_ALL};

        assert_ok(hd_engine_step(e, &it, 1, &test_err));
        memcpy(out + at * g->n_vocab, it.logits, (size_t)(n * g->n_vocab) * sizeof *out);
        at += n;
    }
    hd_session_close(&ss);
    return out;
}

/* What a traced run of the exact mode is compared with: floats layer by layer, choices as sets, position by position. */
struct golden_layers {
    const struct golden *g;
    int seen;                         /* float tensors of ref */
    double worst;
    char where[128];
    int64_t n_expert, same_expert, n_row, same_row;   /* positions of all layers: experts, selected rows */
};

static inline int golden_int_order(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

static inline void golden_choices(struct golden_layers *l, const char *name, const struct hd_tensor *x, const struct hd_entry *e)
{
    int64_t k = hd_cols(x), same = 0, n = hd_rows(x);
    int32_t a[1024], b[1024];

    if (e->dim[0] != n || e->dim[1] != k || k > 1024)
        fail_msg("%s: [%lld, %lld]; expected [%lld, %lld]", name, (long long)n, (long long)k, (long long)e->dim[0], (long long)e->dim[1]);
    for (int64_t t = 0; t < n; t++) {
        memcpy(a, (const char *)x->data + t * x->row_bytes, (size_t)k * sizeof *a);
        memcpy(b, (const int32_t *)e->data + t * k, (size_t)k * sizeof *b);
        qsort(a, (size_t)k, sizeof *a, golden_int_order);
        qsort(b, (size_t)k, sizeof *b, golden_int_order);
        same += !memcmp(a, b, (size_t)k * sizeof *a);
    }
    *(strstr(name, "experts") ? &l->n_expert : &l->n_row) += n;
    *(strstr(name, "experts") ? &l->same_expert : &l->same_row) += same;
}

static inline void golden_trace(void *arg, const char *name, const struct hd_tensor *x)
{
    struct golden_layers *l = arg;
    const struct hd_entry *e = hd_store_find(&l->g->ref, name);
    double d;

    if (!e && l->g->has_choices)
        e = hd_store_find(&l->g->choices, name);
    if (!e || !strcmp(name, "logits"))
        return;
    if (x->type == HD_I32) {
        golden_choices(l, name, x, e);
        return;
    }
    if (hd_elems(x) != e->dim[0] * e->dim[1])
        fail_msg("%s: %lld values; expected %lld", name, (long long)hd_elems(x), (long long)(e->dim[0] * e->dim[1]));
    d = rel_distance(x->data, e->data, hd_elems(x));
    l->seen++;
    if (!(d <= l->worst)) {
        l->worst = d;
        snprintf(l->where, sizeof l->where, "%s", name);
    }
}

/* Tensors of the reference's file that a trace must meet. */
static inline int golden_floats(const struct golden *g)
{
    int n = 0;

    for (size_t i = 0; i < g->ref.n_entry; i++)
        n += g->ref.entry[i].type == HD_F32 && strcmp(g->ref.entry[i].name.p, "logits");
    return n;
}

#endif
