/* cpu_engram.c: n-gram hashes, table rows, and the gate that lets them into the streams. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"

#define MAX_ORDER 16

void hd_cpu_ngram(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_ngram *g = c->ngram;
    int64_t seq = 0;

    HD_ASSERT(g->n_order + 1 <= MAX_ORDER);
    for (int64_t t = 0; t < b->n_tok; t++)
        *(int32_t *)hd_cpu_row(c->out[1], t) = b->ids[t] < g->n_map ? g->map[b->ids[t]] : g->pad;
    for (int64_t t = 0; t < b->n_tok; t++) {
        const struct hd_span *sp = hd_cpu_span(b, t, &seq);
        const struct hd_paged *ring = &b->part[seq * b->n_part + c->i[0]];
        int32_t *rows = (int32_t *)hd_cpu_row(c->out[0], t);
        int64_t x = 0, pos = b->pos[t];

        for (int64_t j = 0; j <= g->n_order; j++) {
            int64_t p = pos - j;
            int32_t class = p < 0 ? g->pad : p >= sp->pos0 ? *(int32_t *)hd_cpu_row(c->out[1], sp->tok0 + p - sp->pos0) : *(int32_t *)hd_paged_row(ring, p);

            x ^= (int64_t)((uint64_t)class * (uint64_t)g->mult[j]);
            for (int64_t h = 0; j > 0 && h < g->n_head; h++) {
                int64_t k = (j - 1) * g->n_head + h;

                rows[k] = (int32_t)(g->offset[k] + x % g->prime[k]);
            }
        }
    }
}

static void table_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_cpu_table_job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n = hd_cols(c->in[0]), d = hd_cols(c->in[1]);

    for (int64_t i = begin; i < end; i++)
        hd_cpu_decode_row(j->s, c->in[1], ((const int32_t *)hd_cpu_row(c->in[0], i / n))[i % n], hd_cpu_row(c->out[0], i / n) + i % n * d);
}

void hd_cpu_table(void *self, struct hd_stream *s, const struct hd_call *c)
{
    for (int64_t t = 0; s->source && t < hd_rows(c->in[0]); t++)      /* all at once, so that the drive has a queue */
        s->source->rows_ahead(s->source->self, c->in[1], (const int32_t *)hd_cpu_row(c->in[0], t), hd_cols(c->in[0]));
    hd_cpu_row_job(self, s, hd_elems(c->in[0]), 2 * hd_cols(c->in[1]), table_range, &(struct hd_cpu_table_job){s, c});
}

static float rms(const float *x, int64_t n, float eps)
{
    double ss = 0;

    for (int64_t i = 0; i < n; i++)
        ss += (double)x[i] * (double)x[i];
    return (float)(1 / sqrt(ss / (double)n + (double)eps));
}

static void engram_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_hc = c->i[0], d = hd_cols(c->out[0]) / n_hc;

    for (int64_t t = begin; t < end; t++) {
        const float *kv = hd_cpu_row(c->in[0], t), *value = kv + n_hc * d;

        for (int64_t h = 0; h < n_hc; h++) {
            float *out = hd_cpu_row(c->out[0], t) + h * d, gate;
            const float *x = c->in[3] ? hd_cpu_row(c->in[3], t) + h * d : out;
            const float *q = (const float *)c->in[1]->data + h * d, *k = (const float *)c->in[2]->data + h * d, *key = kv + h * d;
            double dot = 0;

            for (int64_t i = 0; i < d; i++)
                dot += (double)(x[i] * q[i]) * (double)(k[i] * key[i]);
            gate = (float)(dot * (double)rms(x, d, c->f[0]) * (double)rms(key, d, c->f[0]) / sqrt((double)d));
            gate = copysignf(sqrtf(fmaxf(fabsf(gate), 1e-6f)), gate);
            gate = 1 / (1 + expf(-gate));
            if (!c->in[3])
                hd_k.axpy_f32(d, gate, value, out);
            for (int64_t i = 0; c->in[3] && i < d; i++)
                out[i] = gate * value[i];
        }
    }
}

void hd_cpu_engram(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 4 * hd_cols(c->out[0]), engram_range, (void *)c);
}

static void short_conv_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_ragged *b = c->batch;
    int64_t n = hd_cols(c->out[0]), K = hd_cols(c->in[2]), dilation = c->i[1], seq = 0;

    for (int64_t t = begin; t < end; t++) {
        const struct hd_span *sp = hd_cpu_span(b, t, &seq);
        const float *u[16], *v = hd_cpu_row(c->in[0], t);
        float *x = hd_cpu_row(c->out[0], t);

        HD_ASSERT(K <= 16);
        for (int64_t k = 0; k < K; k++) {
            int64_t p = b->pos[t] - (K - 1 - k) * dilation;

            u[k] = p < 0 ? NULL : p >= sp->pos0 ? hd_cpu_row(c->in[1], sp->tok0 + p - sp->pos0) : hd_paged_row(&b->part[seq * b->n_part + c->i[0]], p);
        }
        for (int64_t i = 0; i < n; i++) {
            const float *w = hd_cpu_row(c->in[2], i);
            float y = 0;

            for (int64_t k = 0; k < K; k++)
                if (u[k])
                    y += w[k] * u[k][i];
            x[i] += v[i] + y / (1 + expf(-y));
        }
    }
}

void hd_cpu_short_conv(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 8 * hd_cols(c->out[0]), short_conv_range, (void *)c);
}
