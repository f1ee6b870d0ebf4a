/* cpu_rates.c: matrix products alone, at the shapes of V4-Flash's layers: what the kernels reach of the probes in the same process.
 *
 * One token: matrices enough that none is in a cache when its turn comes. Many tokens: one matrix, its rows tiled over the team.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#define STREAM ((int64_t)192 << 20)   /* bytes of weights that one token's products go through */
#define REPEAT 7

static const struct {
    enum hd_dtype type;
    int64_t rows, cols, n_tok;
} cases[] = {
    {HD_F4_E2M1, 2048, 4096, 1},    {HD_F4_E2M1, 4096, 2048, 1},   {HD_F8_E4M3, 32768, 1024, 1},  {HD_F8_E4M3, 4096, 8192, 1},   {HD_BF16, 8192, 4096, 1},
    {HD_Q4_0, 2048, 4096, 1},       {HD_Q8_0, 2048, 4096, 1},      {HD_Q4_K, 2048, 4096, 1},      {HD_Q5_K, 2048, 4096, 1},
    {HD_Q6_K, 2048, 4096, 1},       {HD_F4_E2M1, 2048, 4096, 4},   {HD_F4_E2M1, 2048, 4096, 12},
    {HD_F4_E2M1, 2048, 4096, 64},   {HD_F4_E2M1, 2048, 4096, 512}, {HD_F8_E4M3, 4096, 8192, 12},  {HD_F8_E4M3, 4096, 8192, 512}, {HD_BF16, 2048, 4096, 512},
    {HD_Q4_0, 2048, 4096, 512},     {HD_Q8_0, 2048, 4096, 512},    {HD_Q4_K, 2048, 4096, 512},    {HD_Q5_K, 2048, 4096, 512},   {HD_Q6_K, 2048, 4096, 512},
};

int hd_n_kernel_rate(void)
{
    return HD_LEN(cases);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Bytes that are numbers of the format: normal values in blocks of floats, anything in blocks of integers. */
static void fill(enum hd_dtype type, unsigned char *p, int64_t n)
{
    struct hd_rng rng;

    hd_rng_seed(&rng, 1);
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        uint64_t r = hd_rng_next(&rng);

        if (type == HD_F8_E4M3)       /* |x| from 2^-3 to 15: no NaN */
            r = (r & 0x8787878787878787u) | 0x2020202020202020u | (r >> 3 & 0x1818181818181818u);
        else if (type == HD_BF16)
            r = (r & 0x807F807F807F807Fu) | 0x3C003C003C003C00u;
        memcpy(p + i, &r, 8);
    }
    for (int64_t i = 0; i + hd_dtypes[type].block_bytes <= n; i += hd_dtypes[type].block_bytes) {     /* f16 scales: 2^-7 */
        static const uint16_t scale = 0x2000;

        if (type == HD_Q4_0 || type == HD_Q8_0 || type == HD_Q4_K || type == HD_Q5_K)
            memcpy(p + i, &scale, 2);
        if (type == HD_Q4_K || type == HD_Q5_K)
            memcpy(p + i + 2, &scale, 2);
        if (type == HD_Q6_K)
            memcpy(p + i + 208, &scale, 2);
    }
}

struct bench {
    struct hd_cpu cpu;
    struct hd_tensor w, x, q, out;
    struct hd_panels panels;
    unsigned char *weights, *scales, *packs;
    int64_t n_copy, bytes, scale_bytes, pack_bytes;
};

static void release(struct bench *b)
{
    hd_pages_free(b->weights, (size_t)(b->bytes * b->n_copy));
    hd_pages_free(b->scales, (size_t)(b->scale_bytes * b->n_copy));
    hd_free(b->x.data);
    hd_pages_free(b->packs, (size_t)(b->pack_bytes * b->n_copy));
    hd_free(b->q.data);
    hd_free(b->out.data);
}

/* The weights in panels, as the engine keeps them, where their format is made for that. */
static bool pack(struct bench *b)
{
    b->w.data = b->weights;
    b->w.scale.data = b->scales;
    if (!hd_panels_describe(&b->w, &b->panels))
        return true;
    b->pack_bytes = hd_panel_count(&b->panels) * b->panels.bytes;
    if (!(b->packs = hd_pages_alloc((size_t)(b->pack_bytes * b->n_copy))))
        return false;
    for (int64_t i = 0; i < hd_panel_count(&b->panels); i++)
        hd_panel_pack(&b->w, &b->panels, i, b->packs + i * b->panels.bytes);
    for (int64_t i = 1; i < b->n_copy; i++)
        memcpy(b->packs + i * b->pack_bytes, b->packs, (size_t)b->pack_bytes);
    b->w.panels = &b->panels;
    return true;
}

