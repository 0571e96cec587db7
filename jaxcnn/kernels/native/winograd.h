// 3x3 convolutions at stride 1 by Winograd's algorithm, with 36 multiplications in place of 144.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace winograd {

using Key = std::vector<int64_t>;  // documented in `convolution.cpp`

// Returns whether the algorithm supports this convolution, and is faster than the exact sum of products.
bool IsFaster(const Key& key);

// A convolution that the algorithm supports. Throws dnnl::error if oneDNN cannot multiply its matrices.
class Convolution {
 public:
  Convolution(const dnnl::engine& engine, const Key& key);
  ~Convolution();

  // Returns the size of the scratch memory that `Run` needs.
  size_t ScratchBytes() const;

  // Computes the tensor of the key's role from the other two. `data` has image, kernel and output in XLA's layout.
  void Run(const std::array<void*, 3>& data, void* scratch) const;

 private:
  struct Plan;
  const std::unique_ptr<Plan> plan_;
};

}  // namespace winograd
