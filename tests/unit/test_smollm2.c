/* test_smollm2.c: a real model: logits, greedy continuations of ten prompts (in one ragged batch), ids; against transformers. */
#include <math.h>

#include "kl.h"
#include "support.h"

#include "engine/model_tokenizer.h"

#define MODEL "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
#define N_PROMPT 10
#define N_GREEDY 64

static const struct hd_entry *item(const struct hd_store *st, const char *what, int i)
{
    char name[32];

    snprintf(name, sizeof name, "%s.%d", what, i);
    return get_tensor(st, name);
}

static bool ready(void)
{
    if (hd_file_exists(MODEL))
        return true;
    print_message("# %s is not there (tools/fetch_model.sh)\n", MODEL);
    return false;
}

/* Continues all prompts together; how many of the reference's greedy tokens were met. */
static int greedy(enum hd_exact exact, const struct hd_store *ref, double *distance)
{
    struct hd_engine_options o = {.n_thread = 0, .exact = exact, .n_ctx = 4096, .kv = HD_KV_F32};
    struct hd_session ss[N_PROMPT];
    struct hd_engine e;
    int32_t next[N_PROMPT];
    int met = 0;

    assert_ok(hd_engine_open(&e, MODEL, &o, &test_err));
    *distance = 0;
    for (int i = 0; i < N_PROMPT; i++) {
        const struct hd_entry *ids = item(ref, "ids", i);
        const float *lg;
        int32_t id[64];

        assert_in_range(ids->dim[0], 1, 64);
        for (int64_t k = 0; k < ids->dim[0]; k++)
            id[k] = (int32_t)((const int64_t *)ids->data)[k];
        assert_ok(hd_session_open(&ss[i], &e, &test_err));
        assert_ok(hd_session_feed(&ss[i], id, ids->dim[0], NULL, NULL, &lg, &test_err));
        if (i < 4) {
            double d = rel_distance(lg, item(ref, "logits", i)->data, e.model.hp.n_vocab);

            *distance = d > *distance ? d : *distance;
        }
        next[i] = (int32_t)argmax(lg, e.model.hp.n_vocab);
    }
    for (int k = 0; k < N_GREEDY; k++) {
        struct hd_step_item it[N_PROMPT];

        for (int i = 0; i < N_PROMPT; i++) {
            int32_t want = (int32_t)((const int64_t *)item(ref, "greedy", i)->data)[k];

            met += next[i] == want;
            next[i] = want;                   /* one slip must not count as many */
            it[i] = (struct hd_step_item){.session = &ss[i], .ids = &next[i], .n_tok = 1, .want = HD_WANT_LAST};
        }
        assert_ok(hd_engine_step(&e, it, N_PROMPT, &test_err));
        for (int i = 0; i < N_PROMPT; i++)
            next[i] = (int32_t)argmax(it[i].logits, e.model.hp.n_vocab);
    }
    for (int i = 0; i < N_PROMPT; i++)
        hd_session_close(&ss[i]);
    hd_engine_close(&e);
    return met;
}

static void test_exact(void **state)
{
    struct hd_store ref;
    double d;
    int met;

    if (!ready())
        skip();
    open_tensors(&ref, "tests/golden/smollm2.safetensors");
    met = greedy(HD_EXACT_F32, &ref, &d);
    print_message("# exact: logits %.2e, greedy %d of %d\n", d, met, N_PROMPT * N_GREEDY);
    assert_true(d <= 5e-4);
    assert_int_equal(met, N_PROMPT * N_GREEDY);
    hd_store_close(&ref);
}

static void test_fast(void **state)
{
    struct hd_store ref;
    double d;
    int met;

    if (!ready())
        skip();
    open_tensors(&ref, "tests/golden/smollm2.safetensors");
    met = greedy(HD_EXACT_NONE, &ref, &d);
    print_message("# fast: logits %.2e, greedy %d of %d\n", d, met, N_PROMPT * N_GREEDY);
    assert_true(d <= 5e-2);
    assert_true(met >= N_PROMPT * N_GREEDY * 98 / 100);
    hd_store_close(&ref);
}

