// For functions of which there is a version for each kind of processor.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The library is kept per user, and may be run on another processor than it was built on.
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
