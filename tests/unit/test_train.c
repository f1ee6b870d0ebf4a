/* test_train.c: training: data as batches, updates as their formulas, runs that learn, resume and count bits, what is written loads elsewhere. */
#include "support.h"

#include "base/hash.h"
#include "base/json.h"
#include "token/bpe_train.h"
#include "token/token_classes.h"
#include "train/model_dir.h"
#include "train/train_log.h"

static const char llama[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
                            "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": false}";

static const char v3[] = "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": \"deepseek_v3\", \"hidden_size\": 32, \"intermediate_size\": 64, \"moe_intermediate_size\": 16, "
                         "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"q_lora_rank\": 16, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, "
                         "\"v_head_dim\": 8, \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"n_group\": 2, \"topk_group\": 1, "
                         "\"routed_scaling_factor\": 1.5, \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"rms_norm_eps\": 1e-6, "
                         "\"max_position_embeddings\": 128, \"rope_theta\": 10000, \"tie_word_embeddings\": false, \"num_nextn_predict_layers\": 0, \"moe_layer_freq\": 1, \"hidden_act\": \"silu\"}";

/* hadal's own blocks, with MTP modules */
static const char own_mla[] = "{\"architectures\": [\"HadalForCausalLM\"], \"model_type\": \"hadal\", \"hidden_size\": 32, \"num_hidden_layers\": 2, \"attention_type\": \"mla\", "
                              "\"num_attention_heads\": 2, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, \"v_head_dim\": 8, \"residual_type\": \"mhc_paper\", "
                              "\"hc_mult\": 2, \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, \"n_shared_experts\": 1, \"moe_intermediate_size\": 16, "
                              "\"max_position_embeddings\": 128, \"num_nextn_predict_layers\": 2}";
static const char own_csa2[] = "{\"architectures\": [\"HadalForCausalLM\"], \"model_type\": \"hadal\", \"hidden_size\": 32, \"num_hidden_layers\": 4, \"attention_type\": \"csa2\", "
                               "\"num_attention_heads\": 2, \"head_dim\": 16, \"qk_rope_head_dim\": 8, \"q_lora_rank\": 16, \"o_lora_rank\": 8, \"o_groups\": 2, \"sliding_window\": 8, "
                               "\"compress_ratios\": [0, 2, 2, 1], \"kv_source_layer_ids\": [1, 3], \"index_source_layer_ids\": [1, 3], \"index_n_heads\": 2, \"index_head_dim\": 16, "
                               "\"index_topk\": 8, \"residual_type\": \"mhc_v41\", \"hc_mult\": 2, \"intermediate_size\": 48, \"max_position_embeddings\": 128, "
                               "\"num_nextn_predict_layers\": 1}";

/* V3.2: the same with an indexer, and an MTP module. */
static const char v32[] = "{\"architectures\": [\"DeepseekV32ForCausalLM\"], \"model_type\": \"deepseek_v32\", \"hidden_size\": 32, \"intermediate_size\": 64, \"moe_intermediate_size\": 16, "
                          "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"q_lora_rank\": 16, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, "
                          "\"v_head_dim\": 8, \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"n_group\": 2, \"topk_group\": 1, "
                          "\"routed_scaling_factor\": 1.5, \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"rms_norm_eps\": 1e-6, \"index_n_heads\": 2, "
                          "\"index_head_dim\": 16, \"index_topk\": 8, \"max_position_embeddings\": 128, \"rope_theta\": 10000, \"tie_word_embeddings\": false, \"num_nextn_predict_layers\": 1, "
                          "\"moe_layer_freq\": 1, \"hidden_act\": \"silu\"}";

static const char v41[] = "{\"architectures\": [\"DeepseekV41ForCausalLM\"], \"model_type\": \"deepseek_v41\", \"text_config\": {\"hidden_size\": 32, \"moe_intermediate_size\": 16, \"num_hidden_layers\": 4, "
                          "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 16, \"qk_rope_head_dim\": 8, \"q_lora_rank\": 16, \"o_lora_rank\": 8, \"o_groups\": 2, \"swiglu_limit\": 10.0, "
                          "\"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 1024, \"n_routed_experts\": 4, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"scoring_func\": \"sqrtsoftplus\", "
                          "\"norm_topk_prob\": true, \"routed_scaling_factor\": 1.5, \"sliding_window\": 8, \"compress_ratios\": [0, 2, 1, 1], \"compress_rope_theta\": 160000, "
                          "\"kv_source_layer_ids\": [1, 2], \"index_source_layer_ids\": [1, 2], \"index_n_heads\": 2, \"index_head_dim\": 16, \"index_topk\": 16, \"hc_mult\": 2, "
                          "\"hc_sinkhorn_iters\": 4, \"engram_layer_ids\": [1], \"engram_max_ngram_size\": 3, \"engram_vocab_size\": 200, \"engram_n_heads\": 2, \"engram_head_dim\": 8, "
                          "\"engram_pad_token_id\": 0, \"num_nextn_predict_layers\": 2, \"dspark_block_size\": 3, \"dspark_target_layer_ids\": [1, 2, 3], \"dspark_noise_token_id\": 2, \"dspark_markov_rank\": 8, "
                          "\"dspark_n_routed_experts\": 3, \"dspark_num_experts_per_tok\": 2}}";

#define V4_FIELDS \
    "{\"architectures\": [\"DeepseekV4ForCausalLM\"], \"model_type\": \"deepseek_v4\", \"hidden_size\": 32, \"moe_intermediate_size\": 16, \"num_hidden_layers\": 3, " \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 16, \"qk_rope_head_dim\": 8, \"q_lora_rank\": 16, \"o_lora_rank\": 8, \"o_groups\": 2, " \
    "\"swiglu_limit\": 10.0, \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 1024, \"n_routed_experts\": 4, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, " \
    "\"scoring_func\": \"sqrtsoftplus\", \"norm_topk_prob\": true, \"routed_scaling_factor\": 1.5, \"sliding_window\": 8, \"compress_ratios\": [0, 4, 128], " \
    "\"compress_rope_theta\": 160000, \"rope_theta\": 10000, \"num_hash_layers\": 0, \"index_n_heads\": 2, \"index_head_dim\": 16, \"index_topk\": 4, \"hc_mult\": 2, " \
    "\"hc_sinkhorn_iters\": 4, "
static const char v4[] = V4_FIELDS "\"num_nextn_predict_layers\": 2, \"tie_word_embeddings\": false}";
static const char v4_spark[] = V4_FIELDS "\"num_nextn_predict_layers\": 2, \"dspark_block_size\": 3, \"dspark_target_layer_ids\": [0, 1, 2], \"dspark_noise_token_id\": 2, "
                                          "\"dspark_markov_rank\": 8, \"tie_word_embeddings\": false}";

/* Text that can be learned: a few sentences in a fixed order. */
static void write_text(const char *path, int n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    for (int i = 0; i < n; i++)
        fprintf(f, "the deep sea is %s and the trench is %s.\n", i % 2 ? "cold" : "dark", i % 3 ? "narrow" : "wide");
    fclose(f);
}

static const char *write_config(const char *name, const char *model, const char *data, const char *more)
{
    char *path = tmp_path(name), out[512], text[8192];

    snprintf(out, sizeof out, "%s.out", path);
    snprintf(text, sizeof text, "{\"model\": %s, \"out\": \"%s\", \"data\": {\"train\": \"%s\"}, \"context\": 32, \"batch_tokens\": 128, \"optimizer\": {\"lr\": 0.01}%s}", model, out, data, more);
    write_file(path, text, strlen(text));
    return path;
}

static void remove_state(const char *config)
{
    char path[600];

    snprintf(path, sizeof path, "%s.out/state.safetensors", config);
    unlink(path);
}

