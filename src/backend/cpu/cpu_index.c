/* cpu_index.c: the indexer: every key's score for every token, and the best of them.
 *
 * score = sum over heads of relu(q_h . key) w_h. Tokens are taken a few at a time, as many as the scratch has room for the scores of; the team
 * shares the keys in slices, then the tokens. Sixty-four keys are brought into order once for all those tokens: fp4 keys (exact: their codes are
 * integers) as panels that meet int8 queries, others as f32 rows. A score does not depend on who else is in the slice.
 *
 * Queries that were rounded to fp4 are exact in int8 with a scale that is a power of two; others keep a fine part, fifteen bits in all.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"

#define KEYS HD_ROWS_MAX              /* scored together */
#define SLICE 1024                    /* keys of a task, at most */
#define HEADS 64                      /* query heads at once */

struct job {
    const struct hd_call *c;
    const struct hd_paged *keys;
    int64_t t0, n_tok, len;           /* tokens of the batch; keys that the last of them sees */
    int64_t slice, n_slice;
    struct hd_tensor score;           /* [n_tok, ...] */
    struct hd_tensor q8;              /* [n_tok * H, dim]; data NULL: f32 queries */
};

static int64_t visible(const struct job *j, int64_t k)
{
    return (j->c->batch->pos[j->t0 + k] + 1) / j->c->i[3];
}

static const int32_t *candidates(const struct hd_call *c, int64_t t, int64_t *n)
{
    *n = c->in[2] ? hd_cols(c->in[2]) / 2 : 0;
    return c->in[2] ? (const int32_t *)hd_cpu_row(c->in[2], t) : NULL;
}

