/* quant.c: see quant.h. */
#include "train/quant.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "tensor/blocks.h"
#include "tensor/simulate.h"
#include "train/model_dir.h"
#include "weights/safetensors_write.h"

/* ---- formats ---- */

static void take_format(void *arg, const struct hd_tensor *t)
{
    struct hd_params *ps = arg;

    for (int i = 0; i < ps->n; i++)
        if (ps->p[i].w && !strcmp(ps->p[i].name, t->name)) {
            ps->p[i].store = t->type;
            ps->p[i].blocks = t->scale;
        }
}

/* The config with a quantization; NULL when memory ran out. */
static json_t *quantised(const json_t *config, const json_t *quantization)
{
    json_t *c = json_deep_copy(config);
    json_t *q = quantization ? json_deep_copy(quantization)
                             : json_pack("{ssssss s[ii]ss}", "quant_method", "fp8", "activation_scheme", "dynamic", "scale_fmt", "ue8m0", "weight_block_size", 32, 32, "expert_dtype", "fp4");

    if (c && q && !json_object_set(c, "quantization_config", q)) {
        json_decref(q);
        return c;
    }
    json_decref(c);
    json_decref(q);
    return NULL;
}

static int check_formats(const struct hd_params *ps, struct hd_err *err)
{
    for (int i = 0; i < ps->n; i++) {
        const struct hd_param *p = &ps->p[i];

        if (!p->w)
            continue;
        if (p->store != HD_F32 && p->store != HD_BF16 && p->store != HD_F8_E4M3 && p->store != HD_F4_E2M1)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hadal does not write %s", p->name, hd_dtypes[p->store].name);
        if (p->blocks.n_row && p->blocks.type != HD_F8_E8M0)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "quantization_config.scale_fmt: expected \"ue8m0\"");
    }
    return HD_OK;
}

int hd_quant_plan(struct hd_params *ps, const char *dir, const json_t *config, const json_t *quantization, struct hd_err *err)
{
    json_t *c = quantised(config, quantization);
    struct hd_model m;
    int rc = c ? hd_make_dir(dir, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a configuration");

    if (rc == HD_OK)
        rc = hd_write_json(dir, "config.json", c, err);
    json_decref(c);
    HD_TRY(rc);
    HD_TRY(hd_model_open(&m, dir, HD_KV_F32, HD_STORE_BARE | HD_MODEL_LEARN, err));
    hd_params_each(&m, take_format, ps);
    hd_model_close(&m);
    return check_formats(ps, err);
}

/* ---- rounding ---- */

static bool in_blocks(const struct hd_param *p)
{
    return p->store == HD_F8_E4M3 || p->store == HD_F4_E2M1;
}

/* Nearest of 0 .5 1 1.5 2 3 4 6, ties to the even code: hd_round_e2m1() without a table. */
static inline float e2m1(float x)
{
    float a = fabsf(x);

    a = a < 2 ? rintf(2 * a) / 2 : a < 4 ? rintf(a) : 2 * rintf(a / 2);
    return copysignf(a > 6 ? 6 : a, x);
}

/* Nearest e4m3, ties to even: four significant bits from 2^-6 up, steps of 2^-9 below. */
static inline float e4m3(float x)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = fabsf(x)};
    float step;

    if (v.f < 0x1p-6f)
        return copysignf(rintf(v.f * 0x1p9f) * 0x1p-9f, x);
    v.u = (v.u & 0x7F800000) - (3u << 23);
    step = v.f;
    v.f = rintf(fabsf(x) / step) * step;
    return copysignf(v.f > 448 ? 448 : v.f, x);
}

struct block {
    int64_t row0, row1, col0, col1;
    float scale;
};

/* Block b of p's scales, by its place in them. */
static struct block block_at(const struct hd_param *p, int64_t b)
{
    const struct hd_scale *s = &p->blocks;
    struct block k = {.row0 = b / s->n_col * s->block_rows, .col0 = b % s->n_col * s->block_cols};
    float amax = 0;

    k.row1 = k.row0 + s->block_rows < p->rows ? k.row0 + s->block_rows : p->rows;
    k.col1 = k.col0 + s->block_cols < p->cols ? k.col0 + s->block_cols : p->cols;
    for (int64_t r = k.row0; r < k.row1; r++)
        for (int64_t c = k.col0; c < k.col1; c++)
            amax = fmaxf(amax, fabsf(p->w[r * p->cols + c]));
    k.scale = hd_sim_scale(p->store == HD_F4_E2M1 ? HD_SIM_FP4 : HD_SIM_FP8, amax);
    return k;
}

static float *shown(const struct hd_params *ps, const struct hd_param *p)
{
    return ps->q + (p->w - ps->w);
}

static void round_block(const struct hd_param *p, int64_t b, float *q)
{
    struct block k = block_at(p, b);
    float back = 1 / k.scale;         /* powers of two: exact */

    for (int64_t r = k.row0; r < k.row1; r++) {
        const float *w = p->w + r * p->cols;

        if (p->store == HD_F4_E2M1)
            for (int64_t c = k.col0; c < k.col1; c++)
                q[r * p->cols + c] = k.scale * e2m1(w[c] * back);
        else
            for (int64_t c = k.col0; c < k.col1; c++)
                q[r * p->cols + c] = k.scale * e4m3(w[c] * back);
    }
}

struct job {
    const struct hd_param *p;
    float *q;
};

