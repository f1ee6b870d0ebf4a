/* synthetic.c: see synthetic.h. */
#include "engine/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/model.h"
#include "weights/safetensors_write.h"

#define PIECE 65536                   /* bytes written at a time */
#define TABLE 8192                    /* normal numbers to draw from */

/* ---- shapes ---- */

#define V4(layers, ratios, d, heads, dh, q, groups, o, ff, experts, top, index_heads, index_dim, index_top, ctx)                                                         \
    "{\"architectures\": [\"DeepseekV4ForCausalLM\"], \"model_type\": \"deepseek_v4\", \"vocab_size\": 8192, \"hidden_size\": " d ", \"num_hidden_layers\": " layers     \
    ", \"num_attention_heads\": " heads ", \"num_key_value_heads\": 1, \"head_dim\": " dh ", \"q_lora_rank\": " q ", \"o_groups\": " groups ", \"o_lora_rank\": " o   \
    ", \"qk_rope_head_dim\": 64, \"moe_intermediate_size\": " ff ", \"n_routed_experts\": " experts ", \"n_shared_experts\": 1, \"num_experts_per_tok\": " top              \
    ", \"index_n_heads\": " index_heads ", \"index_head_dim\": " index_dim ", \"index_topk\": " index_top ", \"compress_ratios\": " ratios                                 \
    ", \"sliding_window\": 128, \"hc_mult\": 4, \"hc_sinkhorn_iters\": 20, \"hc_eps\": 1e-06, \"num_hash_layers\": 1, \"num_nextn_predict_layers\": 0, "                    \
    "\"scoring_func\": \"sqrtsoftplus\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"routed_scaling_factor\": 1.5, \"swiglu_limit\": 10.0, "                 \
    "\"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, \"compress_rope_theta\": 160000, \"max_position_embeddings\": " ctx                        \
    ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 16, \"beta_fast\": 32, \"beta_slow\": 1, \"original_max_position_embeddings\": 65536}, "                          \
    "\"expert_dtype\": \"fp4\", \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, 128], "     \
    "\"activation_scheme\": \"dynamic\"}, \"bos_token_id\": 0, \"eos_token_id\": 1, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}\n"

#define V2_LITE(layers, experts)                                                                                                                                           \
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"vocab_size\": 8192, \"hidden_size\": 2048, \"intermediate_size\": 10944, "          \
    "\"moe_intermediate_size\": 1408, \"num_hidden_layers\": " layers ", \"num_attention_heads\": 16, \"num_key_value_heads\": 16, \"q_lora_rank\": null, "                  \
    "\"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"n_routed_experts\": " experts ", \"n_shared_experts\": 2, "             \
    "\"num_experts_per_tok\": 6, \"first_k_dense_replace\": 1, \"topk_method\": \"greedy\", \"scoring_func\": \"softmax\", \"norm_topk_prob\": false, "                         \
    "\"routed_scaling_factor\": 1.0, \"moe_layer_freq\": 1, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000, "                                         \
    "\"max_position_embeddings\": 163840, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.707, "                        \
    "\"mscale_all_dim\": 0.707, \"original_max_position_embeddings\": 4096}, \"bos_token_id\": 0, \"eos_token_id\": 1, \"tie_word_embeddings\": false, "                        \
    "\"torch_dtype\": \"bfloat16\"}\n"

static const struct shape {
    const char *name, *config;
} shapes[] = {
    /* layers of V4-Flash's size: 6 of 43, 16 experts of 256 */
    {"v4f-L6E16", V4("6", "[0, 0, 4, 128, 4, 128]", "4096", "64", "512", "1024", "8", "1024", "2048", "16", "6", "64", "128", "512", "1048576")},
    /* small enough for a million tokens in minutes */
    {"v4-tiny1m", V4("6", "[0, 0, 4, 128, 4, 128]", "512", "8", "128", "256", "2", "256", "512", "8", "2", "8", "128", "128", "1048576")},
    /* layers of V2-Lite's size: 6 of 27 */
    {"v2lite-L6", V2_LITE("6", "64")},
    /* V2-Lite with 8 of its 64 experts, which is what a token reads all the same: 6 and 2 shared ones */
    {"v2lite-L27E8", V2_LITE("27", "8")},
};

