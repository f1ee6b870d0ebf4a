/* cpu_sparse.c: windows and pooled entries.
 *
 * A window part is written after the attention of a layer (cpu_attend_sel.c), so that a step of many tokens needs no larger ring.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"

#define MAX_POOL 512

const float *hd_cpu_cached(const struct hd_paged *p, int64_t r, float *buf)
{
    if (!p->pack)
        return hd_paged_row(p, r);
    hd_k.kv_decode(p->pack, hd_paged_row(p, r), buf);
    return buf;
}

void hd_cpu_ring_put(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;

    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_paged *p = hd_cpu_part(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            if (p->pack)
                hd_kv_encode(p->pack, hd_cpu_row(c->in[0], sp->tok0 + k), hd_paged_row(p, sp->pos0 + k));
            else
                memcpy(hd_paged_row(p, sp->pos0 + k), hd_cpu_row(c->in[0], sp->tok0 + k), (size_t)p->row_bytes);
        }
    }
}

void hd_cpu_shift(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;
    size_t bytes = (size_t)hd_cols(c->out[0]) * sizeof(float);

    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_span *sp = &b->span[q];

        if (sp->n_tok && sp->pos0)
            memcpy(hd_cpu_row(c->out[0], sp->tok0), hd_paged_row(hd_cpu_part(b, q, c->i[0]), sp->pos0 - 1), bytes);
        else if (sp->n_tok)
            memset(hd_cpu_row(c->out[0], sp->tok0), 0, bytes);
        for (int64_t k = 1; k < sp->n_tok; k++)
            memcpy(hd_cpu_row(c->out[0], sp->tok0 + k), hd_cpu_row(c->in[0], sp->tok0 + k - 1), bytes);
    }
}

/* ---- pooling ---- */

static void pool_entry(const struct hd_call *c, int64_t e, int64_t seq, int64_t group)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_span *sp = &b->span[seq];
    const struct hd_paged *ring = hd_cpu_part(b, seq, c->i[0]);
    int64_t ratio = c->i[1], cols = hd_cols(c->out[1]), n = hd_cols(c->out[0]), lanes = c->i[2] ? 2 : 1, count = 0;
    const float *z[MAX_POOL], *g[MAX_POOL];
    float *out = hd_cpu_row(c->out[0], e);

    for (int64_t lane = 0; lane < lanes; lane++) {
        int64_t first = (group - (lanes - 1 - lane)) * ratio, skip = lanes == 2 ? lane * n : 0;

        for (int64_t p = first; p < first + ratio && first >= 0; p++, count++) {
            if (p >= sp->pos0) {
                z[count] = hd_cpu_row(c->out[1], sp->tok0 + p - sp->pos0) + skip;
                g[count] = hd_cpu_row(c->out[2], sp->tok0 + p - sp->pos0) + skip;
            } else {
                z[count] = (const float *)hd_paged_row(ring, p) + skip;
                g[count] = (const float *)hd_paged_row(ring, p) + cols + skip;
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        float top = g[0][i], sum = 0, acc = 0;

        for (int64_t k = 1; k < count; k++)
            top = fmaxf(top, g[k][i]);
        for (int64_t k = 0; k < count; k++) {
            float w = expf(g[k][i] - top);

            sum += w;
            acc += w * z[k][i];
        }
        out[i] = acc / sum;
    }
}

static void pool_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_ragged *b = c->batch;
    int64_t ratio = c->i[1], seq = 0, base = 0;

    for (int64_t e = begin; e < end; e++) {
        int64_t first, n;

        for (;; seq++, base += n) {
            first = b->span[seq].pos0 / ratio;
            n = (b->span[seq].pos0 + b->span[seq].n_tok) / ratio - first;
            if (e < base + n)
                break;
        }
        pool_entry(c, e, seq, first + e - base);
    }
}

static void bias_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++) {
        float *g = hd_cpu_row(c->out[2], t);

        hd_k.add(hd_cols(c->out[2]), g, hd_cpu_row(c->in[0], c->batch->pos[t] % c->i[1]), g);
    }
}

void hd_cpu_pool(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;
    size_t bytes = (size_t)hd_cols(c->out[1]) * sizeof(float);

    HD_ASSERT((c->i[2] ? 2 : 1) * c->i[1] <= MAX_POOL);
    if (c->in[0])
        hd_cpu_rows(self, b->n_tok, hd_cols(c->out[2]), bias_range, (void *)c);
    hd_cpu_rows(self, hd_rows(c->out[0]), 8 * c->i[1] * hd_cols(c->out[1]), pool_range, (void *)c);
    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_paged *p = hd_cpu_part(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            char *row = hd_paged_row(p, sp->pos0 + k);

            memcpy(row, hd_cpu_row(c->out[1], sp->tok0 + k), bytes);
            memcpy(row + bytes, hd_cpu_row(c->out[2], sp->tok0 + k), bytes);
        }
    }
}
