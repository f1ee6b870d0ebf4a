/* test_long.c: long contexts: the choice of the best against sorting, and one answer for thousands of tokens however they are fed, by whom, and
 * after going back. */
#include "support.h"

#include "backend/cpu/best.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/synthetic.h"
#include "kernels/kernels.h"

/* ---- the best of a stream ---- */

struct scored {
    float score;
    int32_t idx;
};

static int better(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    float s = x->score == x->score ? x->score : -INFINITY, t = y->score == y->score ? y->score : -INFINITY;

    return s != t ? (s < t) - (s > t) : (x->idx > y->idx) - (x->idx < y->idx);
}

enum order { RANDOM, TIES, RISING, FALLING, EQUAL, ODD, N_ORDER };

static float score_of(enum order o, struct hd_rng *rng, int64_t i)
{
    switch (o) {
    case TIES: return (float)(hd_rng_next(rng) % 7) - 3;
    case RISING: return (float)i;
    case FALLING: return (float)-i;
    case EQUAL: return 0.5f;
    case ODD: return (float[]){0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-42f, -1e-42f}[hd_rng_next(rng) % 7];
    default: return (float)hd_rng_double(rng) - 0.5f;
    }
}

static void check_best(enum order o, int64_t n, int64_t k, int64_t run)
{
    struct scored *all = malloc((size_t)(n + 1) * sizeof *all);
    void *mem = malloc((size_t)hd_choose_words(k) * 4);
    float x[HD_BEST_RUN];
    struct hd_rng rng;
    struct hd_best b;

    hd_rng_seed(&rng, (uint64_t)(n * 131 + k));
    for (int64_t i = 0; i < n; i++)
        all[i] = (struct scored){score_of(o, &rng, i), (int32_t)i};
    hd_best_begin(&b, k, mem);
    for (int64_t i = 0; i < n; i += run) {
        int64_t m = n - i < run ? n - i : run;

        for (int64_t j = 0; j < m; j++)
            x[j] = all[i + j].score;
        hd_best_offer(&b, m, x, (int32_t)i);
    }
    hd_best_end(&b);
    qsort(all, (size_t)n, sizeof *all, better);
    assert_int_equal(b.n, n < k ? n : k);
    for (int64_t i = 1; i < b.n; i++)
        assert_true(b.idx[i] > b.idx[i - 1]);
    hd_best_sort(&b);
    for (int64_t i = 0; i < b.n; i++)
        if (b.idx[i] != all[i].idx)
            fail_msg("order %d, %lld of %lld in runs of %lld: place %lld has %d; expected %d", o, (long long)k, (long long)n, (long long)run, (long long)i, b.idx[i], all[i].idx);
    free(all);
    free(mem);
}

static void test_best(void **state)
{
    static const int64_t n[] = {0, 1, 63, 64, 1000, 5000}, k[] = {1, 5, 128, 700};
    static const char *const level[] = {"scalar", "avx2", "avx512", "neon", NULL};

    for (int l = 0; l < HD_LEN(level); l++) {
        if (!hd_kernels_init(level[l]))
            continue;
        for (int o = 0; o < N_ORDER; o++)
            for (int i = 0; i < HD_LEN(n); i++)
                for (int j = 0; j < HD_LEN(k); j++)
                    for (int64_t run = 64; run > 0; run -= 37)
                        check_best((enum order)o, n[i], k[j], run);
    }
}

/* ---- thousands of tokens ---- */

#define N_TOKEN 2600

static const char config[] =
    "{\"architectures\": [\"DeepseekV4ForCausalLM\"], \"model_type\": \"deepseek_v4\", \"vocab_size\": 512, \"hidden_size\": 128, \"num_hidden_layers\": 4, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 1, \"head_dim\": 128, \"q_lora_rank\": 128, \"o_groups\": 2, \"o_lora_rank\": 128, \"qk_rope_head_dim\": 64, "
    "\"moe_intermediate_size\": 128, \"n_routed_experts\": 4, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"index_n_heads\": 4, \"index_head_dim\": 128, "
    "\"index_topk\": 40, \"compress_ratios\": [0, 4, 128, 4], \"sliding_window\": 128, \"hc_mult\": 2, \"hc_sinkhorn_iters\": 20, \"hc_eps\": 1e-06, \"num_hash_layers\": 1, "
    "\"num_nextn_predict_layers\": 0, \"scoring_func\": \"sqrtsoftplus\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"routed_scaling_factor\": 1.5, "
    "\"swiglu_limit\": 10.0, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, \"compress_rope_theta\": 160000, \"max_position_embeddings\": 65536, "
    "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 16, \"beta_fast\": 32, \"beta_slow\": 1, \"original_max_position_embeddings\": 4096}, \"expert_dtype\": \"fp4\", "
    "\"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, 128], \"activation_scheme\": \"dynamic\"}, "
    "\"bos_token_id\": 0, \"eos_token_id\": 1, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}\n";

