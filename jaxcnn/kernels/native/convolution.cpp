// A convolution and its two gradients by oneDNN, as one custom call of XLA.
//
// The form <G, W * X> is linear in each of image X, kernel W and cotangent G of the output. Each role of the call is
// the derivative of the form with respect to one of the three tensors, computed from the other two tensors:
//
//   role 0, output:  (X, W) -> Y      role 1, image:  (G, W) -> dX      role 2, kernel:  (X, G) -> dW
//
// A second call computes the output with a bias, (X, W, b) -> Y, and rounds this output once.
//
// All other properties are in `key`, 26 numbers: the role, the shapes of X [N, H, W, C_in], W [kH, kW, C_in / groups,
// C_out] and Y [N, H_out, W_out, C_out], strides, padding before, padding after, dilation (each height, width), groups,
// whether the result must be the exact sum of products (1) or may use a faster algorithm (0, `winograd/winograd.h`),
// whether X, Y and G are bfloat16 (1) or float32 (0), whether W and dW are bfloat16 or float32, and whether there is a
// bias, which is float32. With bfloat16 images, W is rounded to bfloat16 as it is packed.

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "winograd/winograd.h"
#include "worker.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Key = std::vector<int64_t>;
using Tensor = ffi::AnyBuffer;
using Vector = ffi::Buffer<ffi::F32, 1>;

constexpr int kImage = 0, kKernel = 1, kOutput = 2;  // the tensors, in the order of their shapes in the key
constexpr int kExact = 22, kHasBias = 25;  // places in the key
using winograd::kImageType, winograd::kKernelType;
constexpr size_t kKeySize = 26, kMostKnown = 1024, kAlignment = 64;
constexpr int kYields = 200;  // number of times that an idle thread lets other threads run before it sleeps

// The two operands of each role, and then its result.
constexpr int kTensors[3][3] = {{kImage, kKernel, kOutput}, {kOutput, kKernel, kImage}, {kImage, kOutput, kKernel}};

memory::dims Pair(const Key& key, int index) { return {key[13 + 2 * index], key[14 + 2 * index]}; }

bool IsBfloat16(const Key& key, int tensor) { return key[tensor == kKernel ? kKernelType : kImageType] != 0; }

memory::data_type Type(bool is_bfloat16) { return is_bfloat16 ? memory::data_type::bf16 : memory::data_type::f32; }

// Returns the layout of a tensor in XLA's memory, in oneDNN's order of dimensions.
memory::desc Plain(const Key& key, int tensor) {
  const int64_t* d = &key[1 + 4 * tensor];
  const auto type = Type(IsBfloat16(key, tensor));
  if (tensor != kKernel) {
    return {{d[0], d[3], d[1], d[2]}, type, {d[1] * d[2] * d[3], 1, d[2] * d[3], d[3]}};
  }
  const int64_t groups = key[21], rows = d[1] * d[2] * d[3], columns = d[2] * d[3];
  if (groups == 1) return {{d[3], d[2], d[0], d[1]}, type, {1, d[3], rows, columns}};
  const int64_t features = d[3] / groups;
  return {{groups, features, d[2], d[0], d[1]}, type, {features, 1, d[3], rows, columns}};
}

memory::desc Bias(const Key& key) { return {{key[12]}, memory::data_type::f32, memory::format_tag::a}; }

// The implementation for one key: a primitive of oneDNN with the layout of each tensor, or Winograd's algorithm.
struct Implementation {
  dnnl::primitive primitive;
  std::array<memory::desc, 3> layouts;
  memory::desc scratchpad;
  std::string implementation;
  std::unique_ptr<winograd::Convolution> winograd = nullptr;
};

template <typename Description>
Implementation Finish(const Description& description, memory::desc image, memory::desc kernel, memory::desc output) {
  return {dnnl::primitive(description.get()),
          {std::move(image), std::move(kernel), std::move(output)},
          description.scratchpad_desc(),
          description.impl_info_str()};
}

