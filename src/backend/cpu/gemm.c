/* gemm.c: see gemm.h.
 *
 * b is packed once, by the whole team, into panels of gemm_nr columns; a task is some rows times some columns of c: it packs its rows of a, a block
 * of k at a time, into a buffer of its own that stays in L2, and runs tiles over it while a panel of b stays in L1. Sums over blocks of k are
 * added in c, ascending. The blocks of k come from k alone; what a task holds depends on the team too, and no bit depends on that. */
#include "backend/cpu/gemm.h"

#include "ops/tape.h"

#define KC 256                        /* rows of k in a block, at most: a panel of them fills L1 */
#define KC_BF16 512
#define ROWS 84                       /* a multiple of every gemm_mr: 14, 6, 4 */
#define COLS 1024                     /* at most: packed rows serve that many; halved while tasks are few */
#define COLS_MIN 128                  /* a multiple of every gemm_nr */
#define PACK_ROWS 64                  /* of b, a task */

struct job {
    const struct hd_gemm_kernels *g;
    enum hd_gemm_kind kind;
    int64_t m, k, kc, rows, panels, n_col;            /* rows, panels of a task; n_col: tasks beside each other */
    struct hd_gemm_view a;
    int n_part;
    struct hd_gemm_part part[HD_GEMM_PARTS];          /* packed: [panels][depth][gemm_nr] */
    int64_t panel0[HD_GEMM_PARTS + 1];                /* a part's first among all panels */
    int64_t depth;                    /* packed rows of a panel: of k, or more */
    bool add, lower;                  /* lower: c is symmetric, and what lies right of the diagonal may be left out */
};

static _Thread_local _Alignas(64) float rows_of_a[ROWS * KC_BF16 + ROWS / 4 * HD_GEMM_SLACK];

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- b ---- */

struct pack_job {
    const struct hd_gemm_kernels *g;
    int64_t n, k, depth;
    struct hd_gemm_view b;
    float *packed;
};

/* b's columns lie side by side: some rows of it, all panels. Nothing hangs over: gemm_nr is whole vectors. */
static void pack_rows_of_b(void *arg, int64_t begin, int64_t end)
{
    const struct pack_job *j = arg;
    int64_t nr = hd_k.gemm_nr, i0 = begin * PACK_ROWS, i1 = min(end * PACK_ROWS, j->k);

    for (int64_t i = i0; i < i1; i += 8)
        for (int64_t c = 0; c < j->n; c += nr)
            j->g->pack_plain(min(i1 - i, 8), (int)min(j->n - c, nr), (int)nr, j->b.p + i * j->b.row + c, j->b.row, j->packed + c * j->depth + (j->g->pairs ? i / 2 : i) * nr);
}

static void pack_panels(void *arg, int64_t begin, int64_t end)
{
    const struct pack_job *j = arg;
    int64_t nr = hd_k.gemm_nr;

    for (int64_t c = begin * nr; c < end * nr && c < j->n; c += nr)
        j->g->pack_turned(j->k, (int)min(j->n - c, nr), (int)nr, j->b.p + c * j->b.col, j->b.col, j->packed + c * j->depth);
}

static int64_t panels_of(int64_t n)
{
    return (n + hd_k.gemm_nr - 1) / hd_k.gemm_nr;
}

static void pack(struct hd_pool *pool, const struct pack_job *j)
{
    int64_t n = j->b.col == 1 ? (j->k + PACK_ROWS - 1) / PACK_ROWS : panels_of(j->n);
    hd_range_fn fn = j->b.col == 1 ? pack_rows_of_b : pack_panels;

    if (pool)
        hd_pool_for(pool, n, 1, fn, (void *)j);
    else
        fn((void *)j, 0, n);
}

/* ---- a, and the products ---- */

/* Floats from a sub-panel of a to the next: its own and what packing may spoil behind them. */
static int64_t sub_panel(int64_t deep)
{
    return deep * hd_k.gemm_mr + HD_GEMM_SLACK;
}

