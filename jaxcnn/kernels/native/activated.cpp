// A convolution for inference whose input is first normalized and rectified, as in DenseNet:
//
//   relu(W * relu(X f + o) + b)   or without the outer ReLU,   with X = concat(X_1, ..., X_n) along the channels,
//
// and a 1x1 kernel W. The inner part is computed for a few pixels at a time, in a core's cache, so that neither X nor
// the normalized X is ever written to memory.
//
// `key`: number of pixels, number of channels of W * X, 0 or 1 for the outer ReLU, 0 or 1 for bfloat16 X and results
// (else float32), and the number of channels of each X_i [pixels, C_i]. W is [C, C_out] in float32 or bfloat16; f and o
// are [C], b is [C_out], all in float32. `content` is a digest of W, as in `fused.cpp`.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "packed.h"
#include "processors.h"
#include "threads.h"
#include "worker.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Key = std::vector<int64_t>;
using Content = packed::Content;
using Vector = ffi::BufferR1<ffi::F32>;

constexpr size_t kMaps = 4;                // where the channels of each X_i begin in the key
constexpr int64_t kCached = 256 << 10;     // bytes of normalized pixels that a core processes at a time
constexpr int64_t kLeastPixels = 8;        // smallest number of pixels for which a thread reads W

int64_t Inputs(const Key& key) {
  int64_t sum = 0;
  for (size_t i = kMaps; i < key.size(); ++i) sum += key[i];
  return sum;
}
int64_t Outputs(const Key& key) { return key[1]; }
bool HasRelu(const Key& key) { return key[2] != 0; }
bool IsNarrow(const Key& key) { return key[3] != 0; }
int64_t Bytes(const Key& key) { return IsNarrow(key) ? 2 : 4; }
memory::data_type Type(const Key& key) { return IsNarrow(key) ? memory::data_type::bf16 : memory::data_type::f32; }

// Normalizes and rectifies `rows` pixels of one X_i, and writes them to rows that are `distance` apart. NaN stays NaN.
FOR_EACH_PROCESSOR void RectifyWide(const float* x, int64_t rows, int64_t channels, const float* factor,
                                    const float* offset, float* y, int64_t distance) {
  for (int64_t row = 0; row < rows; ++row, x += channels, y += distance) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = x[c] * factor[c] + offset[c];
      y[c] = value < 0.0f ? 0.0f : value;
    }
  }
}

// Returns max(x f + o, 0) rounded to the nearest bfloat16 (ties to even). x and the result are upper halves of 32 bits.
INLINE uint32_t Rectified(uint32_t x, float factor, float offset) {
  float value;
  std::memcpy(&value, &x, sizeof value);
  value = value * factor + offset;
  value = value < 0.0f ? 0.0f : value;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1), nan = bits | 0x400000;
  return ((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) & 0xffff0000;
}

// Does the same as `RectifyWide` for bfloat16, two channels at a time, because AVX-512F alone has no operations on 16
// bits. The factors and offsets of channels 0, 2, 4, ... come first, and those of channels 1, 3, 5, ... follow.
FOR_EACH_PROCESSOR void RectifyNarrow(const uint16_t* x, int64_t rows, int64_t channels, const float* factor,
                                      const float* offset, uint16_t* y, int64_t distance) {
  const int64_t pairs = channels / 2, others = channels - pairs;
  for (int64_t row = 0; row < rows; ++row, x += channels, y += distance) {
    for (int64_t j = 0; j < pairs; ++j) {
      uint32_t pair;
      std::memcpy(&pair, x + 2 * j, sizeof pair);
      const uint32_t low = Rectified(pair << 16, factor[j], offset[j]);
      const uint32_t high = Rectified(pair & 0xffff0000, factor[others + j], offset[others + j]);
      pair = low >> 16 | high;
      std::memcpy(y + 2 * j, &pair, sizeof pair);
    }
    if (pairs < others) y[2 * pairs] = Rectified(uint32_t(x[2 * pairs]) << 16, factor[pairs], offset[pairs]) >> 16;
  }
}

// Returns the vectors of each X_i in the order in which `RectifyNarrow` reads them.
std::vector<float> Paired(const Key& key, const float* values) {
  std::vector<float> paired;
  for (size_t i = kMaps; i < key.size(); values += key[i++]) {
    for (int64_t first : {0, 1}) {
      for (int64_t c = first; c < key[i]; c += 2) paired.push_back(values[c]);
    }
  }
  return paired;
}

