// 3x3 convolutions at stride 1 by Winograd's algorithm, with 36 multiplications in place of 144.
//
// Images and outputs are float32 or bfloat16, kernels and their gradients float32. All sums are in float32. A kernel
// for bfloat16 images is rounded to bfloat16 as it is read.
//
// The rounding error of the algorithm is proportional to the largest value of a 6x6 tile of the image, which some 3x3
// windows of the tile do not contain. NaN and infinity spread over the tile. Therefore, both operands must be "even":
//
// - all values are finite, and the largest magnitude of the operand is 0 or between 2^-50 and 2^40;
// - the largest magnitudes of the windows of a tile are within a factor of 2^8, apart from windows of zeros;
// - the largest magnitudes of the nine elements of a kernel are also within this factor.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace winograd {

using Key = std::vector<int64_t>;  // documented in `convolution.cpp`
constexpr int kImageType = 23, kKernelType = 24;  // places in the key

// Returns whether the algorithm supports this convolution and is faster than the exact sum of products. `once`: whether
// the kernel is transformed only once instead of at every execution.
bool IsFaster(const Key& key, bool once = false);

// A convolution that the algorithm supports. Throws dnnl::error if oneDNN cannot multiply its matrices.
class Convolution {
 public:
  Convolution(const dnnl::engine& engine, const Key& key);
  ~Convolution();

  // Returns the size of the scratch memory that `Run` needs.
  size_t ScratchBytes() const;

  // Computes the tensor of the key's role from the other two tensors. Returns false if these are not even; the result
  // must then be computed by exact sums. `data` has image, kernel and output in XLA's layout. A bias [C_out], if not
  // null, is added to the output.
  bool Run(const std::array<void*, 3>& data, const float* bias, void* scratch) const;

  // For inference, where the kernel is transformed once. Returns the sizes of the transformed kernel: of its memory in
  // floats, and of its layout. Transformed kernels of equal sizes can be shared.
  std::array<int64_t, 4> KernelSizes() const;

  // Transforms a kernel. Returns false if it is not even. `data` has `KernelSizes()[0]` floats.
  bool TransformKernel(const float* kernel, float* data, void* scratch) const;

  // Computes max(W * X + b + R, 0), or without the maximum or the residual R, from a transformed kernel. Returns false
  // if the image is not even.
  bool Infer(const float* image, const float* kernel, const float* bias, const float* residual, bool relu,
             float* output, void* scratch) const;

 private:
  struct Plan;
  const std::unique_ptr<Plan> plan_;
};

}  // namespace winograd
