/* cpu_vec.c: ops that walk rows: embeddings, norms, element-wise, RoPE, conversions. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"

static float *row_f32(const struct hd_tensor *t, int64_t r)
{
    return (float *)((char *)t->data + r * t->row_bytes);
}

void hd_cpu_decode_row(struct hd_stream *s, const struct hd_tensor *w, int64_t row, float *out)
{
    struct hd_wrows rows = {w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, row};
    struct hd_scale scale = w->scale;
    char data[HD_SOURCE_ROW_MAX], scales[HD_SOURCE_ROW_MAX];
    struct hd_err err;
    int rc;

    if (s->source && s->source->has_rows(s->source->self, w)) {
        rc = s->source->row(s->source->self, w, row, data, scales, &err);
        if (rc < 0) {
            hd_stream_fail(s, rc, "%s", err.msg);
            return;
        }
        scale.data = scales;
        rows = (struct hd_wrows){data, w->row_bytes, w->scale.data ? &scale : NULL, 0};
    }
    hd_k.decode[w->type](&rows, hd_cols(w), out);
}

/* Reading from files is slow enough for the team; several workers may fail at once, so the engine thread does it alone. */
void hd_cpu_row_job(struct hd_cpu *cpu, struct hd_stream *s, int64_t n, int64_t cols, hd_range_fn fn, void *arg)
{
    if (s->source)
        fn(arg, 0, n);
    else
        hd_cpu_rows(cpu, n, cols, fn, arg);
}

static void embed_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_cpu_table_job *j = arg;

    for (int64_t t = begin; t < end; t++)
        hd_cpu_decode_row(j->s, j->c->in[0], j->c->batch->ids[t], row_f32(j->c->out[0], t));
}

void hd_cpu_embed(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_row_job(self, s, c->batch->n_tok, hd_cols(c->out[0]), embed_range, &(struct hd_cpu_table_job){s, c});
}

void hd_cpu_gather(void *self, struct hd_stream *s, const struct hd_call *c)
{
    for (int64_t i = 0; i < hd_rows(c->out[0]); i++)
        memcpy(row_f32(c->out[0], i), row_f32(c->in[0], c->rows[i]), (size_t)hd_cols(c->in[0]) * sizeof(float));
}

static void rmsnorm_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = hd_elems(c->in[1]), cols = hd_cols(c->in[0]);

    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < cols; i += n)
            hd_k.rmsnorm(n, row_f32(c->in[0], t) + i, c->in[1]->data, c->f[0], row_f32(c->out[0], t) + i);
}

void hd_cpu_rmsnorm(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->in[0]), hd_cols(c->in[0]), rmsnorm_range, (void *)c);
}

struct move_job {
    int64_t bytes, to_bytes, from_bytes;
    char *to;
    const char *from;
};

static void move_range(void *arg, int64_t begin, int64_t end)
{
    const struct move_job *j = arg;

    for (int64_t r = begin; r < end; r++)
        if (j->from)
            memcpy(j->to + r * j->to_bytes, j->from + r * j->from_bytes, (size_t)j->bytes);
        else
            memset(j->to + r * j->to_bytes, 0, (size_t)j->bytes);
}

void hd_cpu_move(void *self, int64_t rows, int64_t bytes, void *to, int64_t to_bytes, const void *from, int64_t from_bytes)
{
    hd_cpu_rows(self, rows, bytes / 4, move_range, &(struct move_job){bytes, to_bytes, from_bytes, to, from});
}

static void quant_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        hd_cpu_quantise(c->out[0]->type, row_f32(c->in[0], t), hd_cols(c->in[0]), (char *)c->out[0]->data + t * c->out[0]->row_bytes);
}

void hd_cpu_quant(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->in[0]), hd_cols(c->in[0]), quant_range, (void *)c);
}

static void add_row_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        hd_k.add(hd_cols(c->out[0]), row_f32(c->out[0], t), c->in[0]->data, row_f32(c->out[0], t));
}

void hd_cpu_add_row(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->out[0]), add_row_range, (void *)c);
}

