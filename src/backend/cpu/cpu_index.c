/* cpu_index.c: the indexer: every key's score for every token, and the best of them.
 *
 * score = sum over heads of relu(q_h . key) w_h. Runs of sixty-four keys are brought into order side by side: fp4 keys (exact: their codes are
 * integers) as panels that meet int8 queries, others as f32; keys that lie in panels are read there. With tokens enough for the team, a task is a group of tokens that go through all
 * keys together, each run at once through best.h: nothing is kept of a score that loses. With few tokens the team shares the keys in slices
 * and the scores are written down; so they are when tokens are many but the step has few of each sequence. A token behind candidate
 * blocks looks at the keys of these blocks alone. A score depends on its token and its key only, a choice on scores only: neither on how the
 * work was cut.
 *
 * Queries that were rounded to fp4 are exact in int8, with a scale that is a power of two; others are rounded to 127ths of a block's largest.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/best.h"
#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"
#include "tensor/vec16.h"

#define KEYS HD_INDEX_RUN             /* scored together */
#define GROUP 32                      /* tokens of a group, at most */
#define DOTS 96                       /* query heads that meet a run of keys at once */
#define SLICE_MIN 256                 /* keys of a slice, at least */

_Static_assert(KEYS == HD_ROWS_MAX, "rows of products that kernels know");

struct job {
    const struct hd_call *c;
    int64_t per;                      /* tokens of a group */
    int64_t t0, n_tok;                /* the tokens whose scores are written down */
    int64_t n_slice;
    bool fp4;
};

/* What a token looks at: positions 0 .. n_pos are keys, all of them or those of its candidate blocks. */
struct token {
    const struct hd_paged *keys;
    const int32_t *list;              /* candidate blocks, ascending; NULL: all keys */
    int64_t t, block, n_list, len, n_pos;
    bool all;                         /* no more keys than may be chosen: no score matters */
};

struct choice {
    struct hd_best sel, cand;
    float top;                        /* of the block of candidates that is not complete */
};

static int64_t n_block(const struct hd_call *c, int64_t len)
{
    return (len + c->i[6] - 1) / c->i[6];
}

static void look(const struct hd_call *c, int64_t t, int64_t seq, struct token *k)
{
    int64_t last;

    *k = (struct token){.keys = hd_cpu_part(c->batch, seq, c->i[0]), .t = t, .block = c->i[6], .len = (c->batch->pos[t] + 1) / c->i[3]};
    k->n_pos = k->len;
    if (c->in[2]) {
        k->list = (const int32_t *)hd_cpu_row(c->in[2], t);
        while (k->n_list < hd_cols(c->in[2]) && k->list[k->n_list] >= 0)
            k->n_list++;
        last = k->n_list ? (k->list[k->n_list - 1] + 1) * k->block : 0;
        k->n_pos = k->n_list * k->block - (last > k->len ? last - k->len : 0);
    }
    k->all = k->len <= c->i[4] && c->i[5] && (!c->out[1] || n_block(c, k->len) <= c->i[7]);
}

static int64_t key_at(const struct token *k, int64_t p)
{
    return k->list ? k->list[p / k->block] * k->block + p % k->block : p;
}

/* ---- queries ---- */

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

static struct hd_q8 *query(const struct hd_call *c, int64_t t, int64_t h)
{
    return (struct hd_q8 *)hd_cpu_row(c->in[4], t * c->i[1] + h);
}

static void encode_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_head = c->i[1], dim = c->i[2];

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < n_head; h++)
            for (int64_t b = 0; b < dim / 32; b++)
                encode_block(hd_cpu_row(c->in[0], t) + h * dim + 32 * b, query(c, t, h) + b);
}

/* ---- scores ---- */

#define PANELS (KEYS / HD_PANEL_ROWS)

/* A run of keys, brought into order. */
struct run {
    int64_t n;                        /* keys, rounded up to sixteen */
    const struct token *next_of;      /* whose keys from next on come soon; NULL: it is not known */
    int64_t next;
    struct hd_panels panels;          /* what each of them is like */
    const uint8_t *panel[PANELS], *soon[PANELS];      /* in the cache or below; after the next run */
    _Alignas(64) uint8_t packed[KEYS / HD_PANEL_ROWS * (HD_KV_ROW_MAX / 32 * (256 + 16) + 64)];
    _Alignas(64) float rows[KEYS * HD_KV_ROW_MAX];
};

