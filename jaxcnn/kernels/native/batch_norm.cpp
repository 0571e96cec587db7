// Batch normalization in training, with a residual and a ReLU, in one call in each direction: y = relu(BN(x) + R).
//
// x, y, R and their gradients are [..., C] in bfloat16; vectors are [C] in float32. (In float32, XLA computes the
// arrays [..., C] as fast, from the vectors of channel_sums.cpp.) The forward call makes two passes over the data:
// first the sums around a value near the mean of each block, so that the variance does not lose digits if the mean is
// large, and then the output. The backward call also makes two passes: first the sums, then the gradient.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "channels.h"
#include "parts.h"
#include "processors.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using channels::AreOf;
using channels::Masked;
using channels::Relu;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::BufferR1<ffi::F32>;

// The affine map (x - mean) factor + shift of x, to which a residual or g f is added.
struct Map {
  const Bfloat16 *x, *other, *y;  // other: the residual, or g
  Bfloat16 *result, *kept;        // kept: g where y > 0, else 0
  const float *mean, *factor, *shift, *f;
};

enum class Step { kPlain, kRelu, kResidual, kResidualRelu, kGradient, kMaskedGradient, kKeptGradient };

template <Step kStep>
INLINE void MapRows(const Map& m, int64_t first, int64_t last, int64_t width) {
  Bfloat16* __restrict const kept = m.kept;
  for (int64_t at = first; at < last; at += width) {
    const int64_t given = std::min(width, last - at);
    const Bfloat16* const x = m.x + at;
    Bfloat16* __restrict const result = m.result + at;
    for (int64_t j = 0; j < given; ++j) {
      float z = (Widen(x[j]) - m.mean[j]) * m.factor[j] + m.shift[j];
      if constexpr (kStep == Step::kResidual || kStep == Step::kResidualRelu) z += Widen(m.other[at + j]);
      if constexpr (kStep == Step::kRelu || kStep == Step::kResidualRelu) z = Relu(z);
      if constexpr (kStep == Step::kGradient) z += Widen(m.other[at + j]) * m.f[j];
      if constexpr (kStep == Step::kMaskedGradient || kStep == Step::kKeptGradient) {
        const float g = Masked(Widen(m.other[at + j]), Widen(m.y[at + j]));
        if constexpr (kStep == Step::kKeptGradient) Narrow(g, &kept[at + j]);
        z += g * m.f[j];
      }
      Narrow(z, &result[j]);
    }
  }
}

FOR_EACH_PROCESSOR_OF_16_BITS void MapPart(Step step, const Map& m, int64_t first, int64_t last, int64_t width) {
  switch (step) {
    case Step::kPlain: return MapRows<Step::kPlain>(m, first, last, width);
    case Step::kRelu: return MapRows<Step::kRelu>(m, first, last, width);
    case Step::kResidual: return MapRows<Step::kResidual>(m, first, last, width);
    case Step::kResidualRelu: return MapRows<Step::kResidualRelu>(m, first, last, width);
    case Step::kGradient: return MapRows<Step::kGradient>(m, first, last, width);
    case Step::kMaskedGradient: return MapRows<Step::kMaskedGradient>(m, first, last, width);
    case Step::kKeptGradient: return MapRows<Step::kKeptGradient>(m, first, last, width);
  }
}

// Computes an affine map in parts. The vectors of the map are [C].
void MapAll(ffi::ThreadPool& pool, Step step, const Map& m, int64_t rows, int64_t channels) {
  std::vector<float> mean = channels::Repeated(m.mean, channels), factor = channels::Repeated(m.factor, channels),
                     shift = channels::Repeated(m.shift, channels), f;
  if (m.f != nullptr) f = channels::Repeated(m.f, channels);
  const Map repeated = {m.x,         m.other,       m.y,          m.result, m.kept,
                        mean.data(), factor.data(), shift.data(), f.data()};
  const int64_t count = parts::Count(rows * channels), width = channels::Joined(channels) * channels;
  parts::Run(pool, count, [&](int64_t part) {
    part = count - 1 - part;  // the loop of the sums read these values last: they may still be cached
    MapPart(step, repeated, rows * part / count * channels, rows * (part + 1) / count * channels, width);
  });
}

// Returns whether all arrays are bfloat16 and of one size that is a multiple of the number of channels.
template <typename... Tensors>
bool AreAlike(size_t channels, const Tensor& x, const Tensors&... others) {
  return x.element_type() == ffi::BF16 && x.element_count() % channels == 0 &&
         ((others.element_type() == ffi::BF16 && others.element_count() == x.element_count()) && ...);
}

Bfloat16* Data(const Tensor& x) { return static_cast<Bfloat16*>(x.untyped_data()); }

ffi::Error Unfit() {
  return ffi::Error::InvalidArgument("images must be bfloat16 [..., C], and the rest float32 [C]");
}

struct Normalization {
  double momentum, epsilon, correction;  // correction: Bessel's correction
  bool relu, has_residual;
};

