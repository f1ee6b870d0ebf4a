/* paged.h: how an op sees rows that live in cache pages: the ops' side of the cache, which they know nothing else of. */
#ifndef HD_OPS_PAGED_H
#define HD_OPS_PAGED_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"
#include "tensor/kv_row.h"

/* Rows of one part of one sequence. Paged: row r lies at page[r / page_rows] + offset + (r % page_rows) * row_bytes, and holds
 * ratio tokens from r * ratio on. A window: the row of position r lies at own + r % ring * row_bytes, page is NULL. */
struct hd_paged {
    void *const *page;
    char *own;
    int64_t page_rows, offset, row_bytes, ring;
    int ratio;
    enum hd_dtype type;
    const struct hd_kv_row *pack; /* NULL: rows of type */
    bool panels;                  /* sixteen rows lie side by side (kv_row.h); page_rows is a multiple of 16 then */
};

/* Where the panel of row r begins: the row is lane r % 16 of it. */
static inline void *hd_paged_panel(const struct hd_paged *p, int64_t r)
{
    return (char *)p->page[r / p->page_rows] + p->offset + (r % p->page_rows & ~(int64_t)15) * p->row_bytes;
}

/* The n panels from that of row r on. */
static inline void hd_paged_panels(const struct hd_paged *p, int64_t r, int64_t n, const uint8_t **panel)
{
    for (int64_t i = 0; i < n;) {
        int64_t left = (p->page_rows - (r + 16 * i) % p->page_rows + 15) / 16;
        const uint8_t *at = hd_paged_panel(p, r + 16 * i);

        for (; left > 0 && i < n; left--, i++, at += 16 * p->row_bytes)
            panel[i] = at;
    }
}

/* For what does not lie in panels. */
static inline void *hd_paged_row(const struct hd_paged *p, int64_t r)
{
    if (!p->page)
        return p->own + r % p->ring * p->row_bytes;
    return (char *)p->page[r / p->page_rows] + p->offset + r % p->page_rows * p->row_bytes;
}

/* Where rows r .. r + n lie. */
static inline void hd_paged_rows(const struct hd_paged *p, int64_t r, int64_t n, const void **row)
{
    for (int64_t i = 0; i < n;) {
        int64_t left = p->page ? p->page_rows - (r + i) % p->page_rows : p->ring - (r + i) % p->ring;
        const char *at = hd_paged_row(p, r + i);

        for (; left > 0 && i < n; left--, i++, at += p->row_bytes)
            row[i] = at;
    }
}

/* Brings rows r .. r + n (those of them below end) nearer: pages lie apart, where no hardware prefetcher follows. */
static inline void hd_paged_fetch(const struct hd_paged *p, int64_t r, int64_t n, int64_t end)
{
    n = n < end - r ? n : end - r;
    for (int64_t i = 0; i < n;) {
        int64_t left = p->page ? p->page_rows - (r + i) % p->page_rows : p->ring - (r + i) % p->ring;
        const char *at = hd_paged_row(p, r + i), *stop;

        left = left < n - i ? left : n - i;
        stop = at + left * p->row_bytes;
        for (; at < stop; at += 64)
            __builtin_prefetch(at, 0, 2);
        __builtin_prefetch(stop - 1, 0, 2);
        i += left;
    }
}

/* The tokens of one sequence in a step: tokens tok0 .. tok0 + n_tok of the batch, at positions pos0 .. */
struct hd_span {
    int64_t tok0, n_tok, pos0;
    int64_t raw0;                 /* the first position whose raw rows the decoder half has (models with a prefill shortcut) */
};

/* What ops need to know of a ragged batch: who sits where, and each sequence's pages. Lives as long as the step. */
struct hd_ragged {
    int64_t n_tok, n_seq;
    const int32_t *ids;           /* [n_tok] */
    const int32_t *pos;           /* [n_tok] absolute positions */
    const struct hd_span *span;   /* [n_seq] */
    const struct hd_paged *part;  /* [n_seq][n_part]: part[seq * n_part + p]; NULL in a dry run */
    int n_part;
    int64_t max_pos;              /* the largest position + 1: what a dry run counts attention with */
    bool encode;                  /* the encoder half only: no logits, and no raw rows of the decoder half */
};

#endif
