/* checkkern.c: every kernel of every instruction-set level this CPU (or emulation) has, against the scalar definitions.
 *
 * One case list: products of every format with f32 and q16 activations, row decoders, row kernels. Beside the distance from
 * scalar it is checked that an element's bits depend on neither its neighbours nor the tile: single rows and tokens give what
 * the whole gives. --bench times the cases. Builds alone (kernels, tensor, a little of base), so that it runs under qemu too.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "draw.h"
#include "kernels/kernels.h"
#include "tensor/blocks.h"

static int n_pass, n_fail;
static bool bench;

static void report(bool ok, const char *what, double d, double bound)
{
    if (ok) {
        n_pass++;
        return;
    }
    n_fail++;
    printf("not ok: %s: distance %.3g, at most %.3g\n", what, d, bound);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 1e-30;

    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]) != isnan(b[i]))
            return 1e30;
        d = fmax(d, fabs((double)a[i] - b[i]));
        m = fmax(m, fabs((double)b[i]));
    }
    return d / m;
}

/* ---- weights ---- */

struct weights {
    uint8_t *data;
    struct hd_scale scale;
    struct hd_wrows rows;
};

static void put16(uint8_t *p, float v)
{
    uint16_t h = hd_f32_f16(v);

    memcpy(p, &h, 2);
}

/* Random bytes are random weights; only the places that scale a block get sensible values. */
static void make_weights(struct weights *w, enum hd_dtype t, int64_t n_row, int64_t n, int block_rows, int block_cols, enum hd_dtype scale)
{
    static const struct {
        enum hd_dtype t;
        int at[2];
    } f16_at[] = {{HD_Q4_0, {0, -1}}, {HD_Q4_1, {0, 2}}, {HD_Q5_0, {0, -1}}, {HD_Q5_1, {0, 2}}, {HD_Q8_0, {0, -1}}, {HD_Q2_K, {80, 82}},
                  {HD_Q3_K, {108, -1}}, {HD_Q4_K, {0, 2}}, {HD_Q5_K, {0, 2}}, {HD_Q6_K, {208, -1}}};
    int64_t row_bytes = hd_row_bytes(t, n), block = hd_dtypes[t].block_bytes, n_block = n_row * row_bytes / block;

    memset(w, 0, sizeof *w);
    w->data = malloc((size_t)(n_row * row_bytes) + 64);
    for (int64_t i = 0; i < n_row * row_bytes; i++)
        w->data[i] = (uint8_t)(draw_bits() >> 24);
    for (int64_t b = 0; b < n_block; b++) {
        uint8_t *p = w->data + b * block;
        float v = draw();
        uint32_t u;

        memcpy(&u, &v, 4);
        switch (t) {
        case HD_F32: memcpy(p, &v, 4); break;
        case HD_F64: memcpy(p, &(double){(double)v}, 8); break;
        case HD_F16: put16(p, v); break;
        case HD_BF16: memcpy(p, (uint8_t *)&u + 2, 2); break;
        case HD_F8_E4M3: *p = (*p & 0x7F) == 0x7F ? 0x30 : *p; break;
        case HD_MXFP4: *p = (uint8_t)(122 + *p % 6); break;
        default:
            for (size_t i = 0; i < sizeof f16_at / sizeof f16_at[0]; i++)
                for (int k = 0; k < 2 && f16_at[i].t == t; k++)
                    if (f16_at[i].at[k] >= 0)
                        put16(p + f16_at[i].at[k], 0.05f * (b % 37 == 3 ? 1e-5f : 1) * draw());      /* subnormal ones among them */
        }
    }
    w->rows = (struct hd_wrows){w->data, row_bytes, NULL, 0};
    if (block_rows) {
        int64_t sr = (n_row + block_rows - 1) / block_rows, sc = (n + block_cols - 1) / block_cols, sb = hd_row_bytes(scale, 1);
        uint8_t *s = malloc((size_t)(sr * sc * sb));

        for (int64_t i = 0; i < sr * sc; i++) {
            float v = 0.5f + 0.4f * draw();
            uint32_t u;

            memcpy(&u, &v, 4);
            if (scale == HD_F32)
                memcpy(s + 4 * i, &v, 4);
            else if (scale == HD_BF16)
                memcpy(s + 2 * i, (uint8_t *)&u + 2, 2);
            else
                s[i] = scale == HD_F8_E8M0 ? (uint8_t)(120 + draw_bits() % 10) : (uint8_t)(0x28 + draw_bits() % 20);
        }
        w->scale = (struct hd_scale){scale, s, sr, sc, block_rows, block_cols, 1.5f};
        if (scale != HD_F8_E4M3)
            w->scale.global = 1;
        w->rows.scale = &w->scale;
    }
}

static void free_weights(struct weights *w)
{
    free(w->data);
    free((void *)w->scale.data);
}

/* ---- products ---- */

struct product {
    enum hd_dtype type;
    int64_t n, n_row, n_tok;
    int block_rows, block_cols;
    enum hd_dtype scale;
};

static void time_product(const char *what, const struct product *c, hd_matmul_fn fn, const struct weights *w, const void *x, int64_t x_bytes, float *out)
{
    double best = 1e9;

    for (int rep = 0; rep < 30; rep++) {
        double t0 = now();

        fn(c->n, &w->rows, c->n_row, x, x_bytes, c->n_tok, out, c->n_row);
        best = fmin(best, now() - t0);
    }
    printf("%-56s %9.2f us %8.2f GF/s %7.2f GB/s\n", what, best * 1e6, 2e-9 * (double)(c->n * c->n_row * c->n_tok) / best,
           1e-9 * (double)(c->n_row * w->rows.row_bytes) / best);
}

