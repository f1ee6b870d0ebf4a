/* gemm.c: see gemm.h.
 *
 * b is packed once, by the whole team, into panels of gemm_nr columns; a task is some rows times some columns of c: it packs its rows of a, a block
 * of k at a time, into a buffer of its own that stays in L2, and runs tiles over it while a panel of b stays in L1. Sums over blocks of k are
 * added in c, ascending. The blocks of k come from k alone; what a task holds depends on the team too, and no bit depends on that. */
#include "backend/cpu/gemm.h"

#include <string.h>

#include "kernels/kernels.h"
#include "ops/tape.h"

#define KC 256                        /* at most */
#define ROWS 84                       /* a multiple of every gemm_mr: 14, 6, 4 */
#define COLS 1024                     /* at most: packed rows serve that many; halved while tasks are few */
#define COLS_MIN 128                  /* a multiple of every gemm_nr */
#define PACK_ROWS 64                  /* of b, a task */

struct job {
    int64_t m, n, k, ld, kc, rows, cols, n_col;       /* rows, cols of a task; n_col: tasks beside each other */
    struct hd_gemm_view a, b;
    float *c, *packed;                /* packed: [panels][depth][gemm_nr] */
    int64_t depth;                    /* k, or more */
    bool add, lower;                  /* lower: c is symmetric, and what lies right of the diagonal may be left out */
};

static _Thread_local _Alignas(64) float rows_of_a[ROWS * KC + HD_GEMM_SLACK];

/* b's columns lie side by side: some rows of it, all panels. Nothing hangs over: gemm_nr is whole vectors. */
static void pack_rows_of_b(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t nr = hd_k.gemm_nr, i0 = begin * PACK_ROWS, i1 = end * PACK_ROWS < j->k ? end * PACK_ROWS : j->k;

    for (int64_t i = i0; i < i1; i += 8)
        for (int64_t c = 0; c < j->n; c += nr)
            hd_k.gemm_pack_plain(i1 - i < 8 ? i1 - i : 8, (int)(j->n - c < nr ? j->n - c : nr), (int)nr, j->b.p + i * j->b.row + c, j->b.row, j->packed + c * j->k + i * nr);
}

static void pack_panels(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t nr = hd_k.gemm_nr;

    for (int64_t c = begin * nr; c < end * nr && c < j->n; c += nr)
        hd_k.gemm_pack_turned(j->k, (int)(j->n - c < nr ? j->n - c : nr), (int)nr, j->b.p + c * j->b.col, j->b.col, j->packed + c * j->k);
}

/* Rows r .. r + m of a, columns k0 .. k0 + k, as [sub-panels][k][gemm_mr]. */
static void pack_rows(const struct job *j, int64_t r, int64_t m, int64_t k0, int64_t k)
{
    int64_t mr = hd_k.gemm_mr;
    float *to = rows_of_a;

    for (int64_t r0 = 0; r0 < m; r0 += mr, to += k * mr) {
        int n = (int)(m - r0 < mr ? m - r0 : mr);
        const float *from = j->a.p + (r + r0) * j->a.row + k0 * j->a.col;

        if (j->a.row == 1)
            hd_k.gemm_pack_plain(k, n, (int)mr, from, j->a.col, to);
        else
            hd_k.gemm_pack_turned(k, n, (int)mr, from, j->a.row, to);
    }
}

static void block(const struct job *j, int64_t r, int64_t c0)
{
    int64_t m = j->m - r < j->rows ? j->m - r : j->rows, c1 = c0 + j->cols < j->n ? c0 + j->cols : j->n, mr = hd_k.gemm_mr, nr = hd_k.gemm_nr;

    if (j->lower && c1 > r + m)
        c1 = r + m;
    for (int64_t k0 = 0; k0 < j->k && c1 > c0; k0 += j->kc) {
        int64_t k = j->k - k0 < j->kc ? j->k - k0 : j->kc;

        pack_rows(j, r, m, k0, k);
        for (int64_t c = c0; c < c1; c += nr)
            for (int64_t r0 = 0; r0 < m; r0 += mr)
                hd_k.gemm_tile(k, rows_of_a + r0 * k, j->packed + c * j->depth + k0 * nr, j->c + (r + r0) * j->ld + c, j->ld, (int)(m - r0 < mr ? m - r0 : mr),
                               (int)(c1 - c < nr ? c1 - c : nr), j->add || k0 > 0);
    }
}

