// Constant operands in oneDNN's layouts. All calls with the same operand share one packed copy.

#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "oneapi/dnnl/dnnl.hpp"
#include "worker.h"

namespace packed {

using Content = std::pair<int64_t, int64_t>;  // a digest

// Returns an operand in this layout. Only the thread of oneDNN may call this function.
std::shared_ptr<const dnnl::memory> Get(const worker::Context& context, const Content& content,
                                        const dnnl::memory& plain, const dnnl::memory::desc& layout);

}  // namespace packed