// The product of a number of pixels with W, computed by one thread.
dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, const Key& key, int64_t pixels,
                                      const memory::desc& w) {
  const ForOneThread for_one(true);
  dnnl::post_ops steps;
  if (HasRelu(key)) steps.append_eltwise(dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(steps);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto plain = memory::format_tag::ab;
  return {engine,
          memory::desc({pixels, Inputs(key)}, Type(key), plain),
          w,
          memory::desc({1, Outputs(key)}, memory::data_type::f32, plain),
          memory::desc({pixels, Outputs(key)}, Type(key), plain),
          attributes};
}

memory::desc AnyKernel(const Key& key) { return {{Inputs(key), Outputs(key)}, Type(key), memory::format_tag::any}; }

// Division of the pixels into parts, which threads compute one after another. The last part may have fewer pixels.
struct Parts {
  int threads = omp_get_max_threads();
  int64_t count, pixels;

  explicit Parts(const Key& key) {
    const int64_t all = key[0], most = std::max(kCached / (Inputs(key) * Bytes(key)), kLeastPixels);
    count = (all + most - 1) / most;
    count = (count + threads - 1) / threads * threads;
    pixels = std::max((all + count - 1) / count, std::min(kLeastPixels, all));
    count = (all + pixels - 1) / pixels;
  }
};

struct State {
  static ffi::TypeId id;
  std::unique_ptr<const Parts> parts;
  dnnl::matmul::primitive_desc descriptions[2];  // of a whole part, and of the last part
  dnnl::primitive primitives[2];
  std::vector<dnnl::stream> streams;
  std::shared_ptr<const memory> kernel;
};

ffi::TypeId State::id = {};
ffi::TypeInfo state_info = ffi::MakeTypeInfo<State>();

struct Operands {
  void* kernel;
  memory::data_type kernel_type;
  const float *factor, *offset;
  void* bias;
  std::vector<const char*> maps;
  char* output;
};

void Prepare(const worker::Context& context, State& state, const Key& key, const Content& content,
             const Operands& data) {
  auto parts = std::make_unique<Parts>(key);
  memory::desc layout = AnyKernel(key);
  for (int index : {0, 1}) {
    const int64_t pixels = index ? key[0] - (parts->count - 1) * parts->pixels : parts->pixels;
    state.descriptions[index] = Describe(context.engine, key, pixels, layout);
    state.primitives[index] = dnnl::matmul(state.descriptions[index]);
    layout = state.descriptions[0].weights_desc();  // both descriptions use the same packed W
  }
  state.streams.clear();
  for (int thread = 0; thread < parts->threads; ++thread) state.streams.emplace_back(context.engine);
  const memory::desc given({Inputs(key), Outputs(key)}, data.kernel_type, memory::format_tag::ab);
  const memory plain(given, context.engine, data.kernel);
  state.kernel = packed::Get(context, content, plain, layout);
  state.parts = std::move(parts);
}

void Compute(const worker::Context& context, State& state, const Key& key, const Content& content,
             const Operands& data) {
  if (!state.parts) Prepare(context, state, key, content, data);
  const Parts& parts = *state.parts;
  const int64_t channels = Inputs(key), bytes = Bytes(key);
  const auto aligned = [](int64_t size) { return (size + 63) / 64 * 64; };
  const int64_t of_pixels = aligned(parts.pixels * channels * bytes);
  int64_t each = of_pixels;
  for (const auto& description : state.descriptions) {
    each = std::max<int64_t>(each, of_pixels + aligned(description.scratchpad_desc().get_size()));
  }
  char* const scratch = static_cast<char*>(context.scratch(each * parts.threads));
  std::vector<float> factors, offsets;
  if (IsNarrow(key)) factors = Paired(key, data.factor), offsets = Paired(key, data.offset);
  const float* const factor = IsNarrow(key) ? factors.data() : data.factor;
  const float* const offset = IsNarrow(key) ? offsets.data() : data.offset;
  std::atomic<bool> failed{false};  // no exception may leave a parallel region
#pragma omp parallel for num_threads(parts.threads) schedule(static)
  for (int64_t part = 0; part < parts.count; ++part) {
    const int64_t first = part * parts.pixels, pixels = std::min(parts.pixels, key[0] - first);
    const bool is_last = part + 1 == parts.count;
    char* const normalized = scratch + omp_get_thread_num() * each;
    int64_t from = 0;
    for (size_t i = 0; i < data.maps.size(); ++i) {
      const int64_t count = key[kMaps + i];
      const char* const x = data.maps[i] + first * count * bytes;
      char* const y = normalized + from * bytes;
      if (IsNarrow(key)) {
        RectifyNarrow(reinterpret_cast<const uint16_t*>(x), pixels, count, factor + from, offset + from,
                      reinterpret_cast<uint16_t*>(y), channels);
      } else {
        RectifyWide(reinterpret_cast<const float*>(x), pixels, count, factor + from, offset + from,
                    reinterpret_cast<float*>(y), channels);
      }
      from += count;
    }
    try {
      const auto& description = state.descriptions[is_last];
      dnnl::stream& stream = state.streams[omp_get_thread_num()];
      state.primitives[is_last].execute(
          stream,
          {{DNNL_ARG_SRC, memory(description.src_desc(), context.engine, normalized)},
           {DNNL_ARG_WEIGHTS, *state.kernel},
           {DNNL_ARG_BIAS, memory(description.bias_desc(), context.engine, data.bias)},
           {DNNL_ARG_DST, memory(description.dst_desc(), context.engine, data.output + first * Outputs(key) * bytes)},
           {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), context.engine, normalized + of_pixels)}});
      stream.wait();
    } catch (const dnnl::error&) {
      failed = true;
    }
  }
  if (failed) throw std::runtime_error("a product of matrices failed");
}