static void check_fn(const struct product *c, const char *kind, hd_matmul_fn fn, hd_matmul_fn def, const struct weights *w, const void *x, int64_t x_bytes, double bound)
{
    int64_t n = c->n_row * c->n_tok, ld = c->n_row;
    float *ref = malloc((size_t)n * 4), *all = malloc((size_t)n * 4), *part = malloc((size_t)n * 4);
    char what[128];
    double d;

    snprintf(what, sizeof what, "%s %s %s K=%lld N=%lld T=%lld", hd_isa_name(hd_k.isa), hd_dtypes[c->type].name, kind, (long long)c->n, (long long)c->n_row,
             (long long)c->n_tok);
    def(c->n, &w->rows, c->n_row, x, x_bytes, c->n_tok, ref, ld);
    fn(c->n, &w->rows, c->n_row, x, x_bytes, c->n_tok, all, ld);
    d = distance(all, ref, n);
    report(d <= bound, what, d, bound);
    for (int64_t t = 0; t < c->n_tok; t += 1 + t % 3)             /* uneven tiles */
        for (int64_t r = 0; r < c->n_row; r += 1 + r % 5) {
            struct hd_wrows rows = w->rows;
            int64_t nr = 1 + r % 5 < c->n_row - r ? 1 + r % 5 : c->n_row - r, nt = 1 + t % 3 < c->n_tok - t ? 1 + t % 3 : c->n_tok - t;

            rows.row0 += r;
            fn(c->n, &rows, nr, (const char *)x + t * x_bytes, x_bytes, nt, part + t * ld + r, ld);
        }
    report(!memcmp(part, all, (size_t)n * 4), what, distance(part, all, n), 0);
    if (bench)
        time_product(what, c, fn, w, x, x_bytes, all);
    free(ref);
    free(all);
    free(part);
}

static void time_panels(const char *what, const struct product *c, const struct hd_panels *p, const void *x, int64_t x_bytes, float *out)
{
    double best = 1e9;

    for (int rep = 0; rep < 30; rep++) {
        double t0 = now();

        hd_k.matmul_panel[c->type](p, 0, c->n_row, x, x_bytes, c->n_tok, out, c->n_row);
        best = fmin(best, now() - t0);
    }
    printf("%-56s %9.2f us %8.2f GF/s %7.2f GB/s\n", what, best * 1e6, 2e-9 * (double)(c->n * c->n_row * c->n_tok) / best, 1e-9 * (double)(hd_panel_count(p) * p->bytes) / best);
}

/* The indexer's scores are those of the product and relu_mix. Tokens stand for heads; queries have no fine parts. */
static void check_index(const struct product *c, const struct hd_kernels *def, const struct hd_panels *p, const char *q, int64_t x_bytes)
{
    int64_t rows = hd_panel_count(p) * HD_PANEL_ROWS < HD_ROWS_MAX ? hd_panel_count(p) * HD_PANEL_ROWS : HD_ROWS_MAX, bytes = c->n / 32 * (int64_t)sizeof(struct hd_q8);
    float(*prod)[HD_ROWS_MAX] = malloc((size_t)c->n_tok * sizeof *prod), *w = malloc((size_t)c->n_tok * 4), want[HD_ROWS_MAX] = {0}, all[HD_ROWS_MAX], part[HD_ROWS_MAX];
    char *in = malloc((size_t)(bytes * c->n_tok)), what[128];
    const uint8_t *panel[HD_ROWS_MAX / HD_PANEL_ROWS];

    for (int64_t k = 0; k < c->n_tok; k++) {
        struct hd_q8 *row = (struct hd_q8 *)(in + k * bytes);

        memcpy(row, q + k * x_bytes, (size_t)bytes);
        for (int64_t b = 0; b < c->n / 32; b++)
            row[b].has_fine = 0;
        w[k] = draw();
    }
    def->matmul_panel[c->type](p, 0, rows, in, bytes, c->n_tok, prod[0], HD_ROWS_MAX);
    def->relu_mix(c->n_tok, rows, (const float(*)[HD_ROWS_MAX])prod, w, want);
    for (int64_t i = 0; i < rows / HD_PANEL_ROWS; i++)
        panel[i] = p->data + i * p->bytes;
    hd_k.index_panels(p, panel, NULL, rows / HD_PANEL_ROWS, in, bytes, c->n_tok, w, all);
    for (int64_t i = 0; i < rows / HD_PANEL_ROWS; i++)
        hd_k.index_panels(p, panel + i, panel, 1, in, bytes, c->n_tok, w, part + i * HD_PANEL_ROWS);
    snprintf(what, sizeof what, "%s index_panels K=%lld N=%lld heads=%lld", hd_isa_name(hd_k.isa), (long long)c->n, (long long)rows, (long long)c->n_tok);
#if defined(HD_EMULATE)
    report(distance(all, want, rows) <= 3e-6, what, distance(all, want, rows), 3e-6);
#else
    report(!memcmp(all, want, (size_t)rows * 4), what, distance(all, want, rows), 0);
#endif
    report(!memcmp(all, part, (size_t)rows * 4), what, distance(part, all, rows), 0);
    free(prod);
    free(w);
    free(in);
}

