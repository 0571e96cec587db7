// Marks functions that are compiled once for each instruction set, and those that are compiled into their callers.

#pragma once

#define INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The library is cached per user, and may run on another processor than the one that built it.
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

// The same for code that converts 16-bit values, for which AVX-512 has extensions that GCC 12 can ask for.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR_OF_16_BITS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR_OF_16_BITS FOR_EACH_PROCESSOR
#endif