const char *hd_synthetic_shape(const char *name)
{
    for (int i = 0; i < HD_LEN(shapes); i++)
        if (!strcmp(shapes[i].name, name))
            return shapes[i].config;
    return NULL;
}

const char *hd_synthetic_names(void)
{
    return "v4f-L6E16, v4-tiny1m, v2lite-L6, v2lite-L27E8";
}

/* ---- weights ---- */

struct job {
    struct hd_st_writer w;
    struct hd_rng rng;
    int64_t n_expert;
    float normal[TABLE];
    unsigned char e4m3[TABLE], e2m1[TABLE];      /* normal numbers as bytes: 64 of them a unit, and two values a byte, 2 a unit */
    uint64_t piece[PIECE / 8];
};

static void draw(struct job *j)
{
    for (int i = 0; i < TABLE; i += 2) {
        double r = sqrt(-2 * log(1 - hd_rng_double(&j->rng))), a = 6.283185307179586 * hd_rng_double(&j->rng);

        j->normal[i] = (float)(r * cos(a));
        j->normal[i + 1] = (float)(r * sin(a));
    }
    for (int i = 0; i < TABLE; i++) {
        float x = 64 * j->normal[i], pair[2] = {2 * j->normal[i], 2 * j->normal[(i + 77) % TABLE]};
        int code[2];

        hd_encode_row(HD_F8_E4M3, &x, 1, &j->e4m3[i]);
        for (int k = 0; k < 2; k++) {
            static const float value[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
            int best = 0;

            for (int c = 1; c < 8; c++)
                if (fabsf(fabsf(pair[k]) - value[c]) < fabsf(fabsf(pair[k]) - value[best]))
                    best = c;
            code[k] = best | (pair[k] < 0) << 3;
        }
        j->e2m1[i] = (unsigned char)(code[0] | code[1] << 4);
    }
}

static bool scale_name(const struct hd_tensor *t, char name[300])
{
    size_t n = strlen(t->name);

    if (!t->scale.n_row || n < 8 || n > 280)
        return false;
    snprintf(name, 300, "%.*s.scale", (int)n - 7, t->name);
    return true;
}

static void declare(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;
    bool fp4 = t->type == HD_F4_E2M1;
    int64_t dim[HD_MAX_DIM], scale[2] = {t->scale.n_row, t->scale.n_col};
    char name[300];

    memcpy(dim, t->dim, sizeof dim);
    if (fp4)
        dim[t->n_dim - 1] /= 2;
    hd_st_writer_declare(&j->w, t->name, fp4 ? HD_I8 : t->type, t->n_dim, dim);
    if (scale_name(t, name))
        hd_st_writer_declare(&j->w, name, t->scale.type, 2, scale);
}

/* n bytes, drawn from a table of bytes. */
static void put_bytes(struct job *j, const unsigned char *table, int64_t n)
{
    unsigned char *p = (unsigned char *)j->piece;

    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t k = n - done < PIECE ? n - done : PIECE;

        for (int64_t i = 0; i < k; i += 4) {
            uint64_t r = hd_rng_next(&j->rng);

            for (int b = 0; b < 4; b++, r >>= 16)
                p[i + b] = table[r % TABLE];
        }
        hd_st_writer_data(&j->w, p, (size_t)k);
    }
}

/* n values of a plain float format: mean + std * normal. */
static void put_floats(struct job *j, enum hd_dtype type, float mean, float std, int64_t n)
{
    float x[1024];

    for (int64_t done = 0; done < n; done += 1024) {
        int64_t k = n - done < 1024 ? n - done : 1024;

        for (int64_t i = 0; i < k; i++)
            x[i] = mean + std * j->normal[hd_rng_next(&j->rng) % TABLE];
        hd_encode_row(type, x, k, j->piece);
        hd_st_writer_data(&j->w, j->piece, (size_t)hd_row_bytes(type, k));
    }
}