static struct hd_panels key_panels(int64_t dim)
{
    struct hd_panels p = {.type = HD_F4_E2M1, .kind = HD_PANEL_NIBBLES, .n = dim, .n_row = KEYS, .scale_cols = 32, .scale_rows = true, .global = 1};

    p.scale_at = dim / 32 * 256;
    p.min_at = p.scale_at + dim / 32 * HD_PANEL_ROWS;
    p.bytes = (p.min_at + 63) & ~(int64_t)63;
    return p;
}

static uint32_t word_of(const void *row, int64_t at)
{
    uint32_t word;

    memcpy(&word, (const char *)row + at, 4);
    return word;
}

/* Four bytes of sixteen rows as four times sixteen: each round brings one more bit of a byte's row behind those of its column. */
static void turn4(const void *const row[HD_PANEL_ROWS], int64_t at, uint8_t *out)
{
    u8x16 a[4], b[4];

    for (int i = 0; i < 4; i++)
        a[i] = (u8x16)(u32x4){word_of(row[4 * i], at), word_of(row[4 * i + 1], at), word_of(row[4 * i + 2], at), word_of(row[4 * i + 3], at)};
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 2; i++) {
            b[2 * i] = HD_SHUFFLE(a[i], a[i + 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = HD_SHUFFLE(a[i], a[i + 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(a, b, sizeof a);
    }
    memcpy(out, a, sizeof a);
}

/* Sixteen fp4 keys as a panel of raw codes. */
static void pack_fp4(const void *const row[HD_PANEL_ROWS], int64_t dim, const struct hd_panels *p, uint8_t *panel)
{
    int64_t n = dim / 32, b = 0;

    hd_k.interleave16(dim / 8, row, panel);
    for (; b + 4 <= n; b += 4)
        turn4(row, dim / 2 + b, panel + p->scale_at + b * HD_PANEL_ROWS);
    for (; b < n; b++)
        for (int lane = 0; lane < HD_PANEL_ROWS; lane++)
            panel[p->scale_at + b * HD_PANEL_ROWS + lane] = ((const uint8_t *)row[lane])[dim / 2 + b];
}

/* Lanes of a panel into another: n of them from "from" on to "to" on. */
static void copy_lanes(const struct hd_panels *p, const uint8_t *src, int64_t from, uint8_t *dst, int64_t to, int64_t n)
{
    for (int64_t at = 0; at < p->scale_at; at += 4 * HD_PANEL_ROWS)
        if (n == 8)                   /* a whole block of candidates: no call */
            memcpy(dst + at + 4 * to, src + at + 4 * from, 32);
        else
            memcpy(dst + at + 4 * to, src + at + 4 * from, (size_t)(4 * n));
    for (int64_t at = p->scale_at; at < p->min_at; at += HD_PANEL_ROWS)
        memcpy(dst + at + to, src + at + from, (size_t)n);
}

static int64_t least_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The same of keys that lie in panels: where they lie, or candidates' lanes. What is behind the last one is of no use. */
static void find_run(const struct token *k, int64_t g, int64_t n, struct run *r)
{
    const struct hd_paged *keys = k->keys;

    r->n = (n + HD_PANEL_ROWS - 1) & ~(int64_t)(HD_PANEL_ROWS - 1);
    if (!k->list) {
        int64_t next = g + 2 * KEYS;

        hd_paged_panels(keys, g, r->n / HD_PANEL_ROWS, r->panel);
        hd_paged_panels(keys, next + r->n <= k->len ? next : g, r->n / HD_PANEL_ROWS, r->soon);
    }
    for (int64_t i = 0, m; i < n && k->list; i += m) {
        uint8_t *panel = r->packed + i / HD_PANEL_ROWS * r->panels.bytes;
        int64_t key = key_at(k, g + i), from = key % HD_PANEL_ROWS, to = i % HD_PANEL_ROWS;

        m = least_of(least_of(HD_PANEL_ROWS - from, HD_PANEL_ROWS - to), least_of(n - i, k->block - (g + i) % k->block));
        copy_lanes(&r->panels, hd_paged_panel(keys, key), from, panel, to, m);
        r->panel[i / HD_PANEL_ROWS] = r->soon[i / HD_PANEL_ROWS] = panel;
    }
}

/* The keys at positions g .. g + n of a token. */
static void pack_run(const struct job *j, const struct token *k, int64_t g, int64_t n, struct run *r)
{
    float unpacked[HD_PANEL_ROWS * (HD_KV_ROW_MAX + 16)];
    int64_t dim = j->c->i[2];
    const void *row[KEYS];

    r->next_of = k->list || k->keys->panels ? NULL : k;
    r->next = g + 2 * KEYS;
    r->panels = key_panels(dim);
    if (k->keys->panels) {
        find_run(k, g, n, r);
        return;
    }
    if (k->list)
        for (int64_t i = 0; i < n; i++)
            row[i] = hd_paged_row(k->keys, key_at(k, g + i));
    else
        hd_paged_rows(k->keys, g, n, row);
    for (r->n = n; r->n % HD_PANEL_ROWS; r->n++)
        row[r->n] = row[n - 1];
    for (int64_t i = 0; i < r->n; i += HD_PANEL_ROWS) {
        if (j->fp4) {
            uint8_t *panel = r->packed + i / HD_PANEL_ROWS * r->panels.bytes;

            pack_fp4(row + i, dim, &r->panels, panel);
            r->panel[i / HD_PANEL_ROWS] = r->soon[i / HD_PANEL_ROWS] = panel;
            continue;
        }
        for (int64_t lane = 0; lane < HD_PANEL_ROWS && k->keys->pack; lane++) {
            hd_k.kv_decode(k->keys->pack, row[i + lane], unpacked + lane * (dim + 16));
            row[i + lane] = unpacked + lane * (dim + 16);
        }
        hd_k.interleave16(dim, row + i, r->rows + i * dim);
    }
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

/* Sixteen keys of the run after the next: more at once than may be under way would be waited for. */
static void fetch_next(const struct run *r, int64_t i)
{
    if (r->next_of)
        hd_paged_fetch(r->next_of->keys, r->next + i, HD_PANEL_ROWS, r->next_of->len);
}

/* Heads h .. h + n_head of n tokens from t on: all heads of each, or some of one. */
static void dots(const struct job *j, const struct run *r, int64_t t, int64_t n, int64_t h, int64_t n_head, bool fetch, float (*p)[KEYS])
{
    const struct hd_call *c = j->c;

    for (int64_t i = 0; i < r->n; i += HD_PANEL_ROWS) {
        if (fetch)
            fetch_next(r, i);
        if (j->fp4) {
            struct hd_panels one = r->panels;

            one.data = r->panel[i / HD_PANEL_ROWS];
            hd_k.matmul_panel[HD_F4_E2M1](&one, 0, HD_PANEL_ROWS, query(c, t, h), c->in[4]->row_bytes, n * n_head, p[0] + i, KEYS);
        }
    }
    if (j->fp4)
        return;
    for (int64_t k = 0; k < n; k++)
        hd_k.rows16_dot(c->i[2], r->n, r->rows, 1, hd_cpu_row(c->in[0], t + k) + h * c->i[2], n_head, p + k * n_head);
}

/* Scores of panels i .. i + m of a run; the first n of the run go to out. fetch: those of a later run are brought nearer. */
static void score_panels(const struct job *j, const struct run *r, int64_t i, int64_t m, bool fetch, int64_t t, int64_t n, float *out)
{
    const struct hd_call *c = j->c;
    float score[KEYS];
    bool fits = (i + m) * HD_PANEL_ROWS <= n;

    hd_k.index_panels(&r->panels, r->panel + i, fetch ? r->soon + i : NULL, m, query(c, t, 0), c->in[4]->row_bytes, c->i[1], hd_cpu_row(c->in[1], t), fits ? out + i * HD_PANEL_ROWS : score);
    if (!fits)
        memcpy(out + i * HD_PANEL_ROWS, score, (size_t)(n - i * HD_PANEL_ROWS) * sizeof *out);
}

/* The scores of a run's first n keys for n_tok tokens from t on; rows of out lie ld floats apart. */
static void score_run(const struct job *j, const struct run *r, int64_t t, int64_t n_tok, int64_t n, float *out, int64_t ld)
{
    const struct hd_call *c = j->c;
    int64_t n_head = c->i[1], at_once = n_head < DOTS ? DOTS / n_head : 1;
    _Alignas(64) float p[DOTS][KEYS];

    if (j->fp4 && hd_k.index_panels && !c->i[8]) {
        int64_t m = r->n / HD_PANEL_ROWS;

        for (int64_t i = 0; i < m && r->next_of; i++) {
            fetch_next(r, i * HD_PANEL_ROWS);
            score_panels(j, r, i, 1, false, t, n, out);
        }
        for (int64_t k = r->next_of ? 1 : 0; k < n_tok; k++)
            score_panels(j, r, 0, m, k == 0, t + k, n, out + k * ld);
        return;
    }
    for (int64_t k = 0; k < n_tok; k += at_once) {
        int64_t m = n_tok - k < at_once ? n_tok - k : at_once;

        for (int64_t i = k; i < k + m; i++)
            memset(out + i * ld, 0, (size_t)n * sizeof *out);
        for (int64_t h = 0; h < n_head; h += DOTS) {
            int64_t heads = n_head - h < DOTS ? n_head - h : DOTS;

            dots(j, r, t + k, m, h, heads, k == 0 && h == 0, p);
            for (int64_t i = 0; i < m; i++)
                add_up(c, heads, n, p + i * heads, hd_cpu_row(c->in[1], t + k + i) + h, out + (k + i) * ld);
        }
        for (int64_t i = k; i < k + m && c->i[8]; i++)
            for (int64_t x = 0; x < n; x++)
                out[i * ld + x] = hd_round_bf16(out[i * ld + x]);
    }
}

/* ---- the best ---- */

static void begin(const struct hd_call *c, const struct token *k, struct choice *ch)
{
    int32_t *mem = (int32_t *)hd_cpu_row(c->in[5], k->t);

    hd_best_begin(&ch->sel, c->i[4], mem);
    ch->top = -INFINITY;
    if (c->out[1])
        hd_best_begin(&ch->cand, c->i[7], mem + hd_choose_words(c->i[4]));
}

/* Blocks count by their best entry; the newest is always among them. */
static void offer_blocks(const struct token *k, struct choice *ch, int64_t g, int64_t n, const float *score)
{
    float top[KEYS];
    int64_t first = g / k->block, n_top = 0;

    for (int64_t i = 0; i < n;) {
        int64_t end = (first + n_top + 1) * k->block - g;
        bool newest = g + n == k->len && end >= n, whole = end <= n;

        for (end = whole ? end : n; i < end; i++)
            ch->top = score[i] > ch->top ? score[i] : ch->top;
        if (!whole && !newest)
            break;
        top[n_top++] = newest ? INFINITY : ch->top;
        ch->top = -INFINITY;
    }
    hd_best_offer(&ch->cand, n_top, top, (int32_t)first);
}

static void offer(const struct hd_call *c, const struct token *k, struct choice *ch, int64_t g, int64_t n, const float *score)
{
    hd_best_offer(&ch->sel, n, score, (int32_t)g);
    if (c->out[1])
        offer_blocks(k, ch, g, n, score);
}

static void put(const struct hd_tensor *out, int64_t t, const int32_t *idx, int64_t n, int64_t k)
{
    int32_t *row = (int32_t *)hd_cpu_row(out, t);

    for (int64_t i = 0; i < k; i++)
        row[i] = i >= n ? -1 : idx ? idx[i] : (int32_t)i;
}

static bool listed(const int32_t *list, int64_t n, int64_t x)
{
    int64_t lo = 0, hi = n;

    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;

        if (list[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list[lo] == x;
}

static int by_index(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* Where candidate blocks hold fewer than may be chosen, the earliest of the others follow. */
static void fill_up(const struct hd_call *c, const struct token *k, struct hd_best *sel)
{
    for (int64_t key = 0; key < k->len && sel->n < sel->k; key++)
        if (!listed(k->list, k->n_list, key / k->block))
            sel->idx[sel->n++] = (int32_t)key;
    if (c->i[5])
        qsort(sel->idx, (size_t)sel->n, sizeof *sel->idx, by_index);
}

static void finish(const struct hd_call *c, const struct token *k, struct choice *ch)
{
    if (k->all) {
        put(c->out[0], k->t, NULL, k->len, c->i[4]);
        if (c->out[1])
            put(c->out[1], k->t, NULL, n_block(c, k->len), c->i[7]);
        return;
    }
    hd_best_end(&ch->sel);
    if (!c->i[5])
        hd_best_sort(&ch->sel);
    for (int64_t i = 0; i < ch->sel.n && k->list; i++)
        ch->sel.idx[i] = (int32_t)key_at(k, ch->sel.idx[i]);
    if (k->list && ch->sel.n < ch->sel.k && ch->sel.n < k->len)
        fill_up(c, k, &ch->sel);
    put(c->out[0], k->t, ch->sel.idx, ch->sel.n, ch->sel.k);
    if (!c->out[1])
        return;
    hd_best_end(&ch->cand);
    put(c->out[1], k->t, ch->cand.idx, ch->cand.n, ch->cand.k);
}

/* ---- groups of tokens ---- */

/* Tokens tok[0 .. n) of one sequence through all keys together. */
static void together(const struct job *j, const struct token *tok, int64_t n, struct choice *ch, struct run *r)
{
    _Alignas(64) float score[GROUP][KEYS];
    int64_t first = 0, len = tok[n - 1].all ? 0 : tok[n - 1].n_pos;

    for (int64_t g = 0; g < len; g += KEYS) {
        int64_t m = len - g < KEYS ? len - g : KEYS;

        while (tok[first].all || tok[first].n_pos <= g)
            first++;
        pack_run(j, &tok[first], g, m, r);
        score_run(j, r, tok[first].t, n - first, m, score[first], KEYS);
        for (int64_t k = first; k < n; k++)
            offer(j->c, &tok[k], &ch[k], g, tok[k].n_pos - g < m ? tok[k].n_pos - g : m, score[k]);
    }
}

static void group_range(void *arg, int64_t begin_group, int64_t end_group)
{
    const struct job *j = arg;
    const struct hd_ragged *b = j->c->batch;
    struct choice ch[GROUP];
    struct token tok[GROUP];
    struct run r;
    int64_t seq = 0, base = 0;

    for (int64_t i = begin_group; i < end_group; i++) {
        int64_t t, n;

        while (i >= base + (b->span[seq].n_tok + j->per - 1) / j->per)
            base += (b->span[seq++].n_tok + j->per - 1) / j->per;
        t = b->span[seq].tok0 + (i - base) * j->per;
        n = b->span[seq].tok0 + b->span[seq].n_tok - t;
        n = n < j->per ? n : j->per;
        for (int64_t k = 0; k < n; k++) {
            look(j->c, t + k, seq, &tok[k]);
            begin(j->c, &tok[k], &ch[k]);
        }
        if (j->c->in[2])
            for (int64_t k = 0; k < n; k++)
                together(j, &tok[k], 1, &ch[k], &r);
        else
            together(j, tok, n, ch, &r);
        for (int64_t k = 0; k < n; k++)
            finish(j->c, &tok[k], &ch[k]);
    }
}

/* ---- slices of keys ---- */

/* Behind a token's scores: the largest of each run of them. */
static float *tops_of(const struct job *j, int64_t i)
{
    return hd_cpu_row(j->c->in[3], i) + j->c->batch->max_pos / j->c->i[3] + 1;
}

static void slice_range(void *arg, int64_t begin_slice, int64_t end_slice)
{
    const struct job *j = arg;
    struct token k;
    struct run r;
    int64_t seq = 0;

    for (int64_t i = begin_slice; i < end_slice; i++) {
        int64_t t = j->t0 + i / j->n_slice, size, end;

        hd_cpu_span(j->c->batch, t, &seq);
        look(j->c, t, seq, &k);
        size = ((k.n_pos + j->n_slice - 1) / j->n_slice + KEYS - 1) / KEYS * KEYS;
        end = (i % j->n_slice + 1) * size < k.n_pos ? (i % j->n_slice + 1) * size : k.n_pos;
        for (int64_t g = i % j->n_slice * size; g < end && !k.all; g += KEYS) {
            int64_t n = end - g < KEYS ? end - g : KEYS;

            pack_run(j, &k, g, n, &r);
            score_run(j, &r, t, 1, n, hd_cpu_row(j->c->in[3], t - j->t0) + g, 0);
            tops_of(j, t - j->t0)[g / KEYS] = hd_k.largest(n, hd_cpu_row(j->c->in[3], t - j->t0) + g);
        }
    }
}

/* Where there are many runs: what one must hold to be of any use. As many runs as may be chosen reach the k-th largest top, so the k-th best
 * of all scores is no less. */
static float least_top(const struct job *j, const struct token *k, int64_t i)
{
    int64_t n = (k->n_pos + KEYS - 1) / KEYS, top_k = j->c->i[4];

    return j->c->out[1] || k->all || n < 2 * top_k ? -INFINITY : hd_best_kth(tops_of(j, i), n, top_k);
}

static void choose_range(void *arg, int64_t begin_tok, int64_t end_tok)
{
    const struct job *j = arg;
    struct choice ch;
    struct token k;
    int64_t seq = 0;
    float least;

    for (int64_t i = begin_tok; i < end_tok; i++) {
        hd_cpu_span(j->c->batch, j->t0 + i, &seq);
        look(j->c, j->t0 + i, seq, &k);
        begin(j->c, &k, &ch);
        least = least_top(j, &k, i);
        for (int64_t g = 0; g < k.n_pos && !k.all; g += KEYS)
            if (tops_of(j, i)[g / KEYS] >= least)
                offer(j->c, &k, &ch, g, k.n_pos - g < KEYS ? k.n_pos - g : KEYS, hd_cpu_row(j->c->in[3], i) + g);
        finish(j->c, &k, &ch);
    }
}

/* ---- the op ---- */

static bool keys_are_fp4(const struct hd_paged *keys, int64_t dim)
{
    return keys->pack && keys->pack->code == HD_KV_FP4 && keys->pack->block == 32 && keys->pack->n == dim && !keys->pack->tail;
}

static int64_t count_groups(const struct hd_ragged *b, int64_t per)
{
    int64_t n = 0;

    for (int64_t seq = 0; seq < b->n_seq; seq++)
        n += (b->span[seq].n_tok + per - 1) / per;
    return n;
}

void hd_cpu_index(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    const struct hd_ragged *b = c->batch;
    int64_t n_thread = hd_pool_threads(cpu->pool), room = hd_rows(c->in[3]), longest = b->max_pos / c->i[3], n_group, work = c->i[1] * c->i[2] * longest / 16;
    struct job j = {.c = c, .per = b->n_tok / (4 * n_thread), .fp4 = c->in[4] && keys_are_fp4(hd_cpu_part(b, 0, c->i[0]), c->i[2])};

    HD_ASSERT(c->i[2] <= HD_KV_ROW_MAX && !(c->in[2] && c->out[1]));
    j.per = j.per < 1 ? 1 : j.per < GROUP ? j.per : GROUP;
    n_group = count_groups(b, j.per);
    if (j.fp4 && longest > 0)
        hd_cpu_rows(cpu, b->n_tok, 4 * c->i[1] * c->i[2], encode_range, (void *)c);
    if (n_group >= 4 * n_thread) {
        hd_cpu_rows(cpu, n_group, j.per * work, group_range, &j);
        return;
    }
    for (j.t0 = 0; j.t0 < b->n_tok; j.t0 += j.n_tok) {
        j.n_tok = b->n_tok - j.t0 < room ? b->n_tok - j.t0 : room;
        j.n_slice = (8 * n_thread + j.n_tok - 1) / j.n_tok;
        j.n_slice = longest / j.n_slice < SLICE_MIN ? longest / SLICE_MIN + 1 : j.n_slice;
        hd_cpu_rows(cpu, j.n_tok * j.n_slice, work / j.n_slice, slice_range, &j);
        hd_cpu_rows(cpu, j.n_tok, longest, choose_range, &j);
    }
}
