// Work divided into parts, which threads of XLA's pool compute. The caller computes parts too, and waits only for
// threads that have begun a part: the caller may be a thread of the pool, and all threads of the pool may wait at the
// same time.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "xla/ffi/api/ffi.h"

// The binding of XLA's thread pool, which handlers infer from their signatures.
template <>
struct xla::ffi::CtxBinding<xla::ffi::ThreadPool> {
  using Ctx = xla::ffi::ThreadPool;
};

namespace parts {

constexpr int64_t kSmallest = 1 << 16;  // smallest number of values that a thread takes at once
constexpr int64_t kMost = 64;

// Returns the number of parts for this many values. It is independent of the threads, so that sums are reproducible.
inline int64_t Count(int64_t values) { return std::clamp<int64_t>(values / kSmallest, 1, kMost); }

class Job {
 public:
  Job(int64_t count, std::function<void(int64_t)> part) : count_(count), part_(std::move(part)) {}

  void Work() {
    for (int64_t index; (index = next_.fetch_add(1)) < count_;) {
      part_(index);
      std::lock_guard<std::mutex> lock(mutex_);
      if (++done_ == count_) all_done_.notify_all();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == count_; });
  }

 private:
  const int64_t count_;
  const std::function<void(int64_t)> part_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  int64_t done_ = 0;
};

// Calls `part` for 0, ..., count - 1 in any order, and returns when all calls have returned.
inline void Run(xla::ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> part) {
  // A thread that starts late finds no part left, and keeps only the job alive.
  auto job = std::make_shared<Job>(count, std::move(part));
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([job] { job->Work(); });
  job->Work();
  job->Wait();
}

}  // namespace parts
