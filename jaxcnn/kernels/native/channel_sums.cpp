// Sums over everything except channels in one pass over the data: of (u - b), and of (u - b) (x - c).
//
// u and x are [..., C], b and c are [C]. XLA would read the data once for each sum. Two further functions compute what
// batch normalization derives from the sums for each channel: little work, but a dozen programs for XLA to compile. Its
// statistics are sums around a value near the mean of each block, so that a large mean takes no digits of the variance.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "processors.h"
#include "xla/ffi/api/ffi.h"

// Bindings of XLA's thread pool and of the attribute `numbers`, which handlers infer from their signatures.
template <>
struct xla::ffi::CtxBinding<xla::ffi::ThreadPool> {
  using Ctx = xla::ffi::ThreadPool;
};
template <>
struct xla::ffi::AttrBinding<xla::ffi::Span<const double>> {
  using Attr = xla::ffi::Span<const double>;
  static constexpr std::string_view name() { return "numbers"; }
};

namespace {

namespace ffi = xla::ffi;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

constexpr int64_t kBlock = 64;      // largest number of channels whose sums stay in registers
constexpr int64_t kRows = 256;       // rows that are added in float32; their sums are added in double
constexpr int64_t kSample = 16;      // of these rows, the first is in the sample whose mean is near that of a block
constexpr int64_t kPart = 1 << 16;   // smallest number of values that a thread takes at once
constexpr int64_t kMostParts = 64;

struct Sums {
  const float *u, *x, *b, *c;  // if b is null: the sums of u = x around its first row, b = c
  int64_t rows, channels;
};

// Computes the sums over rows [first, last) of channels [from, from + kWidth) in registers.
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

// Does so for at most `width` channels; returns their number.
FOR_EACH_PROCESSOR int64_t AddRows(const Sums& s, int64_t first, int64_t last, int64_t from, int64_t width, float* sum,
                                   float* product) {
  if (width >= 64) return AddColumns<64>(s, first, last, from, sum, product), 64;
  if (width >= 32) return AddColumns<32>(s, first, last, from, sum, product), 32;
  if (width >= 16) return AddColumns<16>(s, first, last, from, sum, product), 16;
  if (width >= 8) return AddColumns<8>(s, first, last, from, sum, product), 8;
  return AddColumns<1>(s, first, last, from, sum, product), 1;
}

// Finds the mean of every kSample-th row of [first, last).
FOR_EACH_PROCESSOR void FindSampleMean(const Sums& s, int64_t first, int64_t last, float* mean) {
  std::fill(mean, mean + s.channels, 0.0f);
  for (int64_t row = first; row < last; row += kSample) {
    for (int64_t j = 0; j < s.channels; ++j) mean[j] += s.x[row * s.channels + j];
  }
  const float count = static_cast<float>((last - first + kSample - 1) / kSample);
  for (int64_t j = 0; j < s.channels; ++j) mean[j] /= count;
}

// Adds the sums over rows [first, last) to `total`: C values of the first sum, then C of the second.
void AddPart(const Sums& s, int64_t first, int64_t last, double* total) {
  float sum[kBlock], product[kBlock];
  std::vector<float> center(s.b == nullptr ? s.channels : 0);
  for (int64_t start = first; start < last; start += kRows) {
    const int64_t end = std::min(start + kRows, last);
    Sums block = s;
    if (s.b == nullptr) {
      FindSampleMean(s, start, end, center.data());
      block.b = block.c = center.data();
    }
    for (int64_t from = 0, width; from < s.channels; from += width) {
      width = AddRows(block, start, end, from, s.channels - from, sum, product);
      for (int64_t j = 0; j < width; ++j) {
        const double a = sum[j], p = product[j];
        const double d = s.b == nullptr ? static_cast<double>(block.b[from + j]) - s.x[from + j] : 0;
        total[from + j] += a + (end - start) * d;
        total[s.channels + from + j] += p + d * (2 * a + (end - start) * d);
      }
    }
  }
}

// A sum in parts, which any thread can take. The caller takes parts too and waits only for threads that have begun one:
// it may be a thread of the pool itself, and all threads of the pool may wait at the same time.
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

  // Adds the parts in a fixed order, so that the result does not depend on the threads.
  double Total(int64_t index) const {
    double total = 0;
    for (int64_t part = 0; part < parts_; ++part) total += totals_[part * 2 * sums_.channels + index];
    return total;
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

// Computes all sums. Returns null if the operands do not fit together.
std::shared_ptr<Job> Add(ffi::ThreadPool& pool, const Tensor& u, const Tensor& x, const float* b, const float* c,
                         int64_t channels) {
  const int64_t values = static_cast<int64_t>(u.element_count());
  const bool fits = x.element_count() == u.element_count() && u.element_type() == ffi::F32 &&
                    x.element_type() == ffi::F32 && channels > 0 && values % channels == 0;
  if (!fits) return nullptr;
  const Sums sums = {static_cast<const float*>(u.untyped_data()), static_cast<const float*>(x.untyped_data()), b, c,
                     values / channels, channels};
  const int64_t parts = std::clamp<int64_t>(values / kPart, 1, kMostParts);
  auto job = std::make_shared<Job>(sums, parts);
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), parts) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([job] { job->Work(); });
  job->Work();
  job->Wait();
  return job;
}

