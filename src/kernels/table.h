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
void hd_fill_panel_scalar(struct hd_kernels *k);
void hd_fill_sparse_scalar(struct hd_kernels *k);
#if HD_HAVE_X86
void hd_fill_matmul_f32_avx2(struct hd_kernels *k);
void hd_fill_matmul_q16_avx2(struct hd_kernels *k);
void hd_fill_matmul_few_avx2(struct hd_kernels *k);        /* after the f32 ones */
void hd_fill_gemm_avx2(struct hd_kernels *k);
void hd_fill_gemm_avx512(struct hd_kernels *k);
void hd_fill_gemm_avx512bf16(struct hd_kernels *k);         /* after AVX-512's */
void hd_fill_vec_avx2(struct hd_kernels *k);
void hd_fill_vec_avx512(struct hd_kernels *k);
void hd_fill_panel_avx2(struct hd_kernels *k);
void hd_fill_sparse_avx2(struct hd_kernels *k);
void hd_fill_sparse_avx512(struct hd_kernels *k);           /* after AVX2's vec */
void hd_fill_panel_avx512(struct hd_kernels *k);
void hd_fill_panel_avx512vnni(struct hd_kernels *k);
void hd_fill_index_avx512vnni(struct hd_kernels *k);
void hd_fill_pair_avx512bf16(struct hd_kernels *k);
void hd_fill_panel_avx512bf16(struct hd_kernels *k);
void hd_fill_panel_amx(struct hd_kernels *k);               /* after all other panels: they serve few tokens */
void hd_fill_matmul_few_avx512(struct hd_kernels *k);
void hd_fill_matmul_f32_avx512(struct hd_kernels *k);
void hd_fill_matmul_q16_avx512(struct hd_kernels *k);
void hd_fill_matmul_q16_avx512vnni(struct hd_kernels *k);
#elif HD_HAVE_ARM
void hd_fill_matmul_f32_neon(struct hd_kernels *k);
void hd_fill_matmul_q16_neon(struct hd_kernels *k);
void hd_fill_vec_neon(struct hd_kernels *k);
void hd_fill_panel_neon(struct hd_kernels *k);
#endif

#endif