/* n steps of a run; the hash of its weights and averages, the last loss. */
static uint64_t steps(const char *path, bool resume, int n_thread, int n, double *loss)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    uint64_t sum;

    assert_ok(hd_train_run_prepare(r, path, resume, n_thread, &test_err));
    assert_ok(hd_train_run_open(r, resume, &test_err));
    for (int i = 0; i < n; i++) {
        struct hd_step_result s;
        double lr;

        assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
        *loss = s.loss;
    }
    assert_ok(hd_train_run_save(r, false, &test_err));
    sum = hd_hash(HD_HASH_INIT, r->trainer.ps.w, r->trainer.ps.n_float * 4);
    sum = hd_hash(sum, r->trainer.optim.m, r->trainer.ps.n_float * 4);
    sum = hd_hash(sum, r->trainer.optim.v, r->trainer.ps.n_float * 4);
    hd_train_run_close(r);
    hd_free(r);
    return sum;
}

/* ---- families ---- */

/* 40 steps learn, and give the same bits when they are cut and go on with other workers. */
static uint64_t learn_family(const char *name, const char *model, const char *precision, double below)
{
    char *data = tmp_path("sea.txt"), out[600], more[160];
    const char *config;
    double loss, other;
    uint64_t one, two;

    write_text(data, 200);
    snprintf(more, sizeof more, ", \"steps\": 40, \"schedule\": {\"name\": \"constant\"}, \"precision\": \"%s\"", precision);
    config = write_config(name, model, data, more);
    remove_state(config);
    one = steps(config, false, 1, 40, &loss);
    if (!(loss < below))
        fail_msg("%s, %s: loss %.3f after 40 steps; below %.3f expected", name, precision, loss, below);
    remove_state(config);
    two = steps(config, false, 2, 17, &other);        /* 17 and 23 steps, two workers */
    snprintf(out, sizeof out, "%s.out", config);
    two = steps(out, true, 2, 23, &other);
    assert_true(one == two && loss == other);
    return one;
}

static void check_family(const char *name, const char *model, double below)
{
    assert_true(learn_family(name, model, "f32", below) != learn_family(name, model, "bf16", below));
}

static void test_llama(void **state)
{
    check_family("train-llama.json", llama, 0.8);
}

static void test_v3(void **state)
{
    check_family("train-v3.json", v3, 1.6);
}

static void test_v4(void **state)
{
    check_family("train-v4.json", v4, 1.6);
}

/* ---- layers that are computed again ---- */

/* One step with and without: the same loss, gradients and weights, bit for bit; less memory; no more than planned. */
struct again {
    uint64_t sum, grad;
    double loss;
    int64_t step, kept;
};

static void step_again(const char *name, const char *model, const char *data, bool again, struct again *a)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    char more[256];
    const char *config;
    double lr;

    snprintf(more, sizeof more, ", \"steps\": 9, \"z_loss\": 0.001, \"indexer\": {\"dense\": %s}, \"recompute\": %s", strstr(name, "dense") ? "true" : "false", again ? "true" : "false");
    config = write_config(name, model, data, more);
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    for (int i = 0; i < 3; i++) {
        struct hd_step_result s;

        assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
        a->loss = s.loss + s.aux + s.learnt[HD_LEARN_INDEX] + s.learnt[HD_LEARN_DRAFT] + s.learnt[HD_LEARN_CONFIDENCE] + s.learnt[HD_LEARN_Z];
    }
    assert_ok(hd_loader_next(&r->loader, &r->batch, false, &test_err));
    assert_ok(hd_trainer_batch(&r->trainer, &r->batch, &test_err));
    a->sum = hd_hash(HD_HASH_INIT, r->trainer.ps.w, r->trainer.ps.n_float * 4);
    a->grad = hd_hash(HD_HASH_INIT, r->trainer.ps.grad, r->trainer.ps.n_float * 4);
    a->step = (int64_t)(r->trainer.step.peak + r->trainer.tape.layer.peak);
    a->kept = (int64_t)(r->trainer.tape.kept.peak + r->trainer.tape.scratch.peak);
    if (2 * a->step > r->plan.step || a->kept > r->plan.kept + (1 << 20))
        fail_msg("%s: a step took %lld bytes and kept %lld; planned were %lld and %lld", name, (long long)a->step, (long long)a->kept, (long long)r->plan.step / 2, (long long)r->plan.kept);
    hd_train_run_close(r);
    hd_free(r);
}

static void check_again(const char *name, const char *model)
{
    char *data = tmp_path("again.txt");
    struct again with, without;

    write_text(data, 200);
    step_again(name, model, data, false, &without);
    step_again(name, model, data, true, &with);
    if (with.sum != without.sum || with.grad != without.grad || with.loss != without.loss)
        fail_msg("%s: layers computed again: loss %.9f, %s weights, %s gradients; loss %.9f without", name, with.loss, with.sum == without.sum ? "the same" : "other",
                 with.grad == without.grad ? "the same" : "other", without.loss);
    assert_true(4 * (2 * with.step + with.kept) < 3 * (2 * without.step + without.kept));
}

/* The plan: layers are computed again when nothing else fits and nobody forbids it, and not before. */
static void test_plan(void **state)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    char *data = tmp_path("plan.txt");
    int64_t most, least;
    const char *config;

    write_text(data, 50);
    config = write_config("plan.json", v41, data, ", \"steps\": 5");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 1, &test_err));
    assert_false(r->c.hp.again);
    most = r->plan.total;
    assert_ok(hd_train_run_plan(r, most, &test_err));
    assert_false(r->c.hp.again);
    assert_ok(hd_train_run_plan(r, most - 1, &test_err));
    assert_true(r->c.hp.again);
    least = r->plan.total;
    assert_true(least < most);
    assert_ok(hd_train_run_plan(r, least, &test_err));
    assert_int_equal(hd_train_run_plan(r, least - 1, &test_err), HD_ERR_MEMORY);
    assert_null(strstr(test_err.msg, "recompute"));
    r->c.again_if_needed = r->c.hp.again = false;
    assert_int_equal(hd_train_run_plan(r, most - 1, &test_err), HD_ERR_MEMORY);
    assert_non_null(strstr(test_err.msg, "recompute"));
    hd_train_run_close(r);
    hd_free(r);
}

static void test_again(void **state)
{
    check_again("again-llama.json", llama);
    check_again("again-v3.json", v3);
    check_again("again-v32.json", v32);
    check_again("again-v4.json", v4);
    check_again("again-v41.json", v41);
    check_again("again-v41-dense.json", v41);
}

/* ---- gradients of several batches add up to that of one that holds them all ---- */

/* Sequences from..to of a batch as one of its own. */
static struct hd_batch some_of(const struct hd_batch *b, int64_t from, int64_t to, struct hd_span *span)
{
    int64_t first = b->span[from].tok0, end = b->span[to - 1].tok0 + b->span[to - 1].n_tok;
    struct hd_batch one = *b;

    for (int64_t i = from; i < to; i++)
        span[i - from] = (struct hd_span){.tok0 = b->span[i].tok0 - first, .n_tok = b->span[i].n_tok};
    one.span = span;
    one.n_seq = to - from;
    one.n_tok = end - first;
    one.id += first;
    one.pos += first;
    one.target += first;
    one.n_target = 0;
    for (int64_t t = 0; t < one.n_tok; t++)
        one.n_target += one.target[t] >= 0;
    return one;
}

/* Gradients are there; how far they are from g, of its length. */
static double distance(const struct hd_params *ps, const float *g)
{
    double far = 0, length = 0;

    for (size_t i = 0; i < ps->n_float; i++) {
        far += ((double)ps->grad[i] - (double)g[i]) * ((double)ps->grad[i] - (double)g[i]);
        length += (double)g[i] * (double)g[i];
    }
    assert_true(length > 0);
    return sqrt(far / length);
}

