// Max pooling and average pooling of images [N, H, W, C], and their gradients, in float32 or bfloat16.
//
// All computation is in float32. Loops over channels have a fixed length, a multiple of 16. If no such length divides
// the channels, rows are copied to buffers with a margin. The last loop of a pixel then writes over values of the next
// pixel, which are computed later.
//
// A gradient is computed for each row of the image from the windows that contain the row, so that no two threads write
// to the same place. The gradient of max pooling finds the largest value of each window again. This search reads the
// image once more, but the forward pass stores no positions.
//
// The windows are in `key`, 10 numbers: rows and columns of a window, strides, padding above and left, and the padding
// that counts in means: above, below, left and right.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "parts.h"
#include "pooling.h"
#include "processors.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using namespace pooling;
using Tensor = ffi::AnyBuffer;

constexpr int64_t kPart = 1 << 15;  // smallest number of values that a thread takes at once
constexpr int64_t kMostParts = 64;
constexpr int32_t kNone = -1;  // index in a window of padding alone
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Finds the largest values of a window.
template <typename S, typename D>
struct LargestOfWindow {
  Held<S> held;
  D* y;

  template <int kWidth>
  INLINE void Run(int64_t from) const {
    float a[kWidth];
    const S* first = held.rows[0] + held.left + from;
    Each<kWidth>([&](int j) { a[j] = Widen(first[j]); });
    for (const S* row : held.rows) {
      for (int64_t k = 0; k < held.columns; ++k) {
        const S* x = row + held.left + k * held.channels + from;
        Each<kWidth>([&](int j) {
          const float b = Widen(x[j]);
          a[j] = (b > a[j]) | (b != b) ? b : a[j];
        });
      }
    }
    Each<kWidth>([&](int j) { NarrowExactly(a[j], y + from + j); });
  }
};

// Finds the index in the window of the first of the largest values.
template <typename S>
struct IndexOfWindow {
  Held<S> held;
  int64_t number, width;  // index of the first value; indices from row to row
  int32_t* y;

  template <int kWidth>
  INLINE void Run(int64_t from) const {
    float a[kWidth];
    int32_t at[kWidth];
    const S* first = held.rows[0] + held.left + from;
    int32_t start = static_cast<int32_t>(number);
    Each<kWidth>([&](int j) { a[j] = Widen(first[j]); });
    Each<kWidth>([&](int j) { at[j] = start; });
    for (const S* row : held.rows) {
      for (int32_t k = 0; k < held.columns; ++k) {
        const S* x = row + held.left + k * held.channels + from;
        const int32_t own = start + k;
        Each<kWidth>([&](int j) {
          const float b = Widen(x[j]);
          const bool larger = (b > a[j]) | (b != b);
          a[j] = larger ? b : a[j];
          at[j] = larger ? own : at[j];
        });
      }
      start += static_cast<int32_t>(width);
    }
    Each<kWidth>([&](int j) { y[from + j] = at[j]; });
  }
};

// Adds up the values of a window, and divides the sum.
template <typename S, typename D>
struct MeanOfWindow {
  Held<S> held;
  float count;
  D* y;

  template <int kWidth>
  INLINE void Run(int64_t from) const {
    float sum[kWidth] = {};
    for (const S* row : held.rows) {
      for (int64_t k = 0; k < held.columns; ++k) {
        const S* x = row + held.left + k * held.channels + from;
        Each<kWidth>([&](int j) { sum[j] += Widen(x[j]); });
      }
    }
    Each<kWidth>([&](int j) { Narrow(sum[j] / count, y + from + j); });
  }
};

struct Pointers {
  const void *x, *ct;  // null where a function does not read it
  void* y;
};

