// Convolutions of 3x3 at stride 1 by the algorithm of Winograd: 36 multiplications for what takes 144.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace winograd {

using Key = std::vector<int64_t>;  // what `convolution.cpp` says it is

// Whether the algorithm can do this convolution, and is faster at it than the sum of products that it stands for.
bool IsFaster(const Key& key);

// A convolution that the algorithm can do. Throws dnnl::error if oneDNN cannot multiply its matrices.
class Convolution {
 public:
  Convolution(const dnnl::engine& engine, const Key& key);
  ~Convolution();

  // How much memory `Run` needs for what lies between operands and result.
  size_t ScratchBytes() const;

  // Computes the tensor that the key's role asks for from the other two: image, kernel and output, as XLA has them.
  void Run(const std::array<void*, 3>& data, void* scratch) const;

 private:
  struct Plan;
  const std::unique_ptr<Plan> plan_;
};

}  // namespace winograd
