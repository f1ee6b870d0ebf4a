/* data.c: see data.h. */
#include "train/data.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "train/document.h"

#define MAX_IDS ((size_t)1 << 33)
#define LLMC_MAGIC 20240520
#define LLMC_HEADER 1024

/* n bytes of p as the beginning of a nameless file in dir. */
static int move_out(struct hd_spill *s, const char *dir, const void *p, size_t n, struct hd_err *err)
{
    HD_TRY(hd_spill_open(s, dir, err));
    HD_TRY(hd_spill_grow(s, n + 1, err));
    if (n)
        memcpy(s->p, p, n);
    return HD_OK;
}

/* From memory to disk. */
static int spill(struct hd_data *d, struct hd_err *err)
{
    struct hd_spill id = {0}, skip = {0};
    int rc = move_out(&id, d->spill_dir, d->id, (size_t)d->n * sizeof *d->id, err);

    if (rc == HD_OK)
        rc = move_out(&skip, d->spill_dir, d->skip, (size_t)d->n, err);
    if (rc < 0) {
        hd_spill_close(&id);
        hd_spill_close(&skip);
        return rc;
    }
    hd_free(d->id);
    hd_free(d->skip);
    d->id_file = id;
    d->skip_file = skip;
    d->id = id.p;
    d->skip = skip.p;
    return HD_OK;
}

/* Room for n ids in all. */
static int room(struct hd_data *d, size_t n, const char *path, struct hd_err *err)
{
    if (d->spill_dir && !d->id_file.open && n * (sizeof *d->id + 1) > d->spill_from)
        HD_TRY(spill(d, err));
    if (d->id_file.open) {
        HD_TRY(hd_spill_grow(&d->id_file, n * sizeof *d->id, err));
        d->id = d->id_file.p;                         /* at once: growing moves it, and the next line may fail */
        HD_TRY(hd_spill_grow(&d->skip_file, n, err));
        d->skip = d->skip_file.p;
        return HD_OK;
    }
    if (!HD_GROW(d->id, d->cap_id, n, MAX_IDS) || !HD_GROW(d->skip, d->cap_skip, n, MAX_IDS))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %zu tokens", path, n);
    return HD_OK;
}

/* A document of n ids comes behind the others: the caller writes them and their skips, then closes it. */
static int open_doc(struct hd_data *d, size_t n, const char *path, struct hd_err *err)
{
    HD_TRY(room(d, (size_t)d->n + n, path, err));
    if (!HD_GROW(d->doc, d->cap_doc, (size_t)d->n_doc + 2, MAX_IDS))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %zu documents", path, (size_t)d->n_doc + 1);
    return HD_OK;
}

static void close_doc(struct hd_data *d, size_t n)
{
    d->doc[d->n_doc++] = d->n;
    d->n += (int64_t)n;
    d->doc[d->n_doc] = d->n;
}

/* n ids become a document; skip may be NULL. */
static int add_doc(struct hd_data *d, const int32_t *ids, const uint8_t *skip, size_t n, const char *path, struct hd_err *err)
{
    if (!n)
        return HD_OK;
    HD_TRY(open_doc(d, n, path, err));
    memcpy(d->id + d->n, ids, n * sizeof *ids);
    if (skip)
        memcpy(d->skip + d->n, skip, n);
    else
        memset(d->skip + d->n, 0, n);
    close_doc(d, n);
    return HD_OK;
}

static int add_text(struct hd_data *d, const char *text, size_t n, struct hd_tokenizer *tok, const char *path, struct hd_err *err)
{
    struct hd_ids ids = {0};
    int rc = hd_tokenize(tok, text, n, 0, &ids, err);

    if (rc == HD_OK)
        rc = add_doc(d, ids.id, NULL, ids.n, path, err);
    hd_ids_release(&ids);
    return rc;
}

struct lines {
    struct hd_data *d;
    struct hd_tokenizer *tok;
    struct hd_document doc;
};

