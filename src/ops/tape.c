/* tape.c: see tape.h. */
#include "ops/tape.h"

#include <string.h>

#include "base/mem.h"
#include "ops/dispatch.h"

#define GRAIN 64
#define OUTSIDE 0x7fff                /* of any layer */
#define LAYERS_MAX 32000
#define FILL 16384                    /* bytes */

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
    hd_arena_release(&t->layer);
    hd_pages_free(t->layer_grad, t->layer_area.n);
    hd_free(t->entry);
    hd_free(t->range);
    hd_free(t->blank);
    hd_free(t->part);
    hd_free(t->save);
    hd_free(t->step_area.mark);
    hd_free(t->layer_area.mark);
    memset(t, 0, sizeof *t);
}

static int open_area(struct hd_tape_area *a, void *base, size_t n, struct hd_err *err)
{
    HD_ASSERT(!a->base);
    *a = (struct hd_tape_area){base, n, hd_calloc(n / GRAIN + 2, sizeof *a->mark)};
    return a->mark ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "tape: no memory for a step of %zu bytes", n);
}

int hd_tape_range(struct hd_tape *t, void *base, void *grad, size_t n, bool step, struct hd_err *err)
{
    size_t i = t->n_range;

    if (!HD_GROW(t->range, t->cap_range, t->n_range + 1, (size_t)1 << 24))
        return hd_err_set(err, HD_ERR_MEMORY, "tape: no memory for %zu ranges", t->n_range + 1);
    if (step)
        HD_TRY(open_area(&t->step_area, base, n, err));
    for (; i > 0 && t->range[i - 1].base > (char *)base; i--)
        t->range[i] = t->range[i - 1];
    t->range[i] = (struct hd_tape_range){base, grad, n};
    t->n_range++;
    return HD_OK;
}

int hd_tape_blank(struct hd_tape *t, void *grad, size_t n, struct hd_err *err)
{
    HD_ASSERT(!t->n_blank || t->blank[t->n_blank - 1].grad + t->blank[t->n_blank - 1].n <= (char *)grad);
    if (!HD_GROW(t->blank, t->cap_blank, t->n_blank + 1, (size_t)1 << 24))
        return hd_err_set(err, HD_ERR_MEMORY, "tape: no memory for %zu gradients", t->n_blank + 1);
    t->blank[t->n_blank++] = (struct hd_tape_blank){grad, n, 0};
    t->blank_bytes += n;
    return HD_OK;
}

void hd_tape_blank_all(struct hd_tape *t)
{
    for (size_t i = 0; i < t->n_blank; i++)
        t->blank[i].done = 0;
}

static void fill(const struct hd_stream *s, struct hd_tape_blank *b)
{
    char *from = b->grad + b->done;
    int64_t left = (int64_t)(b->n - b->done), whole = left / FILL * FILL;

    s->be->move(s->be->self, whole / FILL, FILL, from, FILL, NULL, 0);
    memset(from + whole, 0, (size_t)(left - whole));
    b->done = b->n;
}

void hd_tape_fill(const struct hd_stream *s)
{
    for (size_t i = 0; i < s->tape->n_blank; i++)
        if (s->tape->blank[i].done < s->tape->blank[i].n)
            fill(s, &s->tape->blank[i]);
}

/* The last one that begins at grad or before; NULL: grad is never blank. */
static struct hd_tape_blank *blank_at(const struct hd_tape *t, const char *grad)
{
    size_t lo = 0, hi = t->n_blank;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (t->blank[mid].grad <= grad)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo && grad < t->blank[lo - 1].grad + t->blank[lo - 1].n ? &t->blank[lo - 1] : NULL;
}

bool hd_tape_claim(const struct hd_stream *s, void *grad, size_t n)
{
    struct hd_tape_blank *b = blank_at(s->tape, grad);
    bool mine = b && (char *)grad == b->grad + b->done && n <= b->n - b->done;

    if (mine)
        b->done += n;
    else if (b && b->done < b->n)
        fill(s, b);
    return mine;
}