// Returns whether all vectors have this number of channels.
template <typename... Vectors>
bool AreOf(size_t channels, const Vectors&... vectors) {
  return ((vectors.element_count() == channels) && ...);
}

ffi::Error Unfit() { return ffi::Error::InvalidArgument("images must be float32 [..., C], and the rest [C]"); }

ffi::Error ChannelSums(ffi::ThreadPool pool, Tensor u, Tensor x, Vector b, Vector c, ffi::Result<Vector> sum,
                       ffi::Result<Vector> product) {
  const size_t channels = b.element_count();
  if (!AreOf(channels, c, *sum, *product)) return Unfit();
  const auto job = Add(pool, u, x, b.typed_data(), c.typed_data(), static_cast<int64_t>(channels));
  if (!job) return Unfit();
  for (size_t channel = 0; channel < channels; ++channel) {
    sum->typed_data()[channel] = static_cast<float>(job->Total(channel));
    product->typed_data()[channel] = static_cast<float>(job->Total(channels + channel));
  }
  return ffi::Error::Success();
}

// Computes everything in batch normalization that is [C]. The output is then (x - mean) factor + shift, where shift is
// the bias and a correction for the rounding of the mean.
ffi::Error Normalization(ffi::ThreadPool pool, Tensor x, Vector old_mean, Vector old_var, Vector scale, Vector bias,
                         ffi::Span<const double> numbers, ffi::Result<Vector> mean, ffi::Result<Vector> r,
                         ffi::Result<Vector> factor, ffi::Result<Vector> shift, ffi::Result<Vector> new_mean,
                         ffi::Result<Vector> new_var) {
  const size_t channels = old_mean.element_count();
  if (numbers.size() != 3 || !AreOf(channels, old_var, scale, bias, *mean, *r, *factor, *shift, *new_mean, *new_var)) {
    return Unfit();
  }
  const double momentum = numbers[0], epsilon = numbers[1], correction = numbers[2];
  const auto job = Add(pool, x, x, nullptr, nullptr, static_cast<int64_t>(channels));
  if (!job) return Unfit();
  const double count = static_cast<double>(x.element_count() / channels);
  for (size_t channel = 0; channel < channels; ++channel) {
    const double offset = job->Total(channel) / count, square = job->Total(channels + channel) / count;
    const double old = old_mean.typed_data()[channel], middle = static_cast<const float*>(x.untyped_data())[channel] + offset;
    const double var = std::max(square - offset * offset, 0.0);  // keeps NaN
    const double reciprocal = 1 / std::sqrt(var + epsilon), own = reciprocal * scale.typed_data()[channel];
    const float rounded = static_cast<float>(middle);
    mean->typed_data()[channel] = rounded;
    r->typed_data()[channel] = static_cast<float>(reciprocal);
    factor->typed_data()[channel] = static_cast<float>(own);
    shift->typed_data()[channel] = static_cast<float>(bias.typed_data()[channel] - (middle - rounded) * own);
    new_mean->typed_data()[channel] = static_cast<float>(momentum * old + (1 - momentum) * middle);
    new_var->typed_data()[channel] =
        static_cast<float>(momentum * old_var.typed_data()[channel] + (1 - momentum) * correction * var);
  }
  return ffi::Error::Success();
}

// Computes everything in its gradient that is [C], for a cotangent g. The gradient with respect to x is then
// g f + (x - mean) factor + shift.
ffi::Error NormalizationGradient(ffi::ThreadPool pool, Tensor g, Tensor x, Vector mean, Vector r, Vector scale,
                                 ffi::Result<Vector> f, ffi::Result<Vector> factor, ffi::Result<Vector> shift,
                                 ffi::Result<Vector> by_scale, ffi::Result<Vector> by_bias) {
  const size_t channels = mean.element_count();
  if (!AreOf(channels, r, scale, *f, *factor, *shift, *by_scale, *by_bias)) return Unfit();
  const std::vector<float> zeros(channels, 0.0f);
  const auto job = Add(pool, g, x, zeros.data(), mean.typed_data(), static_cast<int64_t>(channels));
  if (!job) return Unfit();
  const double count = static_cast<double>(x.element_count() / channels);
  for (size_t channel = 0; channel < channels; ++channel) {
    const double total = job->Total(channel), reciprocal = r.typed_data()[channel];
    const double scaled = reciprocal * job->Total(channels + channel);
    const double own = reciprocal * scale.typed_data()[channel];
    f->typed_data()[channel] = static_cast<float>(own);
    factor->typed_data()[channel] = static_cast<float>(-own * reciprocal * scaled / count);
    shift->typed_data()[channel] = static_cast<float>(-own * total / count);
    by_scale->typed_data()[channel] = static_cast<float>(scaled);
    by_bias->typed_data()[channel] = static_cast<float>(total);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_channel_sums, ChannelSums);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_normalization, Normalization);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_normalization_gradient, NormalizationGradient);