/* The same bits at every level, in every tiling; near the product of the plain weights. */
static void check_panels(const struct product *c, const struct hd_kernels *def, const struct weights *w, const float *x)
{
    struct hd_tensor t = hd_view2(c->type, w->data, c->n_row, c->n);
    int64_t n = c->n_row * c->n_tok;
    struct hd_panels p;
    char what[128];

    if (w->rows.scale)
        t.scale = *w->rows.scale;
    t.row_bytes = w->rows.row_bytes;
    if (!hd_panels_describe(&t, &p))
        return;
    bool q8 = hd_panel_by_q8(p.kind);
    enum hd_dtype act = q8 ? HD_Q8 : HD_BF16;
    int64_t x_bytes = hd_row_bytes(act, c->n);
    uint8_t *data = aligned_alloc(64, (size_t)(hd_panel_count(&p) * p.bytes));
    float *ref = malloc((size_t)n * 4), *all = malloc((size_t)n * 4), *part = malloc((size_t)n * 4), *back = malloc((size_t)(c->n * c->n_tok) * 4);
    char *q = malloc((size_t)(x_bytes * c->n_tok));
    const void *in = q;
    double d;

    p.data = data;
    for (int64_t i = 0; i < hd_panel_count(&p); i++)
        hd_panel_pack(&t, &p, i, data + i * p.bytes);
    for (int64_t k = 0; k < c->n_tok; k++) {
        const struct hd_q8 *row = (const struct hd_q8 *)(q + k * x_bytes);

        if (q8)
            hd_k.q8_encode(x + k * c->n, c->n, (struct hd_q8 *)row);
        else
            hd_k.bf16_encode(x + k * c->n, c->n, (uint16_t *)row);
        for (int64_t i = 0; i < c->n; i++)
            back[k * c->n + i] = !q8 ? hd_bf16_f32(((const uint16_t *)row)[i]) : row[i / 32].d * ((float)row[i / 32].q[i % 32] + (row[i / 32].has_fine ? (float)hd_q8_fine(row, c->n)[i] / 254 : 0));
    }
    snprintf(what, sizeof what, "%s %s panel K=%lld N=%lld T=%lld", hd_isa_name(hd_k.isa), hd_dtypes[c->type].name, (long long)c->n, (long long)c->n_row, (long long)c->n_tok);
    def->matmul_panel[c->type](&p, 0, c->n_row, in, x_bytes, c->n_tok, ref, c->n_row);
    hd_k.matmul_panel[c->type](&p, 0, c->n_row, in, x_bytes, c->n_tok, all, c->n_row);
#if defined(HD_EMULATE)
    d = distance(all, ref, n);            /* SIMDe rounds twice where the hardware fuses */
    report(d <= 3e-6, what, d, 3e-6);
#else
    report(!memcmp(all, ref, (size_t)n * 4), what, distance(all, ref, n), 0);
#endif
    for (int64_t k = 0; k < c->n_tok; k += 1 + k % 3)
        for (int64_t r = 0; r < c->n_row; r += HD_PANEL_ROWS * (1 + r / HD_PANEL_ROWS % 3)) {
            int64_t nr = HD_PANEL_ROWS * (1 + r / HD_PANEL_ROWS % 3), nt = 1 + k % 3 < c->n_tok - k ? 1 + k % 3 : c->n_tok - k;

            hd_k.matmul_panel[c->type](&p, r, nr < c->n_row - r ? nr : c->n_row - r, (const char *)in + k * x_bytes, x_bytes, nt, part + k * c->n_row + r, c->n_row);
        }
    report(!memcmp(part, all, (size_t)n * 4), what, distance(part, all, n), 0);
    if (hd_k.index_panels && c->type == HD_F4_E2M1)
        check_index(c, def, &p, q, x_bytes);
    def->matmul_f32[c->type](c->n, &w->rows, c->n_row, back, c->n * 4, c->n_tok, part, c->n_row);
    d = distance(part, all, n);
    report(d <= 1e-5, what, d, 1e-5);
    if (bench)
        time_panels(what, c, &p, in, x_bytes, all);
    free(data);
    free(ref);
    free(all);
    free(part);
    free(back);
    free(q);
}

static void check_product(const struct product *c, const struct hd_kernels *def)
{
    struct weights w;
    float *x = malloc((size_t)(c->n * c->n_tok) * 4), *row = malloc((size_t)c->n * 4), *want = malloc((size_t)c->n * 4);
    char what[96];

    make_weights(&w, c->type, c->n_row, c->n, c->block_rows, c->block_cols, c->scale);
    for (int64_t i = 0; i < c->n * c->n_tok; i++)
        x[i] = draw() * (i % 11 == 0 ? 20 : 1);
    /* sums of n products in different orders: n rounding errors at most, far fewer in fact */
    check_fn(c, "f32", hd_k.matmul_f32[c->type], def->matmul_f32[c->type], &w, x, c->n * 4, 3e-6);
    if (hd_k.matmul_q16[c->type] && c->n % 32 == 0) {
        struct hd_q16 *q = malloc((size_t)(c->n / 32 * c->n_tok) * sizeof *q);

        hd_k.q16_encode(x, c->n * c->n_tok, q);
        check_fn(c, "q16", hd_k.matmul_q16[c->type], def->matmul_q16[c->type], &w, q, c->n / 32 * (int64_t)sizeof *q, 3e-6);
        free(q);
    }
    check_panels(c, def, &w, x);
    snprintf(what, sizeof what, "%s decode %s", hd_isa_name(hd_k.isa), hd_dtypes[c->type].name);
    for (int64_t r = 0; r < c->n_row; r++) {
        struct hd_wrows rows = w.rows;

        rows.row0 = r;
        hd_k.decode[c->type](&rows, c->n, row);
        hd_decode_row(c->type, w.data, w.rows.row_bytes, w.rows.scale, r, c->n, want);
        report(!memcmp(row, want, (size_t)c->n * 4), what, distance(row, want, c->n), 0);
    }
    free_weights(&w);
    free(x);
    free(row);
    free(want);
}