/* Latents of every token, which all heads look at. */
static const char latents[] =
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"vocab_size\": 512, \"hidden_size\": 128, \"intermediate_size\": 256, "
    "\"moe_intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 6, \"q_lora_rank\": null, \"kv_lora_rank\": 128, "
    "\"qk_nope_head_dim\": 64, \"qk_rope_head_dim\": 32, \"v_head_dim\": 64, \"n_routed_experts\": 4, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, "
    "\"first_k_dense_replace\": 1, \"topk_method\": \"greedy\", \"scoring_func\": \"softmax\", \"norm_topk_prob\": false, \"routed_scaling_factor\": 1.0, \"moe_layer_freq\": 1, "
    "\"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, \"max_position_embeddings\": 65536, \"bos_token_id\": 0, \"eos_token_id\": 1, "
    "\"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}\n";

static int32_t ids[N_TOKEN];

static void open_long(struct hd_engine *e, const char *dir, enum hd_exact exact, enum hd_kv kv, int n_thread, int64_t chunk)
{
    struct hd_engine_options o = {.n_thread = n_thread, .n_ctx = 4 * N_TOKEN, .chunk = chunk, .exact = exact, .kv = kv};

    assert_ok(hd_engine_open(e, dir, &o, &test_err));
}

/* Logits behind the first n tokens, all but the last `alone` of them in chunks. */
static float *feed(struct hd_session *ss, int64_t n, int64_t alone)
{
    size_t bytes = (size_t)ss->engine->model.hp.n_vocab * sizeof(float);
    float *out = malloc(bytes);
    const float *lg;

    for (int64_t left; (left = n - (int64_t)ss->n) > 0;)
        assert_ok(hd_session_feed(ss, ids + ss->n, left > alone ? left - alone : 1, NULL, NULL, &lg, &test_err));
    memcpy(out, lg, bytes);
    return out;
}

static float *fresh(const char *dir, enum hd_exact exact, enum hd_kv kv, int n_thread, int64_t chunk, int64_t alone)
{
    struct hd_session ss;
    struct hd_engine e;
    float *out;

    open_long(&e, dir, exact, kv, n_thread, chunk);
    assert_ok(hd_session_open(&ss, &e, &test_err));
    out = feed(&ss, N_TOKEN, alone);
    hd_session_close(&ss);
    hd_engine_close(&e);
    return out;
}

static void same(const float *a, float *b, const char *what)
{
    if (memcmp(a, b, 512 * sizeof *a))
        fail_msg("%s: other bits", what);
    free(b);
}

static void make(const char *dir, const char *shape)
{
    mkdir(dir, 0755);
    assert_ok(hd_synthetic_write(shape, dir, &test_err));
    for (int64_t i = 0; i < N_TOKEN; i++)
        ids[i] = (int32_t)((i * 7919 + i / 512 * 31 + 13) % 512);
}

static void test_cuts(void **state)
{
    static const struct {
        enum hd_exact exact;
        enum hd_kv kv;
        const char *name;
    } mode[] = {{HD_EXACT_NONE, HD_KV_NATIVE, "packed"}, {HD_EXACT_NONE, HD_KV_F32, "float rows"}, {HD_EXACT_F32, HD_KV_F32, "exact"}};
    char *dir = tmp_path("long"), what[64];

    make(dir, config);
    for (int i = 0; i < HD_LEN(mode); i++) {
        float *whole = fresh(dir, mode[i].exact, mode[i].kv, 1, 4096, 0);

        snprintf(what, sizeof what, "%s, 3 threads, chunks of 500, the end token by token", mode[i].name);
        same(whole, fresh(dir, mode[i].exact, mode[i].kv, 3, 500, 20), what);
        snprintf(what, sizeof what, "%s, 2 threads, chunks of 97", mode[i].name);
        same(whole, fresh(dir, mode[i].exact, mode[i].kv, 2, 97, 1), what);
        free(whole);
    }
    hd_synthetic_remove(dir);
}

