/* kernels.c: picks the kernels once, from what the CPU and the system can do. */
#include "kernels/kernels.h"

#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/table.h"

#define ARCH_REQ_XCOMP_PERM 0x1023    /* asm/prctl.h; older headers lack it */
#define XFEATURE_XTILEDATA 18

struct hd_kernels hd_k;

static const char *const isa_names[HD_N_ISA] = {"scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon"};

const char *hd_isa_name(enum hd_isa isa)
{
    return isa_names[isa];
}

#if HD_HAVE_X86 && !defined(HD_EMULATE)

/* Are there tiles for signed bytes, does the system save them, and may this process use them? The last is asked for (Linux 5.16), once. */
static bool has_amx(void)
{
    static int answer = -1;
    unsigned a, b, c, d, low, high;

    if (answer >= 0)
        return answer;
    answer = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (3u << 24)) != 3u << 24)
        return false;                 /* AMX-TILE and AMX-INT8 */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & (3u << 17)) != 3u << 17)
        return false;                 /* XTILECFG and XTILEDATA */
    if (!__get_cpuid_count(0x1D, 1, &a, &b, &c, &d) || b >> 16 < 8 || (b & 0xFFFF) != 64 || (c & 0xFFFF) != 16)
        return false;                 /* palette 1: tiles, bytes of a row, rows */
    answer = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return answer;
}

#endif

bool hd_isa_available(enum hd_isa isa)
{
#if defined(HD_EMULATE)
    return isa != HD_ISA_NEON;                  /* checkkern through SIMDe: every x86 level runs, emulated */
#elif HD_HAVE_X86
    /* __builtin_cpu_supports() asks XGETBV too: a system that does not save the wide registers counts as without them */
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");

    switch (isa) {
    case HD_ISA_SCALAR: return true;
    case HD_ISA_AVX2: return avx2;
    case HD_ISA_AVX512: return avx512;
    case HD_ISA_AVX512VNNI: return avx512 && __builtin_cpu_supports("avx512vnni");
    case HD_ISA_AVX512BF16:
        return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
    case HD_ISA_AMX: return hd_isa_available(HD_ISA_AVX512BF16) && has_amx();
    default: return false;
    }
#elif HD_HAVE_ARM
    return isa == HD_ISA_SCALAR || isa == HD_ISA_NEON;
#else
    return isa == HD_ISA_SCALAR;
#endif
}

bool hd_kernels_init(const char *level)
{
    int want = -1;

    for (int i = 0; i < HD_N_ISA; i++)
        if (level ? !strcmp(level, isa_names[i]) && hd_isa_available((enum hd_isa)i) : hd_isa_available((enum hd_isa)i))
            want = i;
    if (want < 0)
        return false;
    memset(&hd_k, 0, sizeof hd_k);
    hd_k.isa = (enum hd_isa)want;
    hd_fill_matmul_f32_scalar(&hd_k);
    hd_fill_matmul_q16_scalar(&hd_k);
    hd_fill_gemm_scalar(&hd_k);
    hd_fill_vec_scalar(&hd_k);
    hd_fill_panel_scalar(&hd_k);
    hd_fill_sparse_scalar(&hd_k);
#if HD_HAVE_X86
    if (want >= HD_ISA_AVX2 && want <= HD_ISA_AMX) {
        hd_fill_matmul_f32_avx2(&hd_k);
        hd_fill_matmul_q16_avx2(&hd_k);
        hd_fill_gemm_avx2(&hd_k);
        hd_fill_vec_avx2(&hd_k);
        hd_fill_panel_avx2(&hd_k);
        hd_fill_sparse_avx2(&hd_k);
    }
    if (want >= HD_ISA_AVX512 && want <= HD_ISA_AMX) {
        hd_fill_matmul_f32_avx512(&hd_k);
        hd_fill_gemm_avx512(&hd_k);
        hd_fill_matmul_q16_avx512(&hd_k);
        hd_fill_panel_avx512(&hd_k);
        hd_fill_sparse_avx512(&hd_k);
        hd_fill_vec_avx512(&hd_k);
    }
    if (want >= HD_ISA_AVX512VNNI && want <= HD_ISA_AMX) {
        hd_fill_matmul_q16_avx512vnni(&hd_k);
        hd_fill_panel_avx512vnni(&hd_k);
        hd_fill_index_avx512vnni(&hd_k);
    }
    if (want >= HD_ISA_AVX512BF16 && want <= HD_ISA_AMX) {
        hd_fill_panel_avx512bf16(&hd_k);
        hd_fill_gemm_avx512bf16(&hd_k);
        hd_fill_pair_avx512bf16(&hd_k);
    }
    if (want == HD_ISA_AMX)
        hd_fill_panel_amx(&hd_k);
    if (want == HD_ISA_AVX2)
        hd_fill_matmul_few_avx2(&hd_k);
    else if (want > HD_ISA_AVX2 && want <= HD_ISA_AMX)
        hd_fill_matmul_few_avx512(&hd_k);
#elif HD_HAVE_ARM
    if (want == HD_ISA_NEON) {
        hd_fill_matmul_f32_neon(&hd_k);
        hd_fill_matmul_q16_neon(&hd_k);
        hd_fill_vec_neon(&hd_k);
        hd_fill_panel_neon(&hd_k);
    }
#endif
    return true;
}
