/* seq.c: sequences: page tables, copy on write, rewind, fork, snapshots. */
#include "cache/seq.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "tensor/panel.h"

struct hd_seq {
    struct hd_cache *cache;
    int64_t len;
    struct hd_page **page;
    void **data;                  /* page[i]->data, as ops want it */
    size_t n_page, cap_page, cap_data;
    char *own;                    /* WINDOW and STATE parts */
    int64_t high;                 /* the largest length since the rings were last consistent */
    int64_t high_before;          /* the last append */
};

int hd_seq_create(struct hd_cache *c, struct hd_seq **out, struct hd_err *err)
{
    struct hd_seq *s = hd_calloc(1, sizeof *s);

    if (s && c->seq_bytes && !(s->own = hd_aligned(64, (size_t)c->seq_bytes))) {
        hd_free(s);
        s = NULL;
    }
    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a sequence (%lld bytes)", (long long)c->seq_bytes);
    if (c->seq_bytes)
        memset(s->own, 0, (size_t)c->seq_bytes);
    s->cache = c;
    c->n_seq++;
    *out = s;
    return HD_OK;
}

static void drop_pages(struct hd_seq *s, size_t keep)
{
    while (s->n_page > keep)
        hd_page_drop(s->cache, s->page[--s->n_page]);
}

void hd_seq_free(struct hd_seq *s)
{
    drop_pages(s, 0);
    s->cache->n_seq--;
    hd_free(s->page);
    hd_free(s->data);
    hd_free(s->own);
    hd_free(s);
}

int64_t hd_seq_len(const struct hd_seq *s)
{
    return s->len;
}

static int push_page(struct hd_seq *s, struct hd_err *err)
{
    struct hd_page *p;

    if (!HD_GROW(s->page, s->cap_page, s->n_page + 1, (size_t)1 << 40) || !HD_GROW(s->data, s->cap_data, s->n_page + 1, (size_t)1 << 40))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a page table of %zu pages", s->n_page + 1);
    HD_TRY(hd_page_take(s->cache, &p, err));
    s->page[s->n_page] = p;
    s->data[s->n_page++] = p->data;
    return HD_OK;
}

/* The page that the next token falls into becomes this sequence's own; where parts are written behind, that of the newest one too. */
static int own_last(struct hd_seq *s, struct hd_err *err)
{
    int64_t at = s->len - (s->cache->behind && s->len);
    size_t i = (size_t)(at / s->cache->page_tokens);
    struct hd_page *p;

    if ((at == s->len && at % s->cache->page_tokens == 0) || s->page[i]->n_ref == 1)
        return HD_OK;
    HD_TRY(hd_page_take(s->cache, &p, err));
    memcpy(p->data, s->page[i]->data, (size_t)s->cache->page_bytes);
    hd_page_drop(s->cache, s->page[i]);
    s->page[i] = p;
    s->data[i] = p->data;
    return HD_OK;
}

int hd_seq_append(struct hd_seq *s, int64_t n, struct hd_err *err)
{
    size_t before = s->n_page, need;

    HD_ASSERT(n >= 0);
    need = (size_t)((s->len + n + s->cache->page_tokens - 1) / s->cache->page_tokens);
    while (s->n_page < need) {
        int rc = push_page(s, err);

        if (rc < 0) {
            drop_pages(s, before);
            return rc;
        }
    }
    if (n > 0) {
        int rc = own_last(s, err);

        if (rc < 0) {
            drop_pages(s, before);
            return rc;
        }
    }
    s->len += n;
    s->high_before = s->high;
    if (s->len > s->high)
        s->high = s->len;
    return HD_OK;
}

void hd_seq_retract(struct hd_seq *s, int64_t n)
{
    HD_ASSERT(n >= 0 && n <= s->len);
    s->len -= n;
    s->high = s->high_before;
    drop_pages(s, (size_t)((s->len + s->cache->page_tokens - 1) / s->cache->page_tokens));
}

int64_t hd_cache_spec_reach(const struct hd_cache_spec *spec, int64_t n, int64_t high, int64_t len)
{
    for (int i = 0; i < spec->n_part && len < n; i++) {
        const struct hd_cache_part *p = &spec->part[i];

        /* the ring holds the last window + slack of the positions written so far */
        if (!p->hint && (p->kind == HD_PART_STATE || (p->kind == HD_PART_WINDOW && high > p->window + p->slack && len - p->window < high - (p->window + p->slack))))
            return 0;
    }
    return len;
}

