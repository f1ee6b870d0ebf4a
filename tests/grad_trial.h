/* grad_trial.h: one backward at a time: an op's gradient on the tape beside finite differences of a double-precision reading of the op.
 *
 * The loss is a fixed random sum of all outputs. Differences are of the double version only, by Richardson's rule, so that their own
 * error is far below what f32 leaves in the backward; the f32 forward is compared with the double one, so that both mean the same op. */
#ifndef HD_TESTS_GRAD_TRIAL_H
#define HD_TESTS_GRAD_TRIAL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/hash.h"
#include "draw.h"
#include "kernels/kernels.h"
#include "ops/ops.h"
#include "ops/tape.h"
#include "report.h"

#define MAX_IN 6
#define MAX_SEQ 3
#define PAGE_ROWS 4
#define N_PAGE 32
#define STEP_BYTES ((size_t)8 << 20)
/* A product of two numbers rounded to 8 bits is up to 2^-8 away, one after another of them somewhat more; sums of random signs are much nearer than that, their largest too. */
#define BF16_BOUND 2e-2

struct trial;

/* What a case says: shapes of the inputs that have gradients (cols 0: no more), numbers that run() and ref() understand, lengths of
 * the batch's sequences. */
struct grad_case {
    const char *name;
    int (*run)(struct trial *t, struct hd_stream *s);       /* calls the op, fills t->out; returns how many outputs */
    void (*ref)(const struct trial *t, const double *const *in, double *out);       /* outputs, one behind the other */
    void (*prepare)(struct trial *t);                       /* changes the random inputs; may be NULL */
    struct { int64_t rows, cols; } shape[MAX_IN];
    int64_t n[8];
    float f[3];
    int64_t len[MAX_SEQ];
    double bound;                                           /* 0: 5e-6 */
    bool bf16;                                              /* products round their operands: bounds are BF16_BOUND's */
    bool rounds;                                            /* the op rounds: its gradient is that of the identity, its outputs are not compared */
};

struct trial {
    const struct grad_case *c;
    int n_in;
    struct hd_tensor in[MAX_IN];
    double *x[MAX_IN];
    const struct hd_tensor *out[3];
    int64_t n_out;                                          /* elements of all outputs */
    struct hd_ragged b;
    int32_t ids[512], pos[512], list[2048];                 /* list: whatever integers the op takes or chooses */
    struct hd_span span[MAX_SEQ];
    struct hd_paged part[MAX_SEQ * 2];
    void *page[MAX_SEQ][N_PAGE];
    char *ring;
};

/* ---- inputs ---- */

static void make_batch(struct trial *t)
{
    const struct grad_case *c = t->c;
    int64_t n = 0;

    for (int i = 0; i < MAX_SEQ && c->len[i]; i++) {
        t->span[i] = (struct hd_span){.tok0 = n, .n_tok = c->len[i]};
        for (int64_t k = 0; k < c->len[i]; k++, n++) {
            t->ids[n] = (int32_t)((n * 3 + 1) % 5);
            t->pos[n] = (int32_t)k;
        }
        t->b.n_seq = i + 1;
        t->b.max_pos = c->len[i] > t->b.max_pos ? c->len[i] : t->b.max_pos;
    }
    t->b.n_tok = n;
    t->b.ids = t->ids;
    t->b.pos = t->pos;
    t->b.span = t->span;
    t->b.part = t->part;
    t->b.n_part = 2;
}

/* Parts 0 and 1 of every sequence: pages of rows of `wide` floats that hold `ratio` tokens each, the two parts behind each other; or rings. */
static void make_parts(struct trial *t, int64_t wide, int ratio1, bool rings)
{
    int64_t bytes = wide * 4;

    for (int64_t q = 0; q < t->b.n_seq; q++)
        for (int p = 0; p < 2; p++)
            t->part[q * 2 + p] = rings ? (struct hd_paged){.own = t->ring + (q * 2 + p) * 64 * bytes, .ring = 64, .row_bytes = bytes, .ratio = 1, .type = HD_F32}
                                       : (struct hd_paged){.page = t->page[q], .page_rows = PAGE_ROWS, .offset = p * PAGE_ROWS * bytes, .row_bytes = bytes, .ratio = p ? ratio1 : 1, .type = HD_F32};
}

#define PAGE_BYTES (2 * PAGE_ROWS * 64 * 4)

