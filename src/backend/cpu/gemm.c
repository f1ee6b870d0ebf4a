/* gemm.c: see gemm.h.
 *
 * b is packed once, by the whole team, into panels of gemm_nr columns; a task is ROWS rows times COLS columns of c: it packs its rows of a, KC
 * of k at a time, into a buffer of its own that stays in L2, and runs tiles over it while a panel of b stays in L1. Sums over blocks of k are
 * added in c, ascending. Sizes come from the shape alone. */
#include "backend/cpu/gemm.h"

#include <string.h>

#include "kernels/kernels.h"
#include "ops/tape.h"

#define KC 256
#define ROWS 84                       /* a multiple of every gemm_mr: 14, 6, 4 */
#define COLS 256                      /* likewise of gemm_nr */

struct job {
    int64_t m, n, k, ld, n_col;       /* n_col: tasks beside each other */
    struct hd_gemm_view a, b;
    float *c, *packed;                /* packed: [panels][k][gemm_nr] */
    bool add;
};

static _Thread_local _Alignas(64) float rows_of_a[ROWS * KC];

/* n rows of k neighbours, ld apart, as to[k][wide]: what is missing of wide is zero. */
static void turn(const float *from, int64_t ld, int64_t n, int64_t k, int64_t wide, float *to)
{
    for (int64_t i = 0; i < k; i += 16) {             /* a cache line of every row */
        int64_t end = i + 16 < k ? i + 16 : k;

        for (int64_t e = 0; e < n; e++)
            for (int64_t c = i; c < end; c++)
                to[c * wide + e] = from[e * ld + c];
        for (int64_t c = i; c < end && n < wide; c++)
            memset(to + c * wide + n, 0, (size_t)(wide - n) * sizeof *to);
    }
}

static void pack_panels(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t nr = hd_k.gemm_nr;

    for (int64_t panel = begin; panel < end; panel++) {
        int64_t first = panel * nr, n = j->n - first < nr ? j->n - first : nr;
        float *to = j->packed + panel * j->k * nr;
        const float *from = j->b.p + first * j->b.col;

        if (j->b.col == 1)
            for (int64_t i = 0; i < j->k; i++, to += nr) {
                memcpy(to, from + i * j->b.row, (size_t)n * sizeof *to);
                memset(to + n, 0, (size_t)(nr - n) * sizeof *to);
            }
        else
            turn(from, j->b.col, n, j->k, nr, to);
    }
}

/* Rows r .. r + m of a, columns k0 .. k0 + k, as [sub-panels][k][gemm_mr]. */
static void pack_rows(const struct job *j, int64_t r, int64_t m, int64_t k0, int64_t k)
{
    int64_t mr = hd_k.gemm_mr;
    float *to = rows_of_a;

    for (int64_t r0 = 0; r0 < m; r0 += mr, to += k * mr) {
        int64_t n = m - r0 < mr ? m - r0 : mr;
        const float *from = j->a.p + (r + r0) * j->a.row + k0 * j->a.col;

        if (j->a.row == 1)
            for (int64_t i = 0; i < k; i++) {
                memcpy(to + i * mr, from + i * j->a.col, (size_t)n * sizeof *to);
                memset(to + i * mr + n, 0, (size_t)(mr - n) * sizeof *to);
            }
        else
            turn(from, j->a.row, n, k, mr, to);
    }
}

static void block(const struct job *j, int64_t r, int64_t c0)
{
    int64_t m = j->m - r < ROWS ? j->m - r : ROWS, c1 = c0 + COLS < j->n ? c0 + COLS : j->n, mr = hd_k.gemm_mr, nr = hd_k.gemm_nr;

    for (int64_t k0 = 0; k0 < j->k; k0 += KC) {
        int64_t k = j->k - k0 < KC ? j->k - k0 : KC;

        pack_rows(j, r, m, k0, k);
        for (int64_t c = c0; c < c1; c += nr)
            for (int64_t r0 = 0; r0 < m; r0 += mr)
                hd_k.gemm_tile(k, rows_of_a + r0 * k, j->packed + c * j->k + k0 * nr, j->c + (r + r0) * j->ld + c, j->ld, (int)(m - r0 < mr ? m - r0 : mr),
                               (int)(c1 - c < nr ? c1 - c : nr), j->add || k0 > 0);
    }
}

static void blocks(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++)
        block(j, i / j->n_col * ROWS, i % j->n_col * COLS);
}

void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld, bool add)
{
    int64_t nr = hd_k.gemm_nr, panels = (n + nr - 1) / nr;
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    struct job j = {.m = m, .n = n, .k = k, .ld = ld, .n_col = (n + COLS - 1) / COLS, .a = a, .b = b, .c = c, .add = add};

    HD_ASSERT(ROWS % hd_k.gemm_mr == 0 && COLS % nr == 0 && k > 0);
    if (!m || !n || !(j.packed = hd_tape_scratch(s, panels * nr, k)))
        return;
    hd_pool_for(cpu->pool, panels, 1, pack_panels, &j);
    hd_pool_for(cpu->pool, (m + ROWS - 1) / ROWS * j.n_col, 1, blocks, &j);
    hd_arena_rewind(&s->tape->scratch, mark);
}