int hd_tape_layers(struct hd_tape *t, size_t n, struct hd_err *err)
{
    void *base;

    t->again = true;
    if (!n)
        return HD_OK;
    n = (n + 4095) / 4096 * 4096;
    hd_arena_init(&t->layer, n);
    t->layer_grad = hd_pages_alloc(n);
    t->layer_area.n = t->layer_grad ? n : 0;
    if (!t->layer_grad || !hd_arena_reserve(&t->layer, n) || !(base = hd_arena_alloc(&t->layer, GRAIN)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a layer of %zu bytes and its gradients", n);
    hd_arena_reset(&t->layer);
    HD_TRY(open_area(&t->layer_area, base, n, err));
    return hd_tape_range(t, base, t->layer_grad, n, false, err);
}

static void forget_marks(struct hd_tape_area *a)
{
    if (a->mark)
        memset(a->mark, 0, (a->n / GRAIN + 2) * sizeof *a->mark);
}

void hd_tape_begin(struct hd_tape *t)
{
    t->n = t->n_part = t->n_save = 0;
    t->who = OUTSIDE;
    hd_arena_reset(&t->kept);
    hd_arena_reset(&t->scratch);
    forget_marks(&t->step_area);
    for (size_t i = 0; i < t->n_range && !t->clean; i++)
        if (t->range[i].base == t->step_area.base || (t->layer_grad && t->range[i].grad == t->layer_grad))
            memset(t->range[i].grad, 0, t->range[i].n);
    t->clean = false;
}

static float *place_of(const struct hd_stream *s, const void *p)
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

float *hd_tape_scratch(struct hd_stream *s, int64_t rows, int64_t cols)
{
    float *p = hd_stream_ok(s) ? hd_arena_alloc(&s->tape->scratch, (size_t)(rows * cols) * sizeof *p) : NULL;

    if (!p)
        hd_stream_fail(s, HD_ERR_MEMORY, "backward: no memory for [%lld, %lld]", (long long)rows, (long long)cols);
    return p;
}

/* ---- where gradients are ---- */

float *hd_grad_at(const struct hd_stream *s, const void *p)
{
    float *g = place_of(s, p);
    struct hd_tape_blank *b = g ? blank_at(s->tape, (const char *)g) : NULL;

    if (b && b->done < b->n)
        fill(s, b);
    return g;
}

struct hd_tensor hd_grad(const struct hd_stream *s, const struct hd_tensor *x)
{
    struct hd_tensor g = *x;

    g.data = x->type == HD_F32 && x->data ? hd_grad_at(s, x->data) : NULL;
    return g;
}

struct hd_tensor hd_grad_place(const struct hd_stream *s, const struct hd_tensor *x)
{
    struct hd_tensor g = *x;

    g.data = x->type == HD_F32 && x->data ? place_of(s, x->data) : NULL;
    return g;
}

/* ---- recording ---- */

static struct hd_tape_area *area_of(struct hd_tape *t, const struct hd_tensor *x)
{
    struct hd_tape_area *all[] = {&t->step_area, &t->layer_area};

    for (int k = 0; k < 2; k++)
        if (all[k]->mark && x && x->data && hd_elems(x) && (char *)x->data >= all[k]->base && (char *)x->data < all[k]->base + all[k]->n)
            return all[k];
    return NULL;
}

/* What marks of a tensor say. */
struct seen {
    bool written, wanted;             /* by anybody; and it will not be made again by the layer that needs it */
};

/* Whether any of n marks was set; all become m. */
__attribute__((optimize("O3"))) static bool mark_all(uint16_t *mark, size_t n, uint16_t m)
{
    uint16_t any = 0;

    for (size_t i = 0; i < n; i++) {
        any |= mark[i];
        mark[i] = m;
    }
    return any != 0;
}

/* Looks at the marks of x; write: sets them. A grain that x covers in part stays wanted: what else lies there may be. What is outside of layers is never
 * made again. */
static struct seen look(struct hd_tape *t, struct hd_tape_area *a, const struct hd_tensor *x, bool write)
{
    int64_t bytes = hd_row_bytes(x->type, hd_cols(x));
    struct seen seen = {false, false};
    bool outside = t->who == OUTSIDE;

    for (int64_t r = 0; r < hd_rows(x); r++) {
        size_t at = (size_t)((char *)x->data - a->base) + (size_t)(r * x->row_bytes), end = at + (size_t)bytes;

        if (write && outside) {
            seen.written |= mark_all(a->mark + at / GRAIN, (end - 1) / GRAIN - at / GRAIN + 1, (uint16_t)(t->who << 1 | 1));
            continue;
        }
        for (size_t i = at / GRAIN; i <= (end - 1) / GRAIN; i++) {
            uint16_t m = a->mark[i];
            bool whole = i * GRAIN >= at && (i + 1) * GRAIN <= end;

            seen.written |= m != 0;
            seen.wanted |= m & 1;
            if (write)
                a->mark[i] = (uint16_t)(t->who << 1 | (outside ? 1 : whole ? 0 : m & 1));
            else if (m && (outside || m >> 1 != t->who))
                a->mark[i] = m | 1;
        }
    }
    return seen;
}

/* A call looks at its inputs, and some at what they overwrite. */
static void look_at_inputs(struct hd_tape *t, const struct hd_call *c)
{
    const struct hd_tensor *x[7 + 10 + 3];
    int n = 0;

    for (int i = 0; i < 7; i++)
        x[n++] = c->in[i];
    for (int i = 0; c->list && i < 10; i++)
        x[n++] = c->list[i];
    for (int k = 0; k < c->n_out && hd_ops[c->op].bwd == HD_BWD_INOUT; k++)
        x[n++] = c->out[k];
    for (int i = 0; i < n; i++)
        if (area_of(t, x[i]) == &t->step_area)
            look(t, &t->step_area, x[i], false);
}

/* Rows of x into compact ones, or back. */
static void copy_rows(const struct hd_stream *s, const struct hd_tensor *x, void *compact, bool back)
{
    int64_t bytes = hd_row_bytes(x->type, hd_cols(x));

    if (back)
        s->be->move(s->be->self, hd_rows(x), bytes, x->data, x->row_bytes, compact, bytes);
    else
        s->be->move(s->be->self, hd_rows(x), bytes, compact, bytes, x->data, x->row_bytes);
}

/* A compact copy of x that lasts until the tape is rewound. */
static void *copy_of(struct hd_stream *s, const struct hd_call *c, const struct hd_tensor *x)
{
    void *old = hd_arena_alloc(&s->tape->kept, (size_t)(hd_rows(x) * hd_row_bytes(x->type, hd_cols(x))));

    if (old)
        copy_rows(s, x, old, false);
    else
        hd_stream_fail(s, HD_ERR_MEMORY, "tape: no memory for what %s overwrites", hd_ops[c->op].name);
    return old;
}

/* In a layer that will be computed again, the first time: only what others need, once. */
static void save_for_others(struct hd_stream *s, const struct hd_call *c, const struct hd_tensor *x)
{
    struct hd_tape *t = s->tape;
    void *old;

    if (!HD_GROW(t->save, t->cap_save, t->n_save + 1, (size_t)1 << 24)) {
        hd_stream_fail(s, HD_ERR_MEMORY, "tape: no memory for what %s overwrites", hd_ops[c->op].name);
        return;
    }
    if ((old = copy_of(s, c, x)))
        t->save[t->n_save++] = (struct hd_tape_save){*x, old};
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
    if (t->again)
        look_at_inputs(t, c);
    for (int k = 0; k < c->n_out && hd_stream_ok(s); k++) {
        struct hd_tape_area *a = area_of(t, c->out[k]);
        struct seen seen;

        if (!a || (s->within_layer && a == &t->layer_area))
            continue;
        seen = look(t, a, c->out[k], true);
        if (s->within_layer && seen.wanted)
            save_for_others(s, c, c->out[k]);
        else if (!s->within_layer && seen.written)
            e->old[k] = copy_of(s, c, c->out[k]);
    }
    return hd_stream_ok(s);
}

void hd_tape_layer(struct hd_stream *s, bool begin)
{
    struct hd_tape *t = s->tape;
    struct hd_tape_layer *l;

    if (!s->be || !hd_stream_ok(s))
        return;
    if (!begin) {
        l = &t->part[t->n_part - 1];
        l->end = t->n;
        l->save_end = t->n_save;
        t->n_part -= l->end == l->first;
        t->who = OUTSIDE;
        return;
    }
    if (t->n_part == LAYERS_MAX || !HD_GROW(t->part, t->cap_part, t->n_part + 1, LAYERS_MAX)) {
        hd_stream_fail(s, HD_ERR_LIMIT, "tape: more than %d layers to compute again", LAYERS_MAX);
        return;
    }
    t->part[t->n_part++] = (struct hd_tape_layer){.first = t->n, .save0 = t->n_save};
    t->who = (uint16_t)t->n_part;
    hd_arena_reset(&t->layer);
}

/* ---- the way back ---- */

static void restore(const struct hd_stream *s, const struct hd_tape_entry *e)
{
    for (int k = 0; k < e->call.n_out; k++)
        if (e->old[k])
            copy_rows(s, e->call.out[k], e->old[k], true);
}

static bool on_an_input(const struct hd_call *c)
{
    for (int k = 0; k < c->n_out; k++)
        for (int i = 0; i < 5; i++)
            if (c->out[k] && ((c->in[i] && c->out[k]->data == c->in[i]->data) || (c->list && c->list[0]->data == c->out[k]->data)))
                return true;
    return false;
}

/* x += y: what x's gradient was it still is, where it lies. */
static bool stays(const struct hd_call *c)
{
    return c->op == HD_OP_ADD && c->out[0]->data == c->in[0]->data && c->out[0]->row_bytes == c->in[0]->row_bytes && c->in[1]->data != c->in[0]->data;
}

/* Groups that a short document does not complete, and the like: nothing was computed. */
static bool nothing_out(const struct hd_call *c)
{
    for (int k = 0; k < c->n_out; k++)
        if (c->out[k] && hd_elems(c->out[k]))
            return false;
    return c->n_out > 0;
}

static void clear_rows(const struct hd_stream *s, const struct hd_tensor *x)
{
    s->be->move(s->be->self, hd_rows(x), hd_cols(x) * 4, x->data, x->row_bytes, NULL, 0);
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
            copy_rows(s, &d, g[k].data, false);
            clear_rows(s, &d);
        }
        dout[k] = &g[k];
    }
}

