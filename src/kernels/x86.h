/* x86.h: intrinsics: the compiler's own, or SIMDe's emulation of them when checkkern tests levels that this CPU lacks. */
#ifndef HD_KERNELS_X86_H
#define HD_KERNELS_X86_H

#if defined(HD_EMULATE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif

#endif
