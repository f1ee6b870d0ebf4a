/* bpe.c: byte-pair encoding of one word.
 *
 * Symbols form a linked list; the pair of lowest rank merges first, the leftmost among equals. Short words look for it by
 * scanning; long ones keep candidates in a binary heap with stale entries skipped, so that a word of n bytes costs
 * O(n log n) whatever it is made of. Words of up to HD_CACHE_WORD bytes are remembered.
 */
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "token/vocab.h"

struct symbol {
    int32_t id;                       /* -1: merged away */
    int32_t prev, next;               /* indices, -1 at the ends */
};

struct candidate {
    int32_t rank, left, left_id, right_id, id;
};

bool hd_ids_push(struct hd_ids *ids, int32_t id)
{
    if (!HD_GROW(ids->id, ids->cap, ids->n + 1, (size_t)1 << 31))
        return false;
    ids->id[ids->n++] = id;
    return true;
}

void hd_ids_release(struct hd_ids *ids)
{
    hd_free(ids->id);
    memset(ids, 0, sizeof *ids);
}

static const struct hd_merge *find_merge(const struct hd_tokenizer *t, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & (t->n_merge_slot - 1);

    if (!t->n_merge_slot)
        return NULL;
    while (t->merge[i].left >= 0) {
        if (t->merge[i].left == left && t->merge[i].right == right)
            return &t->merge[i];
        i = (i + 1) & (t->n_merge_slot - 1);
    }
    return NULL;
}

/* First symbols: bytes, or characters with bytes where the vocabulary lacks one. How many; out has room for n. */
static int32_t first_symbols(const struct hd_tokenizer *t, const char *word, size_t n, struct symbol *s)
{
    int32_t k = 0;

    if (t->spelling == HD_SPELL_BYTES) {
        for (size_t i = 0; i < n; i++)
            if (t->byte_id[(unsigned char)word[i]] >= 0)
                s[k++].id = t->byte_id[(unsigned char)word[i]];
        return k;
    }
    for (size_t i = 0; i < n;) {
        int len;
        int32_t id;

        hd_utf8_get(word + i, n - i, &len);
        id = hd_piece_find(t, word + i, (size_t)len);
        if (id >= 0) {
            s[k++].id = id;
        } else {
            bool bytes = true;

            for (int b = 0; b < len; b++)
                bytes = bytes && t->byte_id[(unsigned char)word[i + (size_t)b]] >= 0;
            if (bytes)
                for (int b = 0; b < len; b++)
                    s[k++].id = t->byte_id[(unsigned char)word[i + (size_t)b]];
            else if (t->unk >= 0 && !(t->fuse_unk && k && s[k - 1].id == t->unk))
                s[k++].id = t->unk;
        }
        i += (size_t)len;
    }
    return k;
}