/* Logits of all positions of a prompt and its continuation. */
static float *all_logits(enum hd_exact exact, const int32_t *ids, int64_t n, int64_t *n_vocab)
{
    struct hd_engine_options o = {.exact = exact, .n_ctx = 4096, .kv = HD_KV_F32};
    struct hd_step_item it = {.ids = ids, .n_tok = n, .want = HD_WANT_ALL};
    struct hd_session ss;
    struct hd_engine e;
    float *out;

    assert_ok(hd_engine_open(&e, MODEL, &o, &test_err));
    assert_ok(hd_session_open(&ss, &e, &test_err));
    it.session = &ss;
    assert_ok(hd_engine_step(&e, &it, 1, &test_err));
    *n_vocab = e.model.hp.n_vocab;
    out = hd_malloc((size_t)(n * *n_vocab) * sizeof *out);
    memcpy(out, it.logits, (size_t)(n * *n_vocab) * sizeof *out);
    hd_session_close(&ss);
    hd_engine_close(&e);
    return out;
}

/* The fast mode beside the exact one, over prompts and their continuations: what rounding activations to int8 costs. */
static void test_distance(void **state)
{
    int64_t n_vocab, n = 0, same = 0;
    struct hd_store ref;
    double sum = 0;

    if (!ready())
        skip();
    open_tensors(&ref, "tests/golden/smollm2.safetensors");
    for (int i = 0; i < 4; i++) {
        const struct hd_entry *prompt = item(&ref, "ids", i), *greedy_ids = item(&ref, "greedy", i);
        int32_t id[128];
        int64_t len = 0;

        for (int64_t k = 0; k < prompt->dim[0]; k++)
            id[len++] = (int32_t)((const int64_t *)prompt->data)[k];
        for (int64_t k = 0; k < N_GREEDY; k++)
            id[len++] = (int32_t)((const int64_t *)greedy_ids->data)[k];
        float *p = all_logits(HD_EXACT_F32, id, len, &n_vocab), *q = all_logits(HD_EXACT_NONE, id, len, &n_vocab);

        for (int64_t k = 0; k < len; k++, n++) {
            sum += kl(p + k * n_vocab, q + k * n_vocab, n_vocab);
            same += argmax(p + k * n_vocab, n_vocab) == argmax(q + k * n_vocab, n_vocab);
        }
        hd_free(p);
        hd_free(q);
    }
    print_message("# fast: mean KL %.2e, the same first choice %lld of %lld\n", sum / (double)n, (long long)same, (long long)n);
    assert_true(sum / (double)n <= 2e-3);
    assert_true(same >= n * 98 / 100);
    hd_store_close(&ref);
}

static void test_ids(void **state)
{
    struct hd_tokenizer *tok;
    struct hd_store ref;

    if (!ready())
        skip();
    open_tensors(&ref, "tests/golden/smollm2.safetensors");
    assert_ok(hd_model_tokenizer(&tok, MODEL, &test_err));
    for (int i = 0; i < N_PROMPT; i++) {
        const struct hd_entry *text = item(&ref, "text", i), *ids = item(&ref, "ids", i);
        struct hd_ids got = {0};

        assert_ok(hd_tokenize(tok, text->data, (size_t)text->dim[0], 0, &got, &test_err));
        assert_int_equal(got.n, ids->dim[0]);
        for (size_t k = 0; k < got.n; k++)
            assert_int_equal(got.id[k], ((const int64_t *)ids->data)[k]);
        hd_ids_release(&got);
    }
    hd_tokenizer_free(tok);
    hd_store_close(&ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact), cmocka_unit_test(test_fast), cmocka_unit_test(test_distance), cmocka_unit_test(test_ids)};

    return cmocka_run_group_tests_name("smollm2", tests, NULL, NULL);
}