/* ---- packed cache rows ---- */

static void check_kv(void)
{
    static const struct {
        enum hd_kv_code code;
        int block;
        int64_t n, tail;
    } kinds[] = {{HD_KV_FP8, 64, 448, 64}, {HD_KV_FP8, 32, 512, 0}, {HD_KV_FP8, 64, 0, 35}, {HD_KV_FP4, 32, 128, 0}, {HD_KV_FP4_E4M3, 16, 512, 0}, {HD_KV_FP8, 64, 70, 9}, {HD_KV_FP4, 8, 40, 3}};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct hd_kv_row r = hd_kv_row(kinds[i].code, kinds[i].block, kinds[i].n, kinds[i].tail);
        float x[HD_KV_ROW_MAX], a[HD_KV_ROW_MAX], b[HD_KV_ROW_MAX];
        uint8_t row[4 * HD_KV_ROW_MAX];
        int64_t n = r.n + r.tail;
        bool same = true;

        for (int64_t k = 0; k < n; k++)
            x[k] = draw() * (k % 9 == 0 ? 30 : 0.02f);
        hd_kv_encode(&r, x, row);
        hd_kv_decode(&r, row, a);
        hd_k.kv_decode(&r, row, b);
        for (int64_t k = 0; k < n; k++)
            same = same && a[k] == b[k];      /* zeros may differ in sign */
        report(same, "kv_decode", distance(b, a, n), 0);
    }
}

/* ---- attention of bf16 operands, two in a word ---- */

#define PAIR_DIM 576
#define PAIR_HEADS 13

/* n_head queries over n_row rows of d values, of which vdim are mixed: to the bit what fused sums of the rounded numbers give. */
static void check_pairs(int64_t d, int64_t vdim, int64_t n_row, int64_t n_head)
{
    static float row[HD_ROWS_MAX][PAIR_DIM], q[PAIR_HEADS][PAIR_DIM], share[PAIR_HEADS][HD_ROWS_MAX], p[PAIR_HEADS][HD_ROWS_MAX], out[PAIR_HEADS * PAIR_DIM], want[PAIR_HEADS * PAIR_DIM];
    static uint32_t word[HD_ROWS_MAX][PAIR_DIM / 2], qw[PAIR_HEADS][PAIR_DIM / 2], turned[HD_ROWS_MAX * PAIR_DIM / 2], coupled[HD_ROWS_MAX / 2][PAIR_DIM + 3];
    int64_t n = (d + 1) / 2;
    bool same = true;

    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t k = 0; k < d; k++)
            row[i][k] = draw() * (k % 11 == 3 ? 0x1p-57f : 1);
        hd_k.pair.encode(d, row[i], word[i]);
    }
    for (int64_t h = 0; h < n_head; h++) {
        for (int64_t k = 0; k < d; k++)
            q[h][k] = 3 * draw();
        hd_k.pair.encode(d, q[h], qw[h]);
        for (int64_t i = 0; i < n_row; i++)
            share[h][i] = (float)fabs(draw());
    }
    for (int64_t i = 0; i < n_row; i += 16) {
        const void *at[16];

        for (int64_t k = 0; k < 16; k++)
            at[k] = word[i + k < n_row ? i + k : n_row - 1];
        hd_k.interleave16(n, at, turned + i * n);
    }
    for (int64_t i = 0; i < n_row; i += 2)
        hd_k.pair.couple(vdim, word[i], i + 1 < n_row ? word[i + 1] : NULL, coupled[i / 2]);
    hd_k.pair.rows16_dot(n, n_row, turned, 0.3f, qw[0], PAIR_DIM / 2, n_head, p);
    for (int64_t h = 0; h < n_head; h++)
        for (int64_t i = 0; i < n_row; i++) {
            float sum = 0;

            for (int64_t k = 0; k < d; k++)
                sum = fmaf(hd_bf16_operand(row[i][k]), hd_bf16_operand(q[h][k]), sum);
            same &= p[h][i] == 0.3f * sum;
        }
    report(same, "pair.rows16_dot", 0, 0);
    same = true;
    for (int64_t h = 0; h < n_head; h++) {
        for (int64_t k = 0; k < vdim; k++) {
            want[h * vdim + k] = out[h * vdim + k] = draw();
            for (int64_t i = 0; i < n_row; i++)
                want[h * vdim + k] = fmaf(hd_bf16_operand(share[h][i]), hd_bf16_operand(row[i][k]), want[h * vdim + k]);
        }
        hd_k.pair.encode(n_row, share[h], (uint32_t *)share[h]);
    }
    hd_k.pair.rows_mix(vdim, (n_row + 1) / 2, coupled[0], PAIR_DIM + 3, (const float(*)[HD_ROWS_MAX])share, n_head, out);
    report(!memcmp(out, want, (size_t)(n_head * vdim) * 4), "pair.rows_mix", 0, 0);
}

