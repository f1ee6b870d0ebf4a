/* bpe_train.c: see bpe_train.h.
 *
 * Different words are kept once with their count. Every pair of neighbouring symbols knows how often it occurs and which words hold it, so
 * that a merge looks at those words only. The most frequent pair lies on top of a heap whose entries may be out of date: counts only fall
 * between two merges, or belong to a pair that a merge has made, so an entry that no longer fits is put back with the count of now. */
#include "token/bpe_train.h"

#include <string.h>

#include "base/arena.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "token/vocab.h"

#define MAX_COUNT ((size_t)1 << 31)

struct word {
    const char *p;
    uint32_t n;
    int32_t *sym;                     /* [n_sym] */
    uint32_t n_sym;
    int64_t count;
};

struct pair {
    int32_t left, right;
    int64_t count, queued;            /* queued: the count of its entry in the heap, 0 none */
    uint32_t *word;                   /* words that held it once; some may not any more */
    size_t n_word, cap_word;
};

struct entry {
    int64_t count;
    uint32_t pair;
};

struct hd_bpe_trainer {
    struct hd_pretoken *pre;
    struct hd_arena arena;            /* words */
    struct word *word;
    size_t n_word, cap_word;
    uint32_t *word_slot;              /* open addressing: word + 1 */
    size_t n_word_slot;
    struct pair *pair;
    size_t n_pair, cap_pair;
    uint32_t *pair_slot;
    size_t n_pair_slot;
    struct entry *heap;
    size_t n_heap, cap_heap;
    bool failed;                      /* out of memory in a place that cannot say so */
};

/* ---- words ---- */

int hd_bpe_trainer_create(struct hd_bpe_trainer **out, struct hd_err *err)
{
    struct hd_bpe_trainer *t = hd_calloc(1, sizeof *t);
    json_t *pre = json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 1);
    int rc = t && pre ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for a tokenizer");

    if (rc == HD_OK) {
        hd_arena_init(&t->arena, 0);
        rc = hd_pretoken_create(&t->pre, pre, "tokenizer.json", err);
    }
    json_decref(pre);
    if (rc < 0)
        hd_free(t);
    else
        *out = t;
    return rc;
}

void hd_bpe_trainer_free(struct hd_bpe_trainer *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_pair; i++)
        hd_free(t->pair[i].word);
    hd_pretoken_free(t->pre);
    hd_arena_release(&t->arena);
    hd_free(t->word);
    hd_free(t->word_slot);
    hd_free(t->pair);
    hd_free(t->pair_slot);
    hd_free(t->heap);
    hd_free(t);
}

static bool grow_slots(uint32_t **slot, size_t *n, size_t n_used)
{
    uint32_t *old = *slot;

    if (n_used * 2 < *n)
        return true;
    *n = *n ? *n * 2 : 1024;
    hd_free(old);
    *slot = hd_calloc(*n, sizeof **slot);
    return *slot != NULL;
}

static size_t word_place(const struct hd_bpe_trainer *t, const char *p, size_t n)
{
    size_t i = (size_t)hd_hash(HD_HASH_INIT, p, n) & (t->n_word_slot - 1);

    for (; t->word_slot[i]; i = (i + 1) & (t->n_word_slot - 1)) {
        const struct word *w = &t->word[t->word_slot[i] - 1];

        if (w->n == n && !memcmp(w->p, p, n))
            break;
    }
    return i;
}

