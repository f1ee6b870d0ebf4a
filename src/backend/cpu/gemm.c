/* gemm.c: see gemm.h.
 *
 * Two ways, the same bits. Where a has many rows, b is packed once, by the whole team, into panels of gemm_nr columns; a task is some rows times some columns of c: it
 * packs its rows of a, a block of k at a time, into a buffer of its own that stays in L2, and runs tiles over it while a panel of b stays in L1. Where a has few rows and b is
 * large (weights that meet a small batch), a is packed once, and a task packs panels of b one at a time, just before all rows of a meet them: b is read once and written
 * nowhere, and tiles fetch the next panel meanwhile. Sums over blocks of k are added in c, ascending. The blocks of k come from k alone; which way, and what a task holds, depends on
 * shapes and the team too, and no bit depends on that. */
#include "backend/cpu/gemm.h"

#include <stdatomic.h>

#include "ops/tape.h"

#define KC 256                        /* rows of k in a block, at most: a panel of them fills L1 */
#define KC_BF16 768
#define ROWS 84                       /* a multiple of every gemm_mr: 14, 6, 4 */
#define COLS 1024                     /* at most: packed rows serve that many; halved while tasks are few */
#define COLS_MIN 128                  /* a multiple of every gemm_nr */
#define PACK_ROWS 64                  /* of b, a task */
#define FEW_BYTES (640 * 1024)        /* of a block of packed a that all panels of b meet: of L2 */
#define FEW_PANELS 16                 /* of a task, at most */
#define NR_MAX 32

struct job {
    const struct hd_gemm_kernels *g;
    enum hd_gemm_kind kind;
    int64_t m, k, kc, rows, panels, n_col;            /* rows, panels of a task; n_col: tasks beside each other */
    struct hd_gemm_view a;
    int n_part;
    struct hd_gemm_part part[HD_GEMM_PARTS];          /* packed: [panels][depth][gemm_nr] */
    int64_t panel0[HD_GEMM_PARTS + 1];                /* a part's first among all panels */
    int64_t depth;                    /* packed rows of a panel: of k, or more */
    enum hd_gemm_put put;
    bool lower;                       /* c is symmetric, and what lies right of the diagonal may be left out */
    float *few;                       /* a packed: [blocks of k][sub-panels][packed rows][gemm_mr] */
    int64_t ahead;                    /* tasks from one to the next of a worker, likely */
};

static _Thread_local _Alignas(64) float rows_of_a[ROWS * KC_BF16 + ROWS / 4 * HD_GEMM_SLACK];
static _Thread_local _Alignas(64) float panel_of_b[NR_MAX * KC_BF16 + HD_GEMM_SLACK];
static const struct hd_gemm_next nothing_next;

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

/* How a block of k goes into c. Past the caches only what is whole then, and lies well. */
static enum hd_gemm_put put_of(const struct job *j, const struct hd_gemm_part *to, int64_t k0)
{
    if (k0 > 0)
        return HD_GEMM_ADD;
    return j->put == HD_GEMM_STREAM && (j->k > j->kc || to->ld % 16 || (uintptr_t)to->c % 64) ? HD_GEMM_PUT : j->put;
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
                           (int)min(to->n - c, nr), put_of(j, to, k0), &nothing_next);
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
    if (j->put == HD_GEMM_STREAM)
        atomic_thread_fence(memory_order_seq_cst);
}

/* ---- few rows of a ---- */

/* Floats of a block of k, all sub-panels. */
static int64_t few_block(const struct job *j, int64_t k)
{
    return (j->m + hd_k.gemm_mr - 1) / hd_k.gemm_mr * sub_panel(hd_gemm_rows(j->kind, k));
}

static void pack_few(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t mr = hd_k.gemm_mr;

    for (int64_t i = begin; i < end; i++)
        for (int64_t k0 = 0; k0 < j->k; k0 += j->kc) {
            int64_t k = min(j->k - k0, j->kc);

            (j->a.row == 1 ? j->g->pack_plain : j->g->pack_turned)(k, (int)min(j->m - i * mr, mr), (int)mr, j->a.p + i * mr * j->a.row + k0 * j->a.col, j->a.row == 1 ? j->a.col : j->a.row,
                                                                    j->few + k0 / j->kc * few_block(j, j->kc) + i * sub_panel(hd_gemm_rows(j->kind, k)));
        }
}