static int add_line(void *arg, const json_t *line, const char *what, struct hd_err *err)
{
    struct lines *l = arg;
    int rc = hd_document_read(&l->doc, l->tok, line, l->d->all, err);

    if (rc < 0)
        return hd_err_prepend(err, "%s", what);
    return add_doc(l->d, l->doc.ids.id, l->doc.skip, l->doc.ids.n, what, err);
}

static int add_jsonl(struct hd_data *d, const char *p, size_t n, struct hd_tokenizer *tok, const char *path, struct hd_err *err)
{
    struct lines l = {.d = d, .tok = tok};
    int rc = hd_jsonl_each(p, n, path, add_line, &l, err);

    hd_document_release(&l.doc);
    return rc;
}

/* u16 or u32 ids, little-endian as they lie: one document. */
static int add_bin(struct hd_data *d, const unsigned char *p, size_t n, const char *path, struct hd_err *err)
{
    size_t wide = hd_ends_with(path, ".u32.bin") ? 4 : 2, count;
    uint32_t magic = 0;

    if (n >= LLMC_HEADER)
        memcpy(&magic, p, 4);
    if (magic == LLMC_MAGIC) {
        p += LLMC_HEADER;
        n -= LLMC_HEADER;
    }
    if (n % wide)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %zu bytes of ids; expected a multiple of %zu", path, n, wide);
    if (!(count = n / wide))
        return HD_OK;
    HD_TRY(open_doc(d, count, path, err));
    for (size_t i = 0; i < count; i++) {
        uint16_t half;

        if (wide == 2) {
            memcpy(&half, p + 2 * i, 2);
            d->id[d->n + (int64_t)i] = half;
        } else {
            memcpy(&d->id[d->n + (int64_t)i], p + 4 * i, 4);
        }
    }
    memset(d->skip + d->n, 0, count);
    close_doc(d, count);
    return HD_OK;
}

static int check_ids(const struct hd_data *d, int64_t from, int64_t n_vocab, const char *path, struct hd_err *err)
{
    for (int64_t i = from; i < d->n; i++)
        if (d->id[i] < 0 || d->id[i] >= n_vocab)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: token %lld: found id %lld; the model has %lld", path, (long long)(i - from), (long long)d->id[i], (long long)n_vocab);
    return d->n > from ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: found no text", path);
}

int hd_data_add(struct hd_data *d, const char *path, struct hd_tokenizer *tok, int64_t n_vocab, struct hd_err *err)
{
    struct hd_file_map m;
    int64_t from = d->n;
    bool bin = hd_ends_with(path, ".bin");
    int rc;

    if (!bin && !tok)
        return hd_err_set(err, HD_ERR_USAGE, "%s: text needs a tokenizer", path);
    HD_TRY(hd_file_map(&m, path, err));
    rc = bin                            ? add_bin(d, m.data, m.n, path, err)
         : hd_ends_with(path, ".jsonl") ? add_jsonl(d, (const char *)m.data, m.n, tok, path, err)
                                        : add_text(d, (const char *)m.data, m.n, tok, path, err);
    hd_file_unmap(&m);
    return rc < 0 ? rc : check_ids(d, from, n_vocab, path, err);
}

int hd_data_split(struct hd_data *d, struct hd_data *val, double part, struct hd_err *err)
{
    int64_t to = 0;

    for (int64_t i = 0; i < d->n_doc; i++) {
        int64_t first = d->doc[i], n = d->doc[i + 1] - first, keep = n - (int64_t)(part * (double)n);

        HD_TRY(add_doc(val, d->id + first + keep, d->skip + first + keep, (size_t)(n - keep), "validation", err));
        d->doc[i] = to;
        memmove(d->id + to, d->id + first, (size_t)keep * sizeof *d->id);
        memmove(d->skip + to, d->skip + first, (size_t)keep);
        to += keep;
    }
    d->doc[d->n_doc] = d->n = to;
    return HD_OK;
}

