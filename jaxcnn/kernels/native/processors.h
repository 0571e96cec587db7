// Marks for functions that are compiled once for each instruction set, and for functions that are inlined into these.

#pragma once

#define INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The library is cached per user, and may run on another processor than the processor that built it.
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

// The same mark for code that converts 16-bit values, for which GCC 12 can use extensions of AVX-512.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR_OF_16_BITS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR_OF_16_BITS FOR_EACH_PROCESSOR
#endif
