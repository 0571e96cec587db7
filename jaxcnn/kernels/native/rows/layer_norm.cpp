// Layer normalization of rows of C values, and its gradient, each in one pass over the data.
//
// x, y, g and the gradient of x are [..., C] in float32 or bfloat16; the computation is in float32. Scale, bias and
// their gradients are [C] in float32. The mean, and r, the reciprocal of the standard deviation, are [..., 1] in
// float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bfloat16.h"
#include "channels.h"
#include "parts.h"
#include "processors.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

constexpr int64_t kLanes = 32;  // number of sums that are added side by side in vector registers

template <typename Value>
INLINE float Sum(int64_t count, Value value) {
  float lanes[kLanes] = {0.0f};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) lanes[k] += value(j + k);
  }
  float sum = 0.0f;
  for (; j < count; ++j) sum += value(j);
  for (int64_t k = 0; k < kLanes; ++k) sum += lanes[k];
  return sum;
}

template <typename T>
struct Forward {
  const T* x;
  const float *scale, *bias;
  T* y;
  float *mean, *r;
  int64_t channels;
  float epsilon;
};

template <typename T>
INLINE void NormalizeRows(const Forward<T>& f, int64_t first, int64_t last, float* __restrict row) {
  const int64_t channels = f.channels;
  for (int64_t i = first; i < last; ++i) {
    const T* const x = f.x + i * channels;
    T* __restrict const y = f.y + i * channels;
    for (int64_t j = 0; j < channels; ++j) row[j] = Widen(x[j]);
    const float mean = Sum(channels, [&](int64_t j) __attribute__((always_inline)) { return row[j]; }) / channels;
    for (int64_t j = 0; j < channels; ++j) row[j] -= mean;
    const float square = Sum(channels, [&](int64_t j) __attribute__((always_inline)) { return row[j] * row[j]; });
    const float r = 1.0f / std::sqrt(square / channels + f.epsilon);
    for (int64_t j = 0; j < channels; ++j) Narrow(row[j] * r * f.scale[j] + f.bias[j], &y[j]);
    f.mean[i] = mean;
    f.r[i] = r;
  }
}

template <typename T>
struct Backward {
  const T *g, *x;
  const float *mean, *r, *scale;
  T* by_x;
  int64_t channels;
};

// Adds the gradients of scale and bias of some rows to `by_scale` and `by_bias`.
template <typename T>
INLINE void DifferentiateRows(const Backward<T>& b, int64_t first, int64_t last, float* __restrict n,
                              float* __restrict u, float* __restrict by_scale, float* __restrict by_bias) {
  const int64_t channels = b.channels;
  for (int64_t i = first; i < last; ++i) {
    const T *const g = b.g + i * channels, *const x = b.x + i * channels;
    T* __restrict const by_x = b.by_x + i * channels;
    const float mean = b.mean[i], r = b.r[i];
    for (int64_t j = 0; j < channels; ++j) {
      const float given = Widen(g[j]), normal = (Widen(x[j]) - mean) * r;
      n[j] = normal;
      u[j] = given * b.scale[j];
      by_scale[j] += given * normal;
      by_bias[j] += given;
    }
    const float sum = Sum(channels, [&](int64_t j) __attribute__((always_inline)) { return u[j]; }) / channels;
    const float product =
        Sum(channels, [&](int64_t j) __attribute__((always_inline)) { return u[j] * n[j]; }) / channels;
    for (int64_t j = 0; j < channels; ++j) Narrow(r * (u[j] - sum - n[j] * product), &by_x[j]);
  }
}

// A template cannot be compiled once for each processor.
FOR_EACH_PROCESSOR void Rows(const Forward<float>& f, int64_t first, int64_t last, float* row) {
  NormalizeRows(f, first, last, row);
}
FOR_EACH_PROCESSOR_OF_16_BITS void Rows(const Forward<Bfloat16>& f, int64_t first, int64_t last, float* row) {
  NormalizeRows(f, first, last, row);
}
FOR_EACH_PROCESSOR void Rows(const Backward<float>& b, int64_t first, int64_t last, float* n, float* u, float* by_scale,
                             float* by_bias) {
  DifferentiateRows(b, first, last, n, u, by_scale, by_bias);
}
FOR_EACH_PROCESSOR_OF_16_BITS void Rows(const Backward<Bfloat16>& b, int64_t first, int64_t last, float* n, float* u,
                                        float* by_scale, float* by_bias) {
  DifferentiateRows(b, first, last, n, u, by_scale, by_bias);
}

