/* ref_v41.c: deepseek_v41, text: V4 with entries shared between layers, an n-gram memory (Engram), and mHC one half later.
 *
 * How to read  after ref_v4.c, from the end: ref_v41() is the model; attention() with own_entries() and choose() is CSA2;
 *              engram() and what it hashes come first in the file.
 * Shared       three lists in config.json: kv_source_layer_ids own entries (layers until the next owner use them),
 *              index_source_layer_ids choose among them (layers until the next source reuse the choice), and one
 *              candidate_source_layer_id also keeps blocks of entries to which later sources are held
 * Traps        index keys come from the latent before its rotation; selections are walked ascending by position; the newest
 *              block is always a candidate; fewer candidates than index_topk: others are taken after all; pre of a half is
 *              used one half later, the last one collapses the stream for the head
 * Source       the published inference code. Images are not here.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "ref.h"

/* ---- Engram: classes of tokens ----
 *
 * Two tokens are one class when their texts agree after NFKC, NFD (together NFKD), removal of marks, lower case, runs of
 * [ \t\r\n] to one space, trimming; a lone space stays; what becomes empty keeps its text. A token whose bytes are no UTF-8 (or
 * hold U+FFFD) goes by its spelling in the vocabulary. Classes are numbered as they are first met, by id. */

struct text {
    char *s;
    int64_t n;
};

/* Unicode's White_Space */
static bool is_white(int32_t c)
{
    static const int32_t white[] = {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};

    for (size_t i = 0; i < sizeof white / sizeof *white; i++)
        if (c == white[i])
            return true;
    return (c >= 9 && c <= 13) || (c >= 0x2000 && c <= 0x200A);
}

/* The byte that a character of the byte-level alphabet stands for, or -1: printable ones for themselves, the others, in order,
 * by U+0100 and on. */
static int byte_of(int32_t c)
{
    int32_t next = 256;

    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

        if (c == (itself ? b : next))
            return b;
        next += !itself;
    }
    return -1;
}

static struct text decode(const char *spelling)
{
    struct text t = {space((int64_t)strlen(spelling) + 1, 1), 0};
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)spelling;
    utf8proc_int32_t c;

    for (utf8proc_ssize_t len; *p; p += len) {
        int b;

        if ((len = utf8proc_iterate(p, -1, &c)) <= 0 || (b = byte_of(c)) < 0)
            return (struct text){strcpy(t.s, spelling), (int64_t)strlen(spelling)};      /* not spelled in it: itself */
        t.s[t.n++] = (char)b;
    }
    return t;
}

static bool is_text(struct text t)
{
    utf8proc_int32_t c;

    for (int64_t i = 0, len; i < t.n; i += len)
        if ((len = utf8proc_iterate((const utf8proc_uint8_t *)t.s + i, t.n - i, &c)) <= 0 || c == 0xFFFD)
            return false;
    return true;
}

static struct text normalise(struct text t)
{
    utf8proc_option_t nfkd = UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE;
    const utf8proc_uint8_t *s = (const utf8proc_uint8_t *)t.s;
    utf8proc_ssize_t n = utf8proc_decompose(s, t.n, NULL, 0, nfkd), k = 0, first = 0;
    utf8proc_int32_t *c = space(n + 1, sizeof *c);
    struct text out = {space(4 * n + 1, 1), 0};

    utf8proc_decompose(s, t.n, c, n, nfkd);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        utf8proc_category_t kind = utf8proc_category(c[i]);
        bool blank = c[i] == ' ' || c[i] == '\t' || c[i] == '\r' || c[i] == '\n';

        if (kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_ME)
            continue;
        if (blank && k > 0 && c[k - 1] == ' ')
            continue;
        c[k++] = blank ? ' ' : utf8proc_tolower(c[i]);
    }
    if (k == 1 && c[0] == ' ')
        return (struct text){strcpy(out.s, " "), 1};
    while (k > 0 && is_white(c[k - 1]))
        k--;
    while (first < k && is_white(c[first]))
        first++;
    for (; first < k; first++)
        out.n += utf8proc_encode_char(c[first] == 0xE000 ? ' ' : c[first], (utf8proc_uint8_t *)out.s + out.n);
    return out.n ? out : t;
}