void hd_data_seal(struct hd_data *d, const struct hd_tokenizer *tok)
{
    d->hash = hd_hash(HD_HASH_INIT, d->id, (size_t)d->n * sizeof *d->id);
    if (d->doc)                       /* no validation data at all */
        d->hash = hd_hash(d->hash, d->doc, (size_t)(d->n_doc + 1) * sizeof *d->doc);
    if (d->skip)
        d->hash = hd_hash(d->hash, d->skip, (size_t)d->n);
    d->n_bytes = 0;
    for (int64_t i = 0; i < d->n && tok; i++)
        d->n_bytes += (int64_t)hd_token_text(tok, d->id[i], false).n;
}

/* Documents are equal where their hashes are: 64 bits, and one more way to be different, their length. */
struct seen {
    uint64_t hash;
    int64_t n;
};

static int by_hash(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : (x->n > y->n) - (x->n < y->n);
}

int hd_data_look(const struct hd_data *d, int64_t context, struct hd_data_report *r, struct hd_err *err)
{
    struct seen *s = hd_calloc((size_t)d->n_doc + 1, sizeof *s);

    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory to compare %lld documents", (long long)d->n_doc);
    *r = (struct hd_data_report){.n_doc = d->n_doc, .n_tok = d->n};
    for (int64_t i = 0; i < d->n_doc; i++) {
        int64_t n = d->doc[i + 1] - d->doc[i];

        s[i] = (struct seen){hd_hash(HD_HASH_INIT, d->id + d->doc[i], (size_t)n * sizeof *d->id), n};
        r->n_cut += n > context + 1;
        r->longest = n > r->longest ? n : r->longest;
    }
    for (int64_t i = 0; i < d->n && d->skip; i++)
        r->n_skip += d->skip[i];
    qsort(s, (size_t)d->n_doc, sizeof *s, by_hash);
    for (int64_t i = 1; i < d->n_doc; i++)
        r->n_same += !by_hash(&s[i - 1], &s[i]);
    hd_free(s);
    return HD_OK;
}

void hd_data_release(struct hd_data *d)
{
    if (!d->id_file.open) {
        hd_free(d->id);
        hd_free(d->skip);
    }
    hd_spill_close(&d->id_file);
    hd_spill_close(&d->skip_file);
    hd_free(d->doc);
    memset(d, 0, sizeof *d);
}

/* ---- batches ---- */

static bool is_target(const struct hd_data *d, int64_t i)
{
    return !d->skip || !d->skip[i];
}

static bool teaches(const struct hd_data *d, struct hd_piece p)
{
    for (int64_t i = 1; i < p.n; i++)
        if (is_target(d, p.first + i))
            return true;
    return false;
}

int hd_loader_init(struct hd_loader *l, const struct hd_data *d, int64_t context, int64_t batch_tokens, uint64_t seed, bool shuffle, struct hd_err *err)
{
    *l = (struct hd_loader){.data = d, .context = context, .batch_tokens = batch_tokens, .max_seq = batch_tokens / 16 + 8, .seed = seed, .shuffle = shuffle, .made = -1};
    if (context < 1 || batch_tokens < context)
        return hd_err_set(err, HD_ERR_USAGE, "%lld tokens at once; expected at least the context, %lld", (long long)batch_tokens, (long long)context);
    for (int64_t i = 0; i < d->n_doc; i++)
        if (teaches(d, (struct hd_piece){d->doc[i], d->doc[i + 1] - d->doc[i]}))
            return HD_OK;
    return hd_err_set(err, HD_ERR_FORMAT, "the data hold no document of two tokens, or no answers: nothing can be predicted");
}

void hd_loader_release(struct hd_loader *l)
{
    hd_free(l->piece);
    memset(l, 0, sizeof *l);
}

/* The epoch's pieces: each document cut at a place of its own modulo context, then shuffled. Neighbouring pieces share a token, which is a target for the
 * first and begins the second. */
