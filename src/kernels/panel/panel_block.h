/* panel_block.h: one block of 32 columns of a panel of integer codes in vectors of L lanes, and where results go: what panel_body.h and
 * panel_amx.c share. The including file defines what panel_body.h lists for it.
 */
#ifndef HD_KERNELS_PANEL_PANEL_BLOCK_H
#define HD_KERNELS_PANEL_PANEL_BLOCK_H

#include <string.h>

#include "kernels/table.h"
#include "tensor/blocks.h"
#include "tensor/quant_q8.h"

#define INLINE static inline __attribute__((always_inline))

/* Where a token's result goes: n_row of the panel's rows. */
INLINE void put(float *out, V v, int half, int64_t n_row)
{
    if (n_row >= (half + 1) * L) {
        v_store(out + half * L, v);
        return;
    }
    float lane[L];

    v_store(lane, v);
    for (int i = 0; i < L && half * L + i < n_row; i++)
        out[half * L + i] = lane[i];
}

/* A block of 32 columns of L rows: codes, scale (q6_k: of the first and the second sixteen columns), minimum. */
struct block {
    VI w[8];
    V s, s2, m;
};

#define HIGH(g, v, mask) w[g] = w_or(w[g], v, mask)

/* The fifth bits of codes, or the fifth and the sixth. */
INLINE void load_high(int bits, const uint8_t *p, VI w[8])
{
    VI h = vi_load(p), k;

    if (bits == 1) {
        HIGH(0, w_shl(h, 4), 16);
        HIGH(1, w_shl(h, 3), 16);
        HIGH(2, w_shl(h, 2), 16);
        HIGH(3, w_shl(h, 1), 16);
        HIGH(4, h, 16);
        HIGH(5, w_shr(h, 1), 16);
        HIGH(6, w_shr(h, 2), 16);
        HIGH(7, w_shr(h, 3), 16);
        return;
    }
    k = vi_load(p + 64);
    HIGH(0, w_shl(h, 4), 48);
    HIGH(1, w_shl(h, 2), 48);
    HIGH(2, h, 48);
    HIGH(3, w_shr(h, 2), 48);
    HIGH(4, w_shl(k, 4), 48);
    HIGH(5, w_shl(k, 2), 48);
    HIGH(6, k, 48);
    HIGH(7, w_shr(k, 2), 48);
}

INLINE void load_codes(enum hd_dtype t, const uint8_t *code, int half, VI w[8])
{
    if (t == HD_Q8_0) {
        for (int g = 0; g < 8; g++)
            w[g] = w_byte(vi_load(code + g * 64 + half * 4 * L));
        return;
    }
    for (int g = 0; g < 4; g++) {
        w_nibbles(vi_load(code + g * 64 + half * 4 * L), &w[g], &w[4 + g]);
        if (t == HD_MXFP4) {
            w[g] = w_e2m1(w[g]);
            w[4 + g] = w_e2m1(w[4 + g]);
        }
    }
    if (hd_panel_high_bits(t))
        load_high(hd_panel_high_bits(t), code + 256 + half * 4 * L, w);
}

INLINE void load_block(enum hd_dtype t, const struct hd_panels *w, const uint8_t *panel, int half, int64_t b, struct block *k)
{
    const uint8_t *scale = panel + w->scale_at;

    load_codes(t, panel + b * hd_panel_block_bytes(t), half, k->w);
    if (t == HD_Q6_K) {
        const struct hd_panel_k6 *r = (const struct hd_panel_k6 *)scale + b / 8;
        V d = v_f16(r->d + half * L);

        k->s = v_mul(d, v_i8(r->scale[b % 8 * 2] + half * L));
        k->s2 = v_mul(d, v_i8(r->scale[b % 8 * 2 + 1] + half * L));
    } else if (t == HD_Q4_K || t == HD_Q5_K) {
        const struct hd_panel_k4 *r = (const struct hd_panel_k4 *)scale + b / 8;

        k->s = v_mul(v_f16(r->d + half * L), v_i8(r->scale[b % 8] + half * L));
        k->m = v_mul(v_f16(r->dmin + half * L), v_mul(v_i8(r->min[b % 8] + half * L), v_set1(-1)));
    } else {
        k->s = t == HD_MXFP4 ? v_e8m0(scale + b * 16 + half * L) : v_f16(scale + (b * 16 + half * L) * 2);
        if (hd_panel_has_min(t))
            k->m = v_f16(panel + w->min_at + (b * 16 + half * L) * 2);
    }
}

#endif
