// A convolution for inference by oneDNN or Winograd's algorithm: f(W * X + b + R) in one pass. W is packed once for
// each call in a program.
//
// All properties are in `key`, 25 numbers: the shapes of X [N, H, W, C_in], W [kH, kW, C_in / groups, C_out] and Y [N,
// H_out, W_out, C_out], strides, padding before, padding after, dilation (each height, width), groups, the number of
// the activation f in `kFunctions`, and four flags 0 or 1: whether there is a residual R of the shape of Y; whether X,
// R and Y are bfloat16 (else float32); whether the result must be the exact sum of products (else a faster algorithm is
// allowed, `winograd/winograd.h`). b is [C_out] in float32. W is in float32 or bfloat16.
//
// `content`, two numbers, is a digest of W. The caller guarantees that every execution of the call passes this W. The
// packed W therefore depends on no pointer. Calls with the same W share the packed W, also in different programs.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "packed.h"
#include "winograd/winograd.h"
#include "worker.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Key = std::vector<int64_t>;
using Content = packed::Content;

constexpr size_t kKeySize = 25;
constexpr int kImage = 0, kKernel = 4, kOutput = 8;  // positions of the shapes in the key
constexpr auto kFloat32 = memory::data_type::f32, kBfloat16 = memory::data_type::bf16;

// Activations, in the order of `ACTIVATIONS` in `elementwise.py`: ReLU, ReLU6, SiLU, hard swish and GELU.
struct Function {
  dnnl::algorithm algorithm;
  float alpha, beta;
};
constexpr std::array<Function, 6> kFunctions = {{{dnnl::algorithm::undef, 0.0f, 0.0f},
                                                 {dnnl::algorithm::eltwise_relu, 0.0f, 0.0f},
                                                 {dnnl::algorithm::eltwise_clip, 0.0f, 6.0f},
                                                 {dnnl::algorithm::eltwise_swish, 1.0f, 0.0f},
                                                 {dnnl::algorithm::eltwise_hardswish, 1.0f / 6.0f, 0.5f},
                                                 {dnnl::algorithm::eltwise_gelu_erf, 0.0f, 0.0f}}};
constexpr int64_t kRelu = 1;

int64_t Activation(const Key& key) { return key[21]; }
bool HasResidual(const Key& key) { return key[22] != 0; }
memory::data_type Type(const Key& key) { return key[23] != 0 ? kBfloat16 : kFloat32; }
memory::dims Pair(const Key& key, int index) { return {key[12 + 2 * index], key[13 + 2 * index]}; }

memory::desc Images(const Key& key, int place) {
  const int64_t* d = &key[place];
  return {{d[0], d[3], d[1], d[2]}, Type(key), memory::format_tag::nhwc};
}

// Returns the layout of W in XLA's memory, in oneDNN's order of dimensions.
memory::desc Kernel(const Key& key, memory::data_type type) {
  const int64_t* d = &key[kKernel];
  const int64_t groups = key[20], rows = d[1] * d[2] * d[3], columns = d[2] * d[3], features = d[3] / groups;
  if (groups == 1) return {{d[3], d[2], d[0], d[1]}, type, {1, d[3], rows, columns}};
  return {{groups, features, d[2], d[0], d[1]}, type, {features, 1, d[3], rows, columns}};
}

dnnl::convolution_forward::primitive_desc Describe(const dnnl::engine& engine, const Key& key) {
  dnnl::post_ops steps;
  if (HasResidual(key)) steps.append_binary(dnnl::algorithm::binary_add, Images(key, kOutput));
  const Function& f = kFunctions.at(Activation(key));
  if (Activation(key) != 0) steps.append_eltwise(f.algorithm, f.alpha, f.beta);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(steps);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  memory::dims dilation = Pair(key, 3);
  for (auto& distance : dilation) distance -= 1;  // oneDNN counts the positions between two taps
  return {engine,
          dnnl::prop_kind::forward_inference,
          dnnl::algorithm::convolution_direct,
          Images(key, kImage),
          {Kernel(key, Type(key)).get_dims(), Type(key), memory::format_tag::any},
          {{key[kOutput + 3]}, kFloat32, memory::format_tag::a},
          Images(key, kOutput),
          Pair(key, 0),
          dilation,
          Pair(key, 1),
          Pair(key, 2),
          attributes};
}

// Returns the key by which `winograd/winograd.h` identifies the convolution.
winograd::Key WinogradKey(const Key& key) {
  winograd::Key same = {0};
  same.insert(same.end(), key.begin(), key.begin() + 21);
  same.insert(same.end(), {key[24], 0, 0});  // float32
  return same;
}

