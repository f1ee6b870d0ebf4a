/* prefix.c: see prefix.h. */
#include "engine/prefix.h"

#include <string.h>

#include "base/mem.h"
#include "engine/prefix_disk.h"

#define ENTRY_MAX 4096
#define TOKENS_MIN 16                 /* shorter sessions are not worth an entry */

void hd_prefix_init(struct hd_prefix_store *p, struct hd_engine *e, int64_t bytes_max)
{
    *p = (struct hd_prefix_store){.engine = e, .bytes_max = bytes_max};
}

static bool same_tenant(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

bool hd_prefix_rewinds(const struct hd_engine *e)
{
    for (int i = 0; i < e->model.spec.n_part; i++)
        if (e->model.spec.part[i].kind != HD_PART_PAGED && !e->model.spec.part[i].hint)
            return false;
    return true;
}

/* ---- looking ---- */

static int64_t common(const int32_t *a, int64_t n_a, const int32_t *b, int64_t n_b)
{
    int64_t n = n_a < n_b ? n_a : n_b, i = 0;

    while (i < n && a[i] == b[i])
        i++;
    return i;
}

struct hd_prefix_span hd_prefix_span_of(const struct hd_session *ss)
{
    return (struct hd_prefix_span){ss->ids, (int64_t)ss->n, hd_seq_high(ss->seq), ss->raw0};
}

int64_t hd_prefix_usable(const struct hd_cache_spec *spec, const struct hd_prefix_span *have, const struct hd_prefix_want *w)
{
    int64_t n = common(have->ids, have->n, w->ids, w->n - 1);

    /* the decoder half's rows depend on where it began; before that place there are none */
    if (have->raw0 != w->raw0 && n > w->raw0)
        n = w->raw0;
    return hd_cache_spec_reach(spec, have->n, have->high, n);
}

bool hd_prefix_covers(const struct hd_cache_spec *spec, const struct hd_prefix_span *a, const struct hd_prefix_span *b)
{
    return a->n >= b->n && a->raw0 == b->raw0 && !memcmp(a->ids, b->ids, (size_t)b->n * sizeof *b->ids) &&
           hd_cache_spec_lowest(spec, a->n, a->high) <= hd_cache_spec_lowest(spec, b->n, b->high);
}

struct hd_prefix *hd_prefix_find(struct hd_prefix_store *p, const struct hd_prefix_want *w, int64_t *n)
{
    struct hd_prefix *best = NULL;

    *n = 0;
    for (size_t i = p->n; i-- > 0;) {
        struct hd_prefix_span span = hd_prefix_span_of(&p->entry[i].session);
        int64_t k = same_tenant(p->entry[i].tenant, w->tenant) ? hd_prefix_usable(&p->engine->model.spec, &span, w) : 0;

        if (k > *n) {
            *n = k;
            best = &p->entry[i];
        }
    }
    return best;
}

/* ---- taking ---- */

static struct hd_prefix unlink_entry(struct hd_prefix_store *p, size_t i)
{
    struct hd_prefix e = p->entry[i];

    memmove(&p->entry[i], &p->entry[i + 1], (--p->n - i) * sizeof e);
    return e;
}

static void touch(struct hd_prefix_store *p, size_t i)
{
    struct hd_prefix e = unlink_entry(p, i);

    p->entry[p->n++] = e;
}

int hd_prefix_cut(struct hd_session *ss, const struct hd_prefix_want *w, int64_t n, struct hd_err *err)
{
    HD_TRY(hd_session_rewind(ss, n, err));
    if (ss->raw0 != w->raw0)
        ss->raw0 = n;
    return HD_OK;
}

int hd_prefix_fork(struct hd_session *from, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err)
{
    struct hd_session ss;
    int rc;

    HD_TRY(hd_session_fork(&ss, from, err));
    if ((rc = hd_prefix_cut(&ss, w, n, err)) < 0) {
        hd_session_close(&ss);
        return rc;
    }
    *out = ss;
    return HD_OK;
}

int hd_prefix_take(struct hd_prefix_store *p, struct hd_prefix *from, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err)
{
    size_t i = (size_t)(from - p->entry);
    struct hd_prefix e;

    if (from->kind == HD_PREFIX_DONE && n == (int64_t)from->session.n) {
        e = unlink_entry(p, i);
        hd_free(e.tenant);
        *out = e.session;
        return hd_prefix_cut(out, w, n, err);
    }
    HD_TRY(hd_prefix_fork(&from->session, w, n, out, err));
    touch(p, i);
    return HD_OK;
}

/* ---- keeping ---- */

static void drop(struct hd_prefix_store *p, size_t i)
{
    struct hd_prefix e = unlink_entry(p, i);

    hd_session_close(&e.session);
    hd_free(e.tenant);
}

bool hd_prefix_evict(struct hd_prefix_store *p)
{
    if (!p->n)
        return false;
    drop(p, 0);
    return true;
}

/* Entries beyond the budget go: walking from the latest, shared pages count once. */
static void trim(struct hd_prefix_store *p)
{
    struct hd_cache *c = &p->engine->cache;
    uint64_t epoch = ++c->epoch;
    int64_t bytes = 0;

    for (size_t i = p->n; i-- > 0;) {
        const struct hd_session *ss = &p->entry[i].session;

        bytes += hd_seq_count_pages(ss->seq, epoch) * c->page_bytes + c->seq_bytes + (int64_t)(ss->cap * sizeof *ss->ids);
        if (bytes > p->bytes_max) {
            for (size_t k = 0; k <= i; k++)
                drop(p, 0);
            return;
        }
    }
}

/* Can a stay in b's place? Not if it may be taken over, and b may not. */
static bool replaces(const struct hd_session *a, enum hd_prefix_kind ka, const struct hd_session *b, enum hd_prefix_kind kb)
{
    struct hd_prefix_span sa = hd_prefix_span_of(a), sb = hd_prefix_span_of(b);

    return (ka != HD_PREFIX_DONE || kb == HD_PREFIX_DONE) && hd_prefix_covers(&a->engine->model.spec, &sa, &sb);
}

void hd_prefix_keep(struct hd_prefix_store *p, const char *tenant, struct hd_session *ss, enum hd_prefix_kind kind)
{
    struct hd_prefix e = {.kind = kind};

    if (ss->n < TOKENS_MIN) {
        hd_session_close(ss);
        return;
    }
    if (p->disk && kind != HD_PREFIX_BORDER && (int64_t)ss->n >= p->disk_tokens_min)
        hd_prefix_disk_put(p->disk, tenant, ss);
    for (size_t i = p->n; i-- > 0;) {
        struct hd_prefix *o = &p->entry[i];

        if (!same_tenant(o->tenant, tenant))
            continue;
        if (replaces(&o->session, o->kind, ss, kind)) {
            touch(p, i);
            hd_session_close(ss);
            return;
        }
        if (replaces(ss, kind, &o->session, o->kind))
            drop(p, i);
    }
    if (p->bytes_max < 0 || !HD_GROW(p->entry, p->cap, p->n + 1, ENTRY_MAX) || (tenant && !(e.tenant = hd_strdup(tenant)))) {
        hd_session_close(ss);
        return;
    }
    e.session = *ss;
    memset(ss, 0, sizeof *ss);
    p->entry[p->n++] = e;
    trim(p);
}

static void drop_all(struct hd_prefix_store *p)
{
    while (hd_prefix_evict(p)) {
    }
}

void hd_prefix_flush(struct hd_prefix_store *p)
{
    drop_all(p);
    if (p->disk)
        hd_prefix_disk_flush(p->disk);
}

void hd_prefix_release(struct hd_prefix_store *p)
{
    drop_all(p);
    hd_prefix_disk_close(p->disk);
    hd_free(p->entry);
    memset(p, 0, sizeof *p);
}