/* class[n_vocab], -1 for ids without a token; returns how many classes. */
static int64_t classes_of(const struct ref *m, int64_t *class)
{
    json_t *tokenizer = ref_json(m->dir, "tokenizer.json", true), *known = json_object(), *v, *id;
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"), *added = json_object_get(tokenizer, "added_tokens");
    const char **spelling = space(m->n_vocab, sizeof *spelling), *key;
    bool *literal = space(m->n_vocab, sizeof *literal);
    int64_t n = 0;
    size_t i;

    json_object_foreach(vocab, key, v)
    {
        if (json_integer_value(v) >= 0 && json_integer_value(v) < m->n_vocab)
            spelling[json_integer_value(v)] = key;
    }
    json_array_foreach(added, i, v)
    {
        int64_t k = get_int(v, "id", -1);

        if (k >= 0 && k < m->n_vocab) {
            spelling[k] = get_str(v, "content", "");
            literal[k] = true;
        }
    }
    for (int64_t k = 0; k < m->n_vocab; k++) {
        int64_t start = mark();
        struct text t;

        class[k] = -1;
        if (!spelling[k])
            continue;
        t = literal[k] ? (struct text){strcpy(space((int64_t)strlen(spelling[k]) + 1, 1), spelling[k]), (int64_t)strlen(spelling[k])} : decode(spelling[k]);
        t = is_text(t) ? normalise(t) : (struct text){strcpy(space((int64_t)strlen(spelling[k]) + 1, 1), spelling[k]), (int64_t)strlen(spelling[k])};
        if (!(id = json_object_getn(known, t.s, (size_t)t.n))) {
            id = json_integer(n++);
            json_object_setn_new_nocheck(known, t.s, (size_t)t.n, id);
        }
        class[k] = json_integer_value(id);
        release(start);
    }
    json_decref(known);
    json_decref(tokenizer);
    return n;
}

/* ---- Engram: multipliers, numpy's default_rng(seed).integers(0, bound, n) ---- */

typedef unsigned __int128 u128;

static uint32_t hash_mix(uint32_t v, uint32_t *k, uint32_t by)
{
    v ^= *k;
    *k *= by;
    v *= *k;
    return v ^ v >> 16;
}

static uint64_t pcg_next(u128 *state, u128 inc)
{
    const u128 A = (u128)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u;
    uint64_t hi, x;

    *state = *state * A + inc;
    hi = (uint64_t)(*state >> 64);
    x = hi ^ (uint64_t)*state;
    return x >> (hi >> 58) | x << (-(hi >> 58) & 63);
}

static void random_integers(uint32_t seed, uint64_t bound, int64_t n, int64_t *out)
{
    uint32_t pool_[4] = {seed}, word[8], k = 0x43B0D7E5u;
    u128 state = 0, inc;

    /* SeedSequence: a pool of four words, each hashed, then each mixed with every other */
    for (int i = 0; i < 4; i++)
        pool_[i] = hash_mix(pool_[i], &k, 0x931E8875u);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to) {
                pool_[to] = 0xCA01F9DDu * pool_[to] - 0x4973F715u * hash_mix(pool_[from], &k, 0x931E8875u);
                pool_[to] ^= pool_[to] >> 16;
            }
    k = 0x8B51F9DDu;
    for (int i = 0; i < 8; i++)
        word[i] = hash_mix(pool_[i % 4], &k, 0x58F38DEDu);
    /* PCG64: words 0-3 start the state, 4-7 the increment, low halves of 64 bits first, high words of 128 first */
    inc = ((u128)(word[5] * (u128)0x100000000u + word[4]) << 64 | (word[7] * (u128)0x100000000u + word[6])) << 1 | 1;
    pcg_next(&state, inc);
    state += (u128)(word[1] * (u128)0x100000000u + word[0]) << 64 | (word[3] * (u128)0x100000000u + word[2]);
    pcg_next(&state, inc);
    /* Lemire: the high half of a product with the bound, unless the low half falls into what would be uneven */
    for (int64_t i = 0; i < n; i++) {
        u128 p;

        do
            p = (u128)pcg_next(&state, inc) * bound;
        while ((uint64_t)p < (-bound) % bound);
        out[i] = (int64_t)(p >> 64);
    }
}

