/* cpu.h: the CPU backend's inside: one function an op, tiled over the pool. Every function here has hd_op_fn's shape.
 *
 * Small work stays on the engine thread: waking the team costs more than a few thousand operations. The decision looks at
 * the shape only, and results do not depend on it.
 */
#ifndef HD_BACKEND_CPU_CPU_H
#define HD_BACKEND_CPU_CPU_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "ops/ops.h"

struct hd_cpu {
    struct hd_pool *pool;
};

#define HD_CPU_SMALL 16384            /* elements of a vector op below which the engine thread does it alone */

/* Runs fn over n rows of cols elements each, alone or with the team. */
void hd_cpu_rows(struct hd_cpu *cpu, int64_t n, int64_t cols, hd_range_fn fn, void *arg);

/* hd_backend.move */
void hd_cpu_move(void *self, int64_t rows, int64_t bytes, void *to, int64_t to_bytes, const void *from, int64_t from_bytes);

/* What the ranges of an op that reads tables need to know. */
struct hd_cpu_table_job {
    struct hd_stream *s;
    const struct hd_call *c;
};

/* The same for rows of tables that the stream's source may have to read: then the engine thread alone. */
void hd_cpu_row_job(struct hd_cpu *cpu, struct hd_stream *s, int64_t n, int64_t cols, hd_range_fn fn, void *arg);
/* Row of w as f32; from the stream's source if that has w's rows. */
void hd_cpu_decode_row(struct hd_stream *s, const struct hd_tensor *w, int64_t row, float *out);

void hd_cpu_embed(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_gather(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_rmsnorm(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_quant(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_matmul(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_add_row(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_add(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_silu_mul(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_rope_table(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_rope(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_kv_put(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_attend(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_simulate(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_scale(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_head_norm(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_hadamard(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_copies(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_mhc_mix(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_mhc_pre(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_mhc_post(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_ring_put(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_shift(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_pool(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_index(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_attend_sel(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_gate(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_layernorm(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_group_matmul(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_absorb(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_absorb_t(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_ngram(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_table(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_engram(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_short_conv(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_xent(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_detach(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_index_loss(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_attend_block(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_confidence(void *self, struct hd_stream *s, const struct hd_call *c);
void hd_cpu_moe(void *self, struct hd_stream *s, const struct hd_call *c);

static inline const struct hd_paged *hd_cpu_part(const struct hd_ragged *b, int64_t seq, int64_t part)
{
    return &b->part[seq * b->n_part + part];
}

/* The largest of x[n] and least. */
static inline float hd_cpu_max(int64_t n, const float *x, float least)
{
    float top = hd_k.largest(n, x);

    return top > least ? top : least;
}

/* A cached row as f32: where it lies, or unpacked into buf. */
const float *hd_cpu_cached(const struct hd_paged *p, int64_t r, float *buf);

/* A step's activations in the forms that it has; NULL where it has none of that kind. */
struct hd_acts {
    const struct hd_tensor *f32, *q16, *q8, *bf16;
};

/* Adds q, of whichever kind it is; q may be NULL. */
static inline void hd_acts_add(struct hd_acts *a, const struct hd_tensor *q)
{
    if (q)
        *(q->type == HD_Q8 ? &a->q8 : q->type == HD_BF16 ? &a->bf16 : &a->q16) = q;
}

/* Tokens whose activations stay near while a tile of w is walked. */
int64_t hd_cpu_tok_block(const struct hd_tensor *w);
/* Rows row0 .. of w times tokens tok0 .. of the activations that suit it. */
void hd_cpu_mul_rows(const struct hd_tensor *w, int64_t row0, int64_t n_row, const struct hd_acts *x, int64_t tok0, int64_t n_tok, float *out, int64_t ld_out);
/* What w's rows from row0 on want to be multiplied with. */
enum hd_dtype hd_cpu_act_type(const struct hd_tensor *w, int64_t row0);
void hd_cpu_quantise(enum hd_dtype type, const float *x, int64_t n, void *out);

static inline float *hd_cpu_row(const struct hd_tensor *t, int64_t r)
{
    return (float *)((char *)t->data + r * t->row_bytes);
}

/* The sequence that token t of the batch belongs to, searching from *seq on. */
static inline const struct hd_span *hd_cpu_span(const struct hd_ragged *b, int64_t t, int64_t *seq)
{
    while (t >= b->span[*seq].tok0 + b->span[*seq].n_tok)
        ++*seq;
    return &b->span[*seq];
}

#endif
