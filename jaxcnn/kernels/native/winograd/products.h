// Products of transformed values, by oneDNN.

#pragma once

#include <cstdint>

#include "oneapi/dnnl/dnnl.hpp"
#include "transforms.h"

namespace winograd {
namespace {

// 36 products of matrices [rows, inner] and [inner, columns], stored or added to the result. The first matrix is
// row-major, or column-major if transposed. The second is row-major, or in oneDNN's preferred layout if `free`.
class Products {
 public:
  Products() = default;

  Products(const dnnl::engine& engine, int64_t rows, int64_t inner, int64_t columns, bool transposed, bool add,
           bool free) {
    using memory = dnnl::memory;
    const auto f32 = memory::data_type::f32;
    const memory::dims by_row = {rows * inner, inner, 1}, by_column = {rows * inner, 1, rows};
    first_ = memory::desc({kPlaces, rows, inner}, f32, transposed ? by_column : by_row);
    const auto any = memory::format_tag::any, plain = memory::format_tag::abc;
    const memory::desc second({kPlaces, inner, columns}, f32, free ? any : plain);
    result_ = memory::desc({kPlaces, rows, columns}, f32, plain);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (add) {
      dnnl::post_ops sum;
      sum.append_sum();
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc description(engine, first_, second, result_, attributes);
    second_ = description.weights_desc();
    scratchpad_ = description.scratchpad_desc();
    primitive_ = dnnl::matmul(description);
  }

  int64_t Scratch() const { return scratchpad_ ? scratchpad_.get_size() / sizeof(float) + 1 : 0; }
  const dnnl::memory::desc& Second() const { return second_; }

  void Run(const dnnl::engine& engine, dnnl::stream& stream, float* a, float* b, float* c, float* scratch) const {
    primitive_.execute(stream, {{DNNL_ARG_SRC, {first_, engine, a}},
                                {DNNL_ARG_WEIGHTS, {second_, engine, b}},
                                {DNNL_ARG_DST, {result_, engine, c}},
                                {DNNL_ARG_SCRATCHPAD, {scratchpad_, engine, scratch}}});
    stream.wait();
  }

 private:
  dnnl::memory::desc first_, second_, result_, scratchpad_;
  dnnl::primitive primitive_;
};

// Returns the layout of a second matrix if it consists of panels without gaps, else panels of width 0.
Panels PanelsOf(const dnnl::memory::desc& layout, int64_t inner, int64_t columns) {
  const auto blocks = layout.get_inner_blks(), axes = layout.get_inner_idxs(), strides = layout.get_strides();
  const bool blocked = blocks.size() == 2 && axes[0] == 1 && axes[1] == 2 && blocks[1] % kWidth == 0 &&
                       inner % blocks[0] == 0 && columns % blocks[1] == 0 && strides[1] == blocks[0] * blocks[1];
  return blocked ? Panels{blocks[1], strides[2], strides[0]} : Panels{0, 0, 0};
}

}  // namespace
}  // namespace winograd
