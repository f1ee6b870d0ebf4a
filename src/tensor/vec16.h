/* vec16.h: vectors of 16 bytes in the compiler's own terms, for what every machine does well without a kernel of its own. */
#ifndef HD_TENSOR_VEC16_H
#define HD_TENSOR_VEC16_H

#include <stdint.h>

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));

/* Elements of a, then of b, by number. */
#if defined __clang__ || __GNUC__ >= 12
#define HD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (__typeof__(a)){__VA_ARGS__})
#endif

#endif
