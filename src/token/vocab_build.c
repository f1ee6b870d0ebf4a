/* vocab_build.c: the steps from which both readers make a tokenizer: pieces, merges, added tokens. */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/hash.h"
#include "base/mem.h"
#include "token/vocab.h"

struct hd_tokenizer *hd_vocab_create(void)
{
    struct hd_tokenizer *t = hd_calloc(1, sizeof *t);

    if (!t)
        return NULL;
    hd_arena_init(&t->arena, 0);
    t->unk = t->bos = -1;
    t->cache = hd_calloc(HD_CACHE_SLOTS, sizeof *t->cache);      /* NULL: slower, not wrong */
    return t;
}

void hd_tokenizer_free(struct hd_tokenizer *t)
{
    if (!t)
        return;
    hd_pretoken_free(t->pre);
    hd_arena_release(&t->arena);
    hd_free(t->cache);
    hd_free(t);
}

/* ---- GPT-2's byte-to-unicode table: printable bytes stand for themselves, the others for U+0100 onwards ---- */

static int byte_of(int32_t cp)
{
    int n = 0;

    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return cp;
    if (cp < 256 || cp > 323)
        return -1;
    for (int b = 0; b < 256; b++)
        if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174)))
            if (n++ == cp - 256)
                return b;
    return -1;
}

/* A piece's spelling as raw bytes, in the arena. false: out of memory. A spelling outside the table stays as it is. */
bool hd_vocab_raw_piece(struct hd_tokenizer *t, const char *p, size_t n, struct hd_view *out)
{
    char *buf = hd_arena_alloc(&t->arena, n + 1);
    size_t k = 0;

    if (!buf)
        return false;
    for (size_t i = 0; i < n;) {
        int len, b = -1;
        int32_t cp = hd_utf8_get(p + i, n - i, &len);

        if (cp >= 0)
            b = byte_of(cp);
        if (b < 0) {
            memcpy(buf, p, n);
            k = n;
            break;
        }
        buf[k++] = (char)b;
        i += (size_t)len;
    }
    buf[k] = 0;
    *out = (struct hd_view){buf, k};
    return true;
}

/* ---- look-up of pieces ---- */

size_t hd_piece_slot(const struct hd_tokenizer *t, const char *p, size_t n)
{
    size_t i = (size_t)((hd_hash(HD_HASH_INIT, p, n) * 0x9E3779B97F4A7C15u) >> 24) & (t->n_hash - 1);

    while (t->hash[i]) {
        struct hd_view v = t->piece[t->hash[i] - 1];

        if (v.n == n && !memcmp(v.p, p, n))
            break;
        i = (i + 1) & (t->n_hash - 1);
    }
    return i;
}

int32_t hd_piece_find(const struct hd_tokenizer *t, const char *p, size_t n)
{
    return t->n_hash ? (int32_t)t->hash[hd_piece_slot(t, p, n)] - 1 : -1;
}

int hd_vocab_no_memory(const char *what, struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the vocabulary", what);
}

int hd_vocab_alloc_pieces(struct hd_tokenizer *t, int64_t n, const char *what, struct hd_err *err)
{
    t->n_piece = n;
    t->n_hash = 1024;
    while (t->n_hash < (size_t)n * 2)
        t->n_hash *= 2;
    t->piece = hd_arena_zalloc(&t->arena, (size_t)n * sizeof *t->piece);
    t->is_added = hd_arena_zalloc(&t->arena, (size_t)n);
    t->is_special = hd_arena_zalloc(&t->arena, (size_t)n);
    t->hash = hd_arena_zalloc(&t->arena, t->n_hash * sizeof *t->hash);
    return t->piece && t->is_added && t->is_special && t->hash ? HD_OK : hd_vocab_no_memory(what, err);
}

/* Byte-level: which id a single byte is. SPM: which id <0xXX> is. */
void hd_vocab_find_bytes(struct hd_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char name[8] = {(char)b, 0};

        if (t->spelling == HD_SPELL_BYTES) {
            t->byte_id[b] = hd_piece_find(t, name, 1);
        } else {
            snprintf(name, sizeof name, "<0x%02X>", b);
            t->byte_id[b] = hd_piece_find(t, name, 6);
        }
    }
}

/* ---- merges ---- */