ffi::ErrorOr<std::unique_ptr<State>> Instantiate(ffi::Span<const int64_t>, ffi::Span<const int64_t>) {
  return std::make_unique<State>();
}

ffi::Error Execute(State* state, ffi::AnyBuffer kernel, Vector factor, Vector offset, Vector bias,
                   ffi::RemainingArgs maps, ffi::Result<ffi::AnyBuffer> output, ffi::Span<const int64_t> numbers,
                   ffi::Span<const int64_t> content) {
  const Key key(numbers.begin(), numbers.end());
  if (key.size() <= kMaps || content.size() != 2 || maps.size() != key.size() - kMaps) {
    return ffi::Error::InvalidArgument("a key, its operands and a digest of 2 numbers are needed");
  }
  const auto type = IsNarrow(key) ? ffi::BF16 : ffi::F32;
  const size_t inputs = Inputs(key), outputs = Outputs(key), pixels = key[0];
  bool fits = kernel.element_count() == inputs * outputs && factor.element_count() == inputs;
  fits = fits && offset.element_count() == inputs && bias.element_count() == outputs;
  fits = fits && output->element_count() == pixels * outputs && output->element_type() == type;
  fits = fits && (kernel.element_type() == ffi::F32 || kernel.element_type() == ffi::BF16);
  Operands data = {kernel.untyped_data(),
                   kernel.element_type() == ffi::BF16 ? memory::data_type::bf16 : memory::data_type::f32,
                   factor.typed_data(),
                   offset.typed_data(),
                   bias.untyped_data(),
                   {},
                   static_cast<char*>(output->untyped_data())};
  for (size_t i = 0; i < maps.size(); ++i) {
    const auto map = maps.get<ffi::AnyBuffer>(i);
    fits = fits && map.has_value() && map->element_type() == type && map->element_count() == pixels * key[kMaps + i];
    if (fits) data.maps.push_back(static_cast<const char*>(map->untyped_data()));
  }
  if (!fits) return ffi::Error::InvalidArgument("a shape or dtype is not the key's");
  try {
    worker::Run([&](const worker::Context& context) { Compute(context, *state, key, {content[0], content[1]}, data); });
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_activated_instantiate, Instantiate,
                              ffi::Ffi::BindInstantiate()
                                  .Attr<ffi::Span<const int64_t>>("key")
                                  .Attr<ffi::Span<const int64_t>>("content"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_activated_convolution, Execute,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::State<State>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Vector>()
                                  .Arg<Vector>()
                                  .Arg<Vector>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("key")
                                  .Attr<ffi::Span<const int64_t>>("content"));

extern "C" void* jaxcnn_activated_state_id() { return &State::id; }
extern "C" void* jaxcnn_activated_state_info() { return &state_info; }

// Returns whether this fused convolution is faster than separate operations for this key, which has `size` numbers.
extern "C" bool jaxcnn_activated_is_fast(const int64_t* numbers, int64_t size) {
  if (!kHasThreads) return false;
  try {
    bool fast = false;
    worker::Run([&](const worker::Context& context) {
      const Key key(numbers, numbers + size);
      const auto description = Describe(context.engine, key, Parts(key).pixels, AnyKernel(key));
      fast = std::string(description.impl_info_str()).find("ref") == std::string::npos;
    });
    return fast;
  } catch (const std::exception&) {
    return false;
  }
}