static void check_sum(const char *name, const char *model)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    struct hd_trainer *t = &r->trainer;
    char *data = tmp_path("sum.txt");
    struct hd_span span[512];
    const char *config;
    double loss, learnt;
    float *g;

    write_text(data, 200);
    config = write_config(name, model, data, ", \"steps\": 5, \"z_loss\": 0.01, \"draft\": {\"weight\": 0}");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    assert_ok(hd_loader_next(&r->loader, &r->batch, false, &test_err));
    assert_true(r->batch.n_seq >= 4);
    assert_ok(hd_trainer_batch(t, &r->batch, &test_err));
    loss = t->loss + t->aux;
    learnt = t->learnt[HD_LEARN_Z] + t->learnt[HD_LEARN_INDEX];
    assert_non_null(g = hd_malloc(t->ps.n_float * sizeof *g));
    memcpy(g, t->ps.grad, t->ps.n_float * sizeof *g);
    memset(t->ps.grad, 0, t->ps.n_float * sizeof *g);
    t->loss = t->aux = 0;
    memset(t->learnt, 0, sizeof t->learnt);
    for (int64_t i = 0; i < 3; i++) {
        struct hd_batch part = some_of(&r->batch, r->batch.n_seq * i / 3, r->batch.n_seq * (i + 1) / 3, span);

        assert_ok(hd_trainer_batch(t, &part, &test_err));
    }
    if (!(distance(&t->ps, g) < 2e-6) || fabs(t->loss + t->aux - loss) > 1e-6 * loss || fabs(t->learnt[HD_LEARN_Z] + t->learnt[HD_LEARN_INDEX] - learnt) > 1e-5 * learnt)
        fail_msg("%s: the gradient of three batches is %.2g away from that of all at once; losses %.7g and %.7g, others %.7g and %.7g", name, distance(&t->ps, g), t->loss + t->aux, loss,
                 t->learnt[HD_LEARN_Z] + t->learnt[HD_LEARN_INDEX], learnt);
    hd_free(g);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_sum(void **state)
{
    check_sum("sum-llama.json", llama);
    check_sum("sum-v3.json", v3);
    check_sum("sum-v41.json", v41);
}

/* What lay in the place of gradients does not count: with NaN in all that an update leaves, a run has the same bits. */
static void blank_run(const char *name, const char *model, bool poison, uint64_t *sum)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    char *data = tmp_path("blank.txt");
    const char *config;
    double lr;

    write_text(data, 200);
    config = write_config(name, model, data, ", \"steps\": 9, \"z_loss\": 0.001, \"step_tokens\": 512");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    for (int i = 0; i < 3; i++) {
        struct hd_step_result s;

        for (size_t k = 0; poison && k < r->trainer.tape.n_blank; k++)
            memset(r->trainer.tape.blank[k].grad, 0xFF, r->trainer.tape.blank[k].n);
        assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
        assert_true(isfinite(s.grad_norm));
    }
    *sum = hd_hash(HD_HASH_INIT, r->trainer.ps.w, r->trainer.ps.n_float * 4);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_blank(void **state)
{
    static const struct {
        const char *name, *model;
    } all[] = {{"blank-llama.json", llama}, {"blank-v3.json", v3}, {"blank-v32.json", v32}, {"blank-v41.json", v41}, {"blank-v4.json", v4}, {"blank-mla.json", own_mla}, {"blank-csa2.json", own_csa2}};

    for (int i = 0; i < HD_LEN(all); i++) {
        uint64_t clean, poisoned;

        blank_run(all[i].name, all[i].model, false, &clean);
        blank_run(all[i].name, all[i].model, true, &poisoned);
        if (clean != poisoned)
            fail_msg("%s: gradients depend on what the last update left", all[i].name);
    }
}

/* ---- what learns beside the logits, in whole models ---- */

struct slope {
    struct hd_train_run *r;
    enum hd_learn_kind kind;
    const char *part;                 /* of the names of the weights that learn from it alone */
};

/* The kind's loss of the first batch, a mean over its targets; the gradients are those of all losses. */
static double n_layer_of(const struct hd_train_run *r)
{
    const json_t *c = json_object_get(r->c.model, "text_config");
    double n = 0;
    size_t i;
    json_t *v;

    if (json_object_get(r->c.model, "index_topk") && !json_object_get(r->c.model, "compress_ratios"))
        return 3;                     /* V3.2: every layer, the MTP module's too */
    json_array_foreach(json_object_get(c ? c : r->c.model, "compress_ratios"), i, v)
        n += c ? json_integer_value(v) > 0 : json_integer_value(v) == 4;
    return n;
}

static double learnt(struct slope *k)
{
    struct hd_trainer *t = &k->r->trainer;
    double loss;

    memset(t->ps.grad, 0, t->ps.n_float * sizeof(float));
    assert_ok(hd_trainer_batch(t, &k->r->batch, &test_err));
    loss = t->learnt[k->kind] / (double)t->n_target;
    t->n_batch = t->n_target = t->n_tok = 0;
    memset(t->learnt, 0, sizeof t->learnt);
    return loss;
}

/* Weights whose name has the part, moved by h along dir[]; dir NULL: the squared length of their gradient. */
static double move(struct slope *k, const float *dir, double h)
{
    struct hd_params *ps = &k->r->trainer.ps;
    double sum = 0;

    for (int i = 0; i < ps->n; i++)
        for (int64_t e = 0; strstr(ps->p[i].name, k->part) && ps->p[i].w && e < ps->p[i].n; e++) {
            if (dir)
                ps->p[i].w[e] += (float)(h * (double)dir[ps->p[i].w - ps->w + e]);
            sum += (double)ps->p[i].grad[e] * (double)ps->p[i].grad[e];
        }
    return sum;
}

/* Weights that only one loss reaches: along their gradient it must change as fast as the gradient says. f32 forward passes, best of some step sizes. */
static void check_slope(const char *name, const char *model, enum hd_learn_kind kind, const char *part)
{
    struct hd_train_run *r = hd_calloc(1, sizeof *r);
    struct slope k = {r, kind, part};
    char *data = tmp_path("slope.txt");
    const char *config;
    double length, best = 1e9;
    float *dir;

    write_text(data, 200);
    config = write_config(name, model, data, ", \"steps\": 100, \"init_std\": 0.2, \"balance\": {\"loss\": 0}, \"indexer\": {\"dense\": true}, \"draft\": {\"weight\": 1, \"confidence\": 1}");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    assert_ok(hd_loader_next(&r->loader, &r->batch, false, &test_err));
    assert_true(learnt(&k) > 0);
    dir = hd_malloc(r->trainer.ps.n_float * sizeof *dir);
    memcpy(dir, r->trainer.ps.grad, r->trainer.ps.n_float * sizeof *dir);
    length = move(&k, NULL, 0) / (double)r->batch.n_target / (double)r->batch.n_target;
    assert_true(length > 0);
    for (double far = 3e-2; far > 1e-3; far /= 3) {                 /* how much the loss is to change */
        double h = far / length / (double)r->batch.n_target, up, down;

        move(&k, dir, h);
        up = learnt(&k);
        move(&k, dir, -2 * h);
        down = learnt(&k);
        move(&k, dir, h);
        best = fmin(best, fabs((up - down) / (2 * far) * (kind == HD_LEARN_INDEX ? n_layer_of(r) : 1) - 1));
    }
    if (!(best < 5e-3))
        fail_msg("%s: %s: the loss changes %.2g of what its gradient says away from it", name, part, best);
    hd_free(dir);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_learnt(void **state)
{
    check_slope("slope-v41-i.json", v41, HD_LEARN_INDEX, ".indexer.");
    check_slope("slope-v41-d.json", v41, HD_LEARN_DRAFT, ".markov_head.");
    check_slope("slope-v41-e.json", v41, HD_LEARN_DRAFT, "mtp.0.");
    check_slope("slope-v41-c.json", v41, HD_LEARN_CONFIDENCE, ".confidence_head.");
    check_slope("slope-v32-i.json", v32, HD_LEARN_INDEX, ".indexer.");
    check_slope("slope-v32-d.json", v32, HD_LEARN_DRAFT, ".eh_proj.");
    check_slope("slope-v4-i.json", v4, HD_LEARN_INDEX, ".indexer.");
    check_slope("slope-v4-d.json", v4, HD_LEARN_DRAFT, "mtp.1.");
    check_slope("slope-v4-s.json", v4_spark, HD_LEARN_DRAFT, "mtp.0.");
    check_slope("slope-v4-m.json", v4_spark, HD_LEARN_DRAFT, ".markov");
    check_slope("slope-v4-c.json", v4_spark, HD_LEARN_CONFIDENCE, ".confidence");
    check_slope("slope-own-a.json", own_mla, HD_LEARN_DRAFT, "mtp.0.");
    check_slope("slope-own-b.json", own_mla, HD_LEARN_DRAFT, "mtp.1.");
    check_slope("slope-own-c.json", own_csa2, HD_LEARN_DRAFT, "mtp.0.");
}

/* -log of the softmax of logits[n] at what. */
static double surprise(const float *logits, int64_t n, int64_t what)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp((double)(logits[i] - logits[what]));
    return log(sum);
}