static void check_all_pairs(void)
{
    static const int64_t dims[] = {1, 2, 7, 16, 31, 32, 33, 70, 512, PAIR_DIM}, rows[] = {1, 2, 15, 16, 17, 33, 63, HD_ROWS_MAX}, heads[] = {1, 4, 8, PAIR_HEADS};

    for (size_t d = 0; hd_k.pair.encode && d < sizeof dims / sizeof dims[0]; d++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++)
                check_pairs(dims[d], d % 2 ? dims[d] : (dims[d] + 2) / 3, rows[r], heads[h]);
}

/* ---- rows ---- */

static void check_rows(const struct hd_kernels *def, int64_t n)
{
    float *a = malloc((size_t)n * 4), *b = malloc((size_t)n * 4), *x = malloc((size_t)n * 4), *y = malloc((size_t)n * 4);
    float *c = malloc((size_t)n * 4), *x2 = malloc((size_t)n * 4), *x3 = malloc((size_t)n * 4), *x4 = malloc((size_t)n * 4);
    uint16_t *h = malloc((size_t)n * 2), *h2 = malloc((size_t)n * 2);
    char what[96];

    for (int64_t i = 0; i < n; i++) {
        a[i] = 8 * draw();
        b[i] = draw();
        h[i] = hd_f32_f16(draw());
        c[i] = b[i] - 0.1f * a[i];
    }
#if defined(HD_EMULATE)
    const double fused = 3e-7;        /* SIMDe rounds twice where the hardware fuses */
#else
    const double fused = 0;
#endif
#define CASE(name, bound, run)                                                                \
    {                                                                                         \
        const struct hd_kernels *k = def;                                                     \
        double d;                                                                             \
        memcpy(y, a, (size_t)n * 4);                                                          \
        { float *o = y; run; }                                                                \
        memcpy(x, a, (size_t)n * 4);                                                          \
        k = &hd_k;                                                                            \
        { float *o = x; run; }                                                                \
        d = distance(x, y, n);                                                                \
        snprintf(what, sizeof what, "%s %s n=%lld", hd_isa_name(hd_k.isa), name, (long long)n); \
        report(d <= (bound), what, d, bound);                                                 \
    }
    CASE("rmsnorm", 3e-7, k->rmsnorm(n, a, b, 1e-5f, o))
    CASE("silu_mul", fused > 0 ? 5e-6 : 1e-6, k->silu_mul(n, a, b, o))
    for (int way = 0; way < 6; way++) {               /* each of its outputs, without a limit and with one */
        float *out[3] = {x2, x3, x4}, limit = way < 3 ? 0 : 0.7f;

        CASE("silu_bwd", fused > 0 ? 5e-6 : 2e-6, out[way % 3] = o; k->silu_bwd(n, a, b, c, limit, out[0], out[1], out[2]))
    }
    CASE("exp_sum", fused > 0 ? 5e-6 : 3e-6, o[0] += k->exp_sum(n, o, 8.0f))
    CASE("dot_f32", 3e-6, o[0] += k->dot_f32(n, a, b))
    CASE("dot_f16", 3e-6, o[0] += k->dot_f16(n, h, b))
    CASE("axpy_f32", fused, k->axpy_f32(n, 0.7f, b, o))
    CASE("axpy_f16", fused, k->axpy_f16(n, 0.7f, h, o))
    CASE("scale", 0, k->scale(n, 0.7f, o))
    CASE("add", 0, k->add(n, a, b, o))
    for (int f16 = 0; f16 < 2; f16++) {               /* 5 heads over 11 rows, which overlap: n / 2 values from i * 3 on */
        const void *row[11];
        float p[5][HD_ROWS_MAX], q[5][HD_ROWS_MAX];
        int64_t d2 = n / 8;

        for (int i = 0; i < 11; i++)
            row[i] = f16 ? (const void *)(h + i) : (const void *)(b + i);
        def->rows_dot(d2, n < 11 + d2 ? n - d2 : 11, row, f16, 0.3f, a, 5, q);
        hd_k.rows_dot(d2, n < 11 + d2 ? n - d2 : 11, row, f16, 0.3f, a, 5, p);
        for (int i = 0; i < 5; i++) {
            double d = distance(q[i], p[i], n < 11 + d2 ? n - d2 : 11);

            report(d <= 3e-6, "rows_dot", d, 3e-6);
        }
        CASE("rows_mix", fused, k->rows_mix(d2, n < 11 + d2 ? n - d2 : 11, row, f16, (const float(*)[HD_ROWS_MAX])q, 5, o))
    }
    {
        float p[5][HD_ROWS_MAX], w[5] = {0.5f, -1, 2, 0.25f, -0.125f};
        int64_t m = n < HD_ROWS_MAX ? n : HD_ROWS_MAX;

        for (int j = 0; j < 5; j++)
            for (int i = 0; i < HD_ROWS_MAX; i++)
                p[j][i] = draw();
        if (n % 4 == 0)
            CASE("mix_streams", 0, k->mix_streams(n / 4, 4, b, w, p[0], o))
        CASE("relu_mix", fused, k->relu_mix(5, m, (const float(*)[HD_ROWS_MAX])p, w, o))
    }
    {
        const void *row[16];
        float p[5][HD_ROWS_MAX], q[5][HD_ROWS_MAX], *turned = malloc((size_t)n * 64), *turned2 = malloc((size_t)n * 64), value[2][128];
        int64_t d = n / 16, found[2];
        int32_t idx[2][128];

        for (int i = 0; i < 16; i++)
            row[i] = b + i * d;
        def->interleave16(d, row, turned);
        hd_k.interleave16(d, row, turned2);
        report(!memcmp(turned, turned2, (size_t)d * 64), "interleave16", 0, 0);
        for (int64_t i = 0; i < d * 64; i++)
            turned[i] = b[i * 7 % n];
        for (int m = 16; m <= 64; m += 16) {
            memset(p, 0, sizeof p);
            memset(q, 0, sizeof q);
            def->rows16_dot(d, m, turned, 0.3f, a, 5, q);
            hd_k.rows16_dot(d, m, turned, 0.3f, a, 5, p);
            report(distance(&p[0][0], &q[0][0], 5 * HD_ROWS_MAX) <= 10 * fused, "rows16_dot", distance(&p[0][0], &q[0][0], 5 * HD_ROWS_MAX), 10 * fused);
        }
        for (int i = 0; i < 2; i++)
            found[i] = (i ? &hd_k : def)->above(n < 128 ? n : 128, b, 0.4f, 7, value[i], idx[i]);
        report(found[0] == found[1] && !memcmp(value[0], value[1], (size_t)found[0] * 4) && !memcmp(idx[0], idx[1], (size_t)found[0] * 4), "above", 0, 0);
        for (int64_t m = 0; m <= n && m < 200; m++) {
            memcpy(turned, b, (size_t)m * 4);
            for (int64_t i = 0; i < m; i += 5)
                turned[i] = i % 2 ? NAN : -INFINITY;
            report(def->largest(m, turned) == hd_k.largest(m, turned), "largest", 0, 0);
        }
        free(turned);
        free(turned2);
    }
    for (int64_t i = 0; i < n; i++)
        x[i] = i % 5 ? a[i] : a[i] * (i % 2 ? 0x1p-61f : 0x1p-130f);
    hd_k.bf16_operand(n, x, y);
    def->bf16_operand(n, x, x2);
    report(!memcmp(y, x2, (size_t)n * 4), "bf16_operand", 0, 0);
    if (n > 12) {
        x[10] = INFINITY;
        x[11] = NAN;
        x[12] = 3.4e38f;
    }
    hd_k.bf16_encode(x, n, h);
    def->bf16_encode(x, n, h2);
    report(!memcmp(h, h2, (size_t)n * 2), "bf16_encode", 0, 0);
    hd_k.f32_to_f16(n, a, h);
    def->f32_to_f16(n, a, h2);
    report(!memcmp(h, h2, (size_t)n * 2), "f32_to_f16", 0, 0);
    if (n % 32 == 0) {
        struct hd_q16 *q = calloc((size_t)(n / 32), sizeof *q), *q2 = calloc((size_t)(n / 32), sizeof *q2);

        hd_k.q16_encode(a, n, q);
        def->q16_encode(a, n, q2);
        report(!memcmp(q, q2, (size_t)(n / 32) * sizeof *q), "q16_encode", 0, 0);
        free(q);
        free(q2);
        struct hd_q8 *e = calloc(1, (size_t)hd_row_bytes(HD_Q8, n)), *e2 = calloc(1, (size_t)hd_row_bytes(HD_Q8, n));

        hd_k.q8_encode(a, n, e);
        def->q8_encode(a, n, e2);
        report(!memcmp(e, e2, (size_t)hd_row_bytes(HD_Q8, n)), "q8_encode", 0, 0);
        free(e);
        free(e2);
    }
    free(a);
    free(b);
    free(x);
    free(y);
    free(h);
    free(h2);
    free(c);
    free(x2);
    free(x3);
    free(x4);
}

