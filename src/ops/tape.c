/* tape.c: see tape.h. */
#include "ops/tape.h"

#include <string.h>

#include "base/mem.h"

#define GRAIN 64

void hd_tape_init(struct hd_tape *t)
{
    memset(t, 0, sizeof *t);
    hd_arena_init(&t->kept, 0);
    hd_arena_init(&t->scratch, 0);
}

void hd_tape_release(struct hd_tape *t)
{
    hd_arena_release(&t->kept);
    hd_arena_release(&t->scratch);
    hd_free(t->entry);
    hd_free(t->range);
    hd_free(t->written);
    memset(t, 0, sizeof *t);
}

int hd_tape_range(struct hd_tape *t, void *base, void *grad, size_t n, bool step, struct hd_err *err)
{
    size_t i = t->n_range;

    if (!HD_GROW(t->range, t->cap_range, t->n_range + 1, (size_t)1 << 24))
        return hd_err_set(err, HD_ERR_MEMORY, "tape: no memory for %zu ranges", t->n_range + 1);
    if (step) {
        HD_ASSERT(!t->step);
        t->n_written = n / GRAIN / 8 + 1;
        if (!(t->written = hd_calloc(t->n_written, 1)))
            return hd_err_set(err, HD_ERR_MEMORY, "tape: no memory for a step of %zu bytes", n);
        t->step = base;
        t->n_step = n;
    }
    for (; i > 0 && t->range[i - 1].base > (char *)base; i--)
        t->range[i] = t->range[i - 1];
    t->range[i] = (struct hd_tape_range){base, grad, n};
    t->n_range++;
    return HD_OK;
}

void hd_tape_begin(struct hd_tape *t)
{
    t->n = 0;
    hd_arena_reset(&t->kept);
    hd_arena_reset(&t->scratch);
    if (t->written)
        memset(t->written, 0, t->n_written);
    for (size_t i = 0; i < t->n_range && !t->clean; i++)
        if (t->range[i].base == t->step)
            memset(t->range[i].grad, 0, t->n_step);
    t->clean = false;
}

float *hd_grad_at(const struct hd_stream *s, const void *p)
{
    const struct hd_tape *t = s->tape;
    size_t lo = 0, hi = t->n_range;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (t->range[mid].base <= (const char *)p)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (!lo || (const char *)p >= t->range[lo - 1].base + t->range[lo - 1].n)
        return NULL;
    return (float *)(t->range[lo - 1].grad + ((const char *)p - t->range[lo - 1].base));
}

struct hd_tensor hd_grad(const struct hd_stream *s, const struct hd_tensor *x)
{
    struct hd_tensor g = *x;

    g.data = x->type == HD_F32 && x->data ? hd_grad_at(s, x->data) : NULL;
    return g;
}

float *hd_tape_scratch(struct hd_stream *s, int64_t rows, int64_t cols)
{
    float *p = hd_stream_ok(s) ? hd_arena_alloc(&s->tape->scratch, (size_t)(rows * cols) * sizeof *p) : NULL;

    if (!p)
        hd_stream_fail(s, HD_ERR_MEMORY, "backward: no memory for [%lld, %lld]", (long long)rows, (long long)cols);
    return p;
}

/* ---- recording ---- */

static bool within_step(const struct hd_tape *t, const struct hd_tensor *x)
{
    return (char *)x->data >= t->step && (char *)x->data < t->step + t->n_step;
}

/* Was anything of x written before? From now on it is. */
static bool mark_written(struct hd_tape *t, const struct hd_tensor *x)
{
    int64_t bytes = hd_row_bytes(x->type, hd_cols(x));
    bool before = false;

    for (int64_t r = 0; r < hd_rows(x); r++) {
        size_t at = (size_t)((char *)x->data - t->step) + (size_t)(r * x->row_bytes);

        for (size_t i = at / GRAIN; i <= (at + (size_t)bytes - 1) / GRAIN; i++) {
            before |= t->written[i / 8] >> i % 8 & 1;
            t->written[i / 8] |= (unsigned char)(1 << i % 8);
        }
    }
    return before;
}

/* Rows of x into compact ones, or back. */
static void copy_rows(const struct hd_tensor *x, char *compact, bool back)
{
    int64_t bytes = hd_row_bytes(x->type, hd_cols(x));

    for (int64_t r = 0; r < hd_rows(x); r++) {
        char *row = (char *)x->data + r * x->row_bytes;

        memcpy(back ? row : compact + r * bytes, back ? compact + r * bytes : row, (size_t)bytes);
    }
}

