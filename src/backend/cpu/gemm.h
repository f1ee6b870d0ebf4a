/* gemm.h: products of f32 matrices on the team, for training: many rows on both sides. In f32, or (hd_gemm_kind) with operands rounded to bf16.
 *
 * Unlike hd_cpu_matmul()'s, an element's bits differ from those of a product one token at a time: models run exactly never come here. */
#ifndef HD_BACKEND_CPU_GEMM_H
#define HD_BACKEND_CPU_GEMM_H

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "ops/tape.h"

/* Element (r, c) lies at p[r * row + c * col]: a matrix, or its transpose. */
struct hd_gemm_view {
    const float *p;
    int64_t row, col;
};

/* c[m, n] (put: kernels.h) a[m, k] b[k, n]; rows of c lie ld apart. Scratch comes from s->tape. The same bits for any number of workers. STREAM where c allows it, else PUT. */
void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld,
                 enum hd_gemm_put put);

/* The same where a meets several matrices, up to HD_GEMM_PARTS of them. A matrix that meets several a may be packed before, into scratch (NULL, and the error in s,
 * without memory); parts of a call are packed all or none. */
#define HD_GEMM_PARTS 3
struct hd_gemm_part {
    const float *packed;              /* b[k, n]; NULL: b */
    struct hd_gemm_view b;
    int64_t n;
    float *c;                         /* [m, n] */
    int64_t ld;
};
float *hd_cpu_gemm_pack(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t n, int64_t k, struct hd_gemm_view b);
void hd_cpu_gemm_parts(struct hd_cpu *cpu, struct hd_stream *s, enum hd_gemm_kind kind, int64_t m, int64_t k, struct hd_gemm_view a, int n_part, const struct hd_gemm_part *part,
                       enum hd_gemm_put put);

/* For tasks that multiply small matrices by themselves: b[k, n] packed (hd_gemm_packed() floats at 64), then c[m, n] = (add: c +) a b on the calling
 * thread. depth: the k that b was packed with; packed may point further in, by hd_gemm_at() floats: to column col, a multiple of hd_gemm_panel(), and row, an even one. */
int64_t hd_gemm_panel(void);          /* columns of a panel */
int64_t hd_gemm_packed(enum hd_gemm_kind kind, int64_t n, int64_t k);
int64_t hd_gemm_at(enum hd_gemm_kind kind, int64_t depth, int64_t row, int64_t col);
void hd_gemm_pack(enum hd_gemm_kind kind, int64_t n, int64_t k, struct hd_gemm_view b, float *packed);
void hd_gemm_alone(enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, const float *packed, int64_t depth, float *c, int64_t ld, bool add);

static inline struct hd_gemm_view hd_gemm_plain(const struct hd_tensor *t)
{
    return (struct hd_gemm_view){t->data, t->row_bytes / 4, 1};
}

static inline struct hd_gemm_view hd_gemm_turned(const struct hd_tensor *t)
{
    return (struct hd_gemm_view){t->data, 1, t->row_bytes / 4};
}

/* What a step's products are. */
static inline enum hd_gemm_kind hd_gemm_of(const struct hd_stream *s)
{
    return s->tape->bf16 ? HD_GEMM_BF16 : HD_GEMM_F32;
}

#endif