static void put_scales(struct job *j, const struct hd_scale *s, double value)
{
    int64_t n = s->n_row * s->n_col;
    int e = (int)lrint(log2(value));

    if (s->type != HD_F8_E8M0) {
        put_floats(j, s->type, (float)value, (float)(0.1 * value), n);
        return;
    }
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t k = n - done < PIECE ? n - done : PIECE;
        unsigned char *p = (unsigned char *)j->piece;

        for (int64_t i = 0; i < k; i++)
            p[i] = (unsigned char)(127 + e - (int)(hd_rng_next(&j->rng) >> 63));
        hd_st_writer_data(&j->w, p, (size_t)k);
    }
}

static void write_weight(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;
    int64_t rows = hd_rows(t), cols = hd_cols(t);
    double std = t->n_dim < 2 || strstr(t->name, "embed") ? 0.02 : 1 / sqrt((double)cols);
    char name[300];

    if (t->type == HD_I64 || t->type == HD_I32) {
        int64_t *row = (int64_t *)j->piece;

        for (int64_t r = 0; r < rows; r++) {
            int64_t first = (int64_t)(hd_rng_next(&j->rng) % (uint64_t)j->n_expert);

            for (int64_t c = 0; c < cols && c < PIECE / 8; c++)
                if (t->type == HD_I64)
                    row[c] = (first + c) % j->n_expert;
                else
                    ((int32_t *)row)[c] = (int32_t)((first + c) % j->n_expert);
            hd_st_writer_data(&j->w, row, (size_t)(cols * (t->type == HD_I64 ? 8 : 4)));
        }
        return;
    }
    if (t->type == HD_F8_E4M3 || t->type == HD_F4_E2M1)
        put_bytes(j, t->type == HD_F4_E2M1 ? j->e2m1 : j->e4m3, hd_tensor_bytes(t));
    else
        put_floats(j, t->type, strstr(t->name, "norm") ? 1 : 0, (float)std, rows * cols);
    if (scale_name(t, name))
        put_scales(j, &t->scale, std / (t->type == HD_F4_E2M1 ? 2 : 64));
}

static int write_config(const char *dir, const char *json, struct hd_err *err)
{
    char *path = hd_path_join(dir, "config.json");
    struct hd_out out;
    int rc = path ? hd_out_open(&out, path, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK) {
        hd_out_write(&out, json, strlen(json));
        rc = hd_out_commit(&out, err);
    }
    hd_free(path);
    return rc;
}

static int write_weights(struct job *j, const struct hd_model *m, const char *dir, struct hd_err *err)
{
    char *path = hd_path_join(dir, "model.safetensors");
    const json_t *experts = json_object_get(m->store.config, "n_routed_experts");
    int rc;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    j->n_expert = json_integer_value(experts) > 0 ? json_integer_value(experts) : 1;
    hd_rng_seed(&j->rng, 1);
    draw(j);
    hd_st_writer_init(&j->w);
    m->arch->each_weight(m, declare, j);
    if (m->arch->each_aside)
        m->arch->each_aside(m, declare, j);
    rc = hd_st_writer_begin(&j->w, path, err);
    hd_free(path);
    HD_TRY(rc);
    m->arch->each_weight(m, write_weight, j);
    if (m->arch->each_aside)
        m->arch->each_aside(m, write_weight, j);
    return hd_st_writer_commit(&j->w, err);
}

int hd_synthetic_write(const char *config_json, const char *dir, struct hd_err *err)
{
    struct job *j = hd_malloc(sizeof *j);
    struct hd_model m;
    int rc;

    if (!j)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for random weights");
    rc = write_config(dir, config_json, err);
    if (rc == HD_OK && (rc = hd_model_open(&m, dir, HD_KV_AUTO, HD_STORE_PLAN, err)) == HD_OK) {
        rc = write_weights(j, &m, dir, err);
        hd_model_close(&m);
    }
    hd_free(j);
    if (rc < 0)
        hd_synthetic_remove(dir);
    return rc;
}

void hd_synthetic_remove(const char *dir)
{
    static const char *const names[] = {"config.json", "model.safetensors"};

    for (int i = 0; i < HD_LEN(names); i++) {
        char *path = hd_path_join(dir, names[i]);

        if (path)
            unlink(path);
        hd_free(path);
    }
    rmdir(dir);
}