/* The losses of two MTP modules in a row are those of the reference's logits. */
static void test_modules(void **state)
{
    struct hd_train_run *r = hd_calloc(1, sizeof *r);
    struct hd_store golden, drafts;
    const struct hd_entry *tokens, *one, *two;
    struct slope k = {r, HD_LEARN_DRAFT, ""};
    char *data = tmp_path("modules.bin"), *config = tmp_path("modules.json"), text[2048];
    double want[2] = {0, 0}, got;
    uint16_t id[512];
    int64_t n, V;

    open_tensors(&golden, "tests/golden/hadal-f/golden.safetensors");
    open_tensors(&drafts, "tests/golden/hadal-f/mtp.safetensors");
    tokens = get_tensor(&golden, "tokens");
    one = get_tensor(&drafts, "mtp_logits");
    two = get_tensor(&drafts, "mtp_logits.2");
    n = tokens->dim[0];
    V = one->dim[1];
    for (int64_t i = 0; i < n; i++)
        id[i] = (uint16_t)((const int64_t *)tokens->data)[i];
    write_file(data, (const char *)id, (size_t)n * sizeof *id);
    snprintf(text, sizeof text, "{\"model\": \"tests/golden/hadal-f\", \"init\": \"tests/golden/hadal-f\", \"tokenizer\": \"tests/golden/v41-f32-a\", \"out\": \"%s.out\", "
                                "\"data\": {\"train\": \"%s\", \"val\": \"%s\"}, \"context\": 128, \"batch_tokens\": 128, \"steps\": 10, \"draft\": {\"weight\": 1}}", config, data, data);
    write_file(config, text, strlen(text));
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    assert_ok(hd_loader_next(&r->loader, &r->batch, false, &test_err));
    assert_int_equal(r->batch.n_tok, n - 1);
    for (int64_t i = 0; i < n - 1; i++)
        assert_int_equal(r->batch.id[i], id[i]);
    got = learnt(&k);
    for (int64_t i = 0; i + 2 < n; i++)
        want[0] += surprise((const float *)one->data + i * V, V, id[i + 2]) / (double)(n - 2);
    for (int64_t i = 0; i + 3 < n; i++)
        want[1] += surprise((const float *)two->data + i * V, V, id[i + 3]) / (double)(n - 3);
    if (!(fabs(got / (want[0] + want[1]) - 1) < 1e-5))
        fail_msg("MTP: found %.6f, the reference %.6f and %.6f", got, want[0], want[1]);
    hd_store_close(&golden);
    hd_store_close(&drafts);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_v41(void **state)
{
    check_family("train-v41.json", v41, 1.6);
}

/* ---- published formats ---- */

static void eval_dir(const char *dir, const struct hd_train_run *like, double *loss)
{
    struct hd_trainer *t = hd_malloc(sizeof *t);
    struct hd_model m;
    struct hd_loader l;
    int64_t n;
    int32_t map[512];

    assert_ok(hd_model_open(&m, dir, HD_KV_F32, 0, &test_err));
    assert_ok(hd_token_classes(like->tok, m.hp.n_vocab, map, &n, &test_err));
    assert_ok(m.arch->take_classes(&m, map, m.hp.n_vocab, n, &test_err));
    assert_ok(hd_trainer_open(t, &m, &like->c.hp, like->pool, &like->be, &test_err));
    assert_ok(hd_loader_init(&l, &like->val, like->c.hp.context, like->c.hp.batch_tokens, 0, false, &test_err));
    assert_ok(hd_loader_next(&l, (struct hd_batch *)&like->batch, true, &test_err));
    assert_ok(hd_trainer_eval(t, &like->batch, loss, &n, &test_err));
    hd_loader_release(&l);
    hd_trainer_close(t);
    hd_model_close(&m);
    hd_free(t);
}

/* What a run that rounds computes with is what it writes: fp4 and fp8, with the loss of the trainer, bit for bit; and it is not what the masters give. */
static void test_native(void **state)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    struct hd_counts count, full;
    struct hd_step_result s;
    struct hd_loader l;
    struct hd_model m;
    char *data = tmp_path("native.txt"), dir[700];
    const char *config;
    double lr, here, native, masters;
    int64_t n;

    write_text(data, 200);
    config = write_config("train-native.json", v41, data, ", \"steps\": 12, \"qat\": {\"from\": 0.5}");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    while (r->step < 12)
        assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
    assert_true(r->trainer.rounded && isfinite(s.loss));
    assert_ok(hd_train_run_save(r, false, &test_err));
    assert_ok(hd_loader_init(&l, &r->val, r->c.hp.context, r->c.hp.batch_tokens, 0, false, &test_err));
    assert_ok(hd_loader_next(&l, &r->batch, true, &test_err));
    assert_ok(hd_trainer_eval(&r->trainer, &r->batch, &here, &n, &test_err));
    hd_loader_release(&l);
    snprintf(dir, sizeof dir, "%s/native", r->c.out);
    eval_dir(dir, r, &native);
    eval_dir(r->c.out, r, &masters);
    assert_true(here == native);
    assert_true(here != masters);
    assert_ok(hd_model_open(&m, dir, HD_KV_F32, 0, &test_err));
    hd_model_count(&m, &count);
    hd_model_count(&r->m, &full);
    hd_model_close(&m);
    assert_true(count.total == full.total && 2 * count.bytes < full.bytes);
    hd_train_run_close(r);
    hd_free(r);
}