/* ---- Engram: rows and gate ---- */

#define MAX_COL 64

struct engram {
    int64_t n_layer, order, heads, dim, pad;          /* n-grams of 2 .. order tokens */
    int64_t *class;
    int64_t mult[8][16], prime[8][MAX_COL], offset[8][MAX_COL];
    int64_t at[8], rows[8];                           /* layers; sizes of their tables */
};

static bool is_prime(int64_t x)
{
    for (int64_t d = 2; d * d <= x; d++)
        if (x % d == 0)
            return false;
    return x > 1;
}

/* Tables: heads primes per order, the next ones unused so far, over all layers; a column's rows follow those of the one before. */
static struct engram engram_of(const struct ref *m, const json_t *c)
{
    const json_t *layers = json_object_get(c, "engram_layer_ids");
    struct engram g = {.n_layer = (int64_t)json_array_size(layers)};
    int64_t n_class, last, vocab, cols;

    if (!g.n_layer)
        return g;
    g.order = get_int(c, "engram_max_ngram_size", get_int(c, "engram_max_ngram", 4));
    g.heads = need_int(c, "engram_n_heads");
    g.dim = need_int(c, "engram_head_dim");
    vocab = need_int(c, "engram_vocab_size");
    cols = (g.order - 1) * g.heads;
    if (g.n_layer > 8 || g.order < 2 || g.order > 16 || cols > MAX_COL)
        die("config.json: engram: more layers, orders or heads than expected");
    g.class = space(m->n_vocab, sizeof *g.class);
    n_class = classes_of(m, g.class);
    if (n_class != get_int(c, "engram_compressed_vocab_size", n_class))
        die("%s: engram_compressed_vocab_size %lld; the tokenizer makes %lld", m->dir, (long long)get_int(c, "engram_compressed_vocab_size", 0), (long long)n_class);
    g.pad = g.class[get_int(c, "engram_pad_token_id", 2)];
    last = vocab - 1;
    for (int64_t l = 0; l < g.n_layer; l++) {
        int64_t sum = 0, bound = INT64_MAX / n_class / 2;

        g.at[l] = json_integer_value(json_array_get(layers, (size_t)l));
        random_integers((uint32_t)(10007 * g.at[l]), (uint64_t)(bound > 1 ? bound : 1), g.order, g.mult[l]);
        for (int64_t j = 0; j < g.order; j++)
            g.mult[l][j] = 2 * g.mult[l][j] + 1;
        for (int64_t k = 0; k < cols; k++) {
            do
                last++;
            while (!is_prime(last));
            g.prime[l][k] = last;
            g.offset[l][k] = sum;
            sum += last;
        }
        g.rows[l] = sum;
    }
    return g;
}

/* For orders n = 2 ..: x = XOR_{j < n} class[t - j] mult_j, row = offset + x mod prime, a prime for each head; before the prompt the
 * class of the pad token. e = the rows together; [key_0 .. key_C-1 | value] = Wkv e;
 * dot_c = (X_c q_c) . (k_c key_c) / (rms(X_c) rms(key_c) sqrt(D));  X_c += sigmoid(sign(dot_c) sqrt(max(|dot_c|, 1e-6))) value */