/* A single token's entries are shared out in segments, its heads go through all of them together; many tokens go through them one after the other. */
static void test_segments(void **state)
{
    char *dir = tmp_path("segments"), what[64];
    float *whole;

    make(dir, latents);
    whole = fresh(dir, HD_EXACT_NONE, HD_KV_NATIVE, 1, 4096, 0);
    for (int n_thread = 1; n_thread <= 5; n_thread++) {
        snprintf(what, sizeof what, "%d threads, the end token by token", n_thread);
        same(whole, fresh(dir, HD_EXACT_NONE, HD_KV_NATIVE, n_thread, 300 + n_thread, 5), what);
    }
    free(whole);
    hd_synthetic_remove(dir);
}

/* Back within what rings keep, and far beyond it, where tokens are computed again. */
static void test_back(void **state)
{
    char *dir = tmp_path("back");
    struct hd_session ss;
    struct hd_engine e;
    float *a, *b;

    make(dir, config);
    open_long(&e, dir, HD_EXACT_NONE, HD_KV_NATIVE, 2, 512);
    assert_ok(hd_session_open(&ss, &e, &test_err));
    b = feed(&ss, 1500, 0);
    a = feed(&ss, N_TOKEN, 3);
    assert_ok(hd_session_rewind(&ss, N_TOKEN - 50, &test_err));
    assert_int_equal(ss.n, N_TOKEN - 50);
    same(a, feed(&ss, N_TOKEN, 0), "50 tokens back");
    assert_ok(hd_session_rewind(&ss, 1499, &test_err));
    assert_int_equal(ss.n, 1499);
    same(b, feed(&ss, 1500, 0), "1100 tokens back");
    same(a, feed(&ss, N_TOKEN, 0), "and forth");
    free(a);
    free(b);
    hd_session_close(&ss);
    hd_engine_close(&e);
    hd_synthetic_remove(dir);
}

static bool stop_after(void *arg, int64_t done, int64_t n)
{
    return done < *(const int64_t *)arg;
}

/* A long prompt that is called off leaves a session of whole chunks that goes on. */
static void test_called_off(void **state)
{
    char *dir = tmp_path("off");
    int64_t enough = 700;
    struct hd_session ss;
    struct hd_engine e;
    float *whole;

    make(dir, config);
    whole = fresh(dir, HD_EXACT_NONE, HD_KV_NATIVE, 2, 512, 0);
    open_long(&e, dir, HD_EXACT_NONE, HD_KV_NATIVE, 2, 256);
    assert_ok(hd_session_open(&ss, &e, &test_err));
    assert_int_equal(hd_session_feed(&ss, ids, N_TOKEN, stop_after, &enough, NULL, &test_err), HD_ERR_CANCELLED);
    assert_int_equal(ss.n, 768);
    same(whole, feed(&ss, N_TOKEN, 0), "after being called off");
    free(whole);
    hd_session_close(&ss);
    hd_engine_close(&e);
    hd_synthetic_remove(dir);
}

/* Bytes a token of V4-Flash's cache: 21 layers keep an entry (448 fp8, 64 bf16, 7 scales) and a key (128 fp4, 4 scales) every 4 tokens, 20 an entry
 * every 128. */
static void test_bytes(void **state)
{
    double entry = 448 + 128 + 8, key = 64 + 4;
    struct hd_model m;

    assert_ok(hd_model_open(&m, "models/presets/v4-flash", HD_KV_AUTO, HD_STORE_PLAN, &test_err));
    assert_true(hd_cache_spec_token_bytes(&m.spec) == 21 * (entry + key) / 4 + 20 * entry / 128);
    hd_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_best), cmocka_unit_test(test_cuts), cmocka_unit_test(test_segments), cmocka_unit_test(test_back), cmocka_unit_test(test_called_off),
                                       cmocka_unit_test(test_bytes)};

    return cmocka_run_group_tests_name("long", tests, NULL, NULL);
}