// Max pooling: rows [part.first, part.last) of all windows of all images.
struct Largest {
  template <typename T, bool kCopied>
  static INLINE void Run(const Geometry& g, const Pointers& p, Range part) {
    using S = typename Rows<T, kCopied>::Value;
    Rows<T, kCopied> lines(static_cast<const T*>(p.x), g.Values(), g.rows.taps);
    Result<T, kCopied> result(p.y, g.Results());
    std::vector<const S*> rows;
    const std::vector<Range> taps = Taps(g.columns);
    for (int64_t out = part.first; out < part.last; ++out) {
      Gather(lines, g, out / g.rows.windows, out % g.rows.windows, rows);
      S* y = result.Get(out);
      for (int64_t column = 0; column < g.columns.windows; ++column, y += g.channels) {
        const Held<S> held = HeldBy(g, rows, column, taps[column]);
        if (rows.empty() || held.columns == 0) {
          for (int64_t j = 0; j < g.channels; ++j) Narrow(kLowest, y + j);
        } else {
          ForChannels(g.channels, LargestOfWindow<S, S>{held, y});
        }
      }
      result.Put(out);
    }
  }
};

// A row of windows: their cotangents, and the indices of their largest values.
struct Found {
  Floats cotangents;
  Indices indices;
};

// A row of windows that contains a given row of the image. `first`: index of this image row's first value in a window.
struct Holding {
  const Found* found;
  int64_t first;
};

// Adds the cotangents of the windows in which the pixel is the largest value.
template <typename D>
struct GradientOfPixel {
  const std::vector<Holding>& rows;
  Range columns;
  int64_t tap, stride;  // the column of the pixel in the first of these windows
  int64_t channels;
  bool is_sum;  // whether a pixel can be in several windows
  D* y;

  template <int kWidth>
  INLINE void Run(int64_t from) const {
    float sum[kWidth] = {};
    for (const Holding& row : rows) {
      int32_t here = static_cast<int32_t>(row.first + tap);
      for (int64_t k = columns.first; k < columns.last; ++k, here -= static_cast<int32_t>(stride)) {
        const float* cts = row.found->cotangents.data() + k * channels + from;
        const int32_t* index = row.found->indices.data() + k * channels + from;
        Each<kWidth>([&](int j) { sum[j] += index[j] == here ? cts[j] : 0.0f; });
      }
    }
    if (is_sum) {
      Each<kWidth>([&](int j) { Narrow(sum[j], y + from + j); });
    } else {
      Each<kWidth>([&](int j) { NarrowExactly(sum[j], y + from + j); });
    }
  }
};

// The gradient of max pooling: rows [part.first, part.last) of all images.
struct LargestGradient {
  template <typename T, bool kCopied>
  static INLINE void Run(const Geometry& g, const Pointers& p, Range part) {
    using S = typename Rows<T, kCopied>::Value;
    const int64_t most = (g.rows.taps - 1) / g.rows.stride + 1;  // rows of windows that contain one row of the image
    Rows<T, kCopied> lines(static_cast<const T*>(p.x), g.Values(), g.rows.taps);
    Result<T, kCopied> result(p.y, g.Values());
    const bool is_sum = g.rows.stride < g.rows.taps || g.columns.stride < g.columns.taps;
    std::vector<Found> found(most, {Row(g.Results()), RowOfIndices(g.Results())});
    std::vector<Holding> holding;
    std::vector<const S*> rows;
    const std::vector<Range> taps = Taps(g.columns), windows = Windows(g.columns);
    int64_t known = 0;  // rows of windows of this image that were found, or are not needed
    for (int64_t in = part.first; in < part.last; ++in) {
      const int64_t image = in / g.rows.size, line = in % g.rows.size;
      if (line == 0) known = 0;
      const Range needed = g.rows.Windows(line);
      for (int64_t window = std::max(known, needed.first); window < needed.last; ++window) {
        Found& now = found[window % most];
        Gather(lines, g, image, window, rows);
        const int64_t number = g.rows.Taps(window).first * g.columns.taps;
        int32_t* index = now.indices.data();
        for (int64_t column = 0; column < g.columns.windows; ++column, index += g.channels) {
          const Held<S> held = HeldBy(g, rows, column, taps[column]);
          if (held.columns == 0) continue;  // no pixel is in this window
          ForChannels(g.channels, IndexOfWindow<S>{held, number + taps[column].first, g.columns.taps, index});
        }
        const T* ct = static_cast<const T*>(p.ct) + (image * g.rows.windows + window) * g.Results();
        Copy(ct, g.Results(), now.cotangents.data());
      }
      known = std::max(known, needed.last);
      holding.clear();
      for (int64_t window = needed.first; window < needed.last; ++window) {
        holding.push_back({&found[window % most], (line - g.rows.Start(window)) * g.columns.taps});
      }
      S* y = result.Get(in);
      for (int64_t column = 0; column < g.columns.size; ++column, y += g.channels) {
        const Range held = windows[column];
        const int64_t tap = column - g.columns.Start(held.first);
        ForChannels(g.channels, GradientOfPixel<S>{holding, held, tap, g.columns.stride, g.channels, is_sum, y});
      }
      result.Put(in);
    }
  }
};