static void engram(const struct ref *m, const struct engram *g, int64_t l, const struct mhc *h, int64_t T, const int64_t *id, double *X)
{
    int64_t cols = (g->order - 1) * g->heads, C = h->n_hc, D = h->d_model;
    struct mat table = ref_mat(m, g->rows[l], g->dim, "layers.%d.engram.embed.weight", (int)g->at[l]),
               wkv = ref_mat(m, (C + 1) * D, cols * g->dim, "layers.%d.engram.wkv.weight", (int)g->at[l]);
    const double *qw = ref_vec(m, C * D, "layers.%d.engram.q_weight", (int)g->at[l]), *kw = ref_vec(m, C * D, "layers.%d.engram.k_weight", (int)g->at[l]);
    double *e = array(T * cols * g->dim), *kv = array(T * (C + 1) * D);

    for (int64_t t = 0; t < T; t++) {
        int64_t x = 0;

        for (int64_t j = 0; j < g->order; j++) {
            x ^= (t < j ? g->pad : g->class[id[t - j]]) * g->mult[l][j];
            for (int64_t k = (j - 1) * g->heads; j > 0 && k < j * g->heads; k++) {
                int64_t row = g->offset[l][k] + x % g->prime[l][k];

                memcpy(e + (t * cols + k) * g->dim, table.w + row * g->dim, (size_t)g->dim * sizeof *e);
            }
        }
    }
    round_bf16(m, e, T * cols * g->dim);
    linear(m, T, kv, &wkv, e);
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) {
            double *x = X + (t * C + c) * D, s = 0;
            const double *key = kv + (t * (C + 1) + c) * D, *value = kv + (t * (C + 1) + C) * D;

            for (int64_t i = 0; i < D; i++)
                s += x[i] * qw[c * D + i] * kw[c * D + i] * key[i];
            s /= sqrt(dot(D, x, x) / (double)D + h->norm_eps) * sqrt(dot(D, key, key) / (double)D + h->norm_eps) * sqrt((double)D);
            s = sigmoid(copysign(sqrt(fmax(fabs(s), 1e-6)), s));
            for (int64_t i = 0; i < D; i++)
                x[i] += s * value[i];
        }
    round_bf16(m, X, T * C * D);
}

/* ---- attention ---- */

struct hp {
    int64_t L, D, H, d, dr, Rq, Ro, window, n_group, index_heads, index_dim, index_topk;
    int64_t cand_source, cand_blocks, cand_block;
    double eps;
    struct mhc mhc;
    struct moe moe;
    struct rope rope, rope_comp;
};

struct shared {                       /* what layers hand on: of the latest owner, source and candidate source */
    double *entry, *key;              /* [T / ratio, d], [T / ratio, index_dim] */
    int64_t *sel;                     /* [T, index_topk], ascending, -1 behind */
    bool *cand;                       /* [T, T / ratio] */
};

/* latent = norm(pool(Wkv u, Wgate u)), at ratio 1 norm(Wkv u);  key = rope(norm(Wk latent)), entry = rope(latent) */
static void own_entries(const struct ref *m, const struct hp *p, int64_t layer, int64_t ratio, int64_t T, const double *u, struct shared *sh)
{
    int64_t n = T / ratio, d = p->d, id = p->index_dim;
    struct mat wkv = ref_mat(m, d, p->D, "layers.%d.attn.compressor.wkv.weight", (int)layer), wk = ref_mat(m, id, d, "layers.%d.attn.indexer.wk.weight", (int)layer);
    double *e = array(T * d);

    if (ratio == 1) {
        linear(m, T, e, &wkv, u);
    } else {
        struct mat wgate = ref_mat(m, d, p->D, "layers.%d.attn.compressor.wgate.weight", (int)layer);
        double *g = array(T * d);

        matmul(T, e, &wkv, u);
        matmul(T, g, &wgate, u);
        e = pool(n, ratio, d, e, g, false);
        round_bf16(m, e, n * d);
    }
    rmsnorm(m, n, d, e, e, ref_vec(m, d, "layers.%d.attn.compressor.norm.weight", (int)layer), p->eps);
    linear(m, n, sh->key, &wk, e);
    rmsnorm(m, n, id, sh->key, sh->key, ref_vec(m, id, "layers.%d.attn.indexer.k_norm.weight", (int)layer), p->eps);
    for (int64_t G = 0; G < n; G++) {
        double *k = sh->key + G * id, *x = e + G * d;

        rotate(&p->rope_comp, k + id - p->dr, ratio * G, NEIGHBOURS, false);
        round_bf16(m, k, id);
        fp4_sim(m, k, id);
        rotate(&p->rope_comp, x + d - p->dr, ratio * G, NEIGHBOURS, false);
        round_bf16(m, x, d);
        fp4_e4m3_sim(m, x, d);
        memcpy(sh->entry + G * d, x, (size_t)d * sizeof *x);
    }
}