/* sum_i a[i] b[i], strides apart, after c. F32: in double. BF16: to the bit: of every two the second first. */
static float gemm_sum(enum hd_gemm_kind kind, int64_t k, const float *a, int64_t sa, const float *b, int64_t sb, bool add, float c)
{
    double sum = add ? (double)c : 0;
    float f = 0;

    if (kind == HD_GEMM_F32) {
        for (int64_t i = 0; i < k; i++)
            sum += (double)a[i * sa] * (double)b[i * sb];
        return (float)sum;
    }
    for (int64_t s = 0; s < k + k % 2; s++) {
        int64_t i = s ^ 1;

        f += i < k ? hd_bf16_operand(a[i * sa]) * hd_bf16_operand(b[i * sb]) : 0;
    }
    return add ? f + c : f;
}

/* A tile of packed matrices: every size of its last rows and columns, written and added, nothing beside them touched. */
static void check_gemm(enum hd_gemm_kind kind, int64_t k)
{
    const struct hd_gemm_kernels *g = &hd_k.gemm[kind];
    int mr = hd_k.gemm_mr, nr = hd_k.gemm_nr, ld = nr + 3;
    int64_t rows = hd_gemm_rows(kind, k);
    float *a = malloc((size_t)(k * mr) * 4), *b = malloc((size_t)(k * nr) * 4), *c = malloc((size_t)(mr * ld) * 4), *want = malloc((size_t)(mr * ld) * 4);
    float *pa = malloc((size_t)(rows * mr + HD_GEMM_SLACK) * 4), *pb = malloc((size_t)(rows * nr + HD_GEMM_SLACK) * 4);
    struct hd_rng keep = draws;       /* the other cases' numbers stay what they are */
    char what[96];

    for (int64_t i = 0; i < k * mr; i++)
        a[i] = draw() * (i % 11 ? 1 : i % 2 ? 0x1p-55f : 0x1p-57f);
    for (int64_t i = 0; i < k * nr; i++)
        b[i] = draw() * (i % 13 ? 1 : i % 2 ? 0x1p-55f : 0x1p-130f);
    g->pack_plain(k, mr, mr, a, mr, pa);
    g->pack_plain(k, nr, nr, b, nr, pb);
    for (int m = 1; m <= mr; m++)
        for (int n = 1; n <= nr; n += n < 3 || n > nr - 3 ? 1 : 5)
            for (int add = 0; add < 2; add++) {
                bool ok;

                for (int i = 0; i < mr * ld; i++)
                    c[i] = want[i] = (float)(i % 7);
                for (int r = 0; r < m; r++)
                    for (int e = 0; e < n; e++)
                        want[r * ld + e] = gemm_sum(kind, k, a + r, mr, b + e, nr, add, want[r * ld + e]);
                g->tile(rows, pa, pb, c, ld, m, n, add ? HD_GEMM_ADD : HD_GEMM_PUT, &(struct hd_gemm_next){b, 32, k * nr / 32});
                ok = kind == HD_GEMM_F32 ? distance(c, want, mr * ld) <= 2e-6 : !memcmp(c, want, (size_t)(mr * ld) * 4);
                snprintf(what, sizeof what, "%s gemm tile %s k=%lld %d x %d", hd_isa_name(hd_k.isa), kind ? "bf16" : "f32", (long long)k, m, n);
                report(ok, what, distance(c, want, mr * ld), kind ? 0 : 2e-6);
            }
    if (bench) {
        double t0 = now();

        for (int rep = 0; rep < 2000; rep++)
            g->tile(rows, pa, pb, c, ld, mr, nr, HD_GEMM_PUT, &(struct hd_gemm_next){0});
        printf("%-56s %9.2f us %8.2f GF/s\n", what, (now() - t0) / 2000 * 1e6, 2e-9 * 2000 * (double)(k * mr * nr) / (now() - t0));
    }
    free(a);
    free(b);
    free(c);
    free(want);
    free(pa);
    free(pb);
    draws = keep;
}