bool IsWinograd(const Key& key) {
  return key[24] == 0 && Type(key) == kFloat32 && winograd::IsFaster(WinogradKey(key), true);
}

// W in the form that Winograd's algorithm needs. Empty if the algorithm cannot be used with this W.
struct Transformed {
  std::array<int64_t, 4> sizes;
  std::unique_ptr<float, decltype(&std::free)> data{nullptr, &std::free};
};

// Transforms W, or returns the copy that another call has transformed. Only the thread of oneDNN may call it.
std::shared_ptr<const Transformed> Transform(const worker::Context& context, const Content& content,
                                             const winograd::Convolution& algorithm, const float* plain) {
  static auto& known = *new std::multimap<Content, std::weak_ptr<const Transformed>>;
  for (auto at = known.begin(); at != known.end();) at = at->second.expired() ? known.erase(at) : std::next(at);
  const auto sizes = algorithm.KernelSizes();
  const auto [first, last] = known.equal_range(content);
  for (auto at = first; at != last; ++at) {
    const auto shared = at->second.lock();
    if (shared && shared->sizes == sizes) return shared;
  }
  auto made = std::make_shared<Transformed>();
  made->sizes = sizes;
  made->data.reset(static_cast<float*>(std::aligned_alloc(64, sizes[0] * sizeof(float))));
  if (!made->data) throw std::bad_alloc();
  void* const scratch = context.scratch(algorithm.ScratchBytes());
  if (!algorithm.TransformKernel(plain, made->data.get(), scratch)) made->data.reset();
  known.emplace(content, made);
  return made;
}

// The state that one call of a program keeps between executions. Only the thread of oneDNN uses the state, except that
// XLA deletes it with the program.
struct State {
  static ffi::TypeId id;
  std::unique_ptr<dnnl::convolution_forward::primitive_desc> description;
  dnnl::primitive primitive, activation;
  std::shared_ptr<const memory> kernel;
  std::unique_ptr<winograd::Convolution> winograd;
  std::shared_ptr<const Transformed> transformed;
};

ffi::TypeId State::id = {};
ffi::TypeInfo state_info = ffi::MakeTypeInfo<State>();

struct Operands {
  void *image, *kernel, *bias, *residual, *output;
  memory::data_type kernel_type;
};

// Applies an activation to the output of Winograd's algorithm, which does not support this activation.
void Activate(const worker::Context& context, State& state, const Key& key, void* output) {
  if (Activation(key) == 0 || Activation(key) == kRelu) return;
  const memory::desc images = Images(key, kOutput);
  if (state.activation.get(true) == nullptr) {
    const Function& f = kFunctions.at(Activation(key));
    state.activation = dnnl::eltwise_forward(dnnl::eltwise_forward::primitive_desc(
        context.engine, dnnl::prop_kind::forward_inference, f.algorithm, images, images, f.alpha, f.beta));
  }
  const memory y(images, context.engine, output);
  state.activation.execute(context.stream, {{DNNL_ARG_SRC, y}, {DNNL_ARG_DST, y}});
  context.stream.wait();
}

void Convolve(const worker::Context& context, State& state, const Key& key, const Content& content, const Operands& data) {
  const auto& engine = context.engine;
  if (!state.transformed && !state.kernel && IsWinograd(key) && data.kernel_type == kFloat32) {
    state.winograd = std::make_unique<winograd::Convolution>(engine, WinogradKey(key));
    state.transformed = Transform(context, content, *state.winograd, static_cast<const float*>(data.kernel));
  }
  if (state.transformed && state.transformed->data) {
    const bool done = state.winograd->Infer(
        static_cast<const float*>(data.image), state.transformed->data.get(), static_cast<const float*>(data.bias),
        static_cast<const float*>(data.residual), Activation(key) == kRelu, static_cast<float*>(data.output),
        context.scratch(state.winograd->ScratchBytes()));
    if (done) return Activate(context, state, key, data.output);
  }
  if (!state.kernel) {
    auto description = std::make_unique<dnnl::convolution_forward::primitive_desc>(Describe(engine, key));
    state.primitive = dnnl::primitive(description->get());
    const memory plain(Kernel(key, data.kernel_type), engine, data.kernel);
    state.kernel = packed::Get(context, content, plain, description->weights_desc());
    state.description = std::move(description);
  }
  const auto& description = *state.description;
  const auto scratchpad = description.scratchpad_desc();
  std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC, memory(description.src_desc(), engine, data.image)},
      {DNNL_ARG_WEIGHTS, *state.kernel},
      {DNNL_ARG_BIAS, memory(description.bias_desc(), engine, data.bias)},
      {DNNL_ARG_DST, memory(description.dst_desc(), engine, data.output)},
      {DNNL_ARG_SCRATCHPAD, memory(scratchpad, engine, context.scratch(scratchpad.get_size()))}};
  if (data.residual != nullptr) {
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                      memory(description.dst_desc(), engine, data.residual));
  }
  state.primitive.execute(context.stream, arguments);
  context.stream.wait();
}