static void make_trial(struct trial *t, const struct grad_case *c)
{
    memset(t, 0, sizeof *t);
    t->c = c;
    /* A case's numbers do not depend on those before it. With the 1 no value that a limit cuts lies within bf16's rounding of that limit, where there is no gradient. */
    draw_seed(hd_hash(HD_HASH_INIT + 1, c->name, strlen(c->name)));
    make_batch(t);
    for (; t->n_in < MAX_IN && c->shape[t->n_in].cols; t->n_in++) {
        int64_t rows = c->shape[t->n_in].rows, cols = c->shape[t->n_in].cols;

        t->in[t->n_in] = hd_view2(HD_F32, malloc((size_t)(rows * cols) * 4), rows, cols);
        for (int64_t i = 0; i < rows * cols; i++)
            ((float *)t->in[t->n_in].data)[i] = (float)draw();
    }
    t->ring = calloc(1, (size_t)1 << 20);
    for (int q = 0; q < MAX_SEQ; q++)
        for (int i = 0; i < N_PAGE; i++)
            t->page[q][i] = calloc(1, PAGE_BYTES);
    if (c->prepare)
        c->prepare(t);
    for (int k = 0; k < t->n_in; k++) {
        t->x[k] = malloc((size_t)hd_elems(&t->in[k]) * sizeof(double));
        for (int64_t i = 0; i < hd_elems(&t->in[k]); i++)
            t->x[k][i] = (double)((float *)t->in[k].data)[i];
    }
}

static void free_trial(struct trial *t)
{
    for (int k = 0; k < t->n_in; k++) {
        free(t->in[k].data);
        free(t->x[k]);
    }
    for (int q = 0; q < MAX_SEQ; q++)
        for (int i = 0; i < N_PAGE; i++)
            free(t->page[q][i]);
    free(t->ring);
}

/* An input as the step has it: a copy, because some ops write where they read. */
static struct hd_tensor *fresh(struct trial *t, struct hd_stream *s, int k)
{
    struct hd_tensor *x = hd_new(s, HD_F32, hd_rows(&t->in[k]), hd_cols(&t->in[k]));

    hd_copies(s, x, &t->in[k]);
    return x;
}

/* ---- the tape's answer ---- */

struct answer {
    float *out, *grad[MAX_IN];
};

static float weight_of(int64_t i)
{
    return (float)sin(1.0 + 1.7 * (double)i);
}

/* Outputs and gradients with n_thread workers; times: how often the way back is gone, gradients adding up. */
static void on_tape(struct trial *t, int n_thread, int times, struct answer *a)
{
    static char shadow[STEP_BYTES];
    struct hd_pool *pool;
    struct hd_backend be;
    struct hd_arena arena;
    struct hd_tape tape;
    struct hd_stream s;
    struct hd_err err = {0};
    char *page_grad = calloc(MAX_SEQ * N_PAGE, PAGE_BYTES), *start;
    int n = 0;

    hd_tape_init(&tape);
    hd_arena_init(&arena, STEP_BYTES);
    if (hd_pool_create(&pool, n_thread, &err) < 0 || hd_backend_cpu_create(&be, pool, &err) < 0 || !hd_arena_reserve(&arena, STEP_BYTES) || !(start = hd_arena_alloc(&arena, 64)))
        exit(1);
    memset(shadow, 0, sizeof shadow);
    for (int k = 0; k < t->n_in; k++) {
        a->grad[k] = calloc((size_t)hd_elems(&t->in[k]), 4);
        report(hd_tape_range(&tape, t->in[k].data, a->grad[k], (size_t)hd_elems(&t->in[k]) * 4, false, &err) == HD_OK, "%s: %s", t->c->name, err.msg);
    }
    for (int i = 0; i < MAX_SEQ * N_PAGE; i++)
        hd_tape_range(&tape, t->page[i / N_PAGE][i % N_PAGE], page_grad + i * PAGE_BYTES, PAGE_BYTES, false, &err);
    hd_tape_range(&tape, start, shadow, STEP_BYTES - 4096, true, &err);
    for (int time = 0; time < times; time++) {
        int64_t at = 0;

        memset(page_grad, 0, MAX_SEQ * N_PAGE * PAGE_BYTES);
        hd_arena_reset(&arena);
        hd_stream_init(&s, &be, &arena, HD_EXACT_F32);
        hd_tape_begin(&tape);
        tape.bf16 = t->c->bf16;
        s.tape = &tape;
        n = t->c->run(t, &s);
        t->n_out = 0;
        for (int k = 0; k < n; k++)
            t->n_out += hd_elems(t->out[k]);
        a->out = realloc(time ? a->out : NULL, (size_t)(t->n_out + 1) * 4);
        for (int k = 0; k < n && hd_stream_ok(&s); k++) {
            struct hd_tensor d = hd_grad(&s, t->out[k]);

            for (int64_t r = 0; r < hd_rows(t->out[k]); r++)
                for (int64_t i = 0; i < hd_cols(t->out[k]); i++, at++) {
                    a->out[at] = ((float *)((char *)t->out[k]->data + r * t->out[k]->row_bytes))[i];
                    ((float *)((char *)d.data + r * d.row_bytes))[i] = weight_of(at);
                }
        }
        hd_tape_backward(&s);
    }
    report(hd_stream_end(&s, &err) == HD_OK, "%s: %s", t->c->name, err.msg);
    hd_tape_release(&tape);
    hd_arena_release(&arena);
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
    free(page_grad);
}