int64_t hd_cache_spec_lowest(const struct hd_cache_spec *spec, int64_t n, int64_t high)
{
    int64_t lo = 1, hi = n;

    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;

        if (hd_cache_spec_reach(spec, n, high, mid) == mid)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

int64_t hd_seq_high(const struct hd_seq *s)
{
    return s->high;
}

int64_t hd_seq_reach(const struct hd_seq *s, int64_t len)
{
    return hd_cache_spec_reach(s->cache->spec, s->len, s->high, len);
}

int hd_seq_rewind(struct hd_seq *s, int64_t len, int64_t *reached, struct hd_err *err)
{
    int64_t to;

    if (len < 0 || len > s->len)
        return hd_err_set(err, HD_ERR_USAGE, "rewind to %lld of a sequence of %lld", (long long)len, (long long)s->len);
    to = hd_seq_reach(s, len);
    s->len = to;
    if (to == 0) {
        s->high = 0;
        if (s->own)
            memset(s->own, 0, (size_t)s->cache->seq_bytes);
    }
    drop_pages(s, (size_t)((to + s->cache->page_tokens - 1) / s->cache->page_tokens));
    if (reached)
        *reached = to;
    return HD_OK;
}

int hd_seq_fork(struct hd_seq *s, struct hd_seq **out, struct hd_err *err)
{
    struct hd_seq *f;

    HD_TRY(hd_seq_create(s->cache, &f, err));
    if (s->n_page && (!HD_GROW(f->page, f->cap_page, s->n_page, (size_t)1 << 40) || !HD_GROW(f->data, f->cap_data, s->n_page, (size_t)1 << 40))) {
        hd_seq_free(f);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a page table of %zu pages", s->n_page);
    }
    for (size_t i = 0; i < s->n_page; i++) {
        f->page[i] = s->page[i];
        f->data[i] = s->data[i];
        f->page[i]->n_ref++;
    }
    f->n_page = s->n_page;
    f->len = s->len;
    f->high = s->high;
    if (s->own)
        memcpy(f->own, s->own, (size_t)s->cache->seq_bytes);
    *out = f;
    return HD_OK;
}

int64_t hd_seq_count_pages(struct hd_seq *s, uint64_t epoch)
{
    int64_t n = 0;

    for (size_t i = 0; i < s->n_page; i++) {
        n += s->page[i]->epoch != epoch;
        s->page[i]->epoch = epoch;
    }
    return n;
}

void hd_seq_paged(struct hd_seq *s, int part, struct hd_paged *out)
{
    const struct hd_cache_part *p = &s->cache->spec->part[part];

    *out = (struct hd_paged){.row_bytes = hd_cache_row_bytes(p), .ratio = p->ratio, .type = p->type, .pack = p->pack.code ? &p->pack : NULL};
    if (p->kind == HD_PART_PAGED) {
        out->page = s->data;
        out->page_rows = s->cache->page_tokens / p->ratio;
        out->offset = s->cache->offset[part];
        out->panels = p->panels && hd_kv_in_panels(&p->pack) && out->page_rows % HD_PANEL_ROWS == 0;
    } else {
        out->own = s->own + s->cache->offset[part];
        out->ring = p->kind == HD_PART_WINDOW ? p->window + p->slack : 1;
    }
}

void *hd_seq_row(struct hd_seq *s, int part, int64_t row)
{
    const struct hd_cache_part *p = &s->cache->spec->part[part];
    struct hd_paged pg;

    if (p->kind == HD_PART_PAGED) {
        hd_seq_paged(s, part, &pg);
        HD_ASSERT(!pg.panels);
        return hd_paged_row(&pg, row);
    }
    return s->own + s->cache->offset[part] + (p->kind == HD_PART_WINDOW ? row % (p->window + p->slack) * hd_cache_row_bytes(p) : 0);
}

const void *hd_seq_read(struct hd_seq *s, int part, int64_t row, void *buf)
{
    struct hd_paged pg;

    hd_seq_paged(s, part, &pg);
    if (!pg.panels)
        return hd_seq_row(s, part, row);
    hd_kv_panel_get(pg.pack, hd_paged_panel(&pg, row), (int)(row % HD_PANEL_ROWS), buf);
    return buf;
}

static void write_row(struct hd_seq *s, int part, int64_t row, const void *from)
{
    struct hd_paged pg;

    hd_seq_paged(s, part, &pg);
    if (pg.panels)
        hd_kv_panel_put(pg.pack, from, (int)(row % HD_PANEL_ROWS), hd_paged_panel(&pg, row));
    else
        memcpy(hd_paged_row(&pg, row), from, (size_t)pg.row_bytes);
}

/* ---- snapshots: header, blob, private block, rows of every paged part, checksum ---- */

struct header {
    char magic[8];
    uint64_t spec_hash, len, high, n_blob;
};

static const char magic[8] = "HDSEQ01";

struct hashing_sink {
    hd_sink_fn sink;
    void *arg;
    uint64_t h;
};

static void put(struct hashing_sink *k, const void *p, size_t n)
{
    k->h = hd_hash(k->h, p, n);
    k->sink(k->arg, p, n);
}

static int64_t n_rows(const struct hd_cache_part *p, int64_t len)
{
    return len / p->ratio;            /* rows of complete groups only: a partial group lives in a STATE part */
}

void hd_seq_save(struct hd_seq *s, const void *blob, size_t n_blob, hd_sink_fn sink, void *arg)
{
    struct hashing_sink k = {sink, arg, HD_HASH_INIT};
    struct header h = {.spec_hash = s->cache->spec_hash, .len = (uint64_t)s->len, .high = (uint64_t)s->high, .n_blob = n_blob};

    memcpy(h.magic, magic, sizeof magic);
    put(&k, &h, sizeof h);
    put(&k, blob, n_blob);
    if (s->own)
        put(&k, s->own, (size_t)s->cache->seq_bytes);
    for (int i = 0; i < s->cache->spec->n_part; i++) {
        const struct hd_cache_part *p = &s->cache->spec->part[i];
        size_t bytes = (size_t)hd_cache_row_bytes(p);
        char buf[HD_KV_ROW_MAX];      /* of rows in panels: half a byte a value, and scales */

        if (p->kind == HD_PART_PAGED)
            for (int64_t r = 0; r < n_rows(p, s->len); r++)
                put(&k, hd_seq_read(s, i, r, buf), bytes);
    }
    sink(arg, &k.h, sizeof k.h);
}

static int64_t paged_bytes(const struct hd_cache_spec *spec, int64_t len)
{
    int64_t n = 0;

    for (int i = 0; i < spec->n_part; i++)
        if (spec->part[i].kind == HD_PART_PAGED)
            n += n_rows(&spec->part[i], len) * hd_cache_row_bytes(&spec->part[i]);
    return n;
}

static uint64_t snapshot_bytes(const struct hd_cache *c, int64_t len, uint64_t n_blob)
{
    return sizeof(struct header) + n_blob + (uint64_t)c->seq_bytes + (uint64_t)paged_bytes(c->spec, len) + sizeof(uint64_t);
}

int64_t hd_seq_save_bytes(const struct hd_seq *s, size_t n_blob)
{
    return (int64_t)snapshot_bytes(s->cache, s->len, n_blob);
}

int hd_seq_peek(const struct hd_cache *c, const void *data, size_t n, struct hd_snapshot *out, struct hd_err *err)
{
    uint64_t expected;
    struct header h;

    if (n < sizeof h + sizeof(uint64_t))
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: found %zu bytes; it is truncated", n);
    memcpy(&h, data, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic))
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: is not a snapshot of a hadal session (version 1)");
    if (h.spec_hash != c->spec_hash)
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: was made with another model or cache format");
    if (h.len > (uint64_t)1 << 40 || h.n_blob > n || h.high > (uint64_t)1 << 40)
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: its header is corrupted");
    expected = snapshot_bytes(c, (int64_t)h.len, h.n_blob);
    if (n != expected)
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: found %zu bytes; %llu expected", n, (unsigned long long)expected);
    *out = (struct hd_snapshot){(int64_t)h.len, (int64_t)h.high, (const char *)data + sizeof h, (size_t)h.n_blob};
    return HD_OK;
}

