/* gemm.h: products of f32 matrices on the team, for training: many rows on both sides.
 *
 * Unlike hd_cpu_matmul()'s, an element's bits differ from those of a product one token at a time: models run exactly never come here. */
#ifndef HD_BACKEND_CPU_GEMM_H
#define HD_BACKEND_CPU_GEMM_H

#include "backend/cpu/cpu.h"

/* Element (r, c) lies at p[r * row + c * col]: a matrix, or its transpose. */
struct hd_gemm_view {
    const float *p;
    int64_t row, col;
};

/* c[m, n] = (add: c +) a[m, k] b[k, n]; rows of c lie ld apart. Scratch comes from s->tape. The same bits for any number of workers. */
void hd_cpu_gemm(struct hd_cpu *cpu, struct hd_stream *s, int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, struct hd_gemm_view b, float *c, int64_t ld, bool add);

/* For tasks that multiply small matrices by themselves: b[k, n] packed (hd_gemm_packed() floats at 64), then c[m, n] = (add: c +) a b on the calling
 * thread. depth: the k that b was packed with; packed may point further in: j hd_gemm_panel() columns lie j * depth * hd_gemm_panel() floats on, i rows i * hd_gemm_panel(). */
int64_t hd_gemm_panel(void);          /* columns of a panel */
int64_t hd_gemm_packed(int64_t n, int64_t k);
void hd_gemm_pack(int64_t n, int64_t k, struct hd_gemm_view b, float *packed);
void hd_gemm_alone(int64_t m, int64_t n, int64_t k, struct hd_gemm_view a, const float *packed, int64_t depth, float *c, int64_t ld, bool add);

static inline struct hd_gemm_view hd_gemm_plain(const struct hd_tensor *t)
{
    return (struct hd_gemm_view){t->data, t->row_bytes / 4, 1};
}

static inline struct hd_gemm_view hd_gemm_turned(const struct hd_tensor *t)
{
    return (struct hd_gemm_view){t->data, 1, t->row_bytes / 4};
}

#endif