/* Whether row i, column e of a panel is x; NaN: any. */
static bool packed_is(enum hd_gemm_kind kind, const float *to, int wide, int64_t i, int e, float x)
{
    float y;

    if (kind == HD_GEMM_F32)
        y = to[i * wide + e];
    else if (!hd_k.gemm[kind].pairs)
        y = to[(i ^ 1) * wide + e];
    else
        y = hd_bf16_f32((uint16_t)(hd_f32_bits(to[i / 2 * wide + e]) >> (i % 2 ? 16 : 0)));
    if (kind == HD_GEMM_BF16)
        x = hd_bf16_operand(x);
    return x == y || (isnan(x) && isnan(y));
}

/* Packing, both ways round: every number of rows that a panel may have, zeros beside them, no more behind it than is allowed. */
static void check_gemm_pack(enum hd_gemm_kind kind, int64_t k)
{
    enum { LD = 70 };
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0x1p-56f, 0x1.fffffep-57f, 0x1p-140f, -0.0f, 3.4e38f, 1 + 0x1p-8f, 1 + 0x3p-8f};
    int widths[2] = {hd_k.gemm_mr, hd_k.gemm_nr};
    int64_t len = k > LD ? k : LD;
    float *x = malloc((size_t)(len * len) * 4);

    for (int64_t i = 0; i < len * len; i++)
        x[i] = i % 3 ? (float)(i + 1) : odd[i / 3 % (int64_t)(sizeof odd / sizeof *odd)];
    for (int w = 0; w < 4; w++)
        for (int wide = widths[w / 2], turned = w % 2, n = 1; n <= wide; n++) {
            int64_t ld = turned ? k : LD, all = hd_gemm_rows(kind, k) * wide + HD_GEMM_SLACK, wrong = 0, even = kind == HD_GEMM_F32 ? k : (k + 1) / 2 * 2;
            float *from = turned ? x + len * len - (n - 1) * ld - k : x + len * len - (k - 1) * ld - n;   /* reading past the end is seen by asan */
            float *to = malloc((size_t)all * 4);
            char what[96];

            (turned ? hd_k.gemm[kind].pack_turned : hd_k.gemm[kind].pack_plain)(k, n, wide, from, ld, to);
            for (int64_t i = 0; i < even; i++)
                for (int e = 0; e < wide; e++)
                    wrong += !packed_is(kind, to, wide, i, e, e >= n || i >= k ? 0 : turned ? from[e * ld + i] : from[i * ld + e]);
            snprintf(what, sizeof what, "%s gemm pack %s %s k=%lld %d of %d", hd_isa_name(hd_k.isa), kind ? "bf16" : "f32", turned ? "turned" : "plain", (long long)k, n, wide);
            report(wrong == 0, what, (double)wrong, 0);
            free(to);
        }
    free(x);
}

static void check_gemms(enum hd_gemm_kind kind)
{
    for (int64_t k = 1; k <= 256; k = k * 5 + 1)
        check_gemm(kind, k);
    for (int64_t k = 1; k <= 37; k += 4 - k % 3)
        check_gemm_pack(kind, k);
    check_gemm(kind, 256);
}

