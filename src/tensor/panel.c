/* panel.c: see panel.h. */
#include "tensor/panel.h"

#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "tensor/act_bf16.h"
#include "tensor/blocks.h"
#include "tensor/decode_rows.h"
#include "tensor/vec16.h"

static int64_t up64(int64_t n)
{
    return (n + 63) & ~(int64_t)63;
}

static enum hd_panel_kind kind_of(enum hd_dtype t)
{
    switch (t) {
    case HD_Q4_0:
    case HD_Q4_1:
    case HD_Q5_0:
    case HD_Q5_1:
    case HD_Q4_K:
    case HD_Q5_K:
    case HD_Q6_K:
    case HD_MXFP4:
    case HD_F4_E2M1: return HD_PANEL_NIBBLES;
    case HD_Q8_0: return HD_PANEL_BYTES;
    case HD_F8_E4M3: return HD_PANEL_FP8;
    case HD_BF16: return HD_PANEL_BF16;
    default: return HD_PANEL_NONE;
    }
}

/* Scales beside the data in a form that panels keep: ue8m0 a row and 32 columns for fp4; for fp8 the same, or blocks of rows that a panel
 * does not straddle, of columns in whole 32s. */
static bool scales_fit(const struct hd_tensor *w)
{
    const struct hd_scale *s = &w->scale;

    if (w->type == HD_F4_E2M1)
        return s->data && s->type == HD_F8_E8M0 && s->block_rows == 1 && s->block_cols == 32;
    if (w->type == HD_F8_E4M3 && s->data)
        return s->block_cols % 32 == 0 && (s->block_rows % HD_PANEL_ROWS == 0 || (s->block_rows == 1 && s->block_cols == 32));
    return true;
}

bool hd_panels_describe(const struct hd_tensor *w, struct hd_panels *p)
{
    int64_t n = hd_cols(w), nb = n / 32, scale_bytes = 0;
    bool e8m0 = w->type == HD_F4_E2M1 || w->type == HD_MXFP4;

    *p = (struct hd_panels){.type = w->type, .kind = kind_of(w->type), .n = n, .n_row = hd_rows(w), .scale_cols = 32, .scale_rows = true, .global = 1};
    if (p->kind == HD_PANEL_NONE || n % 32 || n % hd_dtypes[w->type].block_len || !n || !p->n_row || !scales_fit(w))
        return false;
    switch (p->kind) {
    case HD_PANEL_NIBBLES:
        p->scale_at = nb * hd_panel_block_bytes(w->type);
        scale_bytes = nb * 16 * (e8m0 ? 1 : 2);
        if (hd_dtypes[w->type].block_len == 256)
            scale_bytes = nb / 8 * (int64_t)(w->type == HD_Q6_K ? sizeof(struct hd_panel_k6) : sizeof(struct hd_panel_k4));
        break;
    case HD_PANEL_BYTES:
        p->scale_at = nb * 512;
        scale_bytes = nb * 32;
        break;
    case HD_PANEL_FP8:
        p->scale_at = n * 16;
        p->scale_rows = w->scale.data && w->scale.block_rows == 1;
        p->scale_cols = w->scale.data ? w->scale.block_cols : n;
        scale_bytes = (n + p->scale_cols - 1) / p->scale_cols * (p->scale_rows ? 64 : 4);
        break;
    case HD_PANEL_BF16:
        p->scale_at = n * 32;
        p->scale_rows = false;
        p->scale_cols = n;
        break;
    default: return false;
    }
    if (w->type == HD_F4_E2M1)
        p->global = w->scale.global;
    p->min_at = p->scale_at + scale_bytes;
    p->bytes = up64(p->min_at + (w->type == HD_Q4_1 || w->type == HD_Q5_1 ? scale_bytes : 0));
    return true;
}

#define FEW 32                        /* blocks of a row that are packed before the next rows' */

/* Packing turns rows into lanes, a matrix of four-byte words: four rows at a time, in vectors of 16 bytes, which every machine has.
 * Four rows' places; NULL behind the matrix's last row, which reads as zeros. */
struct rows {
    const uint8_t *at[4];
};

static inline u32x4 load(const struct rows *r, int i, int64_t at)
{
    u32x4 v = {0};

    if (r->at[i])
        memcpy(&v, r->at[i] + at, sizeof v);
    return v;
}

