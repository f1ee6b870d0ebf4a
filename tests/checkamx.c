/* checkamx.c: panel_amx.c's products with emulated tiles and this CPU's own AVX-512, against the scalar definition, bit by bit: for formats, shapes,
 * numbers of tokens, blocks with fine parts. The emulation (kernels/amx.h) checks what the manual makes an exception of. */
#if defined(__x86_64__) && !defined(HD_EMULATE)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vnni,avx2,fma,f16c")
#define HD_EMULATE_TILES
#define hd_fill_panel_amx hd_fill_panel_amx_emulated
struct hd_kernels;
void hd_fill_panel_amx_emulated(struct hd_kernels *k);
#include "kernels/panel/panel_amx.c"

#include <stdio.h>
#include <stdlib.h>

#include "draw.h"
#include "report.h"

/* Numbers of f16 between 1/2 and 2, either sign. */
static void sane_f16(void *p, int64_t n)
{
    for (uint16_t *u = p; n-- > 0; u++)
        *u = (uint16_t)((*u & 0x87FF) | 0x3800);
}

/* Random codes; scales that are numbers. */
static void fill_panel(const struct hd_panels *w, uint8_t *panel)
{
    int64_t nb = w->n / 32;

    for (int64_t i = 0; i < w->bytes; i++)
        panel[i] = (uint8_t)(draw_bits() >> 20);
    if (w->type == HD_MXFP4)
        for (int64_t i = 0; i < nb * 16; i++)
            panel[w->scale_at + i] = (uint8_t)(120 + panel[w->scale_at + i] % 12);
    else if (w->type == HD_Q6_K)
        for (int64_t b = 0; b < nb / 8; b++)
            sane_f16(((struct hd_panel_k6 *)(panel + w->scale_at))[b].d, HD_PANEL_ROWS);
    else if (w->type == HD_Q4_K || w->type == HD_Q5_K)
        for (int64_t b = 0; b < nb / 8; b++) {
            struct hd_panel_k4 *k = (struct hd_panel_k4 *)(panel + w->scale_at) + b;

            sane_f16(k->d, 2 * HD_PANEL_ROWS);
            for (int i = 0; i < 8 * HD_PANEL_ROWS; i++) {
                k->scale[i / HD_PANEL_ROWS][i % HD_PANEL_ROWS] &= 63;
                k->min[i / HD_PANEL_ROWS][i % HD_PANEL_ROWS] &= 63;
            }
        }
    else
        sane_f16(panel + w->scale_at, (w->bytes - w->scale_at) / 2);
}

static void check(enum hd_dtype type, int64_t n, int64_t n_row, int64_t n_tok, const struct hd_kernels *def, const struct hd_kernels *amx)
{
    struct hd_tensor t = hd_view2(type, NULL, n_row, n);
    int64_t x_bytes = hd_row_bytes(HD_Q8, n);
    struct hd_panels w;
    uint8_t *data;
    char *x = calloc((size_t)n_tok, (size_t)x_bytes);
    float *in = malloc((size_t)n * 4), *want = malloc((size_t)(n_row * n_tok) * 4), *got = malloc((size_t)(n_row * n_tok) * 4);
    int n_fine = 0;

    if (!hd_panels_describe(&t, &w)) {
        report(false, "%s has no panels", hd_dtypes[type].name);
        return;
    }
    w.data = data = aligned_alloc(64, (size_t)(hd_panel_count(&w) * w.bytes));
    for (int64_t i = 0; i < hd_panel_count(&w); i++)
        fill_panel(&w, data + i * w.bytes);
    for (int64_t k = 0; k < n_tok; k++) {
        struct hd_q8 *row = (struct hd_q8 *)(x + k * x_bytes);

        for (int64_t i = 0; i < n; i++)
            in[i] = ((float)(draw_bits() >> 40) / 0x1p23f - 1) * (draw_bits() % 40 ? 1 : 30);
        def->q8_encode(in, n, row);
        for (int64_t b = 0; b < n / 32; b++)
            n_fine += row[b].has_fine;
    }
    def->matmul_panel[type](&w, 0, n_row, x, x_bytes, n_tok, want, n_row);
    amx->matmul_panel[type](&w, 0, n_row, x, x_bytes, n_tok, got, n_row);
    report(!memcmp(want, got, (size_t)(n_row * n_tok) * 4), "%s %lld x %lld, %lld tokens: other bits", hd_dtypes[type].name, (long long)n_row, (long long)n, (long long)n_tok);
    report(n_fine > 0, "no block has a fine part");
    free(data);
    free(x);
    free(in);
    free(want);
    free(got);
}

int main(void)
{
    static const enum hd_dtype types[] = {HD_Q4_0, HD_Q4_1, HD_Q5_0, HD_Q5_1, HD_Q8_0, HD_Q4_K, HD_Q5_K, HD_Q6_K, HD_MXFP4};
    static const int64_t rows[] = {16, 48, 77}, toks[] = {5, 16, 31, 48};
    struct hd_kernels def;

    if (!hd_isa_available(HD_ISA_AVX512VNNI)) {
        printf("ok 1 - tiles # SKIP this CPU has no AVX-512 VNNI\n");
        return 0;
    }
    draw_seed(1);
    hd_kernels_init("scalar");
    def = hd_k;
    hd_kernels_init("avx512vnni");
    hd_fill_panel_amx_emulated(&hd_k);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        for (int r = 0; r < 3; r++)
            for (int t = 0; t < 4; t++)
                check(types[i], 256 * (1 + r), rows[r], toks[t], &def, &hd_k);
    printf("%d passed, %d failed\n", n_pass, n_fail);
    return n_fail != 0;
}

#else

#include <stdio.h>

int main(void)
{
    printf("ok 1 - tiles # SKIP not here: needs x86-64, and checkkern has them where everything is emulated\n");
    return 0;
}

#endif