// Average pooling: rows [part.first, part.last) of all windows of all images.
struct Mean {
  template <typename T, bool kCopied>
  static INLINE void Run(const Geometry& g, const Pointers& p, Range part) {
    using S = typename Rows<T, kCopied>::Value;
    Rows<T, kCopied> lines(static_cast<const T*>(p.x), g.Values(), g.rows.taps);
    Result<T, kCopied> result(p.y, g.Results());
    std::vector<const S*> rows;
    const std::vector<Range> taps = Taps(g.columns);
    for (int64_t out = part.first; out < part.last; ++out) {
      const int64_t window = out % g.rows.windows;
      Gather(lines, g, out / g.rows.windows, window, rows);
      S* y = result.Get(out);
      for (int64_t column = 0; column < g.columns.windows; ++column, y += g.channels) {
        const float count = static_cast<float>(g.rows.Count(window) * g.columns.Count(column));
        ForChannels(g.channels, MeanOfWindow<S, S>{HeldBy(g, rows, column, taps[column]), count, y});
      }
      result.Put(out);
    }
  }
};

// The gradient of average pooling: rows [part.first, part.last) of all images.
struct MeanGradient {
  template <typename T, bool kCopied>
  static INLINE void Run(const Geometry& g, const Pointers& p, Range part) {
    using S = typename Rows<T, kCopied>::Value;
    Result<T, kCopied> result(p.y, g.Values());
    Floats counts, sum = Row(g.Results());  // counts: columns in the mean of each window of a row
    for (int64_t window = 0; window < g.columns.windows; ++window) {
      counts.insert(counts.end(), g.channels, static_cast<float>(g.columns.Count(window)));
    }
    const std::vector<const float*> sums = {sum.data()};
    const std::vector<Range> windows = Windows(g.columns);
    Range summed = {0, 0};
    for (int64_t in = part.first; in < part.last; ++in) {
      const int64_t first = in / g.rows.size * g.rows.windows;
      Range rows = g.rows.Windows(in % g.rows.size);
      rows = {first + rows.first, first + rows.last};
      if (in == part.first || rows.first != summed.first || rows.last != summed.last) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t row = rows.first; row < rows.last; ++row) {
          const float count = static_cast<float>(g.rows.Count(row - first));
          const T* ct = static_cast<const T*>(p.ct) + row * g.Results();
          for (int64_t i = 0; i < g.Results(); ++i) sum[i] += Widen(ct[i]) / (count * counts[i]);
        }
        summed = rows;
      }
      S* y = result.Get(in);
      for (int64_t column = 0; column < g.columns.size; ++column, y += g.channels) {
        const Range held = windows[column];
        const Held<float> values = {sums, held.first * g.channels, held.last - held.first, g.channels};
        ForChannels(g.channels, MeanOfWindow<float, S>{values, 1.0f, y});
      }
      result.Put(in);
    }
  }
};

using Work = void (*)(const Geometry&, const Pointers&, Range);