static int add_word(void *arg, const char *p, size_t n, struct hd_err *err)
{
    struct hd_bpe_trainer *t = arg;
    size_t before = t->n_word_slot, i;
    char *copy;

    if (!n)
        return HD_OK;
    if (!grow_slots(&t->word_slot, &t->n_word_slot, t->n_word))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu words", t->n_word);
    for (size_t w = 0; t->n_word_slot != before && w < t->n_word; w++)
        t->word_slot[word_place(t, t->word[w].p, t->word[w].n)] = (uint32_t)w + 1;
    i = word_place(t, p, n);
    if (t->word_slot[i]) {
        t->word[t->word_slot[i] - 1].count++;
        return HD_OK;
    }
    if (!HD_GROW(t->word, t->cap_word, t->n_word + 1, MAX_COUNT) || !(copy = hd_arena_strdup(&t->arena, p, n)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu words", t->n_word);
    t->word[t->n_word++] = (struct word){.p = copy, .n = (uint32_t)n, .count = 1};
    t->word_slot[i] = (uint32_t)t->n_word;
    return HD_OK;
}

int hd_bpe_trainer_add(struct hd_bpe_trainer *t, const char *text, size_t n, struct hd_err *err)
{
    return hd_pretoken_run(t->pre, text, n, add_word, t, err);
}

/* ---- pairs ---- */

static size_t pair_place(const struct hd_bpe_trainer *t, int32_t left, int32_t right)
{
    size_t i = (size_t)((((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u) >> 20) & (t->n_pair_slot - 1);

    for (; t->pair_slot[i]; i = (i + 1) & (t->n_pair_slot - 1)) {
        const struct pair *p = &t->pair[t->pair_slot[i] - 1];

        if (p->left == left && p->right == right)
            break;
    }
    return i;
}

/* The pair, made where there is none; NULL without memory. Pointers are valid until the next call. */
static struct pair *pair_of(struct hd_bpe_trainer *t, int32_t left, int32_t right)
{
    size_t before = t->n_pair_slot, i;

    if (!grow_slots(&t->pair_slot, &t->n_pair_slot, t->n_pair) || !HD_GROW(t->pair, t->cap_pair, t->n_pair + 1, MAX_COUNT)) {
        t->failed = true;
        return NULL;
    }
    for (size_t p = 0; t->n_pair_slot != before && p < t->n_pair; p++)
        t->pair_slot[pair_place(t, t->pair[p].left, t->pair[p].right)] = (uint32_t)p + 1;
    i = pair_place(t, left, right);
    if (!t->pair_slot[i]) {
        t->pair[t->n_pair++] = (struct pair){.left = left, .right = right};
        t->pair_slot[i] = (uint32_t)t->n_pair;
    }
    return &t->pair[t->pair_slot[i] - 1];
}

/* word now holds the pair `by` times its count more (or less). */
static void change(struct hd_bpe_trainer *t, int32_t left, int32_t right, uint32_t word, int by)
{
    struct pair *p = pair_of(t, left, right);

    if (!p)
        return;
    p->count += by * t->word[word].count;
    if (by < 0 || (p->n_word && p->word[p->n_word - 1] == word))
        return;
    if (HD_GROW(p->word, p->cap_word, p->n_word + 1, MAX_COUNT))
        p->word[p->n_word++] = word;
    else
        t->failed = true;
}

/* ---- the heap ---- */

static bool before(const struct hd_bpe_trainer *t, struct entry a, struct entry b)
{
    const struct pair *p = &t->pair[a.pair], *q = &t->pair[b.pair];

    if (a.count != b.count)
        return a.count > b.count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static void push(struct hd_bpe_trainer *t, uint32_t pair)
{
    struct entry e = {t->pair[pair].count, pair};
    size_t i;

    if (e.count < 2 || e.count == t->pair[pair].queued)
        return;
    if (!HD_GROW(t->heap, t->cap_heap, t->n_heap + 1, MAX_COUNT)) {
        t->failed = true;
        return;
    }
    for (i = t->n_heap++; i > 0 && before(t, e, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = e;
    t->pair[pair].queued = e.count;
}

static struct entry pop(struct hd_bpe_trainer *t)
{
    struct entry top = t->heap[0], last = t->heap[--t->n_heap];
    size_t i = 0;

    for (;;) {
        size_t k = 2 * i + 1;

        if (k + 1 < t->n_heap && before(t, t->heap[k + 1], t->heap[k]))
            k++;
        if (k >= t->n_heap || !before(t, t->heap[k], last))
            break;
        t->heap[i] = t->heap[k];
        i = k;
    }
    t->heap[i] = last;
    return top;
}

/* The most frequent pair of now, or -1. */
static int64_t best(struct hd_bpe_trainer *t)
{
    while (t->n_heap) {
        struct entry e = pop(t);

        if (t->pair[e.pair].queued == e.count)
            t->pair[e.pair].queued = 0;
        if (t->pair[e.pair].count == e.count)
            return e.pair;
        push(t, e.pair);
    }
    return -1;
}

/* ---- merging ---- */

static bool first_symbols(struct hd_bpe_trainer *t, const int32_t *byte_id)
{
    for (size_t w = 0; w < t->n_word; w++) {
        struct word *x = &t->word[w];

        if (!(x->sym = hd_arena_alloc(&t->arena, (size_t)x->n * sizeof *x->sym)))
            return false;
        x->n_sym = x->n;
        for (uint32_t i = 0; i < x->n; i++)
            x->sym[i] = byte_id[(unsigned char)x->p[i]];
        for (uint32_t i = 0; i + 1 < x->n; i++)
            change(t, x->sym[i], x->sym[i + 1], (uint32_t)w, 1);
    }
    for (size_t p = 0; p < t->n_pair; p++)
        push(t, (uint32_t)p);
    return !t->failed;
}

/* left right becomes id wherever it stands in the word. */
static void merge_word(struct hd_bpe_trainer *t, uint32_t word, int32_t left, int32_t right, int32_t id)
{
    struct word *x = &t->word[word];
    uint32_t n = 0;

    for (uint32_t i = 0; i + 1 < x->n_sym; i++)
        change(t, x->sym[i], x->sym[i + 1], word, -1);
    for (uint32_t i = 0; i < x->n_sym; i++) {
        bool here = i + 1 < x->n_sym && x->sym[i] == left && x->sym[i + 1] == right;

        x->sym[n++] = here ? id : x->sym[i];
        i += here;
    }
    x->n_sym = n;
    for (uint32_t i = 0; i + 1 < n; i++)
        change(t, x->sym[i], x->sym[i + 1], word, 1);
}

/* Pairs that grew: those with id. */
static void push_grown(struct hd_bpe_trainer *t, const struct word *x, int32_t id)
{
    for (uint32_t i = 0; i + 1 < x->n_sym; i++)
        if (x->sym[i] == id || x->sym[i + 1] == id)
            push(t, t->pair_slot[pair_place(t, x->sym[i], x->sym[i + 1])] - 1);
}

static bool merge(struct hd_bpe_trainer *t, size_t pair, int32_t id)
{
    int32_t left = t->pair[pair].left, right = t->pair[pair].right;
    uint32_t *words = t->pair[pair].word;
    size_t n = t->pair[pair].n_word;

    t->pair[pair].word = NULL;
    t->pair[pair].n_word = t->pair[pair].cap_word = 0;
    for (size_t i = 0; i < n; i++)
        merge_word(t, words[i], left, right, id);
    for (size_t i = 0; i < n && !t->failed; i++)
        push_grown(t, &t->word[words[i]], id);
    hd_free(words);
    return !t->failed;
}

/* ---- the file ---- */

static const char head[] = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
static const char middle[] = "],\n  \"normalizer\": null,\n"
                             "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n"
                             "  \"post_processor\": null,\n"
                             "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
                             "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
                             "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";

struct piece {
    const char *p;                    /* raw bytes */
    size_t n;
};

/* What was learned. Two merges may make the same piece: "ab" + "c", "a" + "bc". */
struct learned {
    struct piece *piece;
    int32_t (*merge)[2];
    int64_t n, n_merge, n_special;
    uint32_t *slot;                   /* of pieces by their bytes: id + 1 */
    size_t n_slot;
    struct hd_str spelt;
};

static size_t piece_place(const struct learned *l, const struct piece *p)
{
    size_t i = (size_t)hd_hash(HD_HASH_INIT, p->p, p->n) & (l->n_slot - 1);

    while (l->slot[i] && (l->piece[l->slot[i] - 1].n != p->n || memcmp(l->piece[l->slot[i] - 1].p, p->p, p->n)))
        i = (i + 1) & (l->n_slot - 1);
    return i;
}

static void put_piece(struct hd_str *json, struct hd_str *buf, const struct piece *p, bool special)
{
    hd_str_reset(buf);
    if (special)
        hd_str_add(buf, p->p, p->n);
    else
        hd_spell_bytes(p->p, p->n, buf);
    hd_str_json(json, hd_str_get(buf), buf->n);
}

static void put_json(struct hd_str *json, const struct learned *l)
{
    struct hd_str buf;

    hd_str_init(&buf, 0);
    hd_str_puts(json, head);
    for (int64_t i = 0; i < l->n_special; i++) {
        hd_str_printf(json, "%s\n    {\"id\": %lld, \"content\": ", i ? "," : "", (long long)i);
        put_piece(json, &buf, &l->piece[i], true);
        hd_str_puts(json, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}");
    }
    hd_str_puts(json, l->n_special ? "\n  " : "");
    hd_str_puts(json, middle);
    for (int64_t i = 0; i < l->n; i++) {
        hd_str_puts(json, i ? ",\n      " : "\n      ");
        put_piece(json, &buf, &l->piece[i], i < l->n_special);
        hd_str_printf(json, ": %lld", (long long)i);
    }
    hd_str_puts(json, "\n    },\n    \"merges\": [");
    for (int64_t i = 0; i < l->n_merge; i++) {
        hd_str_puts(json, i ? ",\n      [" : "\n      [");
        put_piece(json, &buf, &l->piece[l->merge[i][0]], false);
        hd_str_puts(json, ", ");
        put_piece(json, &buf, &l->piece[l->merge[i][1]], false);
        hd_str_puts(json, "]");
    }
    hd_str_puts(json, l->n_merge ? "\n    ]\n  }\n}\n" : "]\n  }\n}\n");
    hd_str_release(&buf);
}

/* Special tokens and bytes; byte_id[256]. */
static void first_pieces(struct hd_bpe_trainer *t, const struct hd_bpe_hp *hp, struct learned *l, int32_t *byte_id)
{
    bool used[256] = {false};

    for (size_t w = 0; w < t->n_word; w++)
        for (uint32_t i = 0; i < t->word[w].n; i++)
            used[(unsigned char)t->word[w].p[i]] = true;
    for (; l->n < hp->n_special; l->n++)
        l->piece[l->n] = (struct piece){hp->special[l->n], strlen(hp->special[l->n])};
    l->n_special = l->n;
    for (int b = 0; b < 256; b++) {
        char c = (char)b, *p = hd_arena_strdup(&t->arena, &c, 1);

        if (!p)
            t->failed = true;
        if (t->failed || (!used[b] && hp->used_bytes))
            continue;
        byte_id[b] = (int32_t)l->n;
        l->piece[l->n] = (struct piece){p, 1};
        l->slot[piece_place(l, &l->piece[l->n])] = (uint32_t)l->n + 1;
        l->n++;
    }
}

/* Does a piece stand in the file as one of the special tokens does? */
static bool stands_special(struct learned *l, const struct piece *p)
{
    bool same = false;

    hd_str_reset(&l->spelt);
    hd_spell_bytes(p->p, p->n, &l->spelt);
    for (int64_t i = 0; i < l->n_special && !same; i++)
        same = l->piece[i].n == l->spelt.n && !memcmp(l->piece[i].p, hd_str_get(&l->spelt), l->spelt.n);
    return same;
}

/* A vocabulary names each of its tokens once. */
static int check_special(struct learned *l, struct hd_err *err)
{
    for (int64_t i = 0; i < l->n_special; i++)
        for (int64_t k = 0; k < i; k++)
            if (l->piece[i].n == l->piece[k].n && !memcmp(l->piece[i].p, l->piece[k].p, l->piece[i].n))
                return hd_err_set(err, HD_ERR_USAGE, "special token \"%.60s\" stands twice", l->piece[i].p);
    for (int64_t i = l->n_special; i < l->n; i++)
        if (stands_special(l, &l->piece[i]))
            return hd_err_set(err, HD_ERR_USAGE, "special token \"%.60s\" is a byte of any text; expected more than that", hd_str_get(&l->spelt));
    return HD_OK;
}

/* One more merge: its piece's id, an old one where two merges make the same piece. What is a special token is not merged. */
static bool learn(struct hd_bpe_trainer *t, struct learned *l, size_t pair)
{
    int32_t left = t->pair[pair].left, right = t->pair[pair].right;
    const struct piece *a = &l->piece[left], *b = &l->piece[right];
    char *p = hd_arena_alloc(&t->arena, a->n + b->n + 1);
    struct piece joined = {p, a->n + b->n};
    size_t at;

    if (!p)
        return false;
    memcpy(p, a->p, a->n);
    memcpy(p + a->n, b->p, b->n);
    if (stands_special(l, &joined))
        return true;
    at = piece_place(l, &joined);
    if (!l->slot[at]) {
        l->piece[l->n++] = joined;
        l->slot[at] = (uint32_t)l->n;
    }
    l->merge[l->n_merge][0] = left;
    l->merge[l->n_merge++][1] = right;
    return merge(t, pair, (int32_t)l->slot[at] - 1);
}

int hd_bpe_trainer_finish(struct hd_bpe_trainer *t, const struct hd_bpe_hp *hp, struct hd_str *json, int64_t *n_vocab, struct hd_err *err)
{
    size_t room = (size_t)(hp->n_vocab > 256 + hp->n_special ? hp->n_vocab : 256 + hp->n_special);
    struct learned l = {.piece = hd_calloc(room, sizeof *l.piece), .merge = hd_calloc(2 * room, sizeof *l.merge), .n_slot = 1024};
    int32_t byte_id[256] = {0};
    int64_t pair = -1;
    int rc = HD_OK;

    hd_str_init(&l.spelt, 0);
    while (l.n_slot < 2 * room)
        l.n_slot *= 2;
    l.slot = hd_calloc(l.n_slot, sizeof *l.slot);
    t->failed |= !l.piece || !l.merge || !l.slot;
    if (!t->failed)
        first_pieces(t, hp, &l, byte_id);
    if (!t->failed)
        rc = check_special(&l, err);
    if (rc == HD_OK && !t->failed && hp->n_vocab && hp->n_vocab < l.n)
        rc = hd_err_set(err, HD_ERR_USAGE, "a vocabulary of %lld; its %lld bytes and special tokens alone need more", (long long)hp->n_vocab, (long long)l.n);
    if (rc == HD_OK && !t->failed && l.n < hp->n_vocab)
        t->failed = !first_symbols(t, byte_id);
    while (rc == HD_OK && !t->failed && l.n < hp->n_vocab && l.n_merge < (int64_t)(2 * room) && (pair = best(t)) >= 0)
        t->failed = !learn(t, &l, (size_t)pair);
    if (rc == HD_OK && !t->failed)
        put_json(json, &l);
    if (rc == HD_OK && (t->failed || json->failed || l.spelt.failed))
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for a vocabulary of %lld", (long long)hp->n_vocab);
    *n_vocab = l.n;
    hd_free(l.piece);
    hd_free(l.merge);
    hd_free(l.slot);
    hd_str_release(&l.spelt);
    return rc;
}