static bool less(const struct candidate *a, const struct candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void heap_push(struct candidate *h, size_t *n, struct candidate c)
{
    size_t i = (*n)++;

    for (; i && less(&c, &h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = c;
}

static struct candidate heap_pop(struct candidate *h, size_t *n)
{
    struct candidate top = h[0], last = h[--*n];
    size_t i = 0;

    for (;;) {
        size_t c = 2 * i + 1;

        if (c >= *n)
            break;
        if (c + 1 < *n && less(&h[c + 1], &h[c]))
            c++;
        if (!less(&h[c], &last))
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = last;
    return top;
}

static void offer(const struct hd_tokenizer *t, const struct symbol *s, int32_t left, struct candidate *heap, size_t *n)
{
    const struct hd_merge *m = left >= 0 && s[left].next >= 0 ? find_merge(t, s[left].id, s[s[left].next].id) : NULL;

    if (m)
        heap_push(heap, n, (struct candidate){m->rank, left, m->left, m->right, m->id});
}

static void merge_long(const struct hd_tokenizer *t, struct symbol *s, int32_t n_symbol, struct candidate *heap)
{
    size_t n = 0;

    for (int32_t i = 0; i < n_symbol; i++) {
        s[i].prev = i - 1;
        s[i].next = i + 1 < n_symbol ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n_symbol; i++)
        offer(t, s, i, heap, &n);
    while (n) {
        struct candidate c = heap_pop(heap, &n);
        int32_t right = s[c.left].id == c.left_id ? s[c.left].next : -1;

        if (right < 0 || s[right].id != c.right_id)
            continue;                 /* one side has merged with somebody else since */
        s[c.left].id = c.id;
        s[c.left].next = s[right].next;
        if (s[right].next >= 0)
            s[s[right].next].prev = c.left;
        s[right].id = -1;
        offer(t, s, s[c.left].prev, heap, &n);
        offer(t, s, c.left, heap, &n);
    }
}

#define SHORT 32

/* Scans for the best pair; ids shrink in place. How many are left. */
static int32_t merge_short(const struct hd_tokenizer *t, int32_t *id, int32_t n)
{
    const struct hd_merge *pair[SHORT];

    for (int32_t i = 0; i + 1 < n; i++)
        pair[i] = find_merge(t, id[i], id[i + 1]);
    while (n > 1) {
        int32_t best = -1;

        for (int32_t i = 0; i + 1 < n; i++)
            if (pair[i] && (best < 0 || pair[i]->rank < pair[best]->rank))
                best = i;
        if (best < 0)
            break;
        id[best] = pair[best]->id;
        memmove(id + best + 1, id + best + 2, (size_t)(n - best - 2) * sizeof *id);
        memmove(pair + best, pair + best + 1, (size_t)(n - best - 2) * sizeof *pair);
        n--;
        if (best > 0)
            pair[best - 1] = find_merge(t, id[best - 1], id[best]);
        if (best + 1 < n)
            pair[best] = find_merge(t, id[best], id[best + 1]);
    }
    return n;
}

static int bpe_long(const struct hd_tokenizer *t, const char *word, size_t n, struct hd_ids *out, struct hd_err *err)
{
    struct symbol *s = n < ((size_t)1 << 31) ? hd_malloc((n + 1) * sizeof *s) : NULL;
    struct candidate *heap = s ? hd_malloc(3 * (n + 1) * sizeof *heap) : NULL;
    int rc = HD_OK;

    if (heap) {
        int32_t k = first_symbols(t, word, n, s);

        merge_long(t, s, k, heap);
        for (int32_t i = 0; i < k && rc == HD_OK; i++)
            if (s[i].id >= 0 && !hd_ids_push(out, s[i].id))
                rc = HD_ERR_MEMORY;
    } else {
        rc = HD_ERR_MEMORY;
    }
    hd_free(s);
    hd_free(heap);
    return rc < 0 ? hd_err_set(err, rc, "no memory to tokenize a word of %zu bytes", n) : HD_OK;
}

/* The cache's slot of a short word: three words of eight bytes, mixed; reads no byte behind the word. */
static size_t cache_slot(const char *word, size_t n)
{
    uint64_t v[3] = {0}, h;

    memcpy(v, word, n);
    h = (v[0] ^ n) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 29 ^ v[1]) * 0xBF58476D1CE4E5B9u;
    h = (h ^ h >> 32 ^ v[2]) * 0x94D049BB133111EBu;
    return (h >> 40) & (HD_CACHE_SLOTS - 1);
}

int hd_bpe(struct hd_tokenizer *t, const char *word, size_t n, struct hd_ids *out, struct hd_err *err)
{
    struct hd_cached_word *c = NULL;
    struct symbol s[SHORT];
    int32_t id[SHORT], k;

    if (n <= HD_CACHE_WORD && t->cache) {
        c = &t->cache[cache_slot(word, n)];
        if (c->n == n && !memcmp(c->word, word, n)) {
            if (!HD_GROW(out->id, out->cap, out->n + HD_CACHE_IDS, (size_t)1 << 31))
                return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", out->n);
            for (int i = 0; i < c->n_id; i++)
                out->id[out->n + (size_t)i] = c->id[i];
            out->n += c->n_id;
            return HD_OK;
        }
    }
    if (t->ignore_merges && (k = hd_piece_find(t, word, n)) >= 0) {
        id[0] = k;
        k = 1;
    } else if (n > SHORT) {
        return bpe_long(t, word, n, out, err);
    } else {
        k = first_symbols(t, word, n, s);
        for (int32_t i = 0; i < k; i++)
            id[i] = s[i].id;
        k = merge_short(t, id, k);
    }
    if (c && k <= HD_CACHE_IDS) {
        memcpy(c->word, word, n);
        c->n = (uint8_t)n;
        c->n_id = (uint8_t)k;
        memcpy(c->id, id, (size_t)k * sizeof *id);
    }
    for (int32_t i = 0; i < k; i++)
        if (!hd_ids_push(out, id[i]))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", out->n);
    return HD_OK;
}
