// Passes over values [..., C] in float32 or bfloat16, computed in float32: sums over all axes except channels, and
// affine maps of each channel. Also the vectors that batch normalization derives from the sums.
//
// A loop over a few channels is short and rarely a multiple of a vector. Therefore, rows of C channels are joined to
// longer rows, and vectors [C] are repeated to the length of these rows. Sums are added in float32 over some joined
// rows, and then in double.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "parts.h"
#include "processors.h"

// The binding of the attribute `numbers`, which handlers infer from their signatures.
template <>
struct xla::ffi::AttrBinding<xla::ffi::Span<const double>> {
  using Attr = xla::ffi::Span<const double>;
  static constexpr std::string_view name() { return "numbers"; }
};

namespace channels {

constexpr int64_t kPeriod = 512;  // rows are joined up to this number of values
constexpr int64_t kRows = 64;     // joined rows whose sums are added in float32
constexpr int64_t kSample = 16;   // one of this many joined rows is in the sample, whose mean is near the mean of all
constexpr int64_t kLong = 1024;   // a longer row is as long as a page, and few of them fit into the first cache

// Both functions are written so that compilers vectorize them. NaN is kept.
INLINE float Relu(float x) { return BitCast<float>(BitCast<uint32_t>(x) & (x <= 0 ? 0u : ~0u)); }

// Returns g where y > 0, else 0.
INLINE float Masked(float g, float y) { return BitCast<float>(BitCast<uint32_t>(g) & (y > 0 ? ~0u : 0u)); }

// The number of rows of C channels in a joined row.
inline int64_t Joined(int64_t channels) { return std::max<int64_t>(kPeriod / channels, 1); }

// Returns a vector [C] repeated for each row in a joined row.
inline std::vector<float> Repeated(const float* vector, int64_t channels) {
  std::vector<float> repeated;
  for (int64_t row = 0; row < Joined(channels); ++row) repeated.insert(repeated.end(), vector, vector + channels);
  return repeated;
}

// The two values that are summed, for operands u, x and y.
enum class Sum {
  kShifted,   // u - b and (u - b) (x - c)
  kMoments,   // x - c and (x - c)^2
  kGradient,  // u and u (x - c)
  kMasked,    // as kGradient, with 0 in place of u unless y > 0
};

template <typename T>
struct Values {
  const T *u, *x, *y;  // u and y are read only if the sum contains them
};

// Adds rows of `width` values to `sum` and `product`, one row for each number in `kRow`.
template <Sum kSum, typename T, size_t... kRow>
INLINE void AddSome(const Values<T>& v, int64_t at, const float* b, const float* c, int64_t width,
                    float* __restrict sum, float* __restrict product, std::index_sequence<kRow...>) {
  for (int64_t j = 0; j < width; ++j) {
    float a = sum[j], p = product[j];
    const auto add = [&](int64_t i) __attribute__((always_inline)) {
      const float d = Widen(v.x[i]) - c[j];
      float value;
      if constexpr (kSum == Sum::kMoments) {
        value = d;
      } else if constexpr (kSum == Sum::kShifted) {
        value = Widen(v.u[i]) - b[j];
      } else if constexpr (kSum == Sum::kGradient) {
        value = Widen(v.u[i]);
      } else {
        value = Masked(Widen(v.u[i]), Widen(v.y[i]));
      }
      a += value;
      p += value * d;
    };
    (add(at + j + static_cast<int64_t>(kRow) * width), ...);
    sum[j] = a, product[j] = p;
  }
}

template <Sum kSum, typename T>
INLINE void AddRows(const Values<T>& v, const float* b, const float* c, int64_t at, int64_t end, int64_t width,
                    float* sum, float* product) {
  for (; width <= kLong && at + 8 * width <= end; at += 8 * width) {
    AddSome<kSum>(v, at, b, c, width, sum, product, std::make_index_sequence<8>());
  }
  for (; at + 4 * width <= end; at += 4 * width) {
    AddSome<kSum>(v, at, b, c, width, sum, product, std::make_index_sequence<4>());
  }
  for (; at < end; at += width) {
    AddSome<kSum>(v, at, b, c, std::min(width, end - at), sum, product, std::make_index_sequence<1>());
  }
}

template <typename T>
INLINE void AddAny(Sum kind, const Values<T>& v, const float* b, const float* c, int64_t at, int64_t end, int64_t width,
                   float* sum, float* product) {
  switch (kind) {
    case Sum::kShifted: return AddRows<Sum::kShifted>(v, b, c, at, end, width, sum, product);
    case Sum::kMoments: return AddRows<Sum::kMoments>(v, b, c, at, end, width, sum, product);
    case Sum::kGradient: return AddRows<Sum::kGradient>(v, b, c, at, end, width, sum, product);
    case Sum::kMasked: return AddRows<Sum::kMasked>(v, b, c, at, end, width, sum, product);
  }
}

// A template cannot be compiled once for each processor.
namespace {
FOR_EACH_PROCESSOR void Add(Sum kind, const Values<float>& v, const float* b, const float* c, int64_t at, int64_t end,
                            int64_t width, float* sum, float* product) {
  AddAny(kind, v, b, c, at, end, width, sum, product);
}
FOR_EACH_PROCESSOR_OF_16_BITS void Add(Sum kind, const Values<Bfloat16>& v, const float* b, const float* c, int64_t at,
                                       int64_t end, int64_t width, float* sum, float* product) {
  AddAny(kind, v, b, c, at, end, width, sum, product);
}

// Adds two joined rows of sums around `center`, or around 0 if it is null, to the C values of each sum in `total`.
// The sums in `total` are around `first`.
FOR_EACH_PROCESSOR void AddJoined(const float* sum, const float* product, int64_t width, int64_t channels,
                                  const float* center, const float* first, double count, double* total) {
  double *const __restrict totals = total, *const __restrict products = total + channels;
  for (int64_t row = 0; row < width; row += channels) {
    for (int64_t j = 0; j < channels; ++j) {
      const double d = center == nullptr ? 0.0 : static_cast<double>(center[j]) - first[j];
      products[j] += product[row + j] + 2 * d * sum[row + j];
      totals[j] += sum[row + j];
    }
  }
  for (int64_t j = 0; center != nullptr && j < channels; ++j) {
    const double d = static_cast<double>(center[j]) - first[j];
    totals[j] += count * d;
    products[j] += count * d * d;
  }
}
}  // namespace

// Two sums over rows of C values. For kMoments without a center, the sums are around the first row of x.
template <typename T>
struct Sums {
  Sum kind;
  Values<T> values;
  int64_t rows, channels;
  const float *b, *c;  // [C]
};

// Finds a vector near the mean of the values [first, last), repeated as by `Repeated`: the mean of every kSample-th
// joined row.
template <typename T>
void FindCenter(const Values<T>& v, int64_t first, int64_t last, int64_t channels, std::vector<float>& center) {
  const int64_t width = center.size();
  const std::vector<float> zeros(width, 0.0f);
  std::vector<float> squares(width);
  int64_t rows = 0;
  std::fill(center.begin(), center.end(), 0.0f);
  for (int64_t at = first; at < last; at += kSample * width) {
    const int64_t end = std::min(at + width, last);
    Add(Sum::kMoments, v, nullptr, zeros.data(), at, end, width, center.data(), squares.data());
    rows += (end - at) / channels;
  }
  for (int64_t row = channels; row < width; row += channels) {
    for (int64_t channel = 0; channel < channels; ++channel) center[channel] += center[row + channel];
  }
  for (int64_t channel = 0; channel < channels; ++channel) center[channel] /= static_cast<float>(rows);
  for (int64_t row = channels; row < width; row += channels) {
    std::copy(center.begin(), center.begin() + channels, center.begin() + row);
  }
}

// Adds the sums over rows [first, last) to `total`: C values of the first sum, then C values of the second.
template <typename T>
void AddPart(const Sums<T>& s, int64_t first, int64_t last, double* total) {
  const int64_t channels = s.channels, joined = Joined(channels), width = joined * channels;
  const bool finds_center = s.kind == Sum::kMoments && s.c == nullptr;
  std::vector<float> sum(width), product(width);
  std::vector<float> b, c(width);
  std::vector<float> middle(channels);  // of all parts
  for (int64_t channel = 0; finds_center && channel < channels; ++channel) middle[channel] = Widen(s.values.x[channel]);
  if (s.b != nullptr) b = Repeated(s.b, channels);
  if (s.c != nullptr) c = Repeated(s.c, channels);
  for (int64_t start = first; start < last; start += kRows * joined) {
    const int64_t rows = std::min(kRows * joined, last - start), at = start * channels;
    if (finds_center) FindCenter(s.values, at, at + rows * channels, channels, c);
    std::fill(sum.begin(), sum.end(), 0.0f);
    std::fill(product.begin(), product.end(), 0.0f);
    Add(s.kind, s.values, b.data(), c.data(), at, at + rows * channels, width, sum.data(), product.data());
    const float* const center = finds_center ? c.data() : nullptr;
    AddJoined(sum.data(), product.data(), width, channels, center, middle.data(), static_cast<double>(rows), total);
  }
}

// Returns C values of the first sum, then C values of the second. The parts are added in a fixed order.
template <typename T>
std::vector<double> Total(xla::ffi::ThreadPool& pool, const Sums<T>& s) {
  const int64_t count = parts::Count(s.rows * s.channels), both = 2 * s.channels;
  std::vector<double> totals(count * both, 0.0);
  parts::Run(pool, count, [&](int64_t part) {
    AddPart(s, s.rows * part / count, s.rows * (part + 1) / count, &totals[part * both]);
  });
  for (int64_t part = 1; part < count; ++part) {
    for (int64_t j = 0; j < both; ++j) totals[j] += totals[part * both + j];
  }
  totals.resize(both);
  return totals;
}

// Returns whether all vectors have this number of channels.
template <typename... Vectors>
bool AreOf(size_t channels, const Vectors&... vectors) {
  return channels > 0 && ((vectors.element_count() == channels) && ...);
}

// The vectors [C] of batch normalization. Its output is (x - mean) factor + shift, where shift is the bias and a
// correction for the rounding of the mean.
struct Statistics {
  const float *old_mean, *old_var, *scale, *bias;
  float *mean, *r, *factor, *shift, *new_mean, *new_var;
};

// Computes these vectors from the totals of kMoments over `rows` rows; `x` are the values, `correction` is Bessel's.
template <typename T>
void Normalize(const std::vector<double>& totals, const T* x, int64_t rows, double momentum, double epsilon,
               double correction, const Statistics& s) {
  const int64_t channels = totals.size() / 2;
  for (int64_t c = 0; c < channels; ++c) {
    const double offset = totals[c] / rows, square = totals[channels + c] / rows;
    const double middle = Widen(x[c]) + offset;
    const double var = std::max(square - offset * offset, 0.0);  // keeps NaN
    const double reciprocal = 1 / std::sqrt(var + epsilon), own = reciprocal * s.scale[c];
    const float rounded = static_cast<float>(middle);
    s.mean[c] = rounded;
    s.r[c] = static_cast<float>(reciprocal);
    s.factor[c] = static_cast<float>(own);
    s.shift[c] = static_cast<float>(s.bias[c] - (middle - rounded) * own);
    s.new_mean[c] = static_cast<float>(momentum * s.old_mean[c] + (1 - momentum) * middle);
    s.new_var[c] = static_cast<float>(momentum * s.old_var[c] + (1 - momentum) * correction * var);
  }
}

// The vectors [C] of the gradient, which is g f + (x - mean) factor + shift with respect to x.
struct GradientVectors {
  const float *r, *scale;
  float *f, *factor, *shift, *by_scale, *by_bias;
};

// Computes these vectors from the totals of kGradient or kMasked over `rows` rows.
inline void Differentiate(const std::vector<double>& totals, int64_t rows, const GradientVectors& v) {
  const int64_t channels = totals.size() / 2;
  for (int64_t c = 0; c < channels; ++c) {
    const double total = totals[c], reciprocal = v.r[c], scaled = reciprocal * totals[channels + c];
    const double own = reciprocal * v.scale[c];
    v.f[c] = static_cast<float>(own);
    v.factor[c] = static_cast<float>(-own * reciprocal * scaled / rows);
    v.shift[c] = static_cast<float>(-own * total / rows);
    v.by_scale[c] = static_cast<float>(scaled);
    v.by_bias[c] = static_cast<float>(total);
  }
}

}  // namespace channels