/* What a layer found where it wrote; the earliest copy of a place counts. */
static void put_back(const struct hd_stream *s, const struct hd_tape_layer *l)
{
    const struct hd_tape *t = s->tape;

    for (size_t i = l->save_end; i-- > l->save0;)
        copy_rows(s, &t->save[i].x, t->save[i].old, true);
}

/* Runs a layer's calls once more. What one overwrites of another is kept this time. */
static void compute_again(struct hd_stream *s, const struct hd_tape_layer *l)
{
    struct hd_tape *t = s->tape;

    put_back(s, l);
    forget_marks(&t->layer_area);
    for (size_t n = l->first; n < l->end && hd_stream_ok(s); n++) {
        struct hd_tape_entry *e = &t->entry[n];
        const struct hd_call *c = &e->call;

        for (int k = 0; k < c->n_out; k++) {
            struct hd_tape_area *a = area_of(t, c->out[k]);

            if (a && look(t, a, c->out[k], true).written)
                e->old[k] = copy_of(s, c, c->out[k]);
        }
        if (hd_stream_ok(s))
            s->be->run[c->op](s->be->self, s, c);
    }
}

/* One call. */
static void undo(struct hd_stream *s, const struct hd_tape_entry *e)
{
    enum hd_bwd bwd = hd_ops[e->call.op].bwd;
    const struct hd_tensor *dout[3] = {NULL, NULL, NULL};
    struct hd_tensor g[3];
    bool first = bwd == HD_BWD_INOUT || on_an_input(&e->call);

    if (bwd == HD_BWD_NONE) {
        hd_stream_fail(s, HD_ERR_UNSUPPORTED, "backward: op %s has none", hd_ops[e->call.op].name);
        return;
    }
    hd_arena_reset(&s->tape->scratch);
    if (first)
        restore(s, e);
    take(s, &e->call, first && !stays(&e->call), g, dout);
    hd_profile_lap(s->profile, "tape", 0);
    if (bwd != HD_BWD_FLAT && hd_stream_ok(s) && !nothing_out(&e->call))
        s->be->back[e->call.op](s->be->self, s, &e->call, dout);
    hd_lap(s->profile, &e->call, true);
    if (first)
        return;
    for (int k = 0; k < e->call.n_out; k++)           /* nothing of it is needed any more: the step's gradients end as zeros */
        if (dout[k])
            clear_rows(s, dout[k]);
    restore(s, e);
}

void hd_tape_backward(struct hd_stream *s)
{
    struct hd_tape *t = s->tape;
    struct hd_arena_mark mark = {0};

    for (size_t n = t->n; n-- > 0 && hd_stream_ok(s);) {
        const struct hd_tape_layer *l = t->n_part ? &t->part[t->n_part - 1] : NULL;

        if (l && n == l->end - 1) {
            mark = hd_arena_mark(&t->kept);
            compute_again(s, l);
        }
        if (hd_stream_ok(s))
            undo(s, &t->entry[n]);
        if (l && n == l->first) {
            put_back(s, l);
            hd_arena_rewind(&t->kept, mark);
            t->n_part--;
        }
    }
    t->clean = hd_stream_ok(s);
}