static void free_answer(struct trial *t, struct answer *a)
{
    free(a->out);
    for (int k = 0; k < t->n_in; k++)
        free(a->grad[k]);
}

/* ---- the differences ---- */

static double loss(const struct trial *t, double *out)
{
    double sum = 0;

    t->c->ref(t, (const double *const *)t->x, out);
    for (int64_t i = 0; i < t->n_out; i++)
        sum += (double)weight_of(i) * out[i];
    return sum;
}

static double slope(struct trial *t, int k, int64_t i, double *out)
{
    double x = t->x[k][i], h = 2e-4, d[3];

    for (int n = 0; n < 3; n++, h /= 2) {
        t->x[k][i] = x + h;
        d[n] = loss(t, out);
        t->x[k][i] = x - h;
        d[n] = (d[n] - loss(t, out)) / (2 * h);
    }
    t->x[k][i] = x;
    d[0] = (4 * d[1] - d[0]) / 3;
    d[1] = (4 * d[2] - d[1]) / 3;
    return (16 * d[1] - d[0]) / 15;
}

#define MAX_PROBE 40                  /* elements of an input that are moved: all of a small one, a spread of a large one */

static void check_case(const struct grad_case *c, bool verbose)
{
    static struct trial t;
    struct answer one, two, twice;
    double *out, worst = 0, top = 1e-30, bound = c->bf16 ? BF16_BOUND : c->bound > 0 ? c->bound : 5e-6;
    bool same = true;

    make_trial(&t, c);
    on_tape(&t, 1, 1, &one);
    on_tape(&t, 2, 1, &two);
    on_tape(&t, 1, 2, &twice);
    out = calloc((size_t)t.n_out + 1, sizeof *out);
    loss(&t, out);
    for (int64_t i = 0; i < t.n_out && !c->rounds; i++) {
        worst = fmax(worst, isnan(one.out[i]) ? 1e30 : fabs((double)one.out[i] - out[i]));
        top = fmax(top, fabs(out[i]));
    }
    report(worst <= (c->bf16 ? BF16_BOUND : 1e-5) * top, "%s: the forward op is %.2g of the largest value away from its double version", c->name, worst / top);
    for (int k = 0; k < t.n_in; k++) {
        int64_t n = hd_elems(&t.in[k]), step = n > MAX_PROBE ? n / MAX_PROBE + 1 : 1;
        double sum = 0;

        worst = 0;
        top = 1e-30;
        for (int64_t i = 0; i < n; i += step) {
            double d = slope(&t, k, i, out);

            worst = fmax(worst, isnan(one.grad[k][i]) ? 1e30 : fabs((double)one.grad[k][i] - d));
            top = fmax(top, fabs(d));
        }
        if (verbose)
            printf("%-34s input %d%s: %.1e of %.3g\n", c->name, k, c->bf16 ? ", bf16" : "", worst / top, top);
        report(worst <= bound * top || (top < 1e-9 && worst < 1e-9), "%s: input %d: gradient is %.2g of the largest (%.3g) away from the differences; at most %.2g expected", c->name, k,
               worst / top, top, bound);
        same &= !memcmp(one.grad[k], two.grad[k], (size_t)n * 4);
        worst = 0;
        for (int64_t i = 0; i < n; i++) {
            worst = fmax(worst, fabs((double)twice.grad[k][i] - 2 * (double)one.grad[k][i]));
            sum = fmax(sum, fabs((double)one.grad[k][i]));
        }
        report(worst <= 1e-5 * sum, "%s: input %d: going back twice gives other than twice the gradient", c->name, k);
    }
    same &= !memcmp(one.out, two.out, (size_t)t.n_out * 4);
    report(same, "%s: 2 workers and 1 worker differ", c->name);
    free(out);
    free_answer(&t, &one);
    free_answer(&t, &two);
    free_answer(&t, &twice);
    free_trial(&t);
}

#endif
