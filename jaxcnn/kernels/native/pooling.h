// Windows over images, their rows, and the loops over channels of `pooling.cpp`.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "bfloat16.h"

namespace pooling {

constexpr int64_t kLeastWidth = 16;  // of a loop over channels
constexpr int64_t kMargin = 32;      // values by which loops over channels may exceed a row

struct Range {
  int64_t first, last;  // first <= i < last
};

// Windows along one axis of images.
struct Axis {
  int64_t size, windows, taps, stride, before;  // `before`: the padding before the first value
  int64_t low, high;                            // padding before and after that counts in means

  int64_t Start(int64_t window) const { return window * stride - before; }

  // Returns the taps of a window that lie in the image.
  Range Taps(int64_t window) const {
    const int64_t start = Start(window);
    const int64_t first = std::max<int64_t>(-start, 0), last = std::min(taps, size - start);
    return {first, std::max(first, last)};
  }

  // Returns the windows that contain a position of the image.
  Range Windows(int64_t place) const {
    const int64_t from = place + before;
    const int64_t first = from < taps ? 0 : (from - taps) / stride + 1;
    return {first, std::max(first, std::min(from / stride + 1, windows))};
  }

  // Returns the number of values in the mean of a window.
  int64_t Count(int64_t window) const {
    const int64_t start = Start(window);
    return std::min(start + taps, size + high) - std::max(start, -low);
  }
};

struct Geometry {
  int64_t images, channels;
  Axis rows, columns;

  int64_t Values() const { return columns.size * channels; }     // in a row of the image
  int64_t Results() const { return columns.windows * channels; }  // in a row of windows
};

using Floats = std::vector<float>;
using Indices = std::vector<int32_t>;

inline Floats Row(int64_t values) { return Floats(values + kMargin); }
inline Indices RowOfIndices(int64_t values) { return Indices(values + kMargin); }

inline std::vector<Range> Taps(const Axis& axis) {
  std::vector<Range> taps;
  for (int64_t window = 0; window < axis.windows; ++window) taps.push_back(axis.Taps(window));
  return taps;
}

inline std::vector<Range> Windows(const Axis& axis) {
  std::vector<Range> windows;
  for (int64_t place = 0; place < axis.size; ++place) windows.push_back(axis.Windows(place));
  return windows;
}

template <typename S, typename D>
INLINE void Copy(const S* from, int64_t values, D* to) {
  for (int64_t i = 0; i < values; ++i) Narrow(Widen(from[i]), to + i);
}

// Calls body(j) for 0 <= j < kWidth. GCC unrolls loops of up to 16 iterations before it vectorizes, and then does not
// vectorize them. It unrolls longer loops later, so that their vectors stay in registers.
template <int kWidth, typename Body>
INLINE void Each(const Body& body) {
  if constexpr (kWidth > 16) {
    for (int j = 0; j < kWidth; ++j) body(j);
  } else {
#pragma GCC unroll 1
    for (int j = 0; j < kWidth; ++j) body(j);
  }
}

// Calls pixel.template Run<width>(from) for blocks of channels that together cover all channels.
template <typename Pixel>
INLINE void ForChannels(int64_t channels, const Pixel& pixel) {
  int64_t from = 0;
  for (; channels - from >= 64; from += 64) pixel.template Run<64>(from);
  for (; channels - from > 16; from += 32) pixel.template Run<32>(from);
  if (from < channels) pixel.template Run<16>(from);
}

// Rows of all images. Loops over channels may read beyond the end of a row if the rows are copies.
template <typename T, bool kCopied>
class Rows {
 public:
  using Value = std::conditional_t<kCopied, float, T>;

  Rows(const T* x, int64_t values, int64_t held) : x_(x), values_(values) {
    if (kCopied) copies_.assign(held, Row(values)), held_.assign(held, -1);
  }

  // Returns a row. A copied row is valid until as many other rows as there are buffers have been requested.
  const Value* Get(int64_t row) {
    if constexpr (kCopied) {
      const int64_t slot = row % static_cast<int64_t>(held_.size());
      if (held_[slot] != row) Copy(x_ + row * values_, values_, copies_[slot].data());
      held_[slot] = row;
      return copies_[slot].data();
    } else {
      return x_ + row * values_;
    }
  }

 private:
  const T* x_;
  int64_t values_;
  std::vector<Floats> copies_;
  std::vector<int64_t> held_;
};

// A row of a result: the row itself, or a buffer that is copied to it.
template <typename T, bool kCopied>
class Result {
 public:
  using Value = std::conditional_t<kCopied, float, T>;

  Result(void* y, int64_t values)
      : y_(static_cast<T*>(y)), values_(values), buffer_(kCopied ? Row(values) : Floats()) {}

  Value* Get(int64_t row) {
    if constexpr (kCopied) {
      return buffer_.data();
    } else {
      return y_ + row * values_;
    }
  }

  INLINE void Put(int64_t row) {
    if (kCopied) Copy(buffer_.data(), values_, y_ + row * values_);
  }

 private:
  T* y_;
  int64_t values_;
  Floats buffer_;
};

// The part of an image inside a window, which is not empty: its rows, and the index of its first value in each row.
template <typename S>
struct Held {
  const std::vector<const S*>& rows;
  int64_t left, columns, channels;
};

// Finds the rows of an image that a row of windows contains.
template <bool kCopied, typename T>
INLINE void Gather(Rows<T, kCopied>& lines, const Geometry& g, int64_t image, int64_t window,
                   std::vector<const typename Rows<T, kCopied>::Value*>& rows) {
  const Range taps = g.rows.Taps(window);
  rows.clear();
  for (int64_t tap = taps.first; tap < taps.last; ++tap) {
    rows.push_back(lines.Get(image * g.rows.size + g.rows.Start(window) + tap));
  }
}

template <typename S>
INLINE Held<S> HeldBy(const Geometry& g, const std::vector<const S*>& rows, int64_t column, Range taps) {
  return {rows, (g.columns.Start(column) + taps.first) * g.channels, taps.last - taps.first, g.channels};
}

}  // namespace pooling