int main(int argc, char **argv)
{
    static const struct product cases[] = {
        {HD_F32, 576, 9, 1, 0, 0, 0},       {HD_F32, 100, 7, 5, 0, 0, 0},       {HD_F16, 160, 9, 7, 0, 0, 0},       {HD_BF16, 160, 9, 50, 0, 0, 0},
        {HD_F64, 64, 3, 2, 0, 0, 0},        {HD_Q4_0, 576, 13, 1, 0, 0, 0},     {HD_Q4_0, 96, 6, 9, 0, 0, 0},       {HD_Q4_1, 576, 13, 1, 0, 0, 0},
        {HD_Q4_1, 1536, 70, 7, 0, 0, 0},    {HD_Q4_1, 32, 3, 3, 0, 0, 0},       {HD_Q5_0, 96, 6, 9, 0, 0, 0},       {HD_Q5_1, 96, 6, 9, 0, 0, 0},
        {HD_Q8_0, 576, 13, 1, 0, 0, 0},     {HD_Q8_0, 96, 6, 9, 0, 0, 0},       {HD_Q2_K, 512, 6, 5, 0, 0, 0},      {HD_Q3_K, 512, 6, 5, 0, 0, 0},
        {HD_Q4_K, 512, 6, 5, 0, 0, 0},      {HD_Q4_K, 2048, 9, 1, 0, 0, 0},     {HD_Q5_K, 512, 6, 5, 0, 0, 0},      {HD_Q6_K, 512, 6, 5, 0, 0, 0},
        {HD_Q6_K, 2048, 9, 1, 0, 0, 0},     {HD_MXFP4, 96, 6, 9, 0, 0, 0},      {HD_MXFP4, 2048, 9, 1, 0, 0, 0},    {HD_F8_E4M3, 288, 140, 3, 128, 128, HD_F32},
        {HD_F8_E4M3, 96, 40, 1, 32, 32, HD_F8_E8M0}, {HD_F8_E4M3, 96, 5, 4, 1, 32, HD_F8_E8M0}, {HD_F8_E4M3, 1500, 130, 2, 128, 128, HD_BF16}, {HD_F8_E4M3, 64, 4, 2, 0, 0, 0},
        {HD_F4_E2M1, 96, 6, 9, 1, 32, HD_F8_E8M0}, {HD_F4_E2M1, 2048, 6, 1, 1, 32, HD_F8_E8M0}, {HD_F4_E2M1, 96, 6, 9, 1, 16, HD_F8_E4M3},
        /* panels: a row of them and a bit, tokens of every tile */
        {HD_Q4_0, 64, 39, 33, 0, 0, 0},     {HD_Q4_1, 96, 50, 21, 0, 0, 0},     {HD_Q8_0, 64, 37, 26, 0, 0, 0},     {HD_MXFP4, 64, 33, 19, 0, 0, 0},
        {HD_F4_E2M1, 160, 32, 23, 1, 32, HD_F8_E8M0}, {HD_F8_E4M3, 416, 147, 31, 128, 128, HD_F32}, {HD_F8_E4M3, 320, 65, 98, 32, 32, HD_F8_E8M0},
        {HD_F8_E4M3, 96, 131, 1, 1, 32, HD_F8_E8M0}, {HD_F8_E4M3, 160, 45, 17, 1, 32, HD_F8_E8M0}, {HD_F8_E4M3, 384, 270, 1, 128, 128, HD_F32}, {HD_BF16, 288, 145, 1, 0, 0, 0},
        {HD_Q5_0, 64, 39, 33, 0, 0, 0},     {HD_Q5_1, 96, 50, 21, 0, 0, 0},     {HD_Q4_K, 256, 147, 33, 0, 0, 0},   {HD_Q5_K, 768, 50, 21, 0, 0, 0},
        {HD_Q6_K, 512, 39, 26, 0, 0, 0},    {HD_Q4_K, 768, 130, 1, 0, 0, 0},    {HD_Q5_K, 512, 70, 1, 0, 0, 0},     {HD_Q6_K, 768, 131, 1, 0, 0, 0},
        {HD_BF16, 160, 45, 29, 0, 0, 0},    {HD_BF16, 160, 145, 2, 0, 0, 0},    {HD_F8_E4M3, 256, 77, 6, 128, 128, HD_F32}, {HD_F8_E4M3, 256, 77, 8, 1, 32, HD_F8_E8M0},
        /* more panels, tokens and columns than are kept near */
        {HD_Q8_0, 96, 275, 5, 0, 0, 0},     {HD_Q8_0, 1120, 50, 51, 0, 0, 0},   {HD_Q4_1, 1088, 19, 49, 0, 0, 0},   {HD_Q6_K, 1280, 35, 50, 0, 0, 0}};
    struct hd_kernels def;

    bench = argc > 1 && !strcmp(argv[1], "--bench");
    draw_seed(1);
    hd_kernels_init("scalar");
    def = hd_k;
    for (int isa = 0; isa < HD_N_ISA; isa++) {
        if (!hd_isa_available((enum hd_isa)isa))
            continue;
        hd_kernels_init(hd_isa_name((enum hd_isa)isa));
        printf("# %s\n", hd_isa_name((enum hd_isa)isa));
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            check_product(&cases[i], &def);
        for (int64_t n = 1; n < 130; n += n < 20 ? 1 : 11)
            check_rows(&def, n);
        check_rows(&def, 1024);
        check_kv();
        check_all_pairs();
        for (int kind = 0; kind < HD_N_GEMM; kind++)
            check_gemms((enum hd_gemm_kind)kind);
    }
    printf("%d passed, %d failed\n", n_pass, n_fail);
    return n_fail != 0;
}