bool HasShape(const ffi::AnyBuffer& buffer, const Key& key, int place) {
  const auto shape = buffer.dimensions();
  return shape.size() == 4 && std::equal(shape.begin(), shape.end(), &key[place]);
}

ffi::ErrorOr<std::unique_ptr<State>> Instantiate(ffi::Span<const int64_t>, ffi::Span<const int64_t>) {
  return std::make_unique<State>();
}

ffi::Error Execute(State* state, ffi::AnyBuffer image, ffi::AnyBuffer kernel, ffi::BufferR1<ffi::F32> bias,
                   ffi::RemainingArgs others, ffi::Result<ffi::AnyBuffer> output, ffi::Span<const int64_t> numbers,
                   ffi::Span<const int64_t> content) {
  const Key key(numbers.begin(), numbers.end());
  const bool is_known = key.size() == kKeySize && key[21] >= 0 && key[21] < static_cast<int64_t>(kFunctions.size());
  if (!is_known || content.size() != 2 || others.size() != size_t(HasResidual(key))) {
    return ffi::Error::InvalidArgument("a key of 25 numbers, its operands and a digest of 2 numbers are needed");
  }
  const auto type = Type(key) == kBfloat16 ? ffi::BF16 : ffi::F32;
  bool fits = HasShape(image, key, kImage) && HasShape(kernel, key, kKernel) && HasShape(*output, key, kOutput);
  fits = fits && image.element_type() == type && output->element_type() == type && bias.element_count() == size_t(key[11]);
  fits = fits && (kernel.element_type() == ffi::F32 || kernel.element_type() == ffi::BF16);
  void* residual = nullptr;
  if (HasResidual(key)) {
    const auto given = others.get<ffi::AnyBuffer>(0);
    fits = fits && given.has_value() && HasShape(*given, key, kOutput) && given->element_type() == type;
    if (fits) residual = given->untyped_data();
  }
  if (!fits) return ffi::Error::InvalidArgument("a shape or dtype is not the key's");
  const Operands data = {image.untyped_data(), kernel.untyped_data(),   bias.untyped_data(),
                         residual,             output->untyped_data(), kernel.element_type() == ffi::BF16 ? kBfloat16 : kFloat32};
  try {
    worker::Run([&](const worker::Context& context) { Convolve(context, *state, key, {content[0], content[1]}, data); });
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_fused_instantiate, Instantiate,
                              ffi::Ffi::BindInstantiate()
                                  .Attr<ffi::Span<const int64_t>>("key")
                                  .Attr<ffi::Span<const int64_t>>("content"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_fused_convolution, Execute,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::State<State>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::BufferR1<ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("key")
                                  .Attr<ffi::Span<const int64_t>>("content"));

extern "C" void* jaxcnn_fused_state_id() { return &State::id; }
extern "C" void* jaxcnn_fused_state_info() { return &state_info; }

// Calls with the same constant operand share one packed copy.
std::shared_ptr<const memory> packed::Get(const worker::Context& context, const Content& content, const memory& plain,
                                          const memory::desc& layout) {
  static auto& known = *new std::multimap<Content, std::weak_ptr<const memory>>;
  for (auto at = known.begin(); at != known.end();) at = at->second.expired() ? known.erase(at) : std::next(at);
  const auto [first, last] = known.equal_range(content);
  for (auto at = first; at != last; ++at) {
    const auto shared = at->second.lock();
    if (shared && shared->get_desc() == layout) return shared;
  }
  auto packed = std::make_shared<memory>(layout, context.engine);
  dnnl::reorder(plain, *packed).execute(context.stream, const_cast<memory&>(plain), *packed);
  context.stream.wait();
  known.emplace(content, packed);
  return packed;
}

// Returns whether oneDNN has an implementation for this key other than its reference loops.
extern "C" bool jaxcnn_fused_is_fast(const int64_t* numbers) {
  try {
    bool fast = false;
    worker::Run([&](const worker::Context& context) {
      const std::string name = Describe(context.engine, Key(numbers, numbers + kKeySize)).impl_info_str();
      fast = name.find("ref") == std::string::npos;
    });
    return fast;
  } catch (const std::exception&) {
    return false;
  }
}