/* The blocks of entries with the largest best scores; the newest block always. cand[G]: entry G is in one of them. */
static void keep_blocks(const struct hp *p, const double *score, int64_t n, bool *cand)
{
    int64_t start = mark(), B = p->cand_block, n_block = (n + B - 1) / B, k = n_block < p->cand_blocks ? n_block : p->cand_blocks, *best = space(k, sizeof *best);
    double *top = array(n_block);

    for (int64_t b = 0; b < n_block; b++) {
        top[b] = b == n_block - 1 ? INFINITY : -INFINITY;
        for (int64_t G = b * B; G < (b + 1) * B && G < n; G++)
            top[b] = fmax(top[b], score[G]);
    }
    top_k(top, n_block, k, best);
    for (int64_t i = 0; i < k; i++)
        for (int64_t G = best[i] * B; G < (best[i] + 1) * B && G < n; G++)
            cand[G] = true;
    release(start);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* The index_topk best of entries G < (t + 1) / ratio, behind the candidate source among its candidates. */
static void choose(const struct ref *m, const struct hp *p, int64_t layer, int64_t ratio, int64_t T, const double *u, const double *qr, struct shared *sh)
{
    int64_t h = p->index_heads, dim = p->index_dim, K = p->index_topk, n_all = T / ratio;
    double *q = array(T * h * dim), *w = array(T * h), *score = array(n_all);
    struct mat wq_b = ref_mat(m, h * dim, p->Rq, "layers.%d.attn.indexer.wq_b.weight", (int)layer),
               proj = ref_mat(m, h, p->D, "layers.%d.attn.indexer.weights_proj.weight", (int)layer);

    linear(m, T, q, &wq_b, qr);
    for (int64_t i = 0; i < T * h; i++) {
        rotate(&p->rope_comp, q + i * dim + dim - p->dr, i / h, NEIGHBOURS, false);
        round_bf16(m, q + i * dim, dim);
        fp4_sim(m, q + i * dim, dim);
    }
    index_weights(m, T, w, &proj, u, h, dim);
    for (int64_t t = 0; t < T; t++) {
        int64_t n = (t + 1) / ratio, k = n < K ? n : K, *sel = sh->sel + t * K;

        for (int64_t G = 0; G < n; G++)
            score[G] = index_score(m, h, dim, q + t * h * dim, sh->key + G * dim, w + t * h);
        if (layer == p->cand_source)
            keep_blocks(p, score, n, sh->cand + t * n_all);
        if (p->cand_source >= 0 && layer > p->cand_source)
            for (int64_t G = 0; G < n; G++)
                if (!sh->cand[t * n_all + G])
                    score[G] = -INFINITY;
        top_k(score, n, k, sel);
        qsort(sel, (size_t)k, sizeof *sel, by_value);
        for (int64_t i = k; i < K; i++)
            sel[i] = -1;
    }
}

/* As V4's, without the norm of heads; KV simulation covers whole rows. */
static void attention(const struct ref *m, const json_t *c, const struct hp *p, int64_t layer, int64_t T, double *y, const double *u, struct shared *sh)
{
    int64_t H = p->H, d = p->d, Rq = p->Rq, plain = d - p->dr, K = p->index_topk, pad = m->official ? (T < p->window ? T : p->window) : 0;
    int64_t ratio = json_integer_value(json_array_get(json_object_get(c, "compress_ratios"), (size_t)layer));
    const struct rope *rope = ratio ? &p->rope_comp : &p->rope;
    struct mat wq_a = ref_mat(m, Rq, p->D, "layers.%d.attn.wq_a.weight", (int)layer), wq_b = ref_mat(m, H * d, Rq, "layers.%d.attn.wq_b.weight", (int)layer),
               wkv = ref_mat(m, d, p->D, "layers.%d.attn.wkv.weight", (int)layer);
    const double *sink = ref_vec(m, H, "layers.%d.attn.attn_sink", (int)layer), **row = space(p->window + K, sizeof *row);
    double *qr = array(T * Rq), *q = array(T * H * d), *kv = array(T * d), *o = array(T * H * d);

    linear(m, T, qr, &wq_a, u);
    rmsnorm(m, T, Rq, qr, qr, ref_vec(m, Rq, "layers.%d.attn.q_norm.weight", (int)layer), p->eps);
    linear(m, T, q, &wq_b, qr);
    for (int64_t i = 0; i < T * H; i++)
        rotate(rope, q + i * d + plain, i / H, NEIGHBOURS, false);
    round_bf16(m, q, T * H * d);
    linear(m, T, kv, &wkv, u);
    rmsnorm(m, T, d, kv, kv, ref_vec(m, d, "layers.%d.attn.kv_norm.weight", (int)layer), p->eps);
    for (int64_t t = 0; t < T; t++) {
        rotate(rope, kv + t * d + plain, t, NEIGHBOURS, false);
        round_bf16(m, kv + t * d, d);
        fp8_sim(m, kv + t * d, d, 32);
    }
    if (listed(c, "kv_source_layer_ids", layer))
        own_entries(m, p, layer, ratio, T, u, sh);
    if (listed(c, "index_source_layer_ids", layer))
        choose(m, p, layer, ratio, T, u, qr, sh);
    for (int64_t t = 0; t < T; t++) {
        int64_t n = 0;

        for (int64_t s = t < p->window ? 0 : t - p->window + 1; s <= t; s++)
            row[n++] = kv + s * d;
        while (n < pad)
            row[n++] = NULL;
        for (int64_t i = 0; ratio && i < K && sh->sel[t * K + i] >= 0; i++)
            row[n++] = sh->entry + sh->sel[t * K + i] * d;
        attend_rows(m, H, d, q + t * H * d, row, n, sink, o + t * H * d);
    }
    for (int64_t i = 0; i < T * H; i++)
        rotate(rope, o + i * d + plain, i / H, NEIGHBOURS, true);
    round_bf16(m, o, T * H * d);
    grouped_out(m, layer, T, p->n_group, p->Ro, H * d, p->D, y, o);
}

/* ---- the model ---- */

static struct hp read_hp(const json_t *c)
{
    struct hp p = {.L = need_int(c, "num_hidden_layers"),
                   .D = need_int(c, "hidden_size"),
                   .H = need_int(c, "num_attention_heads"),
                   .d = need_int(c, "head_dim"),
                   .dr = need_int(c, "qk_rope_head_dim"),
                   .Rq = need_int(c, "q_lora_rank"),
                   .Ro = need_int(c, "o_lora_rank"),
                   .window = need_int(c, "sliding_window"),
                   .n_group = need_int(c, "o_groups"),
                   .index_heads = get_int(c, "index_n_heads", 32),
                   .index_dim = get_int(c, "index_head_dim", 128),
                   .index_topk = get_int(c, "index_topk", 512),
                   .cand_source = get_int(c, "candidate_source_layer_id", -1),
                   .cand_blocks = get_int(c, "candidate_topk_blocks", 2048),
                   .cand_block = get_int(c, "candidate_block_size", 8),
                   .eps = get_real(c, "rms_norm_eps", 1e-20),
                   .moe = moe_of(c)};
    json_t *none = json_object();

    p.mhc = mhc_of(c, p.eps);
    p.moe.norm = p.moe.norm && p.moe.n_used > 1;
    p.moe.norm_eps = 1e-20;
    p.rope = rope_of(none, p.dr, get_real(c, "rope_theta", 10000));
    p.rope_comp = rope_of(c, p.dr, get_real(c, "compress_rope_theta", 160000));
    p.rope_comp.scale = 1;
    json_decref(none);
    for (int64_t i = 0, owner = -1, source = -1, cand_owner = -1; i < p.L; i++) {
        const json_t *r = json_object_get(c, "compress_ratios");
        int64_t ratio = json_integer_value(json_array_get(r, (size_t)i));

        owner = listed(c, "kv_source_layer_ids", i) ? i : owner;
        source = listed(c, "index_source_layer_ids", i) ? i : source;
        if (ratio < 0 || (!ratio && (owner == i || source == i)) ||
            (ratio && (owner < 0 || source < owner || json_integer_value(json_array_get(r, (size_t)owner)) != ratio)))
            die("config.json: layer %d: compress_ratios, kv_source_layer_ids and index_source_layer_ids do not fit together", (int)i);
        cand_owner = i == p.cand_source ? owner : cand_owner;
        if (cand_owner >= 0 && cand_owner != owner)
            die("config.json: layer %d: entries of its own behind candidate_source_layer_id are not known", (int)i);
    }
    return p;
}

/* pre starts as (1, 0, 0, ..). A layer: X = engram(X) where there is one; mixes a of X; u = norm(collapse(X, pre)), X = expand(X,
 * attention(u), a); mixes f of X; u = norm(collapse(X, a.pre)), X = expand(X, experts(u), f); pre = f.pre.
 * logits = W norm(collapse(X, pre)) */
double *ref_v41(const struct ref *m, int64_t T, const int64_t *id)
{
    const json_t *text = json_object_get(m->config, "text_config"), *c = text ? text : m->config;
    struct hp p = read_hp(c);
    struct engram g = engram_of(m, c);
    int64_t D = p.D, C = p.mhc.n_hc, image = get_int(m->config, "image_token_id", -1);
    double *logits = array(T * m->n_vocab), *X = array(T * C * D), *u = array(T * D), *y = array(T * D);
    struct shared sh = {array(T * p.d), array(T * p.index_dim), space(T * p.index_topk, sizeof *sh.sel), space(T * T, sizeof *sh.cand)};
    struct mix *pre = space(T, sizeof *pre), *a, *f;
    struct mat head;

    embed(m, T, id, D, u, "embed.weight");
    for (int64_t t = 0; t < T; t++) {
        pre[t].pre[0] = 1;
        if (id[t] == image || (g.n_layer && g.class[id[t]] < 0))
            die("id %lld: %s", (long long)id[t], id[t] == image ? "images are not in this reference" : "the tokenizer has no such token");
        for (int64_t j = 0; j < C; j++)
            memcpy(X + (t * C + j) * D, u + t * D, (size_t)D * sizeof *X);
    }
    for (int64_t i = 0; i < p.L; i++) {
        int64_t start = mark();

        for (int64_t l = 0; l < g.n_layer; l++)
            if (g.at[l] == i)
                engram(m, &g, l, &p.mhc, T, id, X);
        a = mhc_mix(m, &p.mhc, T, X, "hc_attn", i);
        mhc_collapse(m, &p.mhc, T, u, X, pre);
        rmsnorm(m, T, D, u, u, ref_vec(m, D, "layers.%d.attn_norm.weight", (int)i), p.eps);
        attention(m, c, &p, i, T, y, u, &sh);
        mhc_expand(m, &p.mhc, T, X, y, a);

        f = mhc_mix(m, &p.mhc, T, X, "hc_ffn", i);
        mhc_collapse(m, &p.mhc, T, u, X, a);
        rmsnorm(m, T, D, u, u, ref_vec(m, D, "layers.%d.ffn_norm.weight", (int)i), p.eps);
        moe(m, &p.moe, i, false, T, id, u, y);
        mhc_expand(m, &p.mhc, T, X, y, f);
        memcpy(pre, f, (size_t)T * sizeof *pre);
        release(start);
    }
    mhc_collapse(m, &p.mhc, T, u, X, pre);
    rmsnorm(m, T, D, u, u, ref_vec(m, D, "norm.weight"), p.eps);
    head = ref_mat(m, m->n_vocab, D, "head.weight");
    matmul(T, logits, &head, u);
    return logits;
}