/* Whatever the golden checkpoints are made of begins, learns a little and counts the same bits with two workers: their configs, with bytes for a vocabulary. */
static void test_blocks(void **state)
{
    static const char *const names[] = {"qwen2-a", "v2-lite", "v32-a", "v4-f32-a", "v41-f32-a", "hadal-a", "hadal-b", "hadal-c", "hadal-d", "hadal-e", "hadal-f"};
    static const char *const drop[] = {"quantization_config", "engram_num_embeddings", "engram_compressed_vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "image_token_id"};

    for (int k = 0; k < HD_LEN(names); k++) {
        char path[256], *model, *data = tmp_path("sea.txt");          /* in here: paths are forgotten after some more */
        const char *config;
        double first, one, two, three;
        uint64_t a, b, again;
        json_t *c, *text;

        write_text(data, 50);
        snprintf(path, sizeof path, "tests/golden/%s/config.json", names[k]);
        assert_non_null(c = hd_json_read(path, (size_t)1 << 20, &test_err));
        text = json_object_get(c, "text_config");
        text = text ? text : c;
        for (int i = 0; i < HD_LEN(drop); i++) {
            json_object_del(c, drop[i]);
            json_object_del(text, drop[i]);
        }
        json_object_set_new(text, "vocab_size", json_integer(304));
        json_object_set_new(text, "num_nextn_predict_layers", json_integer(0));
        assert_non_null(model = json_dumps(c, 0));
        config = write_config("block.json", model, data, ", \"steps\": 20");
        remove_state(config);
        steps(config, false, 1, 1, &first);
        remove_state(config);
        a = steps(config, false, 1, 12, &one);
        remove_state(config);
        b = steps(config, false, 2, 12, &two);
        config = write_config("block-again.json", model, data, ", \"steps\": 20, \"recompute\": true");
        remove_state(config);
        again = steps(config, false, 2, 12, &three);
        if (!(one < first - 0.5) || a != b || a != again)
            fail_msg("%s: loss %.3f, after 12 steps %.3f; %s bits with two workers, %s with layers computed again", names[k], first, one, a == b ? "the same" : "other",
                     a == again ? "the same" : "other");
        hd_free(model);
        json_decref(c);
    }
}

/* ---- what is written loads elsewhere: the engine's logits give the trainer's loss ---- */

static void check_export(const char *name, const char *model)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    struct hd_engine_options o = {.n_thread = 1, .exact = HD_EXACT_F32, .n_ctx = 256};
    char *data = tmp_path("sea.txt"), out[600];
    const char *config;
    const struct hd_step_item *done;
    struct hd_step_item it;
    struct hd_session ss;
    struct hd_engine e;
    double loss, sum = 0, one;
    int64_t n;

    write_text(data, 50);
    config = write_config(name, model, data, ", \"steps\": 5");
    remove_state(config);
    steps(config, false, 1, 5, &loss);
    snprintf(out, sizeof out, "%s.out", config);
    assert_ok(hd_train_run_prepare(r, out, true, 1, &test_err));
    assert_ok(hd_train_run_open(r, true, &test_err));
    assert_ok(hd_loader_next(&r->loader, &r->batch, false, &test_err));
    r->batch.n_seq = 1;
    r->batch.n_tok = r->batch.n_target = r->batch.span[0].n_tok;
    assert_ok(hd_trainer_eval(&r->trainer, &r->batch, &one, &n, &test_err));
    assert_ok(hd_engine_open(&e, out, &o, &test_err));
    assert_ok(hd_session_open(&ss, &e, &test_err));
    it = (struct hd_step_item){.session = &ss, .ids = r->batch.id, .n_tok = n, .want = HD_WANT_ALL};
    assert_ok(hd_engine_step(&e, &it, 1, &test_err));
    done = &it;
    for (int64_t t = 0; t < n; t++) {
        const float *l = done->logits + t * e.model.hp.n_vocab;
        double den = 0;

        for (int64_t i = 0; i < e.model.hp.n_vocab; i++)
            den += exp((double)l[i]);
        sum += log(den) - (double)l[r->batch.target[t]];
    }
    assert_true(fabs(sum - one) < 1e-4 * one);
    hd_session_close(&ss);
    hd_engine_close(&e);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_export(void **state)
{
    check_export("export-llama.json", llama);
    check_export("export-v3.json", v3);
    check_export("export-v41.json", v41);
}

/* ---- data ---- */

static void test_data(void **state)
{
    static const char jsonl[] = "{\"text\": \"abc\"}\n\n{\"text\": \"defgh\", \"other\": 1}\n";
    static const uint16_t ids[] = {1, 2, 3, 300};
    static const int32_t wide[] = {5, 6};
    struct hd_data d = {0}, val = {0};
    char *path = tmp_path("a.jsonl"), *bin = tmp_path("a.bin"), *bin32 = tmp_path("a.u32.bin"), *empty = tmp_path("empty.txt");
    struct hd_bpe_trainer *t;
    struct hd_tokenizer *tok;
    struct hd_str json;
    int64_t n;

    assert_ok(hd_bpe_trainer_create(&t, &test_err));
    hd_str_init(&json, 0);
    assert_ok(hd_bpe_trainer_finish(t, &(struct hd_bpe_hp){0}, &json, &n, &test_err));
    assert_int_equal(n, 256);
    assert_ok(hd_tokenizer_parse(&tok, json.s, json.n, "bytes", 0, &test_err));
    write_file(path, jsonl, sizeof jsonl - 1);
    write_file(bin, ids, sizeof ids);
    write_file(bin32, wide, sizeof wide);
    write_file(empty, "", 0);
    assert_ok(hd_data_add(&d, path, tok, 256, &test_err));
    assert_int_equal(d.n_doc, 2);
    assert_int_equal(d.n, 8);
    assert_int_equal(d.id[3], 'd');
    assert_int_equal(hd_data_add(&d, bin, NULL, 256, &test_err), HD_ERR_FORMAT);      /* 300 */
    assert_ok(hd_data_add(&d, bin32, NULL, 256, &test_err));
    assert_int_equal(hd_data_add(&d, empty, tok, 256, &test_err), HD_ERR_FORMAT);
    hd_data_release(&d);
    assert_ok(hd_data_add(&d, path, tok, 256, &test_err));
    assert_ok(hd_data_split(&d, &val, 0.4, &test_err));
    assert_int_equal(d.n, 5);
    assert_int_equal(val.n, 3);
    assert_int_equal(val.id[1], 'g');
    hd_data_seal(&val, tok);
    assert_int_equal(val.n_bytes, 3);
    hd_data_release(&d);
    hd_data_release(&val);
    hd_tokenizer_free(tok);
    hd_bpe_trainer_free(t);
    hd_str_release(&json);
}

/* Every token of every epoch is a target once but for documents' first ones; a cursor alone goes on where another loader was. */
static void test_loader(void **state)
{
    struct hd_data d = {0};
    struct hd_loader a, b;
    struct hd_batch x, y;
    int32_t id[100];
    int seen[100];

    for (int i = 0; i < 100; i++)
        id[i] = i;
    d.id = id;
    d.n = 100;
    d.doc = (int64_t[]){0, 3, 4, 60, 100};
    d.n_doc = 4;
    assert_ok(hd_loader_init(&a, &d, 8, 20, 7, true, &test_err));
    assert_ok(hd_loader_init(&b, &d, 8, 20, 7, true, &test_err));
    assert_ok(hd_batch_init(&x, &a, &test_err));
    assert_ok(hd_batch_init(&y, &b, &test_err));
    for (int epoch = 0; epoch < 3; epoch++) {
        memset(seen, 0, sizeof seen);
        for (int64_t n = 0; n < 96; n += x.n_target) {
            a.epoch = epoch;
            assert_ok(hd_loader_next(&a, &x, true, &test_err));
            assert_true(x.n_target > 0);
            for (int64_t s = 0; s < x.n_seq; s++)
                for (int64_t i = 0; i < x.span[s].n_tok; i++) {
                    int64_t t = x.span[s].tok0 + i;

                    assert_int_equal(x.pos[t], i);
                    assert_int_equal(x.target[t], x.id[t] + 1);
                    seen[x.target[t]]++;
                }
        }
        for (int i = 0; i < 100; i++)
            assert_int_equal(seen[i], i != 0 && i != 3 && i != 4 && i != 60);
        a.at = 0;
    }
    a.epoch = b.epoch = 2;
    a.at = b.at = 0;
    assert_ok(hd_loader_next(&a, &x, false, &test_err));
    b.at = a.at;
    assert_ok(hd_loader_next(&a, &x, false, &test_err));
    assert_ok(hd_loader_next(&b, &y, false, &test_err));
    assert_int_equal(x.n_tok, y.n_tok);
    assert_memory_equal(x.id, y.id, (size_t)x.n_tok * sizeof *x.id);
    hd_batch_release(&x);
    hd_batch_release(&y);
    hd_loader_release(&a);
    hd_loader_release(&b);
}

/* ---- neighbours in a batch do not see each other ---- */

static void check_apart(const char *name, const char *model)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    char *data = tmp_path("sea.txt");
    const char *config;
    struct hd_batch *b = &r->batch, one;
    struct hd_span span;
    double all, sum = 0, part;
    int64_t n;

    write_text(data, 50);
    config = write_config(name, model, data, ", \"steps\": 5");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 1, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    assert_ok(hd_loader_next(&r->loader, b, false, &test_err));
    assert_true(b->n_seq > 2);
    assert_ok(hd_trainer_eval(&r->trainer, b, &all, &n, &test_err));
    for (int64_t i = 0; i < b->n_seq; i++) {
        int64_t first = b->span[i].tok0;

        one = *b;
        span = (struct hd_span){.n_tok = b->span[i].n_tok};
        one.span = &span;
        one.n_seq = 1;
        one.n_tok = one.n_target = span.n_tok;
        one.id += first;
        one.pos += first;
        one.target += first;
        assert_ok(hd_trainer_eval(&r->trainer, &one, &part, &n, &test_err));
        sum += part;
    }
    assert_true(fabs(all - sum) < 1e-6 * all);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_apart(void **state)
{
    check_apart("apart-llama.json", llama);
    check_apart("apart-v41.json", v41);
}

/* ---- formulas ---- */

static void test_schedule(void **state)
{
    struct hd_schedule s = {HD_SCHEDULE_COSINE, 1, 0.1, 110, 10, 0, 0};

    assert_true(fabs(hd_schedule_lr(&s, 0, 0) - 0.1) < 1e-12 && hd_schedule_lr(&s, 9, 0) == 1);
    assert_true(fabs(hd_schedule_lr(&s, 60, 0) - 0.55) < 1e-12 && fabs(hd_schedule_lr(&s, 110, 0) - 0.1) < 1e-12);
    s.kind = HD_SCHEDULE_WSD;
    s.n_step = 100;
    s.decay = 0.2;
    assert_true(hd_schedule_lr(&s, 80, 0) == 1 && fabs(hd_schedule_lr(&s, 90, 0) - 0.55) < 1e-12);
}

enum { N_ORTHOGONAL = 9 };

/* The worst element of x x^T - 1 of several matrices, and a hash of all. */
static double orthogonal(int n_thread, bool bf16, uint64_t *hash)
{
    static const int64_t shape[N_ORTHOGONAL][2] = {{8, 20}, {20, 8}, {16, 16}, {1, 5}, {16, 9}, {8, 8}, {70, 40}, {12, 20}, {8, 20}};
    struct hd_newton_schulz ns;
    struct hd_ns_matrix x[N_ORTHOGONAL];
    struct hd_pool *pool;
    struct hd_backend be;
    struct hd_rng rng;
    double worst = 0;

    assert_ok(hd_backend_cpu_init(NULL, &test_err));
    assert_ok(hd_pool_create(&pool, n_thread, &test_err));
    assert_ok(hd_backend_cpu_create(&be, pool, &test_err));
    assert_ok(hd_newton_schulz_init(&ns, pool, &be, hd_optim_default.ns_steps, hd_optim_default.ns_last, &test_err));
    ns.bf16 = bf16;
    hd_rng_seed(&rng, 3);
    for (int k = 0; k < N_ORTHOGONAL; k++) {
        x[k] = (struct hd_ns_matrix){hd_malloc((size_t)(shape[k][0] * shape[k][1]) * sizeof(float)), shape[k][0], shape[k][1]};
        for (int64_t i = 0; i < x[k].m * x[k].n; i++)
            x[k].x[i] = (float)(hd_rng_double(&rng) - 0.5);
    }
    assert_ok(hd_newton_schulz(&ns, x, N_ORTHOGONAL, &test_err));
    *hash = HD_HASH_INIT;
    for (int k = 0; k < N_ORTHOGONAL; k++) {
        int64_t m = x[k].m, n = x[k].n, a = m < n ? m : n, b = m < n ? n : m;

        for (int64_t i = 0; i < a; i++)
            for (int64_t j = 0; j < a; j++) {
                double d = 0;

                for (int64_t e = 0; e < b; e++)
                    d += m < n ? (double)x[k].x[i * n + e] * (double)x[k].x[j * n + e] : (double)x[k].x[e * n + i] * (double)x[k].x[e * n + j];
                worst = fmax(worst, fabs(d - (i == j)));
            }
        *hash = hd_hash(*hash, x[k].x, (size_t)(m * n) * sizeof(float));
        hd_free(x[k].x);
    }
    hd_newton_schulz_release(&ns);
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
    return worst;
}

/* Large ones on the team, small ones side by side: the same bits as one worker's. */
static void test_orthogonal(void **state)
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        uint64_t one, two;
        double worst = orthogonal(1, bf16, &one);

        if (!(worst < (bf16 ? 0.06 : 0.02)))
            fail_msg("%s: %.3f away from orthogonal", bf16 ? "bf16" : "f32", worst);
        orthogonal(3, bf16, &two);
        assert_true(one == two);
    }
}

