// The thread in which oneDNN runs (`convolution.cpp`), declared for the other files that call oneDNN.

#pragma once

#include <cstddef>
#include <functional>

#include "oneapi/dnnl/dnnl.hpp"

namespace worker {

struct Context {
  const dnnl::engine& engine;
  dnnl::stream& stream;
  std::function<void*(size_t)> scratch;  // memory of at least this many bytes, until the job ends
};

// Runs `job` in oneDNN's thread, waits until it ends, and rethrows its exception.
void Run(const std::function<void(const Context&)>& job);

}  // namespace worker
