/* table.h: who fills the kernel table: one function a file group and ISA; later ones overwrite what they do better. */
#ifndef HD_KERNELS_TABLE_H
#define HD_KERNELS_TABLE_H

#include "kernels/kernels.h"

/* HD_SCALAR_ONLY: no instruction set but C's, for builds that compile no other file (fuzzing). */
#if defined(__x86_64__) && !defined(HD_SCALAR_ONLY)
#define HD_HAVE_X86 1
#elif defined(__aarch64__) && !defined(HD_SCALAR_ONLY)
#define HD_HAVE_ARM 1
#endif

void hd_fill_matmul_f32_scalar(struct hd_kernels *k);
void hd_fill_matmul_q16_scalar(struct hd_kernels *k);
void hd_fill_gemm_scalar(struct hd_kernels *k);
void hd_fill_vec_scalar(struct hd_kernels *k);
#if HD_HAVE_X86
void hd_fill_matmul_f32_avx2(struct hd_kernels *k);
void hd_fill_matmul_q16_avx2(struct hd_kernels *k);
void hd_fill_matmul_nib_avx2(struct hd_kernels *k);       /* after the q16 ones, which take what it does not */
void hd_fill_matmul_fp4_avx2(struct hd_kernels *k);       /* likewise */
void hd_fill_matmul_few_avx2(struct hd_kernels *k);        /* after the f32 ones */
void hd_fill_gemm_avx2(struct hd_kernels *k);
void hd_fill_gemm_avx512(struct hd_kernels *k);
void hd_fill_vec_avx2(struct hd_kernels *k);
void hd_fill_matmul_nib_avx512(struct hd_kernels *k);
void hd_fill_matmul_fp4_avx512(struct hd_kernels *k);
void hd_fill_matmul_few_avx512(struct hd_kernels *k);
void hd_fill_matmul_fp4_avx512vnni(struct hd_kernels *k);
void hd_fill_matmul_f32_avx512(struct hd_kernels *k);
void hd_fill_matmul_q16_avx512(struct hd_kernels *k);
void hd_fill_matmul_q16_avx512vnni(struct hd_kernels *k);
#elif HD_HAVE_ARM
void hd_fill_matmul_f32_neon(struct hd_kernels *k);
void hd_fill_matmul_q16_neon(struct hd_kernels *k);
void hd_fill_vec_neon(struct hd_kernels *k);
#endif

/* Is this product of q16 activations done with eight of their bits (tensor/quant_q16.h)? At every level the same. */
#define HD_FP4_Q8_MAX 32768

static inline bool hd_fp4_by_q8(enum hd_dtype t, int64_t n, const struct hd_scale *s)
{
    bool form = t == HD_MXFP4 || (t == HD_F4_E2M1 && s && s->type == HD_F8_E8M0 && s->block_rows == 1 && s->block_cols == 32);

    return form && n <= HD_FP4_Q8_MAX;
}

#endif