/* A piece of b: a panel's block of k. */
struct piece {
    const struct hd_gemm_part *to;
    int64_t col, k0;
};

static struct piece piece_at(const struct job *j, int64_t p, int64_t k0)
{
    int i = 0;

    while (p >= j->panel0[i + 1])
        i++;
    return (struct piece){&j->part[i], (p - j->panel0[i]) * hd_k.gemm_nr, k0};
}

static void pack_piece(const struct job *j, const struct piece *p, int64_t k)
{
    const struct hd_gemm_view *b = &p->to->b;
    bool plain = b->col == 1;

    (plain ? j->g->pack_plain : j->g->pack_turned)(k, (int)min(p->to->n - p->col, hd_k.gemm_nr), hd_k.gemm_nr, b->p + p->k0 * b->row + p->col * b->col, plain ? b->row : b->col, panel_of_b);
}

/* What tile t of n should fetch of a piece: 128 bytes of each row of b; or, where columns lie so, of one column after the other, or of all at once if they are whole. */
static struct hd_gemm_next fetch_of(const struct job *j, const struct piece *p, int64_t t, int64_t n)
{
    const struct hd_gemm_view *b = &p->to->b;
    int64_t k = min(j->k - p->k0, j->kc), cols = min(p->to->n - p->col, hd_k.gemm_nr);
    const float *at = b->p + p->k0 * b->row + p->col * b->col;
    int64_t all = b->col == 1 ? k : cols * k / 32, first = all * t / n, some = all * (t + 1) / n - first;

    if (b->col == 1)
        return (struct hd_gemm_next){at + first * b->row, b->row, some};
    if (b->col == k)
        return (struct hd_gemm_next){at + first * 32, 32, some};
    return t * 32 < k ? (struct hd_gemm_next){at + t * 32, b->col, cols} : nothing_next;
}

/* All rows of a times panels p0 .. p1; after: the panel that this worker may have next. */
static void few_panels(const struct job *j, int64_t p0, int64_t p1, int64_t after)
{
    int64_t mr = hd_k.gemm_mr, n_sub = (j->m + mr - 1) / mr;

    for (int64_t p = p0; p < p1; p++)
        for (int64_t k0 = 0; k0 < j->k; k0 += j->kc) {
            int64_t k = min(j->k - k0, j->kc), deep = hd_gemm_rows(j->kind, k), follows = k0 + j->kc < j->k ? p : p + 1 < p1 ? p + 1 : after;
            struct piece now = piece_at(j, p, k0), then = follows < j->panel0[j->n_part] ? piece_at(j, follows, follows == p ? k0 + j->kc : 0) : (struct piece){0};
            const float *a = j->few + k0 / j->kc * few_block(j, j->kc);

            pack_piece(j, &now, k);
            for (int64_t i = 0; i < n_sub; i++) {
                struct hd_gemm_next next = then.to ? fetch_of(j, &then, i, n_sub) : nothing_next;

                j->g->tile(deep, a + i * sub_panel(deep), panel_of_b, now.to->c + i * mr * now.to->ld + now.col, now.to->ld, (int)min(j->m - i * mr, mr),
                           (int)min(now.to->n - now.col, hd_k.gemm_nr), put_of(j, now.to, k0), &next);
            }
        }
}

static void few_tasks(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++)
        few_panels(j, i * j->panels, min((i + 1) * j->panels, j->panel0[j->n_part]), (i + j->ahead) * j->panels);
    if (j->put == HD_GEMM_STREAM)
        atomic_thread_fence(memory_order_seq_cst);
}

/* Is this the better way? b packed by the team would be written, and read again for every ROWS of a. */
static bool has_few_rows(const struct job *j)
{
    int64_t n = 0;

    for (int i = 0; i < j->n_part; i++) {
        if (j->part[i].packed)
            return false;
        n += j->part[i].n;
    }
    return j->m <= n && few_block(j, min(j->k, j->kc)) * (int64_t)sizeof(float) <= FEW_BYTES;
}

static void few_on_team(struct hd_cpu *cpu, struct hd_stream *s, struct job *j)
{
    int64_t all = j->panel0[j->n_part], n_thread = hd_pool_threads(cpu->pool);

    HD_ASSERT(hd_k.gemm_nr <= NR_MAX);
    if (!(j->few = hd_tape_scratch(s, (j->k + j->kc - 1) / j->kc, few_block(j, j->kc))))
        return;
    j->panels = all / (4 * n_thread);
    j->panels = j->panels < 1 ? 1 : min(j->panels, FEW_PANELS);
    j->ahead = n_thread;
    hd_pool_for(cpu->pool, (j->m + hd_k.gemm_mr - 1) / hd_k.gemm_mr, 1, pack_few, j);
    hd_pool_for(cpu->pool, (all + j->panels - 1) / j->panels, 1, few_tasks, j);
}