/* Rows r .. r + m of a, columns k0 .. k0 + k, as [sub-panels][packed rows][gemm_mr]. Where a lies the other way round, some of its rows go to all sub-panels before the next. */
static void pack_rows(const struct job *j, int64_t r, int64_t m, int64_t k0, int64_t k)
{
    int64_t mr = hd_k.gemm_mr, step = j->a.row == 1 ? 8 : k, sub = sub_panel(hd_gemm_rows(j->kind, k));
    hd_gemm_pack_fn fn = j->a.row == 1 ? j->g->pack_plain : j->g->pack_turned;

    for (int64_t i = 0; i < k; i += step)
        for (int64_t r0 = 0; r0 < m; r0 += mr)
            fn(min(k - i, step), (int)min(m - r0, mr), (int)mr, j->a.p + (r + r0) * j->a.row + (k0 + i) * j->a.col, j->a.row == 1 ? j->a.col : j->a.row,
               rows_of_a + r0 / mr * sub + (j->g->pairs ? i / 2 : i) * mr);
}

/* m rows from r on, panels p0 .. p1 of all parts. */
static void block(const struct job *j, int64_t r, int64_t m, int64_t p0, int64_t p1)
{
    int64_t mr = hd_k.gemm_mr, nr = hd_k.gemm_nr;

    for (int64_t k0 = 0; k0 < j->k && p1 > p0; k0 += j->kc) {
        int64_t k = min(j->k - k0, j->kc), deep = hd_gemm_rows(j->kind, k);
        int i = 0;

        pack_rows(j, r, m, k0, k);
        for (int64_t p = p0; p < p1; p++) {
            while (p >= j->panel0[i + 1])
                i++;
            const struct hd_gemm_part *to = &j->part[i];
            int64_t c = (p - j->panel0[i]) * nr;

            for (int64_t r0 = 0; r0 < m; r0 += mr)
                j->g->tile(deep, rows_of_a + r0 / mr * sub_panel(deep), to->packed + c * j->depth + (j->g->pairs ? k0 / 2 : k0) * nr, to->c + (r + r0) * to->ld + c, to->ld, (int)min(m - r0, mr),
                           (int)min(to->n - c, nr), j->add || k0 > 0);
        }
    }
}

static void blocks(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++) {
        int64_t r = i / j->n_col * j->rows, p0 = i % j->n_col * j->panels, m = min(j->m - r, j->rows), p1 = min(p0 + j->panels, j->panel0[j->n_part]);

        block(j, r, m, p0, j->lower ? min(p1, panels_of(r + m)) : p1);
    }
}

/* Blocks of equal length, as few as may be. */
static int64_t k_block(enum hd_gemm_kind kind, int64_t k)
{
    int64_t most = kind == HD_GEMM_BF16 ? KC_BF16 : KC, parts = (k + most - 1) / most;

    return ((k + parts - 1) / parts + 7) / 8 * 8;
}

static struct job job_of(enum hd_gemm_kind kind, int64_t m, int64_t k, struct hd_gemm_view a, int n_part, const struct hd_gemm_part *part, bool add)
{
    struct job j = {.g = &hd_k.gemm[kind], .kind = kind, .m = m, .k = k, .kc = k_block(kind, k), .rows = ROWS, .n_col = 1, .a = a, .n_part = n_part, .depth = hd_gemm_rows(kind, k), .add = add};

    for (int i = 0; i < n_part; i++) {
        j.part[i] = part[i];
        j.panel0[i + 1] = j.panel0[i] + panels_of(part[i].n);
    }
    j.panels = j.panel0[n_part];
    return j;
}

static void mirror_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    float *x = j->part[0].c;
    int64_t ld = j->part[0].ld;

    for (int64_t r0 = begin * 16; r0 < end * 16 && r0 < j->m; r0 += 16)
        for (int64_t c = r0; c < j->m; c++)
            for (int64_t r = r0; r < r0 + 16 && r < c; r++)
                x[r * ld + c] = x[c * ld + r];
}

