/* cpu_matmul.c: weights times activations, tiled over the team.
 *
 * The rows of all weights of a call form one list, cut into tiles of rows; with many tokens each tile is walked in blocks
 * of tokens small enough that their activations stay in L2 while the tile's weights stay near. A kernel's result for an
 * element does not depend on the tiling (kernels.h), so neither the tile sizes nor the number of workers change a bit.
 */
#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define TOK_BLOCK 48
#define TOK_BLOCK_BF16 144            /* panels that meet bf16 are decoded once for all tokens of a block */
#define TILE_BYTES (24 * 1024)        /* weights of a tile of rows */
#define TILE_PANEL (64 * 1024)        /* of a tile of panels, few tokens */
#define TILE_ROWS 256                 /* many tokens: their kernels share activations among sixteen panels */
/* One token only streams weights: tiles are long, so that what is prefetched at a tile's end is not another worker's, and
 * still several a worker, so that a slow one is not waited for. */
#define STREAM_MIN (16 * 1024)
#define STREAM_MAX (256 * 1024)

struct job {
    const struct hd_call *c;
    struct hd_acts x;
    int64_t tile[3];                  /* rows a tile, per weight */
    int64_t first[4];                 /* first tile of each weight; [n_out] is the total */
    int64_t tok_block, tok_blocks;
};

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static bool in_panels(const struct hd_tensor *w, int64_t row0)
{
    return w->panels && row0 % HD_PANEL_ROWS == 0;
}

enum hd_dtype hd_cpu_act_type(const struct hd_tensor *w, int64_t row0)
{
    if (in_panels(w, row0))
        return hd_panel_by_q8(w->panels->kind) ? HD_Q8 : HD_BF16;
    return hd_k.matmul_q16[w->type] ? HD_Q16 : HD_F32;
}

int64_t hd_cpu_tok_block(const struct hd_tensor *w)
{
    return w->panels && !hd_panel_by_q8(w->panels->kind) ? TOK_BLOCK_BF16 : TOK_BLOCK;
}

void hd_cpu_quantise(enum hd_dtype type, const float *x, int64_t n, void *out)
{
    if (type == HD_Q8)
        hd_k.q8_encode(x, n, out);
    else if (type == HD_BF16)
        hd_k.bf16_encode(x, n, out);
    else
        hd_k.q16_encode(x, n, out);
}

void hd_cpu_mul_rows(const struct hd_tensor *w, int64_t row0, int64_t n_row, const struct hd_acts *x, int64_t tok0, int64_t n_tok, float *out, int64_t ld_out)
{
    struct hd_wrows rows = {w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, row0};
    const struct hd_tensor *a = in_panels(w, row0) ? hd_panel_by_q8(w->panels->kind) ? x->q8 : x->bf16 : NULL;

    if (a) {
        hd_k.matmul_panel[w->type](w->panels, row0, n_row, hd_cpu_row(a, tok0), a->row_bytes, n_tok, out, ld_out);
    } else if (x->q16 && hd_k.matmul_q16[w->type]) {
        hd_k.matmul_q16[w->type](hd_cols(w), &rows, n_row, hd_cpu_row(x->q16, tok0), x->q16->row_bytes, n_tok, out, ld_out);
    } else {
        hd_k.matmul_f32[w->type](hd_cols(w), &rows, n_row, hd_cpu_row(x->f32, tok0), x->f32->row_bytes, n_tok, out, ld_out);
    }
}

static void matmul_tile(const struct job *j, int64_t index)
{
    const struct hd_call *c = j->c;
    int64_t tile = index / j->tok_blocks, t0 = index % j->tok_blocks * j->tok_block, n_tok = hd_rows(c->in[0]);
    int i = 0;

    while (tile >= j->first[i + 1])
        i++;
    int64_t row0 = (tile - j->first[i]) * j->tile[i], n_out = hd_cols(c->out[i]), n_row = n_out - row0 < j->tile[i] ? n_out - row0 : j->tile[i];
    int64_t t1 = t0 + j->tok_block < n_tok ? t0 + j->tok_block : n_tok, ld = c->out[i]->row_bytes / 4;

    hd_cpu_mul_rows(c->in[2 + i], row0 + c->i[1], n_row, &j->x, t0, t1 - t0, (float *)c->out[i]->data + t0 * ld + row0, ld);
}

static void matmul_range(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        matmul_tile(arg, i);
}

/* Rows of a tile of w: a multiple of 16 (8 where there are no panels; 64 of one token's, which kernels take four panels at a time). total: bytes of all weights of the call. */
static int64_t tile_rows(const struct hd_tensor *w, int64_t n_out, int64_t n_tok, int n_thread, int64_t total)
{
    int64_t bytes = hd_tensor_bytes(w), step = !w->panels ? 8 : n_tok == 1 ? 4 * HD_PANEL_ROWS : 2 * HD_PANEL_ROWS, min = step;

    if (n_tok == 1)
        bytes = clamp(total / (4 * n_thread), STREAM_MIN, STREAM_MAX);
    else if (w->panels && (n_tok > 2 || !hd_panel_by_q8(w->panels->kind)))
        return clamp(n_out / (4 * n_thread) / step * step, 4 * HD_PANEL_ROWS, TILE_ROWS);
    else if (w->panels)
        bytes = clamp(bytes / (4 * n_thread), min, TILE_PANEL);
    else if (n_tok > 4)
        bytes = clamp(bytes / (2 * n_thread), 8 * w->row_bytes, w->row_bytes * 32 > TILE_BYTES ? w->row_bytes * 32 : TILE_BYTES);
    else
        bytes = TILE_BYTES;
    return clamp(bytes / w->row_bytes / step * step, min, n_tok > 1 ? TILE_ROWS : (n_out + step - 1) / step * step);
}

void hd_cpu_matmul(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct job j = {.c = c, .x = {c->in[0], c->in[1], c->in[5], c->in[6]}};
    int64_t n_tok = hd_rows(c->in[0]), total = 0;

    if (s->tape) {                    /* training: many tokens, and no promise about one at a time */
        hd_cpu_products(self, s, c);
        return;
    }
    j.tok_block = TOK_BLOCK_BF16;
    for (int i = 0; i < c->n_out; i++) {
        int64_t some = hd_cpu_tok_block(c->in[2 + i]);

        j.tok_block = some < j.tok_block ? some : j.tok_block;
        total += hd_tensor_bytes(c->in[2 + i]);
    }
    j.tok_blocks = (n_tok + j.tok_block - 1) / j.tok_block;
    for (int i = 0; i < c->n_out; i++) {
        int64_t n_out = hd_cols(c->out[i]);

        j.tile[i] = tile_rows(c->in[2 + i], n_out, n_tok, hd_pool_threads(cpu->pool), total);
        j.first[i + 1] = j.first[i] + (n_out + j.tile[i] - 1) / j.tile[i];
    }
    hd_pool_for(cpu->pool, j.first[c->n_out] * j.tok_blocks, 1, matmul_range, &j);
}