bool hd_tape_record(struct hd_stream *s, const struct hd_call *c)
{
    struct hd_tape *t = s->tape;
    struct hd_tape_entry *e;

    if (!s->be)
        return true;                  /* dry: nothing to undo */
    if (!HD_GROW(t->entry, t->cap, t->n + 1, (size_t)1 << 24)) {
        hd_stream_fail(s, HD_ERR_MEMORY, "tape: no memory for call %zu", t->n);
        return false;
    }
    e = &t->entry[t->n++];
    *e = (struct hd_tape_entry){.call = *c};
    for (int k = 0; k < c->n_out; k++) {
        const struct hd_tensor *x = c->out[k];

        if (!x || !hd_elems(x) || !within_step(t, x) || !mark_written(t, x))
            continue;
        if (!(e->old[k] = hd_arena_alloc(&t->kept, (size_t)(hd_rows(x) * hd_row_bytes(x->type, hd_cols(x)))))) {
            hd_stream_fail(s, HD_ERR_MEMORY, "tape: no memory for what %s overwrites", hd_ops[c->op].name);
            return false;
        }
        copy_rows(x, e->old[k], false);
    }
    return true;
}

/* ---- the way back ---- */

static void restore(const struct hd_tape_entry *e)
{
    for (int k = 0; k < e->call.n_out; k++)
        if (e->old[k])
            copy_rows(e->call.out[k], e->old[k], true);
}

static bool on_an_input(const struct hd_call *c)
{
    for (int k = 0; k < c->n_out; k++)
        for (int i = 0; i < 5; i++)
            if (c->out[k] && ((c->in[i] && c->out[k]->data == c->in[i]->data) || (c->list && c->list[0]->data == c->out[k]->data)))
                return true;
    return false;
}

/* Groups that a short document does not complete, and the like: nothing was computed. */
static bool nothing_out(const struct hd_call *c)
{
    for (int k = 0; k < c->n_out; k++)
        if (c->out[k] && hd_elems(c->out[k]))
            return false;
    return c->n_out > 0;
}

static void clear_rows(const struct hd_tensor *x)
{
    for (int64_t r = 0; r < hd_rows(x); r++)
        memset((char *)x->data + r * x->row_bytes, 0, (size_t)hd_cols(x) * sizeof(float));
}

/* The gradients of the outputs: where they are, or (moved: inputs have theirs there too) taken out of their place. */
static void take(struct hd_stream *s, const struct hd_call *c, bool moved, struct hd_tensor *g, const struct hd_tensor **dout)
{
    for (int k = 0; k < c->n_out; k++) {
        struct hd_tensor d;

        dout[k] = NULL;
        if (!c->out[k] || !(d = hd_grad(s, c->out[k])).data)
            continue;
        g[k] = d;
        if (moved) {
            g[k] = hd_view2(HD_F32, hd_tape_scratch(s, hd_rows(&d), hd_cols(&d)), hd_rows(&d), hd_cols(&d));
            if (!g[k].data)
                return;
            copy_rows(&d, g[k].data, false);
            clear_rows(&d);
        }
        dout[k] = &g[k];
    }
}

void hd_tape_backward(struct hd_stream *s)
{
    struct hd_tape *t = s->tape;

    for (size_t n = t->n; n-- > 0 && hd_stream_ok(s);) {
        const struct hd_tape_entry *e = &t->entry[n];
        enum hd_bwd bwd = hd_ops[e->call.op].bwd;
        const struct hd_tensor *dout[3] = {NULL, NULL, NULL};
        struct hd_tensor g[3];
        bool first = bwd == HD_BWD_INOUT || on_an_input(&e->call);

        if (bwd == HD_BWD_NONE) {
            hd_stream_fail(s, HD_ERR_UNSUPPORTED, "backward: op %s has none", hd_ops[e->call.op].name);
            return;
        }
        hd_arena_reset(&t->scratch);
        if (first)
            restore(e);
        take(s, &e->call, first, g, dout);
        if (bwd != HD_BWD_FLAT && hd_stream_ok(s) && !nothing_out(&e->call))
            s->be->back[e->call.op](s->be->self, s, &e->call, dout);
        if (first)
            continue;
        for (int k = 0; k < e->call.n_out; k++)       /* nothing of it is needed any more: the step's gradients end as zeros */
            if (dout[k])
                clear_rows(dout[k]);
        restore(e);
    }
    t->clean = hd_stream_ok(s);
}
