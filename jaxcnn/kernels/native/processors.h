// Marks functions that are compiled once for each instruction set.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The library is cached per user, and may run on another processor than the one that built it.
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
