/* cpu_matmul.c: weights times activations, tiled over the team.
 *
 * The rows of all weights of a call form one list, cut into tiles of rows; with many tokens each tile is walked in blocks
 * of tokens small enough that their activations stay in L2 while the tile's weights stay in L1. A kernel's result for an
 * element does not depend on the tiling (kernels.h), so neither the tile sizes nor the number of workers change a bit.
 */
#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define TOK_BLOCK 48
#define TILE_BYTES (24 * 1024)        /* weights of a tile of rows */
#define TILE_BYTES_FP4 (128 * 1024)   /* its kernel puts the activations into an order of its own, once a tile */
/* One token only streams weights: tiles are long, so that what is prefetched at a tile's end is not another worker's, and
 * still several a worker, so that a slow one is not waited for. */
#define STREAM_MIN (16 * 1024)
#define STREAM_MAX (256 * 1024)

struct job {
    const struct hd_call *c;
    int64_t tile[3];                  /* rows a tile, per weight */
    int64_t first[4];                 /* first tile of each weight; [n_out] is the total */
    int64_t tok_blocks;
};

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static void matmul_tile(const struct job *j, int64_t index)
{
    const struct hd_call *c = j->c;
    int64_t tile = index / j->tok_blocks, t0 = index % j->tok_blocks * TOK_BLOCK, n_tok = hd_rows(c->in[0]);
    int i = 0;

    while (tile >= j->first[i + 1])
        i++;
    const struct hd_tensor *w = c->in[2 + i], *x = c->in[0];
    int64_t row0 = (tile - j->first[i]) * j->tile[i], n_out = hd_cols(c->out[i]), n_row = n_out - row0 < j->tile[i] ? n_out - row0 : j->tile[i];
    int64_t t1 = t0 + TOK_BLOCK < n_tok ? t0 + TOK_BLOCK : n_tok, ld = c->out[i]->row_bytes / 4;
    struct hd_wrows rows = {w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, row0 + c->i[1]};
    float *out = (float *)c->out[i]->data + t0 * ld + row0;
    hd_matmul_fn fn = hd_k.matmul_f32[w->type];

    if (c->in[1] && hd_k.matmul_q16[w->type]) {
        x = c->in[1];
        fn = hd_k.matmul_q16[w->type];
    }
    fn(hd_cols(c->in[0]), &rows, n_row, (const char *)x->data + t0 * x->row_bytes, x->row_bytes, t1 - t0, out, ld);
}

static void matmul_range(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        matmul_tile(arg, i);
}

void hd_cpu_matmul(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct job j = {.c = c};
    int64_t n_tok = hd_rows(c->in[0]), bytes = 0;

    if (s->tape) {                    /* training: many tokens, and no promise about one at a time */
        for (int i = 0; i < c->n_out; i++)
            hd_cpu_product(self, s, c->out[i], c->in[0], c->in[2 + i], c->i[1]);
        return;
    }
    j.tok_blocks = (n_tok + TOK_BLOCK - 1) / TOK_BLOCK;
    for (int i = 0; i < c->n_out; i++)
        bytes += hd_tensor_bytes(c->in[2 + i]);
    bytes = n_tok > 1 ? TILE_BYTES : clamp(bytes / (4 * hd_pool_threads(cpu->pool)), STREAM_MIN, STREAM_MAX);
    for (int i = 0; i < c->n_out; i++) {
        const struct hd_tensor *w = c->in[2 + i];

        if (n_tok > 1 && hd_fp4_type(w->type))
            bytes = clamp(hd_tensor_bytes(w) / (2 * hd_pool_threads(cpu->pool)), TILE_BYTES, TILE_BYTES_FP4);
        else if (n_tok > 4)
            bytes = clamp(hd_tensor_bytes(w) / (2 * hd_pool_threads(cpu->pool)), 8 * w->row_bytes, w->row_bytes * 32 > TILE_BYTES ? w->row_bytes * 32 : TILE_BYTES);
        j.tile[i] = clamp(bytes / w->row_bytes / 8 * 8, 8, n_tok > 1 ? 256 : hd_cols(c->out[i]));
        j.first[i + 1] = j.first[i] + (hd_cols(c->out[i]) + j.tile[i] - 1) / j.tile[i];
    }
    hd_pool_for(cpu->pool, j.first[c->n_out] * j.tok_blocks, 1, matmul_range, &j);
}