// Creates oneDNN's primitive. oneDNN chooses the layout of kernels, and if `free` also the layout of images.
Implementation Make(const dnnl::engine& engine, const Key& key, bool free) {
  const auto any = memory::format_tag::any;
  std::array<memory::desc, 3> wanted;
  for (int tensor : {kImage, kKernel, kOutput}) {
    const memory::desc plain = Plain(key, tensor);
    // A kernel operand has the dtype of the images. The gradient of a kernel is a sum, and is float32 where possible.
    const auto type = tensor == kKernel && key[0] != 2 ? Type(IsBfloat16(key, kImage)) : plain.get_data_type();
    wanted[tensor] = free || tensor == kKernel ? memory::desc(plain.get_dims(), type, any) : plain;
  }
  const auto strides = Pair(key, 0), before = Pair(key, 1), after = Pair(key, 2);
  memory::dims dilation = Pair(key, 3);
  for (auto& distance : dilation) distance -= 1;  // oneDNN counts the positions between two taps
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  memory::desc hint = wanted[kKernel];
  if (key[0] == 2) hint = memory::desc(hint.get_dims(), Type(IsBfloat16(key, kImage)), any);
  const memory::desc bias = key[kHasBias] != 0 ? Bias(key) : memory::desc();
  const dnnl::convolution_forward::primitive_desc forward(engine, dnnl::prop_kind::forward_training, direct,
                                                          wanted[kImage], hint, bias, wanted[kOutput], strides,
                                                          dilation, before, after, attributes);
  if (key[0] == 0) return Finish(forward, forward.src_desc(), forward.weights_desc(), forward.dst_desc());
  if (key[0] == 1) {
    const dnnl::convolution_backward_data::primitive_desc backward(
        engine, direct, wanted[kImage], wanted[kKernel], wanted[kOutput], strides, dilation, before, after, forward,
        attributes);
    return Finish(backward, backward.diff_src_desc(), backward.weights_desc(), backward.diff_dst_desc());
  }
  const dnnl::convolution_backward_weights::primitive_desc backward(
      engine, direct, wanted[kImage], wanted[kKernel], wanted[kOutput], strides, dilation, before, after, forward,
      attributes);
  return Finish(backward, backward.src_desc(), backward.diff_weights_desc(), backward.diff_dst_desc());
}

bool IsReference(const Implementation& chosen) { return chosen.implementation.find("ref") != std::string::npos; }

// Returns whether an implementation uses the processor's bfloat16 instructions. The end of the implementation's name
// shows the instructions: "jit_bf16:avx512_core" emulates bfloat16, and "jit_bf16:avx512_core_bf16" does not.
bool HasBfloat16(const std::string& implementation) {
  const size_t colon = implementation.rfind(':');
  if (colon == std::string::npos) return false;
  return implementation.find("bf16", colon) != std::string::npos || implementation.find("amx", colon) != std::string::npos;
}

// Memory that is kept between calls and only grows.
class Buffer {
 public:
  void* Get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// One thread that runs all convolutions one after another, each on all cores. XLA calls from any thread of its pool,
// and from several threads at once; OpenMP would keep a team of threads for each calling thread. Only this thread uses
// the members.
class Worker {
 public:
  static Worker& Get() {
    static Worker* const worker = new Worker;  // never destroyed: its thread may outlive every destructor
    return *worker;
  }

  // Runs `job` in the thread, waits for it, and rethrows its exception.
  void Run(std::function<void(Worker&)> job) {
    std::packaged_task<void(Worker&)> task(std::move(job));
    std::future<void> done = task.get_future();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
      waiting_.fetch_add(1, std::memory_order_relaxed);
    }
    wake_.notify_one();
    done.get();
  }

  const Implementation& Find(const Key& key) {
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    const bool may_transform = key[kExact] == 0 && winograd::IsFaster(key);
    Implementation chosen;
    if (!may_transform || key[kImageType] != 0) {
      chosen = Make(engine_, key, false);
      if (IsReference(chosen)) chosen = Make(engine_, key, true);
    }
    // Products of bfloat16 matrices by AMX are faster than fewer products in float32. On a processor without bfloat16
    // instructions, the exact sums that are computed where the algorithm rounds too much would be slow.
    const std::string& name = chosen.implementation;
    if (may_transform && (key[kImageType] == 0 || (HasBfloat16(name) && name.find("amx") == std::string::npos))) {
      chosen.winograd = std::make_unique<winograd::Convolution>(engine_, key);
    }
    if (known_.size() >= kMostKnown) known_.clear();
    return known_.emplace(key, std::move(chosen)).first->second;
  }

  void Convolve(const Key& key, const std::array<void*, 3>& data, float* bias) {
    const Implementation& chosen = Find(key);
    if (chosen.winograd) {
      if (chosen.winograd->Run(data, bias, buffers_[3].Get(chosen.winograd->ScratchBytes()))) return;
      Key exact = key;
      exact[kExact] = 1;
      return Convolve(exact, data, bias);
    }
    const int* const tensors = kTensors[key[0]];
    std::array<memory, 3> given, used;
    for (int tensor : {kImage, kKernel, kOutput}) {
      given[tensor] = memory(Plain(key, tensor), engine_, data[tensor]);
      const memory::desc& layout = chosen.layouts[tensor];
      const bool same = layout == given[tensor].get_desc();
      used[tensor] = same ? given[tensor] : memory(layout, engine_, buffers_[tensor].Get(layout.get_size()));
      if (!same && tensor != tensors[2]) dnnl::reorder(given[tensor], used[tensor]).execute(stream_, given[tensor], used[tensor]);
    }
    const bool gradient_of[3] = {key[0] == 1, key[0] == 2, key[0] != 0};
    chosen.primitive.execute(
        stream_, {{gradient_of[kImage] ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, used[kImage]},
                  {gradient_of[kKernel] ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, used[kKernel]},
                  {gradient_of[kOutput] ? DNNL_ARG_DIFF_DST : DNNL_ARG_DST, used[kOutput]},
                  {DNNL_ARG_BIAS, bias == nullptr ? memory() : memory(Bias(key), engine_, bias)},
                  {DNNL_ARG_SCRATCHPAD, memory(chosen.scratchpad, engine_, buffers_[3].Get(chosen.scratchpad.get_size()))}});
    const int result = tensors[2];
    if (used[result].get_desc() != given[result].get_desc()) {
      dnnl::reorder(used[result], given[result]).execute(stream_, used[result], given[result]);
    }
    stream_.wait();
  }