/* ---- products ---- */

/* Blocks of equal length, as few as may be. */
static int64_t k_block(enum hd_gemm_kind kind, int64_t k)
{
    int64_t most = kind == HD_GEMM_BF16 ? KC_BF16 : KC, parts = (k + most - 1) / most;

    return ((k + parts - 1) / parts + 7) / 8 * 8;
}

static struct job job_of(enum hd_gemm_kind kind, int64_t m, int64_t k, struct hd_gemm_view a, int n_part, const struct hd_gemm_part *part, enum hd_gemm_put put)
{
    struct job j = {.g = &hd_k.gemm[kind], .kind = kind, .m = m, .k = k, .kc = k_block(kind, k), .rows = ROWS, .n_col = 1, .a = a, .n_part = n_part, .depth = hd_gemm_rows(kind, k), .put = put};

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

/* The height of tasks, up to ROWS, with which the team is done first if n_col of them lie beside each other: a few tall ones may leave a worker without any at the end. Low ones
 * serve a panel of b for less, so they have to gain something. */
static int64_t height_of(int64_t m, int64_t n_col, int64_t n_thread)
{
    int64_t mr = hd_k.gemm_mr, best = ROWS, least = INT64_MAX;

    for (int64_t rows = ROWS; rows >= ROWS / 2; rows -= mr) {
        int64_t n = (m + rows - 1) / rows * n_col, took = (n + n_thread - 1) / n_thread * min(rows, m);

        if (took < least - least / 50) {
            least = took;
            best = rows;
        }
    }
    return best;
}

/* On the team: several tasks a worker. */
static void on_team(struct hd_cpu *cpu, struct job *j)
{
    int64_t mr = hd_k.gemm_mr, tall = (j->m + ROWS - 1) / ROWS, all = j->panels, n_thread = hd_pool_threads(cpu->pool);

    HD_ASSERT(ROWS % mr == 0 && COLS_MIN % hd_k.gemm_nr == 0 && j->k > 0);
    j->panels = COLS / hd_k.gemm_nr;
    while (j->panels > COLS_MIN / hd_k.gemm_nr && tall * ((all + j->panels - 1) / j->panels) < 4 * n_thread)
        j->panels /= 2;
    j->n_col = (all + j->panels - 1) / j->panels;
    j->rows = height_of(j->m, j->n_col, n_thread);
    tall = (j->m + j->rows - 1) / j->rows;
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

void hd_cpu_gemm_parts(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t m, int64_t k, struct hd_gemm_view a, int n_part, const struct hd_gemm_part *part,
                       enum hd_gemm_put put)
{
    struct job j = job_of(kind, m, k, a, n_part, part, put);
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);

    j.lower = n_part == 1 && m == part->n && put != HD_GEMM_ADD && !part->packed && a.p == part->b.p && a.row == part->b.col && a.col == part->b.row;     /* x x^T: both halves would have the same bits */
    if (!j.lower && has_few_rows(&j)) {
        few_on_team(cpu, s, &j);
    } else {
        for (int i = 0; i < n_part; i++)
            if (!j.part[i].packed && !(j.part[i].packed = hd_cpu_gemm_pack(cpu, s, kind, part[i].n, k, part[i].b)))
                return;
        on_team(cpu, &j);
    }
    hd_arena_rewind(&s->tape->scratch, mark);
}

void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld,
                 enum hd_gemm_put put)
{
    struct hd_gemm_part part = {.b = b, .n = n, .c = c, .ld = ld};

    if (m && n)
        hd_cpu_gemm_parts(cpu, s, kind, m, k, a, 1, &part, put);
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
    struct hd_gemm_part part = {.packed = packed, .n = n, .c = c, .ld = ld};
    struct job j = job_of(kind, m, k, a, 1, &part, add ? HD_GEMM_ADD : HD_GEMM_PUT);

    j.depth = hd_gemm_rows(kind, depth);
    blocks(&j, 0, (m + ROWS - 1) / ROWS);
}
