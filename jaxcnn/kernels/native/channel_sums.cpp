// Sums over everything except channels in one pass over the data: of (u - b), and of (u - b) (x - c).
//
// u and x are [..., C], b and c are [C]. XLA would read the data once for each sum. Two further functions compute what
// batch normalization derives from the sums for each channel: little work, but a dozen programs for XLA to compile. Its
// statistics are sums around a value near the mean of each block, so that a large mean takes no digits of the variance.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include "channels.h"
#include "xla/ffi/api/ffi.h"

// The binding of the attribute `numbers`, which handlers infer from their signatures.
template <>
struct xla::ffi::AttrBinding<xla::ffi::Span<const double>> {
  using Attr = xla::ffi::Span<const double>;
  static constexpr std::string_view name() { return "numbers"; }
};

namespace {

namespace ffi = xla::ffi;
using channels::Sum;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

// Computes all sums. Returns nothing if the operands do not fit together.
std::vector<double> Add(ffi::ThreadPool& pool, Sum kind, const Tensor& u, const Tensor& x, const float* b,
                        const float* c, int64_t channels) {
  const int64_t values = static_cast<int64_t>(u.element_count());
  const bool fits = x.element_count() == u.element_count() && u.element_type() == ffi::F32 &&
                    x.element_type() == ffi::F32 && channels > 0 && values % channels == 0;
  if (!fits) return {};
  const auto* const given = static_cast<const float*>(x.untyped_data());
  const channels::Values<float> data = {static_cast<const float*>(u.untyped_data()), given, nullptr};
  return channels::Total<float>(pool, {kind, data, values / channels, channels, b, c});
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
  const auto sums = Add(pool, Sum::kShifted, u, x, b.typed_data(), c.typed_data(), static_cast<int64_t>(channels));
  if (sums.empty()) return Unfit();
  for (size_t channel = 0; channel < channels; ++channel) {
    sum->typed_data()[channel] = static_cast<float>(sums[channel]);
    product->typed_data()[channel] = static_cast<float>(sums[channels + channel]);
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
  const auto sums = Add(pool, Sum::kMoments, x, x, nullptr, nullptr, static_cast<int64_t>(channels));
  if (sums.empty()) return Unfit();
  const double count = static_cast<double>(x.element_count() / channels);
  for (size_t channel = 0; channel < channels; ++channel) {
    const double offset = sums[channel] / count, square = sums[channels + channel] / count;
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
  const auto sums = Add(pool, Sum::kGradient, g, x, nullptr, mean.typed_data(), static_cast<int64_t>(channels));
  if (sums.empty()) return Unfit();
  const double count = static_cast<double>(x.element_count() / channels);
  for (size_t channel = 0; channel < channels; ++channel) {
    const double total = sums[channel], reciprocal = r.typed_data()[channel];
    const double scaled = reciprocal * sums[channels + channel];
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