/* By head: what every head's rows get is what a matrix of them alone gets. */
static void test_heads(void **state)
{
    enum { HEADS = 3, ROWS = 4, COLS = 10, N = HEADS * ROWS * COLS };
    struct hd_optim_hp hp = hd_optim_default;
    struct hd_pool *pool;
    struct hd_backend be;
    float w[2][N], grad[2][N];

    hp.muon_heads = true;
    assert_ok(hd_backend_cpu_init(NULL, &test_err));
    assert_ok(hd_pool_create(&pool, 2, &test_err));
    assert_ok(hd_backend_cpu_create(&be, pool, &test_err));
    for (int way = 0; way < 2; way++) {               /* one matrix of three heads; three matrices */
        struct hd_param p[HEADS];
        struct hd_params ps = {.p = p, .n = way ? HEADS : 1, .w = w[way], .grad = grad[way], .n_float = N};
        struct hd_optim o;
        struct hd_rng rng;

        hd_rng_seed(&rng, 5);
        for (int i = 0; i < N; i++) {
            w[way][i] = (float)(hd_rng_double(&rng) - 0.5);
            grad[way][i] = (float)(hd_rng_double(&rng) - 0.5);
        }
        for (int i = 0; i < ps.n; i++) {
            int64_t rows = way ? ROWS : HEADS * ROWS;

            p[i] = (struct hd_param){.name = "layers.0.attn.wq.weight", .w = w[way] + i * rows * COLS, .grad = grad[way] + i * rows * COLS, .rows = rows, .cols = COLS, .n = rows * COLS,
                                     .heads = way ? 1 : HEADS, .kind = HD_PARAM_MATRIX};
        }
        assert_ok(hd_optim_init(&o, &hp, &ps, pool, &be, &test_err));
        assert_ok(hd_optim_step(&o, 0.01, 1, &test_err));
        hd_optim_release(&o);
    }
    assert_memory_equal(w[0], w[1], sizeof w[0]);
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
}

/* AdamW's first two updates, and rows that nobody touched. */
static void test_adamw(void **state)
{
    float w[6] = {1, -2, 3, 4, 5, 6}, g[6] = {0.5f, -0.25f, 0, 0, 1, 1}, m[6] = {0}, v[6] = {0};
    unsigned char touched[1] = {1 << 0 | 1 << 2};
    struct hd_param p = {.name = "embed.weight", .w = w, .grad = g, .rows = 3, .cols = 2, .n = 6, .kind = HD_PARAM_TABLE, .touched = touched};
    struct hd_params ps = {.p = &p, .n = 1, .w = w, .grad = g, .n_float = 6};
    struct hd_optim o = {.hp = hd_optim_default, .ps = &ps, .m = m, .v = v};
    double part[1];

    o.hp.table_lr = 1;
    o.part = part;
    assert_ok(hd_pool_create(&o.pool, 1, &test_err));
    assert_true(fabs(hd_grad_norm(&o, 2) - 2 * sqrt(0.25 + 0.0625 + 2)) < 1e-6);
    assert_ok(hd_optim_step(&o, 0.1, 1, &test_err));
    assert_true(fabs((double)w[0] - 0.9) < 1e-6 && fabs((double)w[1] + 1.9) < 1e-6);
    assert_true(w[2] == 3 && w[3] == 4 && g[0] == 0 && touched[0] == 0);
    touched[0] = 1;
    g[0] = 0.5f;
    assert_ok(hd_optim_step(&o, 0.1, 1, &test_err));
    assert_true(fabs((double)w[0] - 0.8) < 1e-5);
    hd_pool_free(o.pool);
}

/* ---- balance ---- */

struct gate_trial {
    struct hd_backend be;
    struct hd_arena arena;
    struct hd_tape tape;
    struct hd_stream s;
    struct hd_balance b;
    struct hd_ragged batch;
    struct hd_span span[2];
    float logits[7 * 5], grad[7 * 5], bias[5], bias_grad[5];
    struct hd_tensor x, bias_t;
};