// Each function is compiled for both types, with and without copies, and for each processor.
#define COMPILE_FOR(Name, Function, ...)                                                   \
  FOR_EACH_PROCESSOR void Name(const Geometry& g, const Pointers& p, Range part) {         \
    Function::Run<__VA_ARGS__>(g, p, part);                                                \
  }
#define COMPILE(Function)                                   \
  COMPILE_FOR(Function##32, Function, float, false)         \
  COMPILE_FOR(Function##32Copied, Function, float, true)    \
  COMPILE_FOR(Function##16, Function, Bfloat16, false)      \
  COMPILE_FOR(Function##16Copied, Function, Bfloat16, true) \
  constexpr Work k##Function[] = {Function##32, Function##32Copied, Function##16, Function##16Copied};
COMPILE(Largest)
COMPILE(LargestGradient)
COMPILE(Mean)
COMPILE(MeanGradient)
#undef COMPILE
#undef COMPILE_FOR

// Computes a result whose rows are the rows of the image (`of_image`) or of the windows.
ffi::Error Compute(ffi::ThreadPool& pool, const Tensor& image, const Tensor& windows, ffi::Span<const int64_t> key,
                   const Work (&works)[4], const Pointers& pointers, bool of_image) {
  const auto x = image.dimensions(), y = windows.dimensions();
  const auto type = image.element_type();
  if (x.size() != 4 || y.size() != 4 || key.size() != 10 || x[0] != y[0] || x[3] != y[3] ||
      windows.element_type() != type || (type != ffi::F32 && type != ffi::BF16)) {
    return ffi::Error::InvalidArgument("images must be [N, H, W, C] in float32 or bfloat16");
  }
  const Geometry g = {x[0], x[3], {x[1], y[1], key[0], key[2], key[4], key[6], key[7]},
                      {x[2], y[2], key[1], key[3], key[5], key[8], key[9]}};
  const int64_t rows = g.images * (of_image ? g.rows.size : g.rows.windows);
  const int64_t values = g.images * g.rows.size * g.Values();
  const int64_t parts = std::min(std::clamp<int64_t>(values / kPart, 1, kMostParts), rows);
  const Work work = works[2 * (type != ffi::F32) + (g.channels % kLeastWidth != 0)];
  parts::Run(pool, parts, [&](int64_t part) {
    work(g, pointers, {rows * part / parts, rows * (part + 1) / parts});
  });
  return ffi::Error::Success();
}

ffi::Error MaxPool(ffi::ThreadPool pool, Tensor x, ffi::Span<const int64_t> key, ffi::Result<Tensor> y) {
  return Compute(pool, x, *y, key, kLargest, {x.untyped_data(), nullptr, y->untyped_data()}, false);
}

ffi::Error MaxPoolGradient(ffi::ThreadPool pool, Tensor x, Tensor ct, ffi::Span<const int64_t> key,
                           ffi::Result<Tensor> y) {
  return Compute(pool, x, ct, key, kLargestGradient,
                 {x.untyped_data(), ct.untyped_data(), y->untyped_data()}, true);
}

ffi::Error AvgPool(ffi::ThreadPool pool, Tensor x, ffi::Span<const int64_t> key, ffi::Result<Tensor> y) {
  return Compute(pool, x, *y, key, kMean, {x.untyped_data(), nullptr, y->untyped_data()}, false);
}

ffi::Error AvgPoolGradient(ffi::ThreadPool pool, Tensor ct, ffi::Span<const int64_t> key, ffi::Result<Tensor> y) {
  return Compute(pool, *y, ct, key, kMeanGradient,
                 {nullptr, ct.untyped_data(), y->untyped_data()}, true);
}

}  // namespace

#define POOLING ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Tensor>()
#define RESULT Attr<ffi::Span<const int64_t>>("key").Ret<Tensor>()
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_max_pool, MaxPool, POOLING.RESULT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_max_pool_gradient, MaxPoolGradient, POOLING.Arg<Tensor>().RESULT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_avg_pool, AvgPool, POOLING.RESULT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_avg_pool_gradient, AvgPoolGradient, POOLING.RESULT);