int hd_vocab_alloc_merges(struct hd_tokenizer *t, size_t n, const char *what, struct hd_err *err)
{
    t->n_merge_slot = 1024;
    while (t->n_merge_slot < n * 2)
        t->n_merge_slot *= 2;
    t->merge = hd_arena_alloc(&t->arena, t->n_merge_slot * sizeof *t->merge);
    if (!t->merge)
        return hd_vocab_no_memory(what, err);
    for (size_t i = 0; i < t->n_merge_slot; i++)
        t->merge[i].left = -1;
    return HD_OK;
}

static int add_merge(struct hd_tokenizer *t, size_t rank, struct hd_view left, struct hd_view right, struct hd_str *buf, const char *what, struct hd_err *err)
{
    int32_t l, r, id;
    uint64_t key;
    size_t i;

    if (!left.n || !right.n)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: a piece is empty", what, rank);
    l = hd_piece_find(t, left.p, left.n);
    r = hd_piece_find(t, right.p, right.n);
    if (l < 0 || r < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: piece \"%.*s\" is not in the vocabulary", what, rank,
                          (int)((l < 0 ? left.n : right.n) > 60 ? 60 : (l < 0 ? left.n : right.n)), l < 0 ? left.p : right.p);
    hd_str_reset(buf);
    if (!hd_str_add(buf, left.p, left.n) || !hd_str_add(buf, right.p, right.n))
        return hd_vocab_no_memory(what, err);
    id = hd_piece_find(t, buf->s, buf->n);
    if (id < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: its result \"%.60s\" is not in the vocabulary", what, rank, buf->s);
    key = (uint64_t)(uint32_t)l << 32 | (uint32_t)r;
    i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & (t->n_merge_slot - 1);
    while (t->merge[i].left >= 0) {
        if (t->merge[i].left == l && t->merge[i].right == r)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu repeats merge %d (\"%.60s\")", what, rank, t->merge[i].rank, buf->s);
        i = (i + 1) & (t->n_merge_slot - 1);
    }
    t->merge[i] = (struct hd_merge){l, r, (int32_t)rank, id};
    return HD_OK;
}

/* "left right" or two views, in the vocabulary's spelling. */
int hd_vocab_add_merge(struct hd_tokenizer *t, size_t rank, struct hd_view left, struct hd_view right, struct hd_str *buf, const char *what,
                             struct hd_err *err)
{
    struct hd_arena_mark mark = hd_arena_mark(&t->arena);
    int rc;

    if (t->spelling == HD_SPELL_BYTES && (!hd_vocab_raw_piece(t, left.p, left.n, &left) || !hd_vocab_raw_piece(t, right.p, right.n, &right)))
        return hd_vocab_no_memory(what, err);
    rc = add_merge(t, rank, left, right, buf, what, err);
    hd_arena_rewind(&t->arena, mark);
    return rc;
}

int hd_vocab_add_merge_line(struct hd_tokenizer *t, size_t rank, struct hd_view line, struct hd_str *buf, const char *what, struct hd_err *err)
{
    const char *sep = line.n > 1 ? memchr(line.p + 1, ' ', line.n - 1) : NULL;

    if (!sep)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: found \"%.*s\"; expected two pieces with a space between", what, rank,
                          (int)(line.n > 60 ? 60 : line.n), line.p);
    return hd_vocab_add_merge(t, rank, (struct hd_view){line.p, (size_t)(sep - line.p)}, (struct hd_view){sep + 1, line.n - (size_t)(sep - line.p) - 1}, buf, what,
                             err);
}

/* ---- added tokens ---- */

int hd_vocab_add_added(struct hd_tokenizer *t, const struct hd_added *a, const char *what, struct hd_err *err)
{
    struct hd_added *slot = &t->added[t->n_added];
    char *text;

    if (!a->text.n)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: added token %d has no text", what, a->id);
    if (t->is_added[a->id])
        return hd_err_set(err, HD_ERR_FORMAT, "%s: added tokens: id %d is there twice", what, a->id);
    if (!(text = hd_arena_strdup(&t->arena, a->text.p, a->text.n)))
        return hd_vocab_no_memory(what, err);
    *slot = *a;
    slot->text.p = text;
    t->n_added++;
    t->is_added[a->id] = true;
    t->is_special[a->id] = a->special;
    t->piece[a->id] = slot->text;
    t->added_first[(unsigned char)text[0]] = 1;
    return HD_OK;
}

void hd_vocab_add_end(struct hd_tokenizer *t, int64_t id)
{
    if (id < 0 || id >= t->n_piece || hd_tokenizer_is_end(t, (int32_t)id) || t->n_end == HD_LEN(t->end))
        return;
    t->end[t->n_end++] = (int32_t)id;
}