static double balance_loss(struct gate_trial *a, const struct hd_gate_hp *hp)
{
    hd_arena_reset(&a->arena);
    hd_stream_init(&a->s, &a->be, &a->arena, HD_EXACT_F32);
    hd_tape_begin(&a->tape);
    a->s.tape = &a->tape;
    memset(a->grad, 0, sizeof a->grad);
    hd_gate(&a->s, hd_new(&a->s, HD_I32, 7, 2), hd_new(&a->s, HD_F32, 7, 2), &a->x, &a->bias_t, NULL, &a->batch, hp);
    assert_ok(hd_balance_batch(&a->b, &a->s, 1, &test_err));
    return a->b.loss;
}

/* The sequence-wise loss's gradient against differences; biases move towards equal loads, and MaxVio is what it says. */
static void test_balance(void **state)
{
    for (int fn = 0; fn < 3; fn++) {
        struct gate_trial *a = hd_calloc(1, sizeof *a);
        struct hd_gate_hp hp = {.n_expert = 5, .n_used = 2, .fn = (enum hd_gate_fn)fn, .norm = true, .scale = 1, .temp = 0.7f};
        struct hd_pool *pool;
        struct hd_rng rng;
        float grad[7 * 5];

        hd_rng_seed(&rng, 5);
        for (int i = 0; i < 35; i++)
            a->logits[i] = (float)(4 * hd_rng_double(&rng) - 2);
        a->span[0] = (struct hd_span){.n_tok = 4};
        a->span[1] = (struct hd_span){.tok0 = 4, .n_tok = 3};
        a->batch = (struct hd_ragged){.n_tok = 7, .n_seq = 2, .span = a->span};
        a->x = hd_view2(HD_F32, a->logits, 7, 5);
        a->bias_t = hd_view1(HD_F32, a->bias, 5);
        a->b = (struct hd_balance){.speed = 0.01, .alpha = 0.1};
        assert_ok(hd_pool_create(&pool, 1, &test_err));
        assert_ok(hd_backend_cpu_create(&a->be, pool, &test_err));
        hd_arena_init(&a->arena, 0);
        hd_tape_init(&a->tape);
        assert_ok(hd_tape_range(&a->tape, a->logits, a->grad, sizeof a->logits, false, &test_err));
        balance_loss(a, &hp);
        memcpy(grad, a->grad, sizeof grad);
        for (int i = 0; i < 35; i++) {
            float old = a->logits[i];
            double up, down;

            a->logits[i] = old + 1e-3f;
            up = balance_loss(a, &hp);
            a->logits[i] = old - 1e-3f;
            down = balance_loss(a, &hp);
            a->logits[i] = old;
            assert_true(fabs((up - down) / 2e-3 - (double)grad[i]) < 2e-6);
        }
        memset(a->b.gate[0].load, 0, 5 * sizeof(int64_t));
        balance_loss(a, &hp);
        int64_t load[5], top = 0;

        memcpy(load, a->b.gate[0].load, sizeof load);
        for (int e = 0; e < 5; e++)
            top = load[e] > top ? load[e] : top;
        assert_true(fabs(hd_balance_vio(&a->b, false) - ((double)top / 2.8 - 1)) < 1e-12);      /* 14 choices of 5 experts */
        a->b.sign = true;
        hd_balance_update(&a->b, 1);
        for (int e = 0; e < 5; e++)
            assert_true(a->bias[e] == (load[e] > 2 ? -0.01f : 0.01f));
        assert_true(fabs(hd_balance_vio(&a->b, true) - ((double)top / 2.8 - 1)) < 1e-12 && hd_balance_vio(&a->b, false) == 0);
        memset(a->bias, 0, sizeof a->bias);
        memcpy(a->b.gate[0].load, load, sizeof load);
        a->b.sign = false;
        hd_balance_update(&a->b, 0.5);                /* by shares: a gap of all of the mean or more moves by the speed */
        for (int e = 0; e < 5; e++)
            assert_true(fabs((double)a->bias[e] - 0.005 * fmax(-1, (2.8 - (double)load[e]) / 2.8)) < 1e-9);
        hd_balance_release(&a->b);
        hd_tape_release(&a->tape);
        hd_arena_release(&a->arena);
        hd_backend_cpu_free(&a->be);
        hd_pool_free(pool);
        hd_free(a);
    }
}

/* Of a model trained on the licence's English with these fields: MaxVio of all of its text. */
static double vio_of(const char *name, const char *more)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    struct hd_eval_result e;
    char text[8192], model[sizeof v3], *config = tmp_path(name);

    strcpy(model, v3);
    strstr(model, "\"n_group\": 2")[strlen("\"n_group\": ")] = '1';
    snprintf(text, sizeof text, "{\"model\": %s, \"out\": \"%s.out\", \"data\": {\"train\": \"LICENSE\", \"val\": \"LICENSE\"}, \"context\": 64, \"batch_tokens\": 1024, \"steps\": 150%s}", model,
             config, more);
    write_file(config, text, strlen(text));
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    while (r->step < 150) {
        struct hd_step_result s;
        double lr;

        assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
    }
    assert_ok(hd_train_run_eval(r, &e, &test_err));
    hd_train_run_close(r);
    hd_free(r);
    return e.max_vio;
}

/* What the biases are for, with the defaults. 150 steps at full speed are the hard part of a run: 1.0 against 2.6 (docs/training.md has longer ones). */
static void test_vio(void **state)
{
    double with = vio_of("vio-a.json", ""), without = vio_of("vio-b.json", ", \"balance\": {\"bias_speed\": 0, \"loss\": 0}");

    if (!(with < without / 2))
        fail_msg("MaxVio %.3f with biases, %.3f without", with, without);
}

/* ---- a teacher ---- */

/* The gradient's norm of a run's first step. */
static double first_norm(const char *name, const char *data, const char *more)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    struct hd_step_result s;
    const char *config = write_config(name, llama, data, more);
    double lr;

    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 2, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    assert_ok(hd_train_run_step(r, &s, &lr, &test_err));
    hd_train_run_close(r);
    hd_free(r);
    return s.grad_norm;
}

/* What is the teacher already has nothing to learn from it; another family learns the text from a teacher alone, and to the same bits when it is cut. */
static void test_teacher(void **state)
{
    char *data = tmp_path("sea.txt"), teacher[600], more[2000], out[600];
    const char *config;
    double loss, other, soft, hard;
    uint64_t one, two;

    write_text(data, 200);
    config = write_config("teacher.json", llama, data, ", \"steps\": 60, \"schedule\": {\"name\": \"constant\"}");
    remove_state(config);
    steps(config, false, 2, 60, &loss);
    snprintf(teacher, sizeof teacher, "%s.out", config);
    snprintf(more, sizeof more, ", \"steps\": 60, \"init\": \"%s\", \"tokenizer\": \"%s\"", teacher, teacher);
    hard = first_norm("pupil0.json", data, more);
    snprintf(more, sizeof more, ", \"steps\": 60, \"init\": \"%s\", \"tokenizer\": \"%s\", \"teacher\": {\"model\": \"%s\", \"share\": 1, \"top\": 1024}", teacher, teacher, teacher);
    soft = first_norm("pupil1.json", data, more);
    if (!(soft < 0.02 * hard))
        fail_msg("the teacher's own gradient %.3g; against the text %.3g", soft, hard);

    snprintf(more, sizeof more, ", \"steps\": 40, \"schedule\": {\"name\": \"constant\"}, \"tokenizer\": \"%s\", \"teacher\": {\"model\": \"%s\", \"share\": 1, \"top\": 8}", teacher, teacher);
    config = write_config("pupil2.json", v3, data, more);
    remove_state(config);
    one = steps(config, false, 1, 40, &loss);
    if (!(loss < 2.0))
        fail_msg("loss %.3f against the teacher after 40 steps", loss);
    remove_state(config);
    steps(config, false, 2, 17, &other);
    snprintf(out, sizeof out, "%s.out", config);
    two = steps(out, true, 2, 23, &other);
    assert_true(one == two && loss == other);
}

/* ---- weights to begin with ---- */

