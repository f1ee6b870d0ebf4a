/* json_vocab.c: see json_vocab.h. */
#include "sample/json_vocab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static bool is_plain(struct hd_view v)
{
    for (size_t i = 0; i < v.n;) {
        int len;

        if (hd_utf8_get(v.p + i, v.n - i, &len) < 0x20 || strchr("\"\\<\x7F", v.p[i]))
            return false;
        i += (size_t)len;
    }
    return true;
}

/* Markers that are spelled like text are none. */
static bool is_added(const struct hd_tokenizer *t, int32_t id, struct hd_view v)
{
    char text[128];

    if (v.n >= sizeof text || (v.p[0] != '<' && v.p[0] != '[' && !memmem(v.p, v.n, "｜", 3)))
        return false;
    memcpy(text, v.p, v.n);
    text[v.n] = 0;
    return hd_tokenizer_find(t, text) == id;
}

/* ---- tries ---- */

static int compare(const void *a, const void *b, void *tok)
{
    struct hd_view x = hd_token_text(tok, *(const int32_t *)a, false), y = hd_token_text(tok, *(const int32_t *)b, false);
    int d = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);

    return d ? d : x.n != y.n ? (x.n < y.n ? -1 : 1) : *(const int32_t *)a - *(const int32_t *)b;
}

/* The next token in the order of bytes. open: the nodes that lead to the one before, n_open of them. A second token of the same bytes gets a
 * node beside the first one's. */
static bool add_token(struct hd_token_trie *t, struct hd_view v, int32_t id, uint32_t *open, size_t *n_open)
{
    size_t n = 0;

    while (n < *n_open && n < v.n - 1 && t->node[open[n]].byte == (unsigned char)v.p[n])
        n++;
    for (size_t k = n; k < *n_open; k++)
        t->node[open[k]].end = (uint32_t)t->n;
    for (; n < v.n; n++) {
        if (!HD_GROW(t->node, t->cap, t->n + 1, (size_t)1 << 28))
            return false;
        open[n] = (uint32_t)t->n;
        t->node[t->n++] = (struct hd_token_node){0, n + 1 == v.n ? id : -1, (uint16_t)n, (unsigned char)v.p[n]};
    }
    *n_open = n;
    return true;
}

static bool build_trie(const struct hd_json_vocab *v, const int32_t *sorted, int64_t n, bool plain, struct hd_token_trie *t)
{
    uint32_t open[HD_TOKEN_BYTES];
    size_t n_open = 0;

    for (int64_t i = 0; i < n; i++) {
        struct hd_view text = hd_token_text(v->tok, sorted[i], false);

        if ((plain || v->class[sorted[i]] == HD_TOKEN_OTHER) && text.n <= HD_TOKEN_BYTES && !add_token(t, text, sorted[i], open, &n_open))
            return false;
    }
    for (size_t k = 0; k < n_open; k++)
        t->node[open[k]].end = (uint32_t)t->n;
    return true;
}

static bool build_tries(struct hd_json_vocab *v)
{
    int32_t *sorted = hd_malloc(((size_t)v->n + 1) * sizeof *sorted);
    int64_t n = 0;
    bool fine;

    if (!sorted)
        return false;
    for (int32_t id = 0; id < v->n; id++)
        if (v->class[id] == HD_TOKEN_OTHER || v->class[id] == HD_TOKEN_PLAIN)
            sorted[n++] = id;
    qsort_r(sorted, (size_t)n, sizeof *sorted, compare, (void *)v->tok);
    fine = build_trie(v, sorted, n, true, &v->all) && build_trie(v, sorted, n, false, &v->other);
    hd_free(sorted);
    return fine;
}

/* ---- masks ---- */

static void set_bit(uint64_t *mask, int32_t id)
{
    mask[id / 64] |= (uint64_t)1 << id % 64;
}

static bool build_masks(struct hd_json_vocab *v)
{
    v->n_word = ((size_t)v->n + 63) / 64;
    if (!(v->end = hd_calloc(v->n_word, sizeof *v->end)))
        return false;
    for (int i = 0; i <= HD_PLAIN_CHARS; i++)
        if (!(v->plain[i] = hd_calloc(v->n_word, sizeof *v->plain[i])))
            return false;
    for (int32_t id = 0; id < v->n; id++) {
        struct hd_view text = hd_token_text(v->tok, id, false);
        int n_char = 0;

        if (v->class[id] == HD_TOKEN_END)
            set_bit(v->end, id);
        if (v->class[id] != HD_TOKEN_PLAIN || text.n > HD_TOKEN_BYTES)
            continue;
        for (size_t k = 0; k < text.n; k++)
            n_char += (text.p[k] & 0xC0) != 0x80;
        for (int i = n_char; i < HD_PLAIN_CHARS; i++)
            set_bit(v->plain[i], id);
        set_bit(v->plain[HD_PLAIN_CHARS], id);
        v->plain_max = n_char > v->plain_max ? n_char : v->plain_max;
        if (n_char <= HD_PLAIN_CHARS)
            continue;
        if (!HD_GROW(v->plain_long, v->cap_plain_long, v->n_plain_long + 1, (size_t)1 << 28))
            return false;
        v->plain_long[v->n_plain_long++] = (struct hd_plain_long){id, n_char};
    }
    return true;
}