/* Room for the activations that the weights want. */
static bool quantise(struct bench *b, int64_t n_tok, int64_t cols)
{
    enum hd_dtype act = hd_cpu_act_type(&b->w, 0);

    b->q = hd_view2(act, NULL, n_tok, cols);
    if (act != HD_F32)
        b->q.data = hd_malloc((size_t)hd_row_bytes(act, cols) * (size_t)n_tok);
    return act == HD_F32 || b->q.data;
}

static bool prepare(struct bench *b, enum hd_dtype type, int64_t rows, int64_t cols, int64_t n_tok)
{
    b->w = hd_view2(type, NULL, rows, cols);
    b->bytes = hd_tensor_bytes(&b->w);
    if (type == HD_F4_E2M1)
        b->w.scale = (struct hd_scale){.type = HD_F8_E8M0, .n_row = rows, .n_col = cols / 32, .block_rows = 1, .block_cols = 32, .global = 1};
    if (type == HD_F8_E4M3)
        b->w.scale = (struct hd_scale){.type = HD_F8_E8M0, .n_row = rows / 128, .n_col = cols / 128, .block_rows = 128, .block_cols = 128, .global = 1};
    b->scale_bytes = b->w.scale.n_row * b->w.scale.n_col;
    b->n_copy = n_tok > 1 ? 1 : STREAM / b->bytes + 1;
    b->weights = hd_pages_alloc((size_t)(b->bytes * b->n_copy));
    b->scales = b->scale_bytes ? hd_pages_alloc((size_t)(b->scale_bytes * b->n_copy)) : NULL;
    b->x = hd_view2(HD_F32, hd_malloc((size_t)(n_tok * cols) * 4), n_tok, cols);
    b->out = hd_view2(HD_F32, hd_malloc((size_t)(n_tok * rows) * 4), n_tok, rows);
    if (!b->weights || (b->scale_bytes && !b->scales) || !b->x.data || !b->out.data)
        return false;
    fill(type, b->weights, b->bytes);
    for (int64_t i = 1; i < b->n_copy; i++)
        memcpy(b->weights + i * b->bytes, b->weights, (size_t)b->bytes);
    if (b->scales)
        memset(b->scales, 120, (size_t)(b->scale_bytes * b->n_copy));
    if (!pack(b) || !quantise(b, n_tok, cols))
        return false;
    for (int64_t t = 0; t < n_tok; t++) {
        float *x = hd_cpu_row(&b->x, t);

        for (int64_t i = 0; i < cols; i++)
            x[i] = (float)((i * 37 + t * 11) % 101 - 50) / 50;
        if (b->q.data)
            hd_cpu_quantise(b->q.type, x, cols, hd_cpu_row(&b->q, t));
    }
    return true;
}

static double once(struct bench *b)
{
    struct hd_stream stream = {0};
    double t0 = hd_now();

    for (int64_t i = 0; i < b->n_copy; i++) {
        struct hd_call c = {.n_out = 1, .out = {&b->out}, .in = {&b->x, b->q.type == HD_Q16 ? &b->q : NULL, &b->w, NULL, NULL, b->q.type == HD_Q8 ? &b->q : NULL, b->q.type == HD_BF16 ? &b->q : NULL}};

        b->panels.data = b->packs + i * b->pack_bytes;
        b->w.data = b->weights + i * b->bytes;
        b->w.scale.data = b->scales ? b->scales + i * b->scale_bytes : NULL;
        hd_cpu_matmul(&b->cpu, &stream, &c);
    }
    return hd_now() - t0;
}

int hd_kernel_rate(int i, struct hd_pool *pool, struct hd_kernel_rate *out, struct hd_err *err)
{
    struct bench b = {.cpu = {pool}};
    int64_t rows = cases[i].rows, cols = cases[i].cols, n_tok = cases[i].n_tok;
    double sec[REPEAT];

    *out = (struct hd_kernel_rate){.format = hd_dtypes[cases[i].type].name, .rows = rows, .cols = cols, .n_tok = n_tok};
    if (!prepare(&b, cases[i].type, rows, cols, n_tok)) {
        release(&b);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a matrix of %lld x %lld", (long long)rows, (long long)cols);
    }
    once(&b);
    for (int r = 0; r < REPEAT; r++)
        sec[r] = once(&b);
    qsort(sec, REPEAT, sizeof *sec, by_size);
    out->gbs = 1e-9 * (double)((b.bytes + b.scale_bytes) * b.n_copy) / sec[REPEAT / 2];
    out->gops = 2e-9 * (double)(rows * cols * n_tok * b.n_copy) / sec[REPEAT / 2];
    release(&b);
    return HD_OK;
}
