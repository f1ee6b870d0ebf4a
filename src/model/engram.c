/* engram.c: see engram.h. */
#include "model/engram.h"

#include <string.h>

#include "base/arena.h"
#include "model/engram_hash.h"

#define DIM_MAX ((int64_t)1 << 24)
#define SLACK 64                      /* rows that rings keep for rewinding */

/* Where to look for primes: one number for all orders, or one an order. */
static int read_vocab(struct hd_engram *e, const json_t *c, const char *f, struct hd_err *err)
{
    const json_t *v = json_object_get(c, "engram_vocab_size");

    for (int64_t i = 0; i < e->n_order; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, (size_t)i) : v;

        e->vocab[i] = json_is_integer(x) ? json_integer_value(x) : 0;
        if (e->vocab[i] < 2 || e->vocab[i] > INT32_MAX)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_vocab_size: expected a number from 2 to 2147483647, or one for each of %lld orders", f, (long long)e->n_order);
    }
    return HD_OK;
}

static int read_layers(struct hd_engram *e, const json_t *c, int64_t n_layer, bool tables_named, const char *f, struct hd_err *err)
{
    const json_t *ids = json_object_get(c, "engram_layer_ids"), *sizes = json_object_get(c, "engram_num_embeddings");

    e->n_layer = (int64_t)json_array_size(ids);
    if (e->n_layer > HD_ENGRAM_LAYERS)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: engram_layer_ids: found %lld layers; expected at most %d", f, (long long)e->n_layer, HD_ENGRAM_LAYERS);
    for (int64_t i = 0; i < e->n_layer; i++) {
        const json_t *v = json_array_get(ids, (size_t)i), *n = json_array_get(sizes, (size_t)i);
        char brief[64];

        e->layer[i] = json_is_integer(v) ? json_integer_value(v) : -1;
        if (e->layer[i] < 0 || e->layer[i] >= n_layer || (i && e->layer[i] <= e->layer[i - 1]))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_layer_ids: found %s; expected ascending layers below %lld", f, hd_json_brief(v, brief), (long long)n_layer);
        e->rows[i] = json_is_integer(n) ? json_integer_value(n) : 0;
        if ((sizes || tables_named) && (e->rows[i] < 1 || e->rows[i] > INT32_MAX))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_num_embeddings: expected a number from 1 to 2147483647 for each of %lld layers", f, (long long)e->n_layer);
    }
    return HD_OK;
}

/* Primes and offsets follow from the sizes alone; the multipliers from the number of classes. */
static int make_hashes(struct hd_engram *e, const char *f, struct hd_err *err)
{
    int64_t seen[HD_ENGRAM_LAYERS * HD_ENGRAM_HASHES], n_seen = 0, n = e->n_order * e->n_head;

    for (int64_t i = 0; i < e->n_layer; i++) {
        int64_t sum = 0, half = INT64_MAX / e->n_class / 2;

        for (int64_t o = 0; o < e->n_order; o++) {
            if (!hd_next_primes(e->vocab[o] - 1, seen, n_seen, e->n_head, &e->prime[i][o * e->n_head]))
                return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_vocab_size: found %lld; expected room for %lld primes", f, (long long)e->vocab[o], (long long)(e->n_layer * n));
            for (int64_t h = 0; h < e->n_head; h++)
                seen[n_seen++] = e->prime[i][o * e->n_head + h];
        }
        for (int64_t k = 0; k < n; k++) {
            e->offset[i][k] = sum;
            sum += e->prime[i][k];
        }
        if (e->rows[i] && sum != e->rows[i])
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_num_embeddings: found %lld rows for layer %lld; its %lld primes sum to %lld", f, (long long)e->rows[i],
                              (long long)e->layer[i], (long long)n, (long long)sum);
        if (sum > INT32_MAX)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: engram_vocab_size: its %lld primes sum to %lld; expected at most 2147483647 rows a layer", f, (long long)n,
                              (long long)sum);
        e->rows[i] = sum;
        hd_numpy_integers(10007u * (uint64_t)e->layer[i], (uint64_t)(half > 1 ? half : 1), e->n_order + 1, e->mult[i]);
        for (int64_t j = 0; j <= e->n_order; j++)
            e->mult[i][j] = e->mult[i][j] * 2 + 1;
        e->ngram[i] = (struct hd_ngram){.n_order = e->n_order, .n_head = e->n_head, .mult = e->mult[i], .prime = e->prime[i], .offset = e->offset[i]};
    }
    return HD_OK;
}