static int make_epoch(struct hd_loader *l, struct hd_err *err)
{
    const struct hd_data *d = l->data;
    struct hd_rng rng;

    hd_rng_seed(&rng, l->seed * 1000003u + (uint64_t)l->epoch);
    l->n_piece = 0;
    for (int64_t i = 0; i < d->n_doc; i++) {
        int64_t len = d->doc[i + 1] - d->doc[i], cut = l->shuffle && len > l->context + 1 ? (int64_t)(hd_rng_next(&rng) % (uint64_t)l->context) : 0;

        for (int64_t p = 0; p + 1 < len; p += cut, cut = l->context) {
            if (!cut)
                cut = l->context;
            if (!HD_GROW(l->piece, l->cap, (size_t)l->n_piece + 1, MAX_IDS))
                return hd_err_set(err, HD_ERR_MEMORY, "no memory for the order of %lld documents", (long long)d->n_doc);
            l->piece[l->n_piece] = (struct hd_piece){d->doc[i] + p, len - p < cut + 1 ? len - p : cut + 1};
            l->n_piece += teaches(d, l->piece[l->n_piece]);
        }
    }
    for (int64_t i = l->n_piece - 1; i > 0 && l->shuffle; i--) {
        int64_t k = (int64_t)(hd_rng_next(&rng) % (uint64_t)(i + 1));
        struct hd_piece t = l->piece[i];

        l->piece[i] = l->piece[k];
        l->piece[k] = t;
    }
    l->made = l->epoch;
    return HD_OK;
}

int hd_batch_init(struct hd_batch *b, const struct hd_loader *l, struct hd_err *err)
{
    size_t n = (size_t)l->batch_tokens;

    memset(b, 0, sizeof *b);
    b->id = hd_malloc(n * sizeof *b->id);
    b->pos = hd_malloc(n * sizeof *b->pos);
    b->row = hd_malloc(n * sizeof *b->row);
    b->target = hd_malloc(n * sizeof *b->target);
    b->span = hd_malloc((size_t)l->max_seq * sizeof *b->span);
    if (b->id && b->pos && b->row && b->target && b->span)
        return HD_OK;
    hd_batch_release(b);
    return hd_err_set(err, HD_ERR_MEMORY, "no memory for batches of %zu tokens", n);
}

void hd_batch_release(struct hd_batch *b)
{
    hd_free(b->id);
    hd_free(b->pos);
    hd_free(b->row);
    hd_free(b->target);
    hd_free(b->span);
    memset(b, 0, sizeof *b);
}

static void put(struct hd_batch *b, const struct hd_data *d, struct hd_piece p)
{
    b->span[b->n_seq++] = (struct hd_span){.tok0 = b->n_tok, .n_tok = p.n - 1};
    for (int64_t i = 0; i + 1 < p.n; i++, b->n_tok++) {
        b->id[b->n_tok] = d->id[p.first + i];
        b->target[b->n_tok] = is_target(d, p.first + i + 1) ? d->id[p.first + i + 1] : -1;
        b->n_target += b->target[b->n_tok] >= 0;
        b->pos[b->n_tok] = (int32_t)i;
        b->row[b->n_tok] = (int32_t)b->n_tok;
    }
    b->max_len = p.n - 1 > b->max_len ? p.n - 1 : b->max_len;
}

int hd_loader_next(struct hd_loader *l, struct hd_batch *b, bool once, struct hd_err *err)
{
    b->n_tok = b->n_seq = b->n_target = b->max_len = 0;
    while (b->n_tok < l->batch_tokens && b->n_seq < l->max_seq) {
        struct hd_piece *p;

        if (l->made != l->epoch)
            HD_TRY(make_epoch(l, err));
        if (l->at >= l->n_piece) {
            if (once)
                break;
            l->epoch++;
            l->at = 0;
            continue;
        }
        p = &l->piece[l->at];
        if (b->n_tok + p->n - 1 > l->batch_tokens)
            break;                                    /* the rest of the batch stays empty: pieces are not cut to fit */
        put(b, l->data, *p);
        l->at++;
    }
    return HD_OK;
}