bool hd_seq_intact(const void *data, size_t n)
{
    uint64_t sum;

    if (n < sizeof sum)
        return false;
    memcpy(&sum, (const char *)data + n - sizeof sum, sizeof sum);
    return hd_hash(HD_HASH_INIT, data, n - sizeof sum) == sum;
}

int hd_seq_load(struct hd_seq *s, const void *data, size_t n, const void **blob, size_t *n_blob, struct hd_err *err)
{
    struct hd_snapshot shot;

    HD_TRY(hd_seq_peek(s->cache, data, n, &shot, err));
    if (!hd_seq_intact(data, n))
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: its checksum does not match: the file is corrupted");
    return hd_seq_fill(s, data, n, blob, n_blob, err);
}

int hd_seq_fill(struct hd_seq *s, const void *data, size_t n, const void **blob, size_t *n_blob, struct hd_err *err)
{
    const struct hd_cache_spec *spec = s->cache->spec;
    struct hd_snapshot shot;
    const char *p;

    HD_ASSERT(s->len == 0);
    HD_TRY(hd_seq_peek(s->cache, data, n, &shot, err));
    HD_TRY(hd_seq_append(s, shot.len, err));
    s->high = shot.high;
    *blob = shot.blob;
    *n_blob = shot.n_blob;
    p = (const char *)shot.blob + shot.n_blob;
    if (s->own)
        memcpy(s->own, p, (size_t)s->cache->seq_bytes);
    p += s->cache->seq_bytes;
    for (int i = 0; i < spec->n_part; i++) {
        size_t bytes = (size_t)hd_cache_row_bytes(&spec->part[i]);

        if (spec->part[i].kind != HD_PART_PAGED)
            continue;
        for (int64_t r = 0; r < n_rows(&spec->part[i], s->len); r++, p += bytes)
            write_row(s, i, r, p);
    }
    return HD_OK;
}