/* ---- all ---- */

static void classify(struct hd_json_vocab *v, int32_t id)
{
    struct hd_view text = hd_token_text(v->tok, id, false);

    if (hd_tokenizer_is_end(v->tok, id))
        v->class[id] = HD_TOKEN_END;
    else if (text.n && !is_added(v->tok, id, text))
        v->class[id] = is_plain(text) ? HD_TOKEN_PLAIN : HD_TOKEN_OTHER;
    if (text.n == 1 && v->class[id] != HD_TOKEN_NEVER && v->class[id] != HD_TOKEN_END)
        v->byte[(unsigned char)text.p[0]] = id;
}

int hd_json_vocab_create(struct hd_json_vocab **out, const struct hd_tokenizer *t, struct hd_err *err)
{
    struct hd_json_vocab *v = hd_calloc(1, sizeof *v);

    if (v)
        v->class = hd_calloc((size_t)hd_tokenizer_size(t), 1);
    if (!v || !v->class) {
        hd_json_vocab_free(v);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a vocabulary");
    }
    v->tok = t;
    v->n = hd_tokenizer_size(t);
    memset(v->byte, -1, sizeof v->byte);
    for (int32_t id = 0; id < v->n; id++)
        classify(v, id);
    v->spells = true;
    for (int b = 0x20; b < 0xF5; b++)
        v->spells &= v->byte[b] >= 0 || b == 0x7F || b == 0xC0 || b == 0xC1;
    if (!build_tries(v) || !build_masks(v)) {
        hd_json_vocab_free(v);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a vocabulary");
    }
    *out = v;
    return HD_OK;
}

void hd_json_vocab_free(struct hd_json_vocab *v)
{
    if (!v)
        return;
    hd_free(v->all.node);
    hd_free(v->other.node);
    hd_free(v->end);
    for (int i = 0; i <= HD_PLAIN_CHARS; i++)
        hd_free(v->plain[i]);
    hd_free(v->plain_long);
    hd_free(v->class);
    hd_free(v);
}

void hd_json_vocab_go_on(const struct hd_json_vocab *v, float *logits, int64_t n_vocab)
{
    for (size_t w = 0; w < v->n_word; w++)
        for (uint64_t bits = v->end[w]; bits; bits &= bits - 1) {
            int64_t id = (int64_t)w * 64 + __builtin_ctzll(bits);

            if (id < n_vocab)
                logits[id] = -INFINITY;
        }
}

/* Four logits at once: what of their bits stays, by four bits of the mask. */
static const uint32_t keep[16][4] = {
#define ROW(n) {(n) & 1 ? ~0u : 0, (n) & 2 ? ~0u : 0, (n) & 4 ? ~0u : 0, (n) & 8 ? ~0u : 0}
    ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7), ROW(8), ROW(9), ROW(10), ROW(11), ROW(12), ROW(13), ROW(14), ROW(15),
#undef ROW
};

static void mask_64(uint64_t bits, float x[64])
{
    const uint32_t minus_infinity = 0xFF800000;

    if (bits == UINT64_MAX)
        return;
    for (int i = 0; i < 64; i += 4, bits >>= 4) {
        const uint32_t *k = keep[bits & 15];
        uint32_t v[4];

        memcpy(v, x + i, sizeof v);
        for (int j = 0; j < 4; j++)
            v[j] = (v[j] & k[j]) | (minus_infinity & ~k[j]);
        memcpy(x + i, v, sizeof v);
    }
}

void hd_json_vocab_mask(const struct hd_json_vocab *v, const uint64_t *mask, float *logits, int64_t n_vocab)
{
    int64_t whole = n_vocab / 64 < (int64_t)v->n_word ? n_vocab / 64 : (int64_t)v->n_word;

    for (int64_t w = 0; w < whole; w++)
        mask_64(mask[w], logits + w * 64);
    for (int64_t id = whole * 64; id < n_vocab; id++)
        if (id >= v->n || !(mask[id / 64] >> id % 64 & 1))
            logits[id] = -INFINITY;
}
