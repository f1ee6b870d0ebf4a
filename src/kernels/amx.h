/* amx.h: the tile instructions of AMX that kernels use: the compiler's, or an emulation of them (HD_EMULATE_TILES, and HD_EMULATE with everything else).
 *
 * Source   Intel, Architecture Instruction Set Extensions Programming Reference, chapter 3 (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBSSD)
 * Traps    Tile numbers are literals. The compiler's tile instructions say nothing of the memory that they read and write: hd_tile_fence()
 *          between them and ordinary loads and stores.
 */
#ifndef HD_KERNELS_AMX_H
#define HD_KERNELS_AMX_H

#include <stdint.h>

/* What LDTILECFG reads. */
struct hd_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[8], more_bytes[8];
    uint8_t rows[8], more_rows[8];
};

_Static_assert(sizeof(struct hd_tile_config) == 64, "as the manual has it");

#define hd_tile_fence() __asm__ volatile("" ::: "memory")

#if defined(HD_EMULATE) || defined(HD_EMULATE_TILES)

#include <assert.h>
#include <string.h>

/* A thread's tiles. Where the manual raises an exception an assertion fails. */
struct hd_tiles {
    struct hd_tile_config c;
    uint8_t data[8][16][64];
};

static _Thread_local struct hd_tiles hd_tiles;

static inline void hd_tile_config(const struct hd_tile_config *c)
{
    struct hd_tile_config none = {0};

    assert(c->palette == 1 && !memcmp(c->reserved, none.reserved, sizeof c->reserved));
    assert(!memcmp(c->more_bytes, none.more_bytes, sizeof c->more_bytes) && !memcmp(c->more_rows, none.more_rows, sizeof c->more_rows));
    for (int t = 0; t < 8; t++)
        assert(c->rows[t] <= 16 && c->row_bytes[t] <= 64 && !c->rows[t] == !c->row_bytes[t]);
    memset(&hd_tiles, 0, sizeof hd_tiles);
    hd_tiles.c = *c;
}

static inline void hd_tile_release(void)
{
    memset(&hd_tiles, 0, sizeof hd_tiles);
}

static inline void hd_tile_zero(int t)
{
    assert(hd_tiles.c.palette == 1 && hd_tiles.c.rows[t]);
    memset(hd_tiles.data[t], 0, sizeof hd_tiles.data[t]);
}

static inline void hd_tile_load(int t, const void *p, int64_t stride)
{
    hd_tile_zero(t);
    for (int r = 0; r < hd_tiles.c.rows[t]; r++)
        memcpy(hd_tiles.data[t][r], (const char *)p + r * stride, hd_tiles.c.row_bytes[t]);
}

static inline void hd_tile_store(int t, void *p, int64_t stride)
{
    assert(hd_tiles.c.palette == 1 && hd_tiles.c.rows[t]);
    for (int r = 0; r < hd_tiles.c.rows[t]; r++)
        memcpy((char *)p + r * stride, hd_tiles.data[t][r], hd_tiles.c.row_bytes[t]);
}

/* to += a b: row m of a has four signed bytes for each row k of b, which has four for each column n. Sums wrap. */
static inline void hd_tile_dot(int to, int a, int b)
{
    const struct hd_tile_config *c = &hd_tiles.c;

    assert(c->palette == 1 && to != a && to != b && a != b && c->rows[to] && c->rows[a] && c->rows[b]);
    assert(c->row_bytes[to] % 4 == 0 && c->row_bytes[a] % 4 == 0 && c->row_bytes[b] % 4 == 0);
    assert(c->rows[to] == c->rows[a] && c->row_bytes[a] == 4 * c->rows[b] && c->row_bytes[to] == c->row_bytes[b]);
    for (int m = 0; m < c->rows[to]; m++)
        for (int n = 0; n < c->row_bytes[to] / 4; n++) {
            uint32_t sum;

            memcpy(&sum, &hd_tiles.data[to][m][4 * n], 4);
            for (int k = 0; k < c->rows[b]; k++)
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)((int8_t)hd_tiles.data[a][m][4 * k + i] * (int8_t)hd_tiles.data[b][k][4 * n + i]);
            memcpy(&hd_tiles.data[to][m][4 * n], &sum, 4);
        }
    for (int m = c->rows[to]; m < 16; m++)
        memset(hd_tiles.data[to][m], 0, 64);
}

#else

#include <immintrin.h>

#define hd_tile_config(c) _tile_loadconfig(c)
#define hd_tile_release() _tile_release()
#define hd_tile_zero(t) _tile_zero(t)
#define hd_tile_load(t, p, stride) _tile_loadd(t, p, stride)
#define hd_tile_store(t, p, stride) _tile_stored(t, p, stride)
#define hd_tile_dot(to, a, b) _tile_dpbssd(to, a, b)

#endif

#endif
