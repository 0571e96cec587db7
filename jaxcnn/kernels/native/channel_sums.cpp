// Sums over all axes except channels in one pass over the data: sums of (u - b), and of (u - b) (x - c).
//
// u and x are [..., C], b and c are [C]. XLA would read the data once for each sum. Two further functions compute what
// batch normalization derives from the sums for each channel. This is little work, but XLA would compile a dozen
// programs for this work. Sums are taken around a value near the mean of each block, so that the variance does not lose
// digits if the mean is large.

#include <cstdint>
#include <vector>

#include "channels.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using channels::AreOf;
using channels::Sum;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

// Computes all sums. Returns nothing if the shapes of the operands do not match.
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

ffi::Error Unfit() { return ffi::Error::InvalidArgument("images must be float32 [..., C], and the rest [C]"); }

ffi::Error ChannelSums(ffi::ThreadPool pool, Tensor u, Tensor x, Vector b, Vector c, ffi::Result<Vector> sum,
                       ffi::Result<Vector> product) {
  const size_t count = b.element_count();
  if (!AreOf(count, c, *sum, *product)) return Unfit();
  const auto sums = Add(pool, Sum::kShifted, u, x, b.typed_data(), c.typed_data(), static_cast<int64_t>(count));
  if (sums.empty()) return Unfit();
  for (size_t channel = 0; channel < count; ++channel) {
    sum->typed_data()[channel] = static_cast<float>(sums[channel]);
    product->typed_data()[channel] = static_cast<float>(sums[count + channel]);
  }
  return ffi::Error::Success();
}

// Computes all vectors [C] of batch normalization.
ffi::Error Normalization(ffi::ThreadPool pool, Tensor x, Vector old_mean, Vector old_var, Vector scale, Vector bias,
                         ffi::Span<const double> numbers, ffi::Result<Vector> mean, ffi::Result<Vector> r,
                         ffi::Result<Vector> factor, ffi::Result<Vector> shift, ffi::Result<Vector> new_mean,
                         ffi::Result<Vector> new_var) {
  const size_t count = old_mean.element_count();
  if (numbers.size() != 3 || !AreOf(count, old_var, scale, bias, *mean, *r, *factor, *shift, *new_mean, *new_var)) {
    return Unfit();
  }
  const auto sums = Add(pool, Sum::kMoments, x, x, nullptr, nullptr, static_cast<int64_t>(count));
  if (sums.empty()) return Unfit();
  channels::Normalize(sums, static_cast<const float*>(x.untyped_data()),
                      static_cast<int64_t>(x.element_count() / count), numbers[0], numbers[1], numbers[2],
                      {old_mean.typed_data(), old_var.typed_data(), scale.typed_data(), bias.typed_data(),
                       mean->typed_data(), r->typed_data(), factor->typed_data(), shift->typed_data(),
                       new_mean->typed_data(), new_var->typed_data()});
  return ffi::Error::Success();
}

// Computes all vectors [C] of the gradient of batch normalization, for a cotangent g.
ffi::Error NormalizationGradient(ffi::ThreadPool pool, Tensor g, Tensor x, Vector mean, Vector r, Vector scale,
                                 ffi::Result<Vector> f, ffi::Result<Vector> factor, ffi::Result<Vector> shift,
                                 ffi::Result<Vector> by_scale, ffi::Result<Vector> by_bias) {
  const size_t count = mean.element_count();
  if (!AreOf(count, r, scale, *f, *factor, *shift, *by_scale, *by_bias)) return Unfit();
  const auto sums = Add(pool, Sum::kGradient, g, x, nullptr, mean.typed_data(), static_cast<int64_t>(count));
  if (sums.empty()) return Unfit();
  channels::Differentiate(sums, static_cast<int64_t>(x.element_count() / count),
                          {r.typed_data(), scale.typed_data(), f->typed_data(), factor->typed_data(),
                           shift->typed_data(), by_scale->typed_data(), by_bias->typed_data()});
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_channel_sums, ChannelSums);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_normalization, Normalization);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_normalization_gradient, NormalizationGradient);