  worker::Context Context() {
    return {engine_, stream_, [this](size_t bytes) { return buffers_[3].Get(bytes); }};
  }

 private:
  Worker() {
    std::thread([this] { Work(); }).detach();
  }

  [[noreturn]] void Work() {
    for (;;) {
      // The next convolution of a network comes soon, and waking a sleeping thread takes about as long as a small
      // convolution.
      for (int i = 0; i < kYields && waiting_.load(std::memory_order_relaxed) == 0; ++i) std::this_thread::yield();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return !tasks_.empty(); });
      std::packaged_task<void(Worker&)> task = std::move(tasks_.front());
      tasks_.pop_front();
      waiting_.fetch_sub(1, std::memory_order_relaxed);
      lock.unlock();
      task(*this);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::packaged_task<void(Worker&)>> tasks_;
  std::atomic<int> waiting_{0};  // number of tasks

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Key, Implementation> known_;
  std::array<Buffer, 4> buffers_;  // the three tensors in oneDNN's layout, and scratch memory
};

ffi::Error Run(const std::array<const Tensor*, 3>& given, float* bias, const Key& key) {
  const int* const tensors = kTensors[key[0]];
  std::array<void*, 3> data;
  for (int place = 0; place < 3; ++place) {
    const int tensor = tensors[place];
    const auto shape = given[place]->dimensions();
    const bool fits = shape.size() == 4 && std::equal(shape.begin(), shape.end(), &key[1 + 4 * tensor]) &&
                      given[place]->element_type() == (IsBfloat16(key, tensor) ? ffi::BF16 : ffi::F32);
    if (!fits) return ffi::Error::InvalidArgument("a shape or dtype is not the key's");
    data[tensor] = given[place]->untyped_data();
  }
  try {
    Worker::Get().Run([&](Worker& worker) { worker.Convolve(key, data, bias); });
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error Convolve(Tensor a, Tensor b, ffi::Result<Tensor> c, ffi::Span<const int64_t> numbers) {
  const Key key(numbers.begin(), numbers.end());
  if (key.size() != kKeySize || key[0] < 0 || key[0] > 2 || key[kHasBias] != 0) {
    return ffi::Error::InvalidArgument("a key of 26 numbers without a bias is needed");
  }
  return Run({&a, &b, &*c}, nullptr, key);
}

ffi::Error ConvolveAndAdd(Tensor x, Tensor kernel, Vector bias, ffi::Result<Tensor> y, ffi::Span<const int64_t> numbers) {
  const Key key(numbers.begin(), numbers.end());
  if (key.size() != kKeySize || key[0] != 0 || key[kHasBias] != 1 || bias.dimensions()[0] != key[12]) {
    return ffi::Error::InvalidArgument("a key of 26 numbers with a bias is needed");
  }
  return Run({&x, &kernel, &*y}, bias.typed_data(), key);
}

}  // namespace

void worker::Run(const std::function<void(const Context&)>& job) {
  Worker::Get().Run([&](Worker& worker) { job(worker.Context()); });
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_convolution, Convolve,
                              ffi::Ffi::Bind().Arg<Tensor>().Arg<Tensor>().Ret<Tensor>().Attr<ffi::Span<const int64_t>>("key"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_biased_convolution, ConvolveAndAdd,
                              ffi::Ffi::Bind()
                                  .Arg<Tensor>()
                                  .Arg<Tensor>()
                                  .Arg<Vector>()
                                  .Ret<Tensor>()
                                  .Attr<ffi::Span<const int64_t>>("key"));

// Writes the name of the implementation for this key, at most `size` characters. Returns whether it is fast. In
// float32, all implementations except oneDNN's reference loops are fast. In bfloat16, only implementations with the
// processor's bfloat16 instructions are fast.
extern "C" bool jaxcnn_implementation(const int64_t* numbers, char* name, size_t size) {
  try {
    bool fast = false;
    const Key key(numbers, numbers + kKeySize);
    Worker::Get().Run([&](Worker& worker) {
      const Implementation& chosen = worker.Find(key);
      const std::string found = chosen.winograd ? "winograd" : chosen.implementation;
      name[found.copy(name, size - 1)] = 0;
      fast = !IsReference(chosen) && (key[kImageType] == 0 || HasBfloat16(chosen.implementation));
    });
    return fast;
  } catch (const std::exception&) {
    name[0] = 0;
    return false;
  }
}

extern "C" bool jaxcnn_has_bfloat16(const char* implementation) { return HasBfloat16(implementation); }