/* What a run takes of a published directory is what the directory holds, decoded: shards, fp8 and fp4 with scales, tables, whole numbers. */
static void check_taken(const char *name)
{
    char from[128], dir[600], at[80];
    struct hd_params a, b;
    struct hd_model m, n;

    snprintf(from, sizeof from, "tests/golden/%s", name);
    snprintf(at, sizeof at, "taken-%s", name);
    snprintf(dir, sizeof dir, "%s", tmp_path(at));
    assert_ok(hd_model_dir_others(dir, from, true, &test_err));
    assert_ok(hd_model_dir_take(dir, from, &test_err));
    assert_ok(hd_model_open(&m, from, HD_KV_F32, HD_MODEL_LEARN, &test_err));
    assert_ok(hd_model_open(&n, dir, HD_KV_F32, HD_MODEL_LEARN, &test_err));
    assert_ok(hd_params_take(&a, &m, &test_err));
    assert_ok(hd_params_take(&b, &n, &test_err));
    assert_true(a.n == b.n && a.n_float == b.n_float);
    if (memcmp(a.w, b.w, a.n_float * sizeof *a.w))
        fail_msg("%s: other weights", name);
    hd_params_release(&a);
    hd_params_release(&b);
    hd_model_close(&m);
    hd_model_close(&n);
}

static void test_taken(void **state)
{
    static const char *const names[] = {"llama-b", "llama-fp8", "llama-nvfp4", "v3-fp8", "v32-b", "v4-f32-b", "v4-hf-b", "v4-official-a", "v41-f32-b", "v41-official-a", "hadal-f"};

    for (int i = 0; i < HD_LEN(names); i++)
        check_taken(names[i]);
    assert_true(hd_model_dir_take(tmp_path("taken"), "tests/golden/v4-f32-b/config.json", &test_err) == HD_ERR_USAGE);
}

/* ---- refusals ---- */

static void refuse(const char *name, const char *model, const char *data, const char *more, bool resume, const char *says)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    const char *config = resume ? name : write_config(name, model, data, more);
    int rc = hd_train_run_prepare(r, config, resume, 1, &test_err);

    if (rc == HD_OK)
        rc = hd_train_run_open(r, resume, &test_err);
    if (rc >= 0 || !strstr(test_err.msg, says))
        fail_msg("%s: \"%s\"; expected \"%s\"", name, rc < 0 ? test_err.msg : "no error", says);
    hd_train_run_close(r);
    hd_free(r);
}

static void test_refusals(void **state)
{
    char data[600], out[700];
    const char *config;
    double loss;

    snprintf(data, sizeof data, "%s", tmp_path("sea2.txt"));
    write_text(data, 50);
    refuse("bad1.json", llama, data, ", \"steps\": 5, \"stepz\": 1", false, "stepz: no such field");
    refuse("bad2.json", llama, data, "", false, "steps: found");
    refuse("bad3.json", llama, "nowhere.txt", ", \"steps\": 5", false, "nowhere.txt");
    refuse("bad4.json", "{\"model_type\": \"gpt5\"}", data, ", \"steps\": 5", false, "gpt5");
    refuse("bad5.json", llama, data, ", \"steps\": 5, \"schedule\": {\"name\": \"linear\"}", false, "schedule.name");
    refuse("bad6.json", llama, data, ", \"steps\": 5, \"teacher\": {\"share\": 0.5}", false, "teacher.model: found nothing");
    refuse("bad7.json", llama, data, ", \"steps\": 5, \"teacher\": {\"model\": \"nowhere\"}", false, "nowhere");
    config = write_config("letters.json", llama, data, ", \"steps\": 9, \"tokenizer\": \"used-bytes\"");
    remove_state(config);
    steps(config, false, 1, 1, &loss);
    snprintf(out, sizeof out, ", \"steps\": 5, \"tokenizer\": \"bytes\", \"teacher\": {\"model\": \"%s.out\"}", config);
    refuse("bad8.json", llama, data, out, false, "the model that learns has");
    config = write_config("changed.json", llama, data, ", \"steps\": 9");
    remove_state(config);
    steps(config, false, 1, 3, &loss);
    refuse("changed.json", llama, data, ", \"steps\": 9", false, "--resume");
    snprintf(out, sizeof out, "%s.out", config);
    write_text(data, 51);
    refuse(out, NULL, NULL, NULL, true, "not those that the run began with");
    write_text(data, 50);
    steps(out, true, 1, 3, &loss);                    /* still there */
}

/* A weight that is no number: the layer is named, and nothing is written. */
static void test_not_finite(void **state)
{
    struct hd_train_run *r = hd_malloc(sizeof *r);
    char *data = tmp_path("sea.txt");
    const char *config;
    struct hd_step_result s;
    double lr;

    write_text(data, 50);
    config = write_config("nan.json", llama, data, ", \"steps\": 5");
    remove_state(config);
    assert_ok(hd_train_run_prepare(r, config, false, 1, &test_err));
    assert_ok(hd_train_run_open(r, false, &test_err));
    for (int i = 0; i < r->trainer.ps.n; i++)
        if (strstr(r->trainer.ps.p[i].name, "layers.1.mlp.up_proj"))
            r->trainer.ps.p[i].w[3] = NAN;
    assert_int_equal(hd_train_run_step(r, &s, &lr, &test_err), HD_ERR_FORMAT);
    assert_non_null(strstr(test_err.msg, "layers.1."));
    hd_train_run_close(r);
    hd_free(r);
}

/* ---- tokenizers ---- */

static void test_bpe(void **state)
{
    static const char *const special[] = {"<|endoftext|>"};
    struct hd_bpe_hp hp = {.n_vocab = 290, .special = special, .n_special = 1};
    struct hd_bpe_trainer *t;
    struct hd_tokenizer *tok;
    struct hd_ids ids = {0};
    struct hd_str json, back;
    char *path = tmp_path("sea.txt"), *text;
    int64_t n_vocab;
    size_t n;

    write_text(path, 100);
    assert_ok(hd_file_read(path, (size_t)1 << 20, &text, &n, &test_err));
    assert_ok(hd_bpe_trainer_create(&t, &test_err));
    assert_ok(hd_bpe_trainer_add(t, text, n, &test_err));
    hd_str_init(&json, 0);
    hd_str_init(&back, 0);
    assert_ok(hd_bpe_trainer_finish(t, &hp, &json, &n_vocab, &test_err));
    assert_int_equal(n_vocab, 290);
    assert_ok(hd_tokenizer_parse(&tok, json.s, json.n, "bpe", 0, &test_err));
    assert_int_equal(hd_tokenizer_find(tok, special[0]), 0);
    assert_ok(hd_tokenize(tok, text, n, 0, &ids, &test_err));
    assert_true(ids.n * 3 < n);                       /* words are pieces now */
    hd_detokenize(tok, ids.id, ids.n, false, &back);
    assert_int_equal(back.n, n);
    assert_memory_equal(back.s, text, n);
    hd_ids_release(&ids);
    hd_tokenizer_free(tok);
    hd_bpe_trainer_free(t);
    hd_str_release(&json);
    hd_str_release(&back);
    hd_free(text);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),      cmocka_unit_test(test_loader),   cmocka_unit_test(test_schedule), cmocka_unit_test(test_orthogonal), cmocka_unit_test(test_heads), cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_bpe),       cmocka_unit_test(test_llama),    cmocka_unit_test(test_v3),       cmocka_unit_test(test_v41), cmocka_unit_test(test_again), cmocka_unit_test(test_vio), cmocka_unit_test(test_sum), cmocka_unit_test(test_blank), cmocka_unit_test(test_plan),        cmocka_unit_test(test_native), cmocka_unit_test(test_v4), cmocka_unit_test(test_learnt), cmocka_unit_test(test_modules), cmocka_unit_test(test_export),
        cmocka_unit_test(test_apart),     cmocka_unit_test(test_teacher), cmocka_unit_test(test_taken),  cmocka_unit_test(test_refusals), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_balance), cmocka_unit_test(test_blocks),
    };

    hd_json_init();
    assert_ok(hd_backend_cpu_init(NULL, &test_err));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