int hd_engram_config(struct hd_engram *e, const json_t *c, int64_t n_layer, int64_t n_vocab, bool tables_named, const char *f, struct hd_err *err)
{
    int64_t order;

    HD_TRY(read_layers(e, c, n_layer, tables_named, f, err));
    if (!e->n_layer)
        return HD_OK;
    HD_TRY(hd_json_int_or(c, "engram_max_ngram", 2, 15, 4, &order, f, err));
    HD_TRY(hd_json_int_or(c, "engram_max_ngram_size", 2, 15, order, &order, f, err));
    e->n_order = order - 1;
    HD_TRY(hd_json_int(c, "engram_n_heads", 1, 16, &e->n_head, f, err));
    HD_TRY(hd_json_int(c, "engram_head_dim", 1, DIM_MAX, &e->dim, f, err));
    HD_TRY(hd_json_int_or(c, "engram_pad_token_id", 0, n_vocab - 1, 2 < n_vocab ? 2 : 0, &e->pad, f, err));
    HD_TRY(hd_json_int(c, "engram_compressed_vocab_size", 1, n_vocab, &e->n_class, f, err));
    if (e->paper)
        HD_TRY(hd_json_int_or(c, "engram_kernel_size", 1, 16, 4, &e->kernel, f, err));
    HD_TRY(read_vocab(e, c, f, err));
    return make_hashes(e, f, err);
}