static void add_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        hd_k.add(hd_cols(c->out[0]), row_f32(c->in[0], t), row_f32(c->in[1], t), row_f32(c->out[0], t));
}

void hd_cpu_add(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->out[0]), add_range, (void *)c);
}

static void silu_mul_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = hd_cols(c->out[0]);
    float limit = c->f[0];

    for (int64_t t = begin; t < end; t++) {
        float *gate = row_f32(c->in[0], t), *up = row_f32(c->in[1], t);

        if (limit > 0)
            for (int64_t i = 0; i < n; i++) {
                gate[i] = gate[i] > limit ? limit : gate[i];
                up[i] = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
            }
        hd_k.silu_mul(n, gate, up, row_f32(c->out[0], t));
    }
}

void hd_cpu_silu_mul(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 4 * hd_cols(c->out[0]), silu_mul_range, (void *)c);
}

static void rope_table_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const float *f = c->in[0]->data;
    int64_t n = hd_elems(c->in[0]);

    for (int64_t t = begin; t < end; t++) {
        float *out = row_f32(c->out[0], t);

        for (int64_t i = 0; i < n; i++) {
            float angle = (float)c->batch->pos[t] * f[i];     /* rounded to f32: the references' angle */

            out[i] = (float)cos((double)angle) * c->f[0];
            out[n + i] = (float)sin((double)angle) * c->f[0];
        }
    }
}

void hd_cpu_rope_table(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 64 * hd_cols(c->out[0]), rope_table_range, (void *)c);
}

static void rope_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = hd_cols(c->in[0]) / 2, head_dim = c->i[0], cols = hd_cols(c->out[0]);
    int64_t step = c->i[1] ? 2 : 1, far = c->i[1] ? 1 : n;
    float turn = c->i[3] ? -1 : 1;

    for (int64_t t = begin; t < end; t++) {
        const float *cs = row_f32(c->in[0], t), *sn = cs + n;

        for (int64_t h = 0; h < cols; h += head_dim) {
            float *x = row_f32(c->out[0], t) + h + c->i[2];

            for (int64_t i = 0; i < n; i++) {
                float a = x[i * step], b = x[i * step + far];

                x[i * step] = a * cs[i] - b * (turn * sn[i]);
                x[i * step + far] = b * cs[i] + a * (turn * sn[i]);
            }
        }
    }
}

void hd_cpu_rope(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 2 * hd_cols(c->out[0]), rope_range, (void *)c);
}

/* Neighbours in a panel may be written by others at the same time: every byte is its row's own. */
static void put_lane(const struct hd_paged *p, int64_t r, const float *x)
{
    uint8_t row[HD_KV_ROW_MAX];

    hd_kv_encode(p->pack, x, row);
    hd_kv_panel_put(p->pack, row, (int)(r % HD_PANEL_ROWS), hd_paged_panel(p, r));
}

static void kv_put_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_ragged *b = c->batch;
    int64_t n = hd_cols(c->in[0]), seq = 0;

    for (int64_t t = begin; t < end; t++) {
        const struct hd_paged *p;
        void *row;

        while (seq < b->n_seq && t >= b->span[seq].tok0 + b->span[seq].n_tok)
            seq++;
        if (seq == b->n_seq || t < b->span[seq].tok0)         /* of no sequence: see hd_before() */
            continue;
        p = &b->part[seq * b->n_part + c->i[0]];
        if (p->panels) {
            put_lane(p, b->pos[t] / p->ratio, row_f32(c->in[0], t));
            continue;
        }
        row = hd_paged_row(p, b->pos[t] / p->ratio);
        if (p->pack)
            hd_kv_encode(p->pack, row_f32(c->in[0], t), row);
        else if (p->type == HD_F16)
            hd_k.f32_to_f16(n, row_f32(c->in[0], t), row);
        else
            memcpy(row, row_f32(c->in[0], t), (size_t)n * sizeof(float));
    }
}

void hd_cpu_kv_put(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, c->batch->n_tok, hd_cols(c->in[0]), kv_put_range, (void *)c);
}