/* On the team: tasks of equal heights, and several a worker. */
static void on_team(struct hd_cpu *cpu, struct job *j)
{
    int64_t mr = hd_k.gemm_mr, tall = (j->m + ROWS - 1) / ROWS, all = j->panels;

    HD_ASSERT(ROWS % mr == 0 && COLS_MIN % hd_k.gemm_nr == 0 && j->k > 0);
    j->rows = ((j->m + tall - 1) / tall + mr - 1) / mr * mr;
    tall = (j->m + j->rows - 1) / j->rows;
    j->panels = COLS / hd_k.gemm_nr;
    while (j->panels > COLS_MIN / hd_k.gemm_nr && tall * ((all + j->panels - 1) / j->panels) < 4 * hd_pool_threads(cpu->pool))
        j->panels /= 2;
    j->n_col = (all + j->panels - 1) / j->panels;
    hd_pool_for(cpu->pool, tall * j->n_col, 1, blocks, j);
    if (j->lower)
        hd_pool_for(cpu->pool, (j->m + 15) / 16, 4, mirror_range, j);
}

float *hd_cpu_gemm_pack(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t n, int64_t k, struct hd_gemm_view b)
{
    struct pack_job j = {.g = &hd_k.gemm[kind], .n = n, .k = k, .depth = hd_gemm_rows(kind, k), .b = b};

    if ((j.packed = hd_tape_scratch(s, panels_of(n) * hd_k.gemm_nr, j.depth)))
        pack(cpu->pool, &j);
    return j.packed;
}

void hd_cpu_gemm_parts(struct hd_cpu *cpu, enum hd_gemm_kind kind, int64_t m, int64_t k, struct hd_gemm_view a, int n_part, const struct hd_gemm_part *part, bool add)
{
    struct job j = job_of(kind, m, k, a, n_part, part, add);

    on_team(cpu, &j);
}

void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld,
                 bool add)
{
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    struct hd_gemm_part part = {.n = n, .c = c, .ld = ld};

    if (m && n && (part.packed = hd_cpu_gemm_pack(cpu, s, kind, n, k, b))) {
        struct job j = job_of(kind, m, k, a, 1, &part, add);

        j.lower = m == n && !add && a.p == b.p && a.row == b.col && a.col == b.row;       /* x x^T: both halves would have the same bits */
        on_team(cpu, &j);
    }
    hd_arena_rewind(&s->tape->scratch, mark);
}

/* ---- alone ---- */

int64_t hd_gemm_panel(void)
{
    return hd_k.gemm_nr;
}

int64_t hd_gemm_packed(enum hd_gemm_kind kind, int64_t n, int64_t k)
{
    return (panels_of(n) * hd_k.gemm_nr * hd_gemm_rows(kind, k) + HD_GEMM_SLACK + 15) / 16 * 16;
}

int64_t hd_gemm_at(enum hd_gemm_kind kind, int64_t depth, int64_t row, int64_t col)
{
    return col * hd_gemm_rows(kind, depth) + (hd_k.gemm[kind].pairs ? row / 2 : row) * hd_k.gemm_nr;
}

void hd_gemm_pack(enum hd_gemm_kind kind, int64_t n, int64_t k, struct hd_gemm_view b, float *packed)
{
    struct pack_job j = {.g = &hd_k.gemm[kind], .n = n, .k = k, .depth = hd_gemm_rows(kind, k), .b = b, .packed = packed};

    pack(NULL, &j);
}

void hd_gemm_alone(enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, const float *packed, int64_t depth, float *c, int64_t ld, bool add)
{
    struct hd_gemm_part part = {packed, n, c, ld};
    struct job j = job_of(kind, m, k, a, 1, &part, add);

    j.depth = hd_gemm_rows(kind, depth);
    blocks(&j, 0, (m + ROWS - 1) / ROWS);
}