void Normalize(ffi::ThreadPool& pool, const Normalization& n, const Tensor& x, const Vector& old_mean,
               const Vector& old_var, const Vector& scale, const Vector& bias, const Tensor& residual, Tensor& y,
               Vector& new_mean, Vector& new_var, Vector& mean, Vector& r) {
  const int64_t count = mean.element_count(), rows = x.element_count() / count;
  const Bfloat16* const data = Data(x);
  const channels::Values<Bfloat16> values = {data, data, nullptr};
  const auto totals = channels::Total<Bfloat16>(pool, {channels::Sum::kMoments, values, rows, count, nullptr, nullptr});
  std::vector<float> factor(count), shift(count);
  channels::Normalize(totals, data, rows, n.momentum, n.epsilon, n.correction,
                      {old_mean.typed_data(), old_var.typed_data(), scale.typed_data(), bias.typed_data(),
                       mean.typed_data(), r.typed_data(), factor.data(), shift.data(), new_mean.typed_data(),
                       new_var.typed_data()});
  const Step step = n.has_residual ? (n.relu ? Step::kResidualRelu : Step::kResidual)
                                   : (n.relu ? Step::kRelu : Step::kPlain);
  const Map map = {data, Data(residual), nullptr, Data(y), nullptr,
                   mean.typed_data(), factor.data(), shift.data(), nullptr};
  MapAll(pool, step, map, rows, count);
}

// Numbers: momentum, epsilon, Bessel's correction, whether there is a ReLU, and whether `residual` is used.
ffi::Error BatchNorm(ffi::ThreadPool pool, Tensor x, Vector old_mean, Vector old_var, Vector scale, Vector bias,
                     Tensor residual, ffi::Span<const double> numbers, ffi::Result<Tensor> y,
                     ffi::Result<Vector> new_mean, ffi::Result<Vector> new_var, ffi::Result<Vector> mean,
                     ffi::Result<Vector> r) {
  const size_t channels = old_mean.element_count();
  if (numbers.size() != 5 || !AreOf(channels, old_var, scale, bias, *new_mean, *new_var, *mean, *r) ||
      !AreAlike(channels, x, residual, *y)) {
    return Unfit();
  }
  const Normalization n = {numbers[0], numbers[1], numbers[2], numbers[3] != 0, numbers[4] != 0};
  Normalize(pool, n, x, old_mean, old_var, scale, bias, residual, *y, *new_mean, *new_var, *mean, *r);
  return ffi::Error::Success();
}

void Differentiate(ffi::ThreadPool& pool, bool relu, const Tensor& g, const Tensor& x, const Tensor& y,
                   const Vector& mean, const Vector& r, const Vector& scale, Tensor& by_x, Vector& by_scale,
                   Vector& by_bias, Tensor& by_residual) {
  using channels::Sum;
  const int64_t count = mean.element_count(), rows = x.element_count() / count;
  const channels::Values<Bfloat16> values = {Data(g), Data(x), Data(y)};
  const Sum kind = relu ? Sum::kMasked : Sum::kGradient;
  const auto totals = channels::Total<Bfloat16>(pool, {kind, values, rows, count, nullptr, mean.typed_data()});
  std::vector<float> f(count), factor(count), shift(count);
  channels::Differentiate(totals, rows, {r.typed_data(), scale.typed_data(), f.data(), factor.data(), shift.data(),
                                         by_scale.typed_data(), by_bias.typed_data()});
  const bool keeps = by_residual.element_count() > 0;
  const Step step = keeps ? Step::kKeptGradient : relu ? Step::kMaskedGradient : Step::kGradient;
  const Map map = {values.x, values.u, values.y, Data(by_x), Data(by_residual),
                   mean.typed_data(), factor.data(), shift.data(), f.data()};
  MapAll(pool, step, map, rows, count);
}

// Number: whether there is a ReLU, whose output is y. `by_residual` is empty, or receives the gradient before the ReLU.
ffi::Error BatchNormGradient(ffi::ThreadPool pool, Tensor g, Tensor x, Tensor y, Vector mean, Vector r, Vector scale,
                             ffi::Span<const double> numbers, ffi::Result<Tensor> by_x, ffi::Result<Vector> by_scale,
                             ffi::Result<Vector> by_bias, ffi::Result<Tensor> by_residual) {
  const size_t channels = mean.element_count();
  if (numbers.size() != 1 || !AreOf(channels, r, scale, *by_scale, *by_bias) || !AreAlike(channels, x, g, y, *by_x) ||
      (by_residual->element_count() > 0 && !AreAlike(channels, x, *by_residual))) {
    return Unfit();
  }
  Differentiate(pool, numbers[0] != 0, g, x, y, mean, r, scale, *by_x, *by_scale, *by_bias, *by_residual);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_batch_norm, BatchNorm);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_batch_norm_gradient, BatchNormGradient);
