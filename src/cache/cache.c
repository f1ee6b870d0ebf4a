/* cache.c: specs and the pool of pages: see cache.h. */
#include "cache/cache.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "cache/seq.h"

#define PAGE_TOKENS 64
#define SLAB_BYTES ((int64_t)32 << 20)

static int64_t align64(int64_t n)
{
    return (n + 63) & ~(int64_t)63;
}

static int64_t page_tokens(const struct hd_cache_spec *spec)
{
    int64_t n = PAGE_TOKENS;

    for (int i = 0; i < spec->n_part; i++)
        if (spec->part[i].kind == HD_PART_PAGED && spec->part[i].ratio > n)
            n = spec->part[i].ratio;
    return n;
}

int64_t hd_cache_row_bytes(const struct hd_cache_part *p)
{
    return p->pack.code ? hd_kv_row_bytes(&p->pack) : hd_row_bytes(p->type, p->row_len);
}

/* Bytes of a part inside a page (PAGED) or a sequence's private block. */
static int64_t part_bytes(const struct hd_cache_part *p, int64_t tokens)
{
    int64_t row = hd_cache_row_bytes(p);

    return align64(p->kind == HD_PART_PAGED ? tokens / p->ratio * row : p->kind == HD_PART_WINDOW ? (p->window + p->slack) * row : row);
}

double hd_cache_spec_token_bytes(const struct hd_cache_spec *spec)
{
    double n = 0;

    for (int i = 0; i < spec->n_part; i++)
        if (spec->part[i].kind == HD_PART_PAGED)
            n += (double)hd_cache_row_bytes(&spec->part[i]) / spec->part[i].ratio;
    return n;
}

int64_t hd_cache_spec_seq_bytes(const struct hd_cache_spec *spec)
{
    int64_t n = 0;

    for (int i = 0; i < spec->n_part; i++)
        if (spec->part[i].kind != HD_PART_PAGED)
            n += part_bytes(&spec->part[i], 0);
    return n;
}

static int64_t page_bytes(const struct hd_cache_spec *spec, int64_t tokens)
{
    int64_t n = 0;

    for (int i = 0; i < spec->n_part; i++)
        if (spec->part[i].kind == HD_PART_PAGED)
            n += part_bytes(&spec->part[i], tokens);
    return n;
}

int64_t hd_cache_spec_bytes(const struct hd_cache_spec *spec, int64_t n_tok, int64_t n_seq)
{
    int64_t tokens = page_tokens(spec);

    return (n_tok + tokens - 1) / tokens * page_bytes(spec, tokens) + n_seq * hd_cache_spec_seq_bytes(spec);
}

static uint64_t hash_spec(const struct hd_cache_spec *spec)
{
    uint64_t h = HD_HASH_INIT;

    for (int i = 0; i < spec->n_part; i++) {
        const struct hd_cache_part *p = &spec->part[i];
        int64_t v[] = {p->layer, p->kind, p->row_len, p->ratio, p->window, p->slack, p->pack.code, p->pack.block, p->pack.n, p->pack.tail};

        h = hd_hash(h, p->name, strlen(p->name) + 1);
        h = hd_hash(h, hd_dtypes[p->type].name, strlen(hd_dtypes[p->type].name) + 1);
        h = hd_hash(h, v, sizeof v);
    }
    return h;
}

int hd_cache_init(struct hd_cache *c, const struct hd_cache_spec *spec, int64_t n_tok, struct hd_err *err)
{
    int64_t in_page = 0, in_seq = 0;

    memset(c, 0, sizeof *c);
    c->spec = spec;
    c->page_tokens = page_tokens(spec);
    c->offset = hd_calloc((size_t)spec->n_part + 1, sizeof *c->offset);
    if (!c->offset)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a cache of %d parts", spec->n_part);
    for (int i = 0; i < spec->n_part; i++) {
        const struct hd_cache_part *p = &spec->part[i];

        if (p->row_len < 1 || p->row_len % hd_dtypes[p->type].block_len || (p->kind == HD_PART_PAGED && (p->ratio < 1 || c->page_tokens % p->ratio)) ||
            (p->kind == HD_PART_WINDOW && (p->window < 1 || p->slack < 0))) {
            hd_free(c->offset);
            memset(c, 0, sizeof *c);
            return hd_err_set(err, HD_ERR_USAGE, "cache part %s of layer %d: row of %lld, ratio %d, window %d make no sense", p->name, p->layer,
                              (long long)p->row_len, p->ratio, p->window);
        }
        c->behind |= p->behind;
        c->offset[i] = p->kind == HD_PART_PAGED ? in_page : in_seq;
        *(p->kind == HD_PART_PAGED ? &in_page : &in_seq) += part_bytes(p, c->page_tokens);
    }
    c->page_bytes = in_page;
    c->seq_bytes = in_seq;
    c->n_page_max = (n_tok + c->page_tokens - 1) / c->page_tokens;
    c->spec_hash = hash_spec(spec);
    return HD_OK;
}

void hd_cache_release(struct hd_cache *c)
{
    HD_ASSERT(c->n_seq == 0 && c->n_page_used == 0);
    while (c->slabs) {
        struct hd_slab *s = c->slabs;

        c->slabs = s->next;
        hd_pages_free(s->data, (size_t)s->bytes);
        hd_free(s);
    }
    hd_free(c->offset);
    memset(c, 0, sizeof *c);
}

/* One more slab of pages on the free list. */
static bool add_slab(struct hd_cache *c)
{
    int64_t n = c->page_bytes ? SLAB_BYTES / c->page_bytes : 64, left = c->n_page_max - c->n_page;
    struct hd_slab *s;

    n = n < 1 ? 1 : n > left ? left : n;
    s = hd_calloc(1, sizeof *s + (size_t)n * sizeof s->page[0]);
    if (!s)
        return false;
    s->bytes = n * c->page_bytes;
    if (!(s->data = hd_pages_alloc((size_t)s->bytes))) {
        hd_free(s);
        return false;
    }
    s->next = c->slabs;
    c->slabs = s;
    for (int64_t i = n; i-- > 0;) {
        s->page[i].data = (char *)s->data + i * c->page_bytes;
        s->page[i].next = c->free;
        c->free = &s->page[i];
    }
    c->n_page += n;
    return true;
}

int hd_page_take(struct hd_cache *c, struct hd_page **out, struct hd_err *err)
{
    struct hd_page *p;

    if (!c->free) {
        if (c->n_page >= c->n_page_max)
            return hd_err_set(err, HD_ERR_LIMIT, "the cache is full: %lld tokens in all sessions (--ctx makes it larger)",
                              (long long)(c->n_page_max * c->page_tokens));
        if (!add_slab(c))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for more cache pages of %lld bytes", (long long)c->page_bytes);
    }
    p = c->free;
    c->free = p->next;
    p->next = NULL;
    p->n_ref = 1;
    c->n_page_used++;
    *out = p;
    return HD_OK;
}

void hd_page_drop(struct hd_cache *c, struct hd_page *p)
{
    HD_ASSERT(p->n_ref > 0);
    if (--p->n_ref)
        return;
    p->next = c->free;
    c->free = p;
    c->n_page_used--;
}