static void round_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++) {
        if (in_blocks(j->p))
            round_block(j->p, i, j->q);
        else
            for (int64_t k = i * j->p->cols; k < (i + 1) * j->p->cols; k++)
                j->q[k] = hd_round_bf16(j->p->w[k]);
    }
}

void hd_quant_round(struct hd_params *ps, struct hd_pool *pool)
{
    for (int i = 0; i < ps->n; i++) {
        struct hd_param *p = &ps->p[i];
        struct job j = {p, p->w ? shown(ps, p) : NULL};
        int64_t n = in_blocks(p) ? p->blocks.n_row * p->blocks.n_col : p->rows, wide = p->n / (n > 0 ? n : 1);

        if (p->w && p->store != HD_F32)
            hd_pool_for(pool, n, 1 + 8192 / (wide + 1), round_range, &j);
    }
}

int hd_quant_show(struct hd_params *ps, bool rounded, struct hd_err *err)
{
    if (rounded && !ps->q && !(ps->q = hd_pages_alloc(ps->n_float * sizeof(float))))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu rounded weights", ps->n_float);
    for (int i = 0; i < ps->n; i++)
        if (ps->p[i].w && ps->p[i].store != HD_F32)
            ps->p[i].t->data = rounded ? shown(ps, &ps->p[i]) : ps->p[i].w;
    return HD_OK;
}

/* ---- writing ---- */

static void scale_name(const struct hd_param *p, char name[300])
{
    size_t n = strlen(p->name);

    snprintf(name, 300, "%.*s.scale", (int)(n > 7 && n < 280 ? n - 7 : 0), p->name);
}

static void declare(struct hd_st_writer *w, const struct hd_param *p)
{
    int64_t dim[HD_MAX_DIM], scale[2] = {p->blocks.n_row, p->blocks.n_col};
    char name[300];

    memcpy(dim, p->t->dim, sizeof dim);
    if (p->w && p->store == HD_F4_E2M1)
        dim[p->t->n_dim - 1] /= 2;
    hd_st_writer_declare(w, p->name, !p->w ? p->t->type : p->store == HD_F4_E2M1 ? HD_I8 : p->store, p->t->n_dim, dim);
    if (!p->w || !in_blocks(p))
        return;
    scale_name(p, name);
    hd_st_writer_declare(w, name, HD_F8_E8M0, 2, scale);
}

/* Codes of row r, whose blocks' scales are scale[n_col]; room: [cols] bytes. */
static void put_row(struct hd_st_writer *w, const struct hd_param *p, int64_t r, const float *scale, unsigned char *room)
{
    const float *x = p->w + r * p->cols;
    int64_t wide = p->blocks.block_cols;

    if (p->store == HD_F8_E4M3) {
        for (int64_t c = 0; c < p->cols; c++)
            room[c] = hd_f32_e4m3(x[c] / scale[c / wide]);
        hd_st_writer_data(w, room, (size_t)p->cols);
        return;
    }
    for (int64_t c = 0; c < p->cols; c += 2)
        room[c / 2] = (unsigned char)(hd_e2m1_code(x[c] / scale[c / wide]) | hd_e2m1_code(x[c + 1] / scale[(c + 1) / wide]) << 4);
    hd_st_writer_data(w, room, (size_t)p->cols / 2);
}

static void put_blocks(struct hd_st_writer *w, const struct hd_param *p, float *scale, unsigned char *room)
{
    int64_t n = p->blocks.n_row * p->blocks.n_col;

    for (int64_t b = 0; b < n; b++)
        scale[b] = block_at(p, b).scale;
    for (int64_t r = 0; r < p->rows; r++)
        put_row(w, p, r, scale + r / p->blocks.block_rows * p->blocks.n_col, room);
    for (int64_t b = 0; b < n; b++) {
        unsigned char e = (unsigned char)(ilogbf(scale[b]) + 127);

        hd_st_writer_data(w, &e, 1);
    }
}

static bool put(struct hd_st_writer *w, const struct hd_param *p)
{
    float *scale;
    unsigned char *room;

    if (!p->w || p->store == HD_F32) {
        hd_st_writer_data(w, p->w ? p->w : p->t->data, p->w ? (size_t)p->n * sizeof *p->w : (size_t)hd_tensor_bytes(p->t));
        return true;
    }
    scale = hd_malloc((size_t)(p->blocks.n_row * p->blocks.n_col + 1) * sizeof *scale);
    room = hd_malloc((size_t)p->cols * 2);
    if (scale && room && in_blocks(p))
        put_blocks(w, p, scale, room);
    else if (scale && room)
        for (int64_t r = 0; r < p->rows; r++) {
            hd_encode_row(HD_BF16, p->w + r * p->cols, p->cols, room);
            hd_st_writer_data(w, room, (size_t)p->cols * 2);
        }
    hd_free(scale);
    hd_free(room);
    return scale && room;
}

int hd_quant_write(const struct hd_params *ps, const char *dir, struct hd_err *err)
{
    char *path = hd_path_join(dir, "model.safetensors");
    struct hd_st_writer w;
    int rc;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    hd_st_writer_init(&w);
    for (int i = 0; i < ps->n; i++)
        declare(&w, &ps->p[i]);
    rc = hd_st_writer_begin(&w, path, err);
    hd_free(path);
    HD_TRY(rc);
    for (int i = 0; i < ps->n; i++)
        if (!put(&w, &ps->p[i])) {
            hd_st_writer_abort(&w);
            return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a row", ps->p[i].name);
        }
    return hd_st_writer_commit(&w, err);
}