/* Four words of four rows, and word g of all of them. */
static inline void turn(const u32x4 v[4], u64x2 w[4])
{
    u64x2 a = (u64x2)HD_SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = (u64x2)HD_SHUFFLE(v[2], v[3], 0, 4, 1, 5);
    u64x2 c = (u64x2)HD_SHUFFLE(v[0], v[1], 2, 6, 3, 7), d = (u64x2)HD_SHUFFLE(v[2], v[3], 2, 6, 3, 7);

    w[0] = HD_SHUFFLE(a, b, 0, 2);
    w[1] = HD_SHUFFLE(a, b, 1, 3);
    w[2] = HD_SHUFFLE(c, d, 0, 2);
    w[3] = HD_SHUFFLE(c, d, 1, 3);
}

/* Word g of all four to out + 64 g. */
static inline void store_turned(const u32x4 v[4], uint8_t *out)
{
    u64x2 w[4];

    turn(v, w);
    for (int g = 0; g < 4; g++)
        memcpy(out + g * 64, &w[g], 16);
}

/* Sixteen bytes of sixteen rows, n bytes apart: byte k of all of them goes to out + 16 k. */
static inline void turn_bytes(const uint8_t *in, int64_t n, uint8_t *out)
{
    u8x16 v[16], w[16];

    for (int i = 0; i < 16; i++)
        memcpy(&v[i], in + i * n, 16);
    for (int round = 0; round < 4; round++) {         /* each halves how far apart what belongs together lies */
        for (int i = 0; i < 8; i++) {
            w[2 * i] = HD_SHUFFLE(v[i], v[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            w[2 * i + 1] = HD_SHUFFLE(v[i], v[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(v, w, sizeof v);
    }
    memcpy(out, v, sizeof v);
}

/* Scales of fp4, blocks b .. b + n - 1. */
static void pack_bytes(const struct hd_tensor *w, int64_t row0, int n_lane, int64_t b, int64_t n, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)w->scale.data + row0 * w->scale.n_col;
    int64_t k = b;

    for (; n_lane == 16 && k + 16 <= b + n; k += 16)
        turn_bytes(in + k, w->scale.n_col, out + k * 16);
    for (; k < b + n; k++)
        for (int lane = 0; lane < n_lane; lane++)
            out[k * 16 + lane] = in[lane * w->scale.n_col + k];
}

/* Nibbles of two rows with columns 2j and 2j + 1 in byte j: as j and 16 + j. */
static inline void unzip(u32x4 *v, u32x4 *w)
{
    u8x16 a = (u8x16)HD_SHUFFLE((u64x2)*v, (u64x2)*w, 0, 2), b = (u8x16)HD_SHUFFLE((u64x2)*v, (u64x2)*w, 1, 3);
    u8x16 even = (a & 0x0F) | (u8x16)((i16x8)(b & 0x0F) << 4), odd = ((u8x16)((i16x8)a >> 4) & 0x0F) | (b & 0xF0);

    *v = (u32x4)HD_SHUFFLE(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *w = (u32x4)HD_SHUFFLE(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/* Codes of n blocks of four rows: groups of four bytes, 64 bytes apart. */
static inline void pack_codes(struct rows in, int64_t block, int words, bool f4, int64_t n, uint8_t *out)
{
    for (int64_t b = 0; b < n; b++)
        for (int h = 0; h < words; h += 4, out += 256) {
            u32x4 v[4];

            for (int i = 0; i < 4; i++)
                v[i] = load(&in, i, b * block + 4 * h);
            if (f4) {
                unzip(&v[0], &v[1]);
                unzip(&v[2], &v[3]);
            }
            store_turned(v, out);
        }
}

static struct rows rows_from(const struct hd_tensor *w, int64_t row, int n, int64_t at)
{
    struct rows r = {{NULL}};

    for (int i = 0; i < n && i < 4; i++)
        r.at[i] = (const uint8_t *)w->data + (row + i) * w->row_bytes + at;
    return r;
}

static inline void prefetch(const struct rows *r, int64_t at, int64_t n)
{
    for (int i = 0; i < 4; i++)
        for (int64_t k = 0; r->at[i] && k < n; k += 64)
            __builtin_prefetch(r->at[i] + at + k);
}

/* A few blocks of 32 columns of four lanes, then of the next four: what is written lies together, and rows are read in whole cache lines that
 * were asked for before. */
static void pack_blocks(const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    bool mx = w->type == HD_MXFP4, f4 = w->type == HD_F4_E2M1, q8 = p->kind == HD_PANEL_BYTES;
    int head = f4 ? 0 : mx ? 1 : w->type == HD_Q4_1 ? 4 : 2, words = q8 ? 8 : 4;
    int64_t nb = p->n / 32, block = head + 4 * words;

    for (int64_t b = 0; b < nb; b += FEW) {
        int64_t n = nb - b < FEW ? nb - b : FEW;

        for (int lane = 0; lane < n_lane; lane += 4) {
            struct rows in = rows_from(w, row0 + lane, n_lane - lane, b * block + head);
            uint8_t *to = out + b * words * 64 + lane * 4;

            prefetch(&in, FEW * block * 2, FEW * block);
            if (f4)
                pack_codes(in, 16, 4, true, n, to);
            else if (q8)
                pack_codes(in, 34, 8, false, n, to);
            else
                pack_codes(in, block, 4, false, n, to);
        }
        if (f4)
            pack_bytes(w, row0, n_lane, b, n, out + p->scale_at);
        for (int lane = 0; !f4 && lane < n_lane; lane++) {
            const uint8_t *in = (const uint8_t *)w->data + (row0 + lane) * w->row_bytes + b * block;

            for (int64_t k = b * 16 + lane; k < (b + n) * 16; k += 16, in += block) {
                if (mx)
                    out[p->scale_at + k] = in[0];
                else
                    memcpy(out + p->scale_at + k * 2, in, 2);
                if (w->type == HD_Q4_1)
                    memcpy(out + p->min_at + k * 2, in + 2, 2);
            }
        }
    }
}

/* 32 codes of up to six bits of four rows: columns 0 .. 15 and 16 .. 31. */
static inline void put_codes(enum hd_dtype type, const u8x16 lo[4], const u8x16 hi[4], uint8_t *out)
{
    int high = hd_panel_high_bits(type);
    u32x4 v[4], l[4], h[4];
    u64x2 turned[8];

    for (int i = 0; i < 4; i++) {
        v[i] = (u32x4)((lo[i] & 15) | (hi[i] & 15) << 4);
        l[i] = (u32x4)(lo[i] >> 4);
        h[i] = (u32x4)(hi[i] >> 4);
    }
    store_turned(v, out);
    if (!high)
        return;
    turn(l, turned);
    turn(h, turned + 4);
    for (int i = 0; i < high; i++) {
        u32x4 bits = {0};

        for (int g = 0; g < 8 / high; g++)
            bits |= (u32x4)turned[4 * i + g] << (high * g);
        memcpy(out + 256 + 64 * i, &bits, sizeof bits);
    }
}

/* 16 where a bit is set. */
static inline u8x16 fifth_bits(uint32_t h)
{
    const u8x16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    u64x2 v = {(h & 255) * 0x0101010101010101u, (h >> 8 & 255) * 0x0101010101010101u};

    return (u8x16)(((u8x16)v & bit) != 0) & 16;
}

static inline u8x16 load16(const uint8_t *in)
{
    u8x16 v;

    memcpy(&v, in, sizeof v);
    return v;
}

/* Codes of columns 32 j .. 32 j + 31 of one of the format's blocks: blocks.h. */
static inline void get_codes(enum hd_dtype type, const uint8_t *in, int j, u8x16 *lo, u8x16 *hi)
{
    int at = type == HD_Q5_0 ? 6 : type == HD_Q5_1 ? 8 : type == HD_Q4_K ? 16 + j / 2 * 32 : type == HD_Q5_K ? 48 + j / 2 * 32 : j / 4 * 64 + j % 2 * 32;
    u8x16 a = load16(in + at), b;
    uint32_t high;

    if (type == HD_Q5_0 || type == HD_Q5_1) {
        memcpy(&high, in + at - 4, 4);
        *lo = (a & 15) | fifth_bits(high);
        *hi = a >> 4 | fifth_bits(high >> 16);
        return;
    }
    b = load16(in + at + 16);
    *lo = (type == HD_Q6_K ? j % 4 >= 2 : j % 2) ? a >> 4 : a & 15;
    *hi = (type == HD_Q6_K ? j % 4 >= 2 : j % 2) ? b >> 4 : b & 15;
    if (type == HD_Q5_K) {
        *lo |= (load16(in + 16) >> j & 1) << 4;
        *hi |= (load16(in + 32) >> j & 1) << 4;
    } else if (type == HD_Q6_K) {
        *lo |= (load16(in + 128 + j / 4 * 32) >> 2 * (j % 4) & 3) << 4;
        *hi |= (load16(in + 144 + j / 4 * 32) >> 2 * (j % 4) & 3) << 4;
    }
}

/* Scales (and minima) of block c of one lane. */
static void put_scales(const struct hd_panels *p, const uint8_t *in, int64_t c, int lane, uint8_t *out)
{
    struct hd_panel_k4 *k4 = (struct hd_panel_k4 *)(out + p->scale_at) + c;
    struct hd_panel_k6 *k6 = (struct hd_panel_k6 *)(out + p->scale_at) + c;

    switch (p->type) {
    case HD_Q6_K:
        k6->d[lane] = hd_load16(in + 208);
        for (int j = 0; j < 16; j++)
            k6->scale[j][lane] = (int8_t)in[192 + j];
        break;
    case HD_Q4_K:
    case HD_Q5_K:
        k4->d[lane] = hd_load16(in);
        k4->dmin[lane] = hd_load16(in + 2);
        for (int j = 0; j < 8; j++) {
            int scale, min;

            hd_k4_scale(in + 4, j, &scale, &min);
            k4->scale[j][lane] = (uint8_t)scale;
            k4->min[j][lane] = (uint8_t)min;
        }
        break;
    default:
        memcpy(out + p->scale_at + (c * 16 + lane) * 2, in, 2);
        if (p->type == HD_Q5_1)
            memcpy(out + p->min_at + (c * 16 + lane) * 2, in + 2, 2);
    }
}

/* q5_0, q5_1, q4_k, q5_k, q6_k, in pieces of rows as above. */
static inline void pack_coded(enum hd_dtype type, const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    int sub = hd_dtypes[type].block_len / 32;
    int64_t block = hd_dtypes[type].block_bytes, n = p->n / 32 / sub, few = FEW / sub;

    for (int64_t from = 0; from < n; from += few)
        for (int lane = 0; lane < n_lane; lane += 4) {
            struct rows in = rows_from(w, row0 + lane, n_lane - lane, 0);

            prefetch(&in, (from + few) * block, few * block);
            for (int64_t c = from; c < n && c < from + few; c++) {
                for (int j = 0; j < sub; j++) {
                    u8x16 lo[4] = {{0}}, hi[4] = {{0}};

                    for (int i = 0; i < 4; i++)
                        if (in.at[i])
                            get_codes(type, in.at[i] + c * block, j, &lo[i], &hi[i]);
                    put_codes(type, lo, hi, out + (c * sub + j) * hd_panel_block_bytes(type) + lane * 4);
                }
                for (int i = 0; i < 4; i++)
                    if (in.at[i])
                        put_scales(p, in.at[i] + c * block, c, lane + i, out);
            }
        }
}

/* Four columns of fp8 as the kernels want them in a lane: 0, 2, 1, 3. */
static inline u32x4 fp8_words(u32x4 v)
{
    return (v & 0xFF0000FFu) | (v & 0xFF00u) << 8 | (v >> 8 & 0xFF00u);
}

/* Columns of bf16, 0 where one is tiny. */
static inline u32x4 bf16_words(u32x4 v)
{
    i16x8 h = (i16x8)v, tiny = (h & 0x7F80) < HD_BF16_WEIGHT_MIN;

    return (u32x4)(h & (~tiny | INT16_MIN));
}

static inline void pack_four(struct rows in, bool fp8, int64_t n, uint8_t *out)
{
    for (int64_t k = 0; k < n; k++, out += 256) {
        u32x4 v[4];

        for (int i = 0; i < 4; i++) {
            v[i] = load(&in, i, k * 16);
            v[i] = fp8 ? fp8_words(v[i]) : bf16_words(v[i]);
        }
        store_turned(v, out);
    }
}

/* Four bytes a lane: four columns of fp8, two of bf16. Pieces of rows, as above. */
static void pack_words(const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    bool fp8 = p->kind == HD_PANEL_FP8;
    int64_t n = p->n / (fp8 ? 16 : 8), few = FEW * 2;

    for (int64_t c = 0; c < n; c += few)
        for (int lane = 0; lane < n_lane; lane += 4) {
            struct rows in = rows_from(w, row0 + lane, n_lane - lane, c * 16);
            int64_t k = n - c < few ? n - c : few;

            prefetch(&in, few * 16, few * 16);
            if (fp8)
                pack_four(in, true, k, out + c * 256 + lane * 4);
            else
                pack_four(in, false, k, out + c * 256 + lane * 4);
        }
}

static void pack_fp8_scales(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const struct hd_scale *s = &w->scale;

    for (int64_t c = 0; c < (p->n + p->scale_cols - 1) / p->scale_cols; c++) {
        float v = s->data ? hd_scale_value(s, row / s->block_rows * s->n_col + c) : 1;

        memcpy(out + p->scale_at + (p->scale_rows ? c * 16 + lane : c) * 4, &v, 4);
    }
}

void hd_panel_pack(const struct hd_tensor *w, const struct hd_panels *p, int64_t i, void *out)
{
    int64_t row0 = i * HD_PANEL_ROWS;
    int n_lane = (int)(p->n_row - row0 < HD_PANEL_ROWS ? p->n_row - row0 : HD_PANEL_ROWS);

    if ((i + 1) * HD_PANEL_ROWS > p->n_row)
        memset(out, 0, (size_t)p->bytes);
    else
        memset((char *)out + p->bytes - 64, 0, 64);       /* what pads a whole panel */
    switch (p->type) {
    case HD_Q5_0: pack_coded(HD_Q5_0, w, p, row0, n_lane, out); break;
    case HD_Q5_1: pack_coded(HD_Q5_1, w, p, row0, n_lane, out); break;
    case HD_Q4_K: pack_coded(HD_Q4_K, w, p, row0, n_lane, out); break;
    case HD_Q5_K: pack_coded(HD_Q5_K, w, p, row0, n_lane, out); break;
    case HD_Q6_K: pack_coded(HD_Q6_K, w, p, row0, n_lane, out); break;
    default:
        if (p->kind == HD_PANEL_NIBBLES || p->kind == HD_PANEL_BYTES)
            pack_blocks(w, p, row0, n_lane, out);
        else
            pack_words(w, p, row0, n_lane, out);
    }
    for (int lane = 0; p->kind == HD_PANEL_FP8 && lane < (p->scale_rows ? n_lane : 1); lane++)
        pack_fp8_scales(w, p, row0 + lane, lane, out);
}

#define LAYOUT_ROWS 18                /* a whole panel, and one with rows behind the last */
#define LAYOUT_COLS 256

uint64_t hd_panel_layout(void)
{
    static const struct {
        enum hd_dtype type, scale;
        int rows, cols;               /* of a scale's block; 0: no scales */
    } kinds[] = {{HD_Q4_0, HD_F32, 0, 0}, {HD_Q4_1, HD_F32, 0, 0}, {HD_Q5_0, HD_F32, 0, 0}, {HD_Q5_1, HD_F32, 0, 0}, {HD_Q8_0, HD_F32, 0, 0}, {HD_Q4_K, HD_F32, 0, 0}, {HD_Q5_K, HD_F32, 0, 0},
                 {HD_Q6_K, HD_F32, 0, 0}, {HD_MXFP4, HD_F32, 0, 0}, {HD_BF16, HD_F32, 0, 0}, {HD_F4_E2M1, HD_F8_E8M0, 1, 32}, {HD_F8_E4M3, HD_F8_E8M0, 1, 32}, {HD_F8_E4M3, HD_F32, 128, 128},
                 {HD_F8_E4M3, HD_F32, 0, 0}};
    uint8_t in[LAYOUT_ROWS * LAYOUT_COLS * 2], scale[LAYOUT_ROWS * LAYOUT_COLS / 8], out[LAYOUT_COLS * 48] __attribute__((aligned(64)));
    uint64_t h = HD_HASH_INIT;

    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i * 167 + (i >> 8) * 59 + 13);
    for (size_t i = 0; i < sizeof scale; i++)         /* powers of two, or f32 of moderate size */
        scale[i] = (uint8_t)(i % 4 == 3 ? 0x3F : i * 31 % 128 + 32);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct hd_tensor w = hd_view2(kinds[i].type, in, LAYOUT_ROWS, LAYOUT_COLS);
        struct hd_panels p;

        if (kinds[i].rows)
            w.scale = (struct hd_scale){.type = kinds[i].scale, .data = scale, .n_row = (LAYOUT_ROWS + kinds[i].rows - 1) / kinds[i].rows,
                                        .n_col = LAYOUT_COLS / kinds[i].cols, .block_rows = kinds[i].rows, .block_cols = kinds[i].cols, .global = 1};
        HD_ASSERT(hd_panels_describe(&w, &p) && p.bytes <= (int64_t)sizeof out);
        for (int64_t k = 0; k < hd_panel_count(&p); k++) {
            hd_panel_pack(&w, &p, k, out);
            h = hd_hash(h, out, (size_t)p.bytes);
        }
    }
    return h;
}
