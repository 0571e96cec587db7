// Sums over everything but channels, by one pass over the data: of (u - b), and of (u - b) (x - c).
//
// u and x are [..., C], b and c are [C]. XLA reads the data once for each of the two sums.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The library is kept per user, and may be run on another processor than it was built on.
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

namespace ffi = xla::ffi;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

constexpr int64_t kBlock = 64;      // channels whose sums stay in registers, at most
constexpr int64_t kRows = 256;       // rows added up in float32, before the rest is in double
constexpr int64_t kPart = 1 << 16;   // values, at least, that a thread takes at once
constexpr int64_t kMostParts = 64;

struct Sums {
  const float *u, *x, *b, *c;
  int64_t rows, channels;
};

// The sums over rows [first, last) of channels [from, from + kWidth), in registers.
template <int kWidth>
inline __attribute__((always_inline)) void AddColumns(const Sums& s, int64_t first, int64_t last, int64_t from,
                                                      float* sum, float* product) {
  float a[kWidth] = {}, p[kWidth] = {};
  for (int64_t row = first; row < last; ++row) {
    const float* u = s.u + row * s.channels + from;
    const float* x = s.x + row * s.channels + from;
    for (int64_t j = 0; j < kWidth; ++j) {
      const float d = u[j] - s.b[from + j];
      a[j] += d;
      p[j] += d * (x[j] - s.c[from + j]);
    }
  }
  for (int64_t j = 0; j < kWidth; ++j) sum[j] = a[j], product[j] = p[j];
}

// The same of `width` channels at most; returns of how many.
FOR_EACH_PROCESSOR int64_t AddRows(const Sums& s, int64_t first, int64_t last, int64_t from, int64_t width, float* sum,
                                   float* product) {
  if (width >= 64) return AddColumns<64>(s, first, last, from, sum, product), 64;
  if (width >= 32) return AddColumns<32>(s, first, last, from, sum, product), 32;
  if (width >= 16) return AddColumns<16>(s, first, last, from, sum, product), 16;
  if (width >= 8) return AddColumns<8>(s, first, last, from, sum, product), 8;
  return AddColumns<1>(s, first, last, from, sum, product), 1;
}

// The sums over a part of the rows, C of one and then C of the other.
void AddPart(const Sums& s, int64_t first, int64_t last, double* total) {
  float sum[kBlock], product[kBlock];
  for (int64_t start = first; start < last; start += kRows) {
    const int64_t end = std::min(start + kRows, last);
    for (int64_t from = 0, width; from < s.channels; from += width) {
      width = AddRows(s, start, end, from, s.channels - from, sum, product);
      for (int64_t j = 0; j < width; ++j) {
        total[from + j] += sum[j];
        total[s.channels + from + j] += product[j];
      }
    }
  }
}

// Parts of a job, taken by whichever thread comes. The caller works too, and so waits for nobody who has not begun:
// it may itself be of the pool, all of whose threads may wait like it.
class Job {
 public:
  Job(const Sums& sums, int64_t parts)
      : sums_(sums), parts_(parts), totals_(parts * 2 * sums.channels, 0.0) {}

  void Work() {
    for (int64_t part; (part = next_.fetch_add(1)) < parts_;) {
      const int64_t first = sums_.rows * part / parts_, last = sums_.rows * (part + 1) / parts_;
      AddPart(sums_, first, last, &totals_[part * 2 * sums_.channels]);
      std::lock_guard<std::mutex> lock(mutex_);
      if (++done_ == parts_) all_done_.notify_all();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == parts_; });
  }

  // The parts are added in their order, whoever made them.
  float Total(int64_t index) const {
    double total = 0;
    for (int64_t part = 0; part < parts_; ++part) total += totals_[part * 2 * sums_.channels + index];
    return static_cast<float>(total);
  }

 private:
  const Sums sums_;
  const int64_t parts_;
  std::vector<double> totals_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  int64_t done_ = 0;
};

ffi::Error ChannelSums(ffi::ThreadPool pool, Tensor u, Tensor x, Vector b, Vector c, ffi::Result<Vector> sum,
                       ffi::Result<Vector> product) {
  const int64_t channels = static_cast<int64_t>(b.element_count()), values = static_cast<int64_t>(u.element_count());
  const bool fits = x.element_count() == u.element_count() && c.element_count() == b.element_count() &&
                    sum->element_count() == b.element_count() && product->element_count() == b.element_count() &&
                    u.element_type() == ffi::F32 && x.element_type() == ffi::F32 && channels > 0 &&
                    values % channels == 0;
  if (!fits) return ffi::Error::InvalidArgument("u and x must be float32 [..., C], and the rest [C]");
  const Sums sums = {static_cast<const float*>(u.untyped_data()), static_cast<const float*>(x.untyped_data()),
                     b.typed_data(), c.typed_data(), values / channels, channels};
  const int64_t parts = std::clamp<int64_t>(values / kPart, 1, kMostParts);
  const auto job = std::make_shared<Job>(sums, parts);
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), parts) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([job] { job->Work(); });
  job->Work();
  job->Wait();
  for (int64_t channel = 0; channel < channels; ++channel) {
    sum->typed_data()[channel] = job->Total(channel);
    product->typed_data()[channel] = job->Total(channels + channel);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_channel_sums, ChannelSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Tensor>()
                                  .Arg<Tensor>()
                                  .Arg<Vector>()
                                  .Arg<Vector>()
                                  .Ret<Vector>()
                                  .Ret<Vector>());
