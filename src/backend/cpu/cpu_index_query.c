/* cpu_index_query.c: what the indexer's queries become before they meet fp4 keys: int8, and their heads in another order.
 *
 * Queries that were rounded to fp4 are exact in int8, with a scale that is a power of two; others are rounded to 127ths of a block's largest.
 *
 * A product below zero counts as nothing, so a head raises scores or lowers them by the sign of its weight. Those that raise come first: their sum is the
 * most that a key can get, also as rounded, since what follows is never above zero and sums are rounded monotonously.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_index.h"

/* In the order of fp4 codes as they lie in a row: even columns of a block, then odd ones. */
static void encode_block(const float *x, struct hd_q8 *out)
{
    const float magic = 12582912;     /* 1.5 * 2^23: adding it rounds to the nearest integer */
    float amax = 0, d, id;
    int32_t sum = 0;
    bool same = true;
    int e;

    for (int i = 0; i < 32; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    frexpf(amax, &e);
    e = amax > 0 ? (e - 7 < -100 ? -100 : e - 7) : 0;
    if (amax > 127 * ldexpf(1, e))
        e++;
    d = ldexpf(1, e);
    id = ldexpf(1, -e);
    for (int i = 0; i < 32; i++)
        same &= (x[i] * id + magic) - magic == x[i] * id;
    if (!same) {
        d = amax / 127;
        id = amax > 1e-30f ? 127 / amax : 0;
    }
    for (int i = 0; i < 32; i++) {
        out->q[i] = (int8_t)((x[2 * i % 32 + i / 16] * id + magic) - magic);
        sum += out->q[i];
    }
    out->d = d;
    out->sum = d * (float)sum;
    out->neg = -sum;
    out->fine_neg = 0;
    out->has_fine = 0;
}

static void encode_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_head = c->i[1], dim = c->i[2];

    for (int64_t t = begin; t < end; t++) {
        const float *weight = hd_cpu_row(c->in[1], t);
        float *out = hd_cpu_row(c->in[6], t);
        int64_t n_up = 0, at[2] = {0};

        for (int64_t h = 0; h < n_head; h++)
            n_up += weight[h] > 0;
        at[1] = n_up;
        for (int64_t h = 0; h < n_head; h++) {
            int64_t to = at[!(weight[h] > 0)]++;

            out[to] = weight[h];
            for (int64_t b = 0; b < dim / 32; b++)
                encode_block(hd_cpu_row(c->in[0], t) + h * dim + 32 * b, hd_cpu_index_query(c, t, to) + b);
        }
        out[n_head] = (float)n_up;
    }
}

void hd_cpu_index_encode(struct hd_cpu *cpu, const struct hd_call *c)
{
    hd_cpu_rows(cpu, c->batch->n_tok, 4 * c->i[1] * c->i[2], encode_range, (void *)c);
}
