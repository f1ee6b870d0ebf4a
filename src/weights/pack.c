/* pack.c: see pack.h. */
#include "weights/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define PIECE ((int64_t)256 << 10)    /* bytes that a worker packs at a time */

void hd_packs_gather(void *packs, const struct hd_tensor *w)
{
    struct hd_packs *p = packs;

    if (!w->data)
        return;
    if (!HD_GROW(p->w, p->cap, p->n + 1, SIZE_MAX)) {
        p->failed = true;
        return;
    }
    p->w[p->n++] = w;
}

static int by_address(const void *a, const void *b)
{
    const struct hd_tensor *const *x = *(const struct hd_tensor *const *const *)a, *const *y = *(const struct hd_tensor *const *const *)b;

    return *x != *y ? (*x < *y ? -1 : 1) : x < y ? -1 : x > y;
}

/* Drops what was gathered twice, keeping the order of first use. */
static bool unique(struct hd_packs *p)
{
    const struct hd_tensor ***at = hd_malloc(p->n * sizeof *at);
    size_t n = 0;

    if (!at)
        return false;
    for (size_t i = 0; i < p->n; i++)
        at[i] = &p->w[i];
    qsort(at, p->n, sizeof *at, by_address);
    for (size_t i = p->n; i-- > 1;)
        if (*at[i] == *at[i - 1])
            *at[i] = NULL;
    for (size_t i = 0, n_matrix = p->n_matrix; i < p->n; i++) {
        if (!p->w[i] && i < n_matrix)
            p->n_matrix--;
        if (p->w[i])
            p->w[n++] = p->w[i];
    }
    p->n = n;
    hd_free(at);
    return true;
}

static int64_t up64(int64_t n)
{
    return (n + 63) & ~(int64_t)63;
}

static int64_t scale_bytes(const struct hd_tensor *w)
{
    return w->scale.data ? w->scale.n_row * hd_row_bytes(w->scale.type, w->scale.n_col) : 0;
}

static int64_t tensor_bytes(const struct hd_panels *q, const struct hd_tensor *w)
{
    return q->kind ? up64(hd_panel_count(q) * q->bytes) : up64(hd_tensor_bytes(w)) + up64(scale_bytes(w));
}

/* A piece of work: so many panels (or bytes) of one weight. */
struct piece {
    size_t weight;
    int64_t first, n;
};

struct job {
    struct hd_packs *p;
    struct piece *piece;
    const int64_t *at;                /* of each weight in data */
};

static void pack_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++) {
        const struct piece *c = &j->piece[i];
        const struct hd_tensor *w = j->p->w[c->weight];
        const struct hd_panels *q = &j->p->panels[c->weight];
        char *out = j->p->data + j->at[c->weight];

        if (!q->kind)
            memcpy(out + c->first, (const char *)w->data + c->first, (size_t)c->n);
        for (int64_t k = c->first; q->kind && k < c->first + c->n; k++)
            hd_panel_pack(w, q, k, out + k * q->bytes);
    }
}

static int64_t cut(const struct hd_packs *p, struct piece *piece)
{
    int64_t n = 0;

    for (size_t i = 0; i < p->n; i++) {
        const struct hd_panels *q = &p->panels[i];
        int64_t all = q->kind ? hd_panel_count(q) : hd_tensor_bytes(p->w[i]), step = q->kind ? PIECE / q->bytes + 1 : PIECE;

        for (int64_t k = 0; k < all; k += step, n++)
            if (piece)
                piece[n] = (struct piece){i, k, all - k < step ? all - k : step};
    }
    return n;
}

/* Packs all pieces, a few for every worker between two reports. */
static bool run(struct job *j, int64_t n_piece, struct hd_pool *pool, hd_progress_fn progress, void *arg)
{
    int64_t step = progress ? 16 * hd_pool_threads(pool) : n_piece;

    for (int64_t i = 0; i < n_piece; i += step) {
        struct job part = {j->p, j->piece + i, j->at};

        if (progress && !progress(arg, j->p->bytes * i / n_piece, j->p->bytes))
            return false;
        hd_pool_for(pool, n_piece - i < step ? n_piece - i : step, 1, pack_range, &part);
    }
    return !progress || progress(arg, j->p->bytes, j->p->bytes);
}

int hd_packs_make(struct hd_packs *p, struct hd_pool *pool, hd_progress_fn progress, void *arg, struct hd_err *err)
{
    struct job j = {.p = p};
    int64_t *at = NULL, n_piece = 0;

    if (!p->n && !p->failed)
        return HD_OK;
    if (!p->failed && unique(p) && (p->panels = hd_calloc(p->n, sizeof *p->panels)) && (j.at = at = hd_malloc(p->n * sizeof *at))) {
        for (size_t i = 0; i < p->n; i++) {
            if (i >= p->n_matrix || !hd_panels_describe(p->w[i], &p->panels[i]))
                p->panels[i].kind = HD_PANEL_NONE;
            at[i] = p->bytes;
            p->bytes += tensor_bytes(&p->panels[i], p->w[i]);
        }
        n_piece = cut(p, NULL);
        j.piece = hd_malloc((size_t)n_piece * sizeof *j.piece);
        p->data = j.piece ? hd_pages_alloc((size_t)p->bytes) : NULL;
    }
    if (!p->data) {
        hd_free(at);
        hd_free(j.piece);
        hd_packs_release(p);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the weights in the kernels' order");
    }
    cut(p, j.piece);
    if (!run(&j, n_piece, pool, progress, arg)) {
        hd_free(at);
        hd_free(j.piece);
        hd_packs_release(p);
        return hd_err_set(err, HD_ERR_CANCELLED, "cancelled while loading");
    }
    for (size_t i = 0; i < p->n; i++) {
        struct hd_tensor *w = (struct hd_tensor *)p->w[i];        /* the model's own; whoever packs may change where they lie */

        p->panels[i].data = (const uint8_t *)p->data + at[i];
        if (p->panels[i].kind) {
            w->panels = &p->panels[i];
            continue;
        }
        w->data = p->data + at[i];
        if (w->scale.data)
            w->scale.data = memcpy(p->data + at[i] + up64(hd_tensor_bytes(w)), w->scale.data, (size_t)scale_bytes(w));
    }
    hd_free(at);
    hd_free(j.piece);
    return HD_OK;
}

void hd_packs_release(struct hd_packs *p)
{
    if (p->data)
        hd_pages_free(p->data, (size_t)p->bytes);
    hd_free(p->panels);
    hd_free(p->w);
    memset(p, 0, sizeof *p);
}