static bool listed(const int32_t *list, int64_t n, int32_t x)
{
    int64_t lo = 0, hi = n;                   /* ascending, -1 behind */

    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;

        if (list[mid] >= 0 && list[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list[lo] == x;
}

/* ---- queries ---- */

/* In the order of fp4 codes as they lie in a row: even columns of a block, then odd ones. */
static void encode_block(const float *x, struct hd_q8 *out, int8_t *fine)
{
    const float magic = 12582912;     /* 1.5 * 2^23: adding it rounds to the nearest integer */
    float amax = 0, d, id, q[32], rest[32];
    int32_t sum = 0, fine_sum = 0;
    int e;

    for (int i = 0; i < 32; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    frexpf(amax, &e);
    e = amax > 0 ? (e - 7 < -100 ? -100 : e - 7) : 0;
    if (amax > 127 * ldexpf(1, e))
        e++;
    d = ldexpf(1, e);
    id = ldexpf(1, -e);
    for (int i = 0; i < 32; i++) {
        float t = x[2 * i % 32 + i / 16] * id;

        q[i] = (t + magic) - magic;
        rest[i] = ((t - q[i]) * 254 + magic) - magic;
    }
    for (int i = 0; i < 32; i++) {
        out->q[i] = (int8_t)q[i];
        fine[i] = (int8_t)rest[i];
        sum += out->q[i];
        fine_sum += fine[i];
        out->has_fine |= fine[i] != 0;
    }
    out->d = d;
    out->sum = d * ((float)sum + (float)fine_sum * HD_Q8_FINE);
    out->neg = -sum;
    out->fine_neg = (int16_t)-fine_sum;
}

static void encode_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n_head = j->c->i[1], dim = j->c->i[2];

    for (int64_t k = begin; k < end; k++)
        for (int64_t h = 0; h < n_head; h++) {
            struct hd_q8 *row = (struct hd_q8 *)hd_cpu_row(&j->q8, k * n_head + h);
            const float *x = hd_cpu_row(j->c->in[0], j->t0 + k) + h * dim;

            for (int64_t b = 0; b < dim / 32; b++) {
                row[b].has_fine = 0;
                encode_block(x + 32 * b, &row[b], (int8_t *)hd_q8_fine(row, dim) + 32 * b);
            }
        }
}

/* ---- scores ---- */

/* fp4 keys g .. g + n as panels of raw codes. */
static void pack_keys(const struct hd_paged *keys, int64_t dim, int64_t g, int64_t n, const struct hd_panels *p, uint8_t *out)
{
    memset(out, 0, (size_t)(hd_panel_count(p) * p->bytes));
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *row = hd_paged_row(keys, g + i);
        uint8_t *panel = out + i / HD_PANEL_ROWS * p->bytes;
        int64_t lane = i % HD_PANEL_ROWS;

        for (int64_t k = 0; k < dim / 8; k++)
            memcpy(panel + (k * HD_PANEL_ROWS + lane) * 4, row + 4 * k, 4);
        for (int64_t b = 0; b < dim / 32; b++)
            panel[p->scale_at + b * HD_PANEL_ROWS + lane] = row[dim / 2 + b];
    }
}

static struct hd_panels key_panels(int64_t dim)
{
    struct hd_panels p = {.type = HD_F4_E2M1, .kind = HD_PANEL_NIBBLES, .n = dim, .n_row = KEYS, .scale_cols = 32, .scale_rows = true, .global = 1};

    p.scale_at = dim / 32 * 256;
    p.min_at = p.scale_at + dim / 32 * HD_PANEL_ROWS;
    p.bytes = (p.min_at + 63) & ~(int64_t)63;
    return p;
}

/* p[h][i] added up over n_head heads; official: with DeepSeek's rounding points. */
static void add_up(const struct hd_call *c, int64_t n_head, int64_t n, float (*p)[KEYS], const float *w, float *out)
{
    if (!c->i[8]) {
        hd_k.relu_mix(n_head, n, (const float(*)[KEYS])p, w, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < n_head; h++) {
            float d = hd_round_bf16(p[h][i]);

            out[i] += hd_round_bf16((d > 0 ? d : 0) * w[h]);
        }
}

/* Is any block of keys g .. g + n among what the token may choose? */
static bool wanted(const struct hd_call *c, int64_t t, int64_t g, int64_t n)
{
    int64_t n_in, block = c->i[6];
    const int32_t *list = candidates(c, t, &n_in);
    bool any = !list;

    for (int64_t b = g / block; list && b <= (g + n - 1) / block; b++)
        any |= listed(list, n_in, (int32_t)b);
    return any;
}

static void score_keys(const struct job *j, int64_t g, int64_t n)
{
    const struct hd_call *c = j->c;
    int64_t n_head = c->i[1], dim = c->i[2];
    _Alignas(64) uint8_t packed[KEYS / HD_PANEL_ROWS * (HD_KV_ROW_MAX / 32 * (256 + 16) + 64)];
    _Alignas(64) float p[HEADS][KEYS], unpacked[KEYS * (HD_KV_ROW_MAX + 16)];
    struct hd_panels panels = key_panels(dim);
    const void *row[KEYS];

    panels.data = packed;
    if (j->q8.data)
        pack_keys(j->keys, dim, g, n, &panels, packed);
    for (int64_t i = 0; i < n && !j->q8.data; i++)
        row[i] = hd_cpu_cached(j->keys, g + i, unpacked + i * (dim + 16));
    for (int64_t k = 0; k < j->n_tok; k++) {
        const float *q = hd_cpu_row(c->in[0], j->t0 + k), *w = hd_cpu_row(c->in[1], j->t0 + k);
        float *out = hd_cpu_row(&j->score, k) + g;

        if (g >= visible(j, k) || (c->in[2] && !wanted(c, j->t0 + k, g, n)))
            continue;
        memset(out, 0, (size_t)n * sizeof *out);
        for (int64_t h = 0; h < n_head; h += HEADS) {
            int64_t m = n_head - h < HEADS ? n_head - h : HEADS;

            if (j->q8.data)
                hd_k.matmul_panel[HD_F4_E2M1](&panels, 0, KEYS, hd_cpu_row(&j->q8, k * n_head + h), j->q8.row_bytes, m, p[0], KEYS);
            else
                hd_k.rows_dot(dim, n, row, false, 1, q + h * dim, m, p);
            add_up(c, m, n, p, w + h, out);
        }
        for (int64_t i = 0; c->i[8] && i < n; i++)
            out[i] = hd_round_bf16(out[i]);
    }
}

static void score_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t s = begin; s < end; s++)
        for (int64_t g = s * j->slice; g < (s + 1) * j->slice && g < j->len; g += KEYS)
            score_keys(j, g, j->len - g < KEYS ? j->len - g : KEYS);
}

/* ---- the best ---- */

/* The k best of a stream of scores: a heap with the worst on top; among equals the earlier index is better. */
struct best {
    float *score;
    int32_t *idx;
    int64_t n, k;
};

static bool worse(const struct best *h, int64_t a, int64_t b)
{
    return h->score[a] < h->score[b] || (h->score[a] == h->score[b] && h->idx[a] > h->idx[b]);
}

static void swap(struct best *h, int64_t a, int64_t b)
{
    float s = h->score[a];
    int32_t i = h->idx[a];

    h->score[a] = h->score[b];
    h->idx[a] = h->idx[b];
    h->score[b] = s;
    h->idx[b] = i;
}

static void sift(struct best *h, int64_t i, int64_t n)
{
    for (;;) {
        int64_t l = 2 * i + 1, m = i;

        if (l < n && worse(h, l, m))
            m = l;
        if (l + 1 < n && worse(h, l + 1, m))
            m = l + 1;
        if (m == i)
            return;
        swap(h, i, m);
        i = m;
    }
}