static void blocks(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++)
        block(j, i / j->n_col * j->rows, i % j->n_col * j->cols);
}

/* Blocks of equal length, as few as may be. */
static int64_t k_block(int64_t k)
{
    int64_t parts = (k + KC - 1) / KC;

    return ((k + parts - 1) / parts + 7) / 8 * 8;
}

static void mirror_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t r0 = begin * 16; r0 < end * 16 && r0 < j->m; r0 += 16)
        for (int64_t c = r0; c < j->m; c++)
            for (int64_t r = r0; r < r0 + 16 && r < c; r++)
                j->c[r * j->ld + c] = j->c[c * j->ld + r];
}

void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld, bool add)
{
    int64_t nr = hd_k.gemm_nr, panels = (n + nr - 1) / nr;
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    struct job j = {.m = m, .n = n, .k = k, .depth = k, .ld = ld, .cols = COLS, .a = a, .b = b, .c = c, .add = add};
    int64_t mr = hd_k.gemm_mr, tall = (m + ROWS - 1) / ROWS;

    HD_ASSERT(ROWS % mr == 0 && COLS_MIN % nr == 0 && k > 0);
    if (!m || !n || !(j.packed = hd_tape_scratch(s, panels * nr, k)))
        return;
    j.kc = k_block(k);
    j.rows = ((m + tall - 1) / tall + mr - 1) / mr * mr;
    tall = (m + j.rows - 1) / j.rows;
    while (j.cols > COLS_MIN && tall * ((n + j.cols - 1) / j.cols) < 4 * hd_pool_threads(cpu->pool))
        j.cols /= 2;
    j.n_col = (n + j.cols - 1) / j.cols;
    j.lower = m == n && !add && a.p == b.p && a.row == b.col && a.col == b.row;       /* x x^T: both halves would have the same bits */
    if (b.col == 1)
        hd_pool_for(cpu->pool, (k + PACK_ROWS - 1) / PACK_ROWS, 1, pack_rows_of_b, &j);
    else
        hd_pool_for(cpu->pool, panels, 1, pack_panels, &j);
    hd_pool_for(cpu->pool, tall * j.n_col, 1, blocks, &j);
    if (j.lower)
        hd_pool_for(cpu->pool, (m + 15) / 16, 4, mirror_range, &j);
    hd_arena_rewind(&s->tape->scratch, mark);
}

int64_t hd_gemm_panel(void)
{
    return hd_k.gemm_nr;
}

int64_t hd_gemm_packed(int64_t n, int64_t k)
{
    return ((n + hd_k.gemm_nr - 1) / hd_k.gemm_nr * hd_k.gemm_nr * k + HD_GEMM_SLACK + 15) / 16 * 16;
}

void hd_gemm_pack(int64_t n, int64_t k, struct hd_gemm_view b, float *packed)
{
    struct job j = {.n = n, .k = k, .b = b, .packed = packed};

    if (b.col == 1)
        pack_rows_of_b(&j, 0, (k + PACK_ROWS - 1) / PACK_ROWS);
    else
        pack_panels(&j, 0, (n + hd_k.gemm_nr - 1) / hd_k.gemm_nr);
}

void hd_gemm_alone(int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, const float *packed, int64_t depth, float *c, int64_t ld, bool add)
{
    struct job j = {.m = m, .n = n, .k = k, .depth = depth, .ld = ld, .kc = k_block(k), .rows = ROWS, .cols = n, .n_col = 1, .a = a, .c = c, .packed = (float *)packed, .add = add};

    blocks(&j, 0, (m + ROWS - 1) / ROWS);
}
