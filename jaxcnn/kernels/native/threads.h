// The number of OpenMP's threads, or one thread without OpenMP.

#pragma once

#ifdef _OPENMP
#include <omp.h>
constexpr bool kHasThreads = true;
#else
constexpr bool kHasThreads = false;
inline int omp_get_max_threads() { return 1; }
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline void omp_set_num_threads(int) {}
#endif

// While an object of this class exists, oneDNN creates primitives for one thread.
class ForOneThread {
 public:
  explicit ForOneThread(bool wanted) {
    if (wanted) omp_set_num_threads(1);
  }
  ~ForOneThread() { omp_set_num_threads(before_); }

 private:
  const int before_ = omp_get_max_threads();
};