int hd_engram_classes(struct hd_engram *e, struct hd_arena *arena, const int32_t *map, int64_t n, int64_t n_class, const char *f, struct hd_err *err)
{
    int32_t *copy;

    if (!e->n_layer)
        return HD_OK;
    if (n_class != e->n_class)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_compressed_vocab_size: found %lld; the tokenizer makes %lld", f, (long long)e->n_class, (long long)n_class);
    if (!(copy = hd_arena_alloc(arena, (size_t)n * sizeof *copy)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the classes of %lld tokens", f, (long long)n);
    memcpy(copy, map, (size_t)n * sizeof *copy);
    for (int64_t i = 0; i < e->n_layer; i++) {
        e->ngram[i].map = copy;
        e->ngram[i].n_map = n;
        e->ngram[i].pad = e->pad < n ? map[e->pad] : 0;
    }
    return HD_OK;
}

int hd_engram_index(const struct hd_engram *e, int64_t layer)
{
    for (int i = 0; i < e->n_layer; i++)
        if (e->layer[i] == layer)
            return i;
    return -1;
}

int64_t hd_engram_idle(const struct hd_engram *e)
{
    int64_t n = 0;

    for (int64_t i = 0; i < e->n_layer; i++)
        n += (e->rows[i] - e->n_order * e->n_head) * e->dim;
    return n;
}

/* Tokens that the convolution looks back. */
static int64_t reach(const struct hd_engram *e)
{
    return (e->kernel - 1) * (e->n_order + 1);
}

int hd_engram_parts(struct hd_engram *e, int64_t width, int part0, struct hd_cache_part *part)
{
    int n = 0;

    if (!e->n_layer)
        return 0;
    e->part_ngram = part0 + n;
    part[n++] = (struct hd_cache_part){.name = "n-grams", .kind = HD_PART_WINDOW, .type = HD_I32, .row_len = 1, .ratio = 1, .window = (int)e->n_order, .slack = SLACK};
    for (int64_t i = 0; i < e->n_layer && e->paper && reach(e) > 0; i++) {
        e->part_conv[i] = part0 + n;
        part[n++] = (struct hd_cache_part){.name = "engram values", .layer = (int)e->layer[i], .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = width, .ratio = 1,
                                           .window = (int)reach(e), .slack = SLACK};
    }
    return n;
}

/* X += v + silu(conv(norm(v))), v = gate value. */
static void convolved(struct hd_stream *s, const struct hd_engram *e, const struct hd_engram_weights *w, int index, const struct hd_ragged *b, int64_t n_hc, float eps,
                      const struct hd_tensor *kv, struct hd_tensor *x)
{
    int64_t width = hd_cols(x), d = width / n_hc;
    struct hd_tensor *v = hd_new(s, HD_F32, b->n_tok, width), *nv = hd_new(s, HD_F32, b->n_tok, width);

    hd_engram_value(s, v, x, kv, &w->q_weight, &w->k_weight, n_hc, eps);
    for (int64_t c = 0; c < n_hc; c++) {
        hd_rmsnorm(s, hd_slice(s, nv, c * d, d), hd_slice(s, v, c * d, d), hd_row(s, &w->conv_norm, c), 1e-5f);
    }
    hd_short_conv(s, x, v, nv, &w->conv, b, reach(e) > 0 ? e->part_conv[index] : -1, e->n_order + 1);
    if (reach(e) > 0)
        hd_ring_put(s, nv, b, e->part_conv[index]);
}

#define AHEAD_MAX 64                  /* tokens whose rows are all asked for at a step's beginning; with more of them a layer's are, when it comes */

void hd_engram_ahead(struct hd_stream *s, const struct hd_engram *e, const struct hd_engram_weights *w, int index, const struct hd_ragged *b, struct hd_tensor *class)
{
    int64_t n = e->n_order * e->n_head;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *rows;

    if (!s->source || b->n_tok > AHEAD_MAX)
        return;
    rows = hd_new(s, HD_I32, b->n_tok, n);
    hd_ngram_rows(s, rows, class, b, e->part_ngram, &e->ngram[index]);
    if (hd_stream_ok(s))
        s->source->rows_ahead(s->source->self, &w->embed, rows->data, b->n_tok * n);
    hd_stream_rewind(s, mark);
}

void hd_engram_add(struct hd_stream *s, const struct hd_engram *e, const struct hd_engram_weights *w, int index, const struct hd_ragged *b, int64_t n_hc, float eps,
                   int64_t act_block, struct hd_tensor *x, struct hd_tensor *class)
{
    int64_t n = e->n_order * e->n_head;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *rows = hd_new(s, HD_I32, b->n_tok, n), *in = hd_new(s, HD_F32, b->n_tok, n * e->dim), *kv = hd_new(s, HD_F32, b->n_tok, hd_cols(x) / n_hc * (n_hc + 1));

    hd_ngram_rows(s, rows, class, b, e->part_ngram, &e->ngram[index]);
    hd_table(s, in, rows, &w->embed);
    hd_trace(s, in, "layers.%d.engram.embed", (int)e->layer[index]);
    hd_linear(s, kv, in, &w->wkv, act_block);
    if (w->bias.n_dim)
        hd_add_row(s, kv, &w->bias);
    if (e->paper)
        convolved(s, e, w, index, b, n_hc, eps, kv, x);
    else
        hd_engram(s, x, kv, &w->q_weight, &w->k_weight, n_hc, eps);
    hd_bf16(s, x);
    hd_trace(s, x, "layers.%d.engram.stream", (int)e->layer[index]);
    hd_stream_rewind(s, mark);
}

void hd_engram_done(struct hd_stream *s, const struct hd_engram *e, const struct hd_ragged *b, struct hd_tensor *class, int64_t n_layer)
{
    if (!e->n_layer)
        return;
    if (e->layer[0] >= n_layer) {                     /* none of them ran: the classes are not known yet */
        struct hd_stream_mark mark = hd_stream_mark(s);

        hd_ngram_rows(s, hd_new(s, HD_I32, b->n_tok, e->n_order * e->n_head), class, b, e->part_ngram, &e->ngram[0]);
        hd_stream_rewind(s, mark);
    }
    hd_ring_put(s, class, b, e->part_ngram);
}