template <typename T>
T* Data(const Tensor& x) {
  return static_cast<T*>(x.untyped_data());
}

template <typename T>
void Normalize(ffi::ThreadPool& pool, const Tensor& x, const Vector& scale, const Vector& bias, double epsilon,
               Tensor& y, Tensor& mean, Tensor& r) {
  const int64_t channels = scale.element_count(), rows = x.element_count() / channels;
  const Forward<T> f = {Data<T>(x),        scale.typed_data(), bias.typed_data(),          Data<T>(y),
                        Data<float>(mean), Data<float>(r),     channels, static_cast<float>(epsilon)};
  const int64_t count = parts::Count(rows * channels);
  parts::Run(pool, count, [&](int64_t part) {
    std::vector<float> row(channels);
    Rows(f, rows * part / count, rows * (part + 1) / count, row.data());
  });
}

// The parts are added in a fixed order, so that results are reproducible.
template <typename T>
void Differentiate(ffi::ThreadPool& pool, const Tensor& g, const Tensor& x, const Tensor& mean, const Tensor& r,
                   const Vector& scale, Tensor& by_x, Vector& by_scale, Vector& by_bias) {
  const int64_t channels = scale.element_count(), rows = x.element_count() / channels;
  const Backward<T> b = {Data<T>(g),         Data<T>(x),    Data<float>(mean), Data<float>(r),
                         scale.typed_data(), Data<T>(by_x), channels};
  const int64_t count = parts::Count(rows * channels);
  std::vector<float> sums(count * 2 * channels, 0.0f);
  parts::Run(pool, count, [&](int64_t part) {
    std::vector<float> n(channels), u(channels);
    float* const own = &sums[part * 2 * channels];
    Rows(b, rows * part / count, rows * (part + 1) / count, n.data(), u.data(), own, own + channels);
  });
  std::vector<double> totals(2 * channels, 0.0);
  for (int64_t part = 0; part < count; ++part) {
    for (int64_t j = 0; j < 2 * channels; ++j) totals[j] += sums[part * 2 * channels + j];
  }
  for (int64_t j = 0; j < channels; ++j) {
    by_scale.typed_data()[j] = static_cast<float>(totals[j]);
    by_bias.typed_data()[j] = static_cast<float>(totals[channels + j]);
  }
}

// Returns whether the shapes and dtypes of the operands match.
bool Fits(const Tensor& x, const Tensor& other, const Tensor& mean, const Tensor& r, const Vector& scale) {
  const size_t channels = scale.element_count();
  const auto type = x.element_type();
  return (type == ffi::F32 || type == ffi::BF16) && other.element_type() == type && channels > 0 &&
         other.element_count() == x.element_count() && x.element_count() == mean.element_count() * channels &&
         r.element_count() == mean.element_count() && mean.element_type() == ffi::F32 && r.element_type() == ffi::F32;
}

ffi::Error Unfit() { return ffi::Error::InvalidArgument("a shape or dtype is not that of a layer normalization"); }

// Number: epsilon.
ffi::Error LayerNorm(ffi::ThreadPool pool, Tensor x, Vector scale, Vector bias, ffi::Span<const double> numbers,
                     ffi::Result<Tensor> y, ffi::Result<Tensor> mean, ffi::Result<Tensor> r) {
  const bool fits = numbers.size() == 1 && channels::AreOf(scale.element_count(), bias);
  if (!fits || !Fits(x, *y, *mean, *r, scale)) return Unfit();
  const auto compute = x.element_type() == ffi::BF16 ? Normalize<Bfloat16> : Normalize<float>;
  compute(pool, x, scale, bias, numbers[0], *y, *mean, *r);
  return ffi::Error::Success();
}

ffi::Error LayerNormGradient(ffi::ThreadPool pool, Tensor g, Tensor x, Tensor mean, Tensor r, Vector scale,
                             ffi::Result<Tensor> by_x, ffi::Result<Vector> by_scale, ffi::Result<Vector> by_bias) {
  const bool fits = channels::AreOf(scale.element_count(), *by_scale, *by_bias) && Fits(x, g, mean, r, scale);
  if (!fits || !Fits(x, *by_x, mean, r, scale)) return Unfit();
  const auto compute = x.element_type() == ffi::BF16 ? Differentiate<Bfloat16> : Differentiate<float>;
  compute(pool, g, x, mean, r, scale, *by_x, *by_scale, *by_bias);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_layer_norm, LayerNorm);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_layer_norm_gradient, LayerNormGradient);