static void offer(struct best *h, float score, int32_t idx)
{
    if (h->n < h->k) {
        int64_t i = h->n++;

        h->score[i] = score;
        h->idx[i] = idx;
        for (; i > 0 && worse(h, i, (i - 1) / 2); i = (i - 1) / 2)
            swap(h, i, (i - 1) / 2);
        return;
    }
    if (score <= h->score[0])                 /* later ones lose against equals */
        return;
    h->score[0] = score;
    h->idx[0] = idx;
    sift(h, 0, h->n);
}

/* Best first. */
static void sort_best(struct best *h)
{
    for (int64_t n = h->n; n > 1; n--) {
        swap(h, 0, n - 1);
        sift(h, 0, n - 1);
    }
}

static void sort_ascending(int32_t *v, int64_t n)
{
    for (int64_t gap = n / 2; gap > 0; gap /= 2)
        for (int64_t i = gap; i < n; i++) {
            int32_t x = v[i];
            int64_t j = i;

            for (; j >= gap && v[j - gap] > x; j -= gap)
                v[j] = v[j - gap];
            v[j] = x;
        }
}

static void choose_token(const struct job *j, int64_t k)
{
    const struct hd_call *c = j->c;
    const float *score = hd_cpu_row(&j->score, k);
    int64_t t = j->t0 + k, len = visible(j, k), n_in, block = c->i[6] > 0 ? c->i[6] : len + 1;
    const int32_t *list = candidates(c, t, &n_in);
    /* scores live behind the indices: sel has 2 top_k columns, cand 2 n_block */
    struct best sel = {.idx = (int32_t *)hd_cpu_row(c->out[0], t), .k = c->i[4]};
    struct best cand = {0};

    sel.score = (float *)(sel.idx + sel.k);
    if (c->out[1]) {
        cand = (struct best){.idx = (int32_t *)hd_cpu_row(c->out[1], t), .k = c->i[7]};
        cand.score = (float *)(cand.idx + cand.k);
    }
    for (int64_t g = 0; g < len; g += block) {
        int64_t end = g + block < len ? g + block : len;
        bool open = !list || listed(list, n_in, (int32_t)(g / block));
        float top = -INFINITY;

        for (int64_t i = g; i < end && cand.k; i++)
            top = score[i] > top ? score[i] : top;
        if (cand.k)
            offer(&cand, end == len ? INFINITY : top, (int32_t)(g / block));
        for (int64_t i = g; i < end; i++)
            offer(&sel, open ? score[i] : -INFINITY, (int32_t)i);
    }
    if (c->i[5])
        sort_ascending(sel.idx, sel.n);
    else
        sort_best(&sel);
    for (int64_t i = sel.n; i < sel.k; i++)
        sel.idx[i] = -1;
    sort_ascending(cand.idx, cand.n);
    for (int64_t i = cand.n; i < cand.k; i++)
        cand.idx[i] = -1;
}

static void choose_range(void *arg, int64_t begin, int64_t end)
{
    for (int64_t k = begin; k < end; k++)
        choose_token(arg, k);
}

static bool keys_are_fp4(const struct hd_paged *keys, int64_t dim)
{
    return keys->pack && keys->pack->code == HD_KV_FP4 && keys->pack->block == 32 && keys->pack->n == dim && !keys->pack->tail;
}

void hd_cpu_index(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    const struct hd_ragged *b = c->batch;
    int64_t n_head = c->i[1], dim = c->i[2], room = hd_rows(c->in[3]);

    for (int64_t seq = 0; seq < b->n_seq; seq++)
        for (int64_t t = b->span[seq].tok0, end = t + b->span[seq].n_tok; t < end; t += room) {
            struct job j = {.c = c, .keys = hd_cpu_part(b, seq, c->i[0]), .t0 = t, .n_tok = end - t < room ? end - t : room, .score = *c->in[3]};
            int64_t part;

            j.len = visible(&j, j.n_tok - 1);
            part = (j.len / (4 * hd_pool_threads(cpu->pool)) + KEYS - 1) / KEYS * KEYS;
            j.slice = part < KEYS ? KEYS : part < SLICE ? part : SLICE;
            j.n_slice = (j.len + j.slice - 1) / j.slice;
            if (c->in[4] && keys_are_fp4(j.keys, dim)) {
                j.q8 = *c->in[4];
                hd_cpu_rows(cpu, j.n_tok, 4 * n_head * dim, encode_range, &j);
            }
            hd_cpu_rows(cpu, j.n_slice, j.n_tok * j.slice * n_head, score_range, &j);
            hd_cpu_rows(cpu, j.n_tok, 4 * j.len, choose_range, &j);
        }
}
