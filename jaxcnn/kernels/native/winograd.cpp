// Of 4x4 outputs at a time, each of which needs 6x6 values of the image, by F(4x4, 3x3) of Lavin and Gray (*Fast
// Algorithms for Convolutional Neural Networks*, 2016). With matrices A, B and G that are below as functions,
//
//   output:  Y = A' [(G W G') . (B X B')] A      kernel:  dW = G' [(A dY A') . (B X B')] G
//
// where "." multiplies value by value and ' transposes. Over channels and tiles the values in between are products of
// matrices, [tiles, C_in] [C_in, C_out], one for each of 36 places. The gradient of the image is the convolution of the
// output's with the kernel turned by 180 degrees and transposed.
//
// The algorithm is interpolation at six points, and how much it rounds depends on them: with the usual 0, +-1, +-2 and
// infinity the error is 5 times that of plain sums, with 0, +-3/4, +-3/2 and infinity twice (float32, 64 channels).

#include "winograd.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else  // compiles, and IsFaster turns it down
inline int omp_get_max_threads() { return 1; }
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline void omp_set_num_threads(int) {}
#endif

#include "processors.h"

#define INLINE inline __attribute__((always_inline))

namespace winograd {
namespace {

constexpr int64_t kSide = 4, kPlaces = 36;  // of outputs of a tile; and values in between
constexpr int64_t kWidth = 16;              // channels at a time
constexpr int64_t kApart = 1 << 20;         // bytes in between of a thread, where each has tiles of its own
constexpr int64_t kTogether = 4 << 20;      // bytes in between for each thread, where all work on the same tiles
constexpr int64_t kMostRows = 1024;         // tiles at a time

// Below these, transforming costs more than it saves.
constexpr int64_t kLeastChannels = 32, kLeastTiles = 48, kLeastWork = 1 << 24;  // work in multiply-adds
constexpr double kLeastShare = 0.55;  // of a tile that is within the image, on average

// The matrices, applied to one dimension of W channels; what they read is `s` apart, what they write `r`.

constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB, kA3 = kA2 * kA, kB3 = kB2 * kB;
constexpr float kG0 = 1 / (kA2 * kB2), kGA = 1 / (2 * kA2 * (kA2 - kB2)), kGB = 1 / (2 * kB2 * (kB2 - kA2));

struct B {
  static constexpr int kFrom = 6, kTo = 6;
  template <int W>
  static INLINE void Apply(const float (*x)[W], int s, float (*y)[W], int r) {
    for (int k = 0; k < W; ++k) {
      const float even_a = x[4 * s][k] - kB2 * x[2 * s][k], odd_a = kA * (x[3 * s][k] - kB2 * x[s][k]);
      const float even_b = x[4 * s][k] - kA2 * x[2 * s][k], odd_b = kB * (x[3 * s][k] - kA2 * x[s][k]);
      y[0][k] = kA2 * kB2 * x[0][k] - (kA2 + kB2) * x[2 * s][k] + x[4 * s][k];
      y[r][k] = even_a + odd_a;
      y[2 * r][k] = even_a - odd_a;
      y[3 * r][k] = even_b + odd_b;
      y[4 * r][k] = even_b - odd_b;
      y[5 * r][k] = kA2 * kB2 * x[s][k] - (kA2 + kB2) * x[3 * s][k] + x[5 * s][k];
    }
  }
};

struct A {
  static constexpr int kFrom = 4, kTo = 6;
  template <int W>
  static INLINE void Apply(const float (*x)[W], int s, float (*y)[W], int r) {
    for (int k = 0; k < W; ++k) {
      const float even_a = x[0][k] + kA2 * x[2 * s][k], odd_a = kA * x[s][k] + kA3 * x[3 * s][k];
      const float even_b = x[0][k] + kB2 * x[2 * s][k], odd_b = kB * x[s][k] + kB3 * x[3 * s][k];
      y[0][k] = x[0][k];
      y[r][k] = even_a + odd_a;
      y[2 * r][k] = even_a - odd_a;
      y[3 * r][k] = even_b + odd_b;
      y[4 * r][k] = even_b - odd_b;
      y[5 * r][k] = x[3 * s][k];
    }
  }
};

struct TransposedA {
  static constexpr int kFrom = 6, kTo = 4;
  template <int W>
  static INLINE void Apply(const float (*x)[W], int s, float (*y)[W], int r) {
    for (int k = 0; k < W; ++k) {
      const float sum_a = x[s][k] + x[2 * s][k], difference_a = x[s][k] - x[2 * s][k];
      const float sum_b = x[3 * s][k] + x[4 * s][k], difference_b = x[3 * s][k] - x[4 * s][k];
      y[0][k] = x[0][k] + sum_a + sum_b;
      y[r][k] = kA * difference_a + kB * difference_b;
      y[2 * r][k] = kA2 * sum_a + kB2 * sum_b;
      y[3 * r][k] = kA3 * difference_a + kB3 * difference_b + x[5 * s][k];
    }
  }
};

struct G {
  static constexpr int kFrom = 3, kTo = 6;
  template <int W>
  static INLINE void Apply(const float (*x)[W], int s, float (*y)[W], int r) {
    for (int k = 0; k < W; ++k) {
      const float even_a = kGA * (x[0][k] + kA2 * x[2 * s][k]), odd_a = kGA * kA * x[s][k];
      const float even_b = kGB * (x[0][k] + kB2 * x[2 * s][k]), odd_b = kGB * kB * x[s][k];
      y[0][k] = kG0 * x[0][k];
      y[r][k] = even_a + odd_a;
      y[2 * r][k] = even_a - odd_a;
      y[3 * r][k] = even_b + odd_b;
      y[4 * r][k] = even_b - odd_b;
      y[5 * r][k] = x[2 * s][k];
    }
  }
};

struct TransposedG {
  static constexpr int kFrom = 6, kTo = 3;
  template <int W>
  static INLINE void Apply(const float (*x)[W], int s, float (*y)[W], int r) {
    for (int k = 0; k < W; ++k) {
      const float sum_a = kGA * (x[s][k] + x[2 * s][k]), difference_a = kGA * (x[s][k] - x[2 * s][k]);
      const float sum_b = kGB * (x[3 * s][k] + x[4 * s][k]), difference_b = kGB * (x[3 * s][k] - x[4 * s][k]);
      y[0][k] = kG0 * x[0][k] + sum_a + sum_b;
      y[r][k] = kA * difference_a + kB * difference_b;
      y[2 * r][k] = kA2 * sum_a + kB2 * sum_b + x[5 * s][k];
    }
  }
};

// Where the values of a tile lie, by their number in it: at the same distance, or anywhere.

template <typename T>
struct Strided {
  T* first;
  int64_t distance;
  T* operator()(int i) const { return first + i * distance; }
};

template <typename T>
struct Scattered {
  T* const* places;
  T* operator()(int i) const { return places[i]; }
};

// M x M' of W channels from the c-th on.
template <typename M, int W, typename From, typename To>
INLINE void TransformSome(int64_t c, const From& from, const To& to) {
  float x[kPlaces][W], y[kPlaces][W];
  for (int i = 0; i < M::kFrom * M::kFrom; ++i) std::memcpy(x[i], from(i) + c, sizeof x[i]);
  for (int column = 0; column < M::kFrom; ++column) M::template Apply<W>(x + column, M::kFrom, y + column, M::kFrom);
  for (int row = 0; row < M::kTo; ++row) M::template Apply<W>(y + M::kFrom * row, 1, x + M::kTo * row, 1);
  for (int i = 0; i < M::kTo * M::kTo; ++i) std::memcpy(to(i) + c, x[i], sizeof x[i]);
}

// M x M' of each channel.
template <typename M, typename From, typename To>
INLINE void Transform(int64_t channels, const From& from, const To& to) {
  int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) TransformSome<M, kWidth>(c, from, to);
  for (; c < channels; ++c) TransformSome<M, 1>(c, from, to);
}

// Images [N, H, W, C] as tiles of so many rows and columns, of which the first begins at (row, column), which may be
// outside; the next begins kSide further.
template <typename T>
struct Tiles {
  T* data;
  int64_t height, width, channels, first_row, first_column, down, across;  // so many tiles down and across an image

  // Where the side x side values of a tile lie; for those outside of the image, `outside`.
  void Places(int64_t tile, int side, T* outside, T** places) const {
    const int64_t image = tile / (down * across), place = tile % (down * across);
    const int64_t row = place / across * kSide + first_row, column = place % across * kSide + first_column;
    for (int i = 0; i < side * side; ++i) {
      const int64_t y = row + i / side, x = column + i % side;
      const bool inside = y >= 0 && y < height && x >= 0 && x < width;
      places[i] = inside ? data + ((image * height + y) * width + x) * channels : outside;
    }
  }
};

// The values in between of tiles [first, last): [36, tiles, C], of which `between` is the first tile's.
template <typename M>
INLINE void ReadTiles(const Tiles<const float>& image, const float* zeros, int64_t first, int64_t last, float* between,
                      int64_t distance) {
  const float* places[kPlaces];
  for (int64_t tile = first; tile < last; ++tile, between += image.channels) {
    image.Places(tile, M::kFrom, zeros, places);
    Transform<M>(image.channels, Scattered<const float>{places}, Strided<float>{between, distance});
  }
}

FOR_EACH_PROCESSOR void ReadImage(const Tiles<const float>& image, const float* zeros, int64_t first, int64_t last,
                                  float* between, int64_t distance) {
  ReadTiles<B>(image, zeros, first, last, between, distance);
}

FOR_EACH_PROCESSOR void ReadCotangent(const Tiles<const float>& image, const float* zeros, int64_t first, int64_t last,
                                      float* between, int64_t distance) {
  ReadTiles<A>(image, zeros, first, last, between, distance);
}

FOR_EACH_PROCESSOR void WriteOutput(const Tiles<float>& image, float* outside, int64_t first, int64_t last,
                                    const float* between, int64_t distance) {
  float* places[kPlaces];
  for (int64_t tile = first; tile < last; ++tile, between += image.channels) {
    image.Places(tile, kSide, outside, places);
    Transform<TransposedA>(image.channels, Strided<const float>{between, distance}, Scattered<float>{places});
  }
}

// How the second of two matrices lies that are multiplied: columns in panels of `width`, row by row, `distance` apart.
struct Panels {
  int64_t width, distance, place;  // values from one place of the 36 to the next
  int64_t At(int64_t row, int64_t column) const { return column / width * distance + row * width + column % width; }
};

// The values in between [36, rows, columns] of a kernel [3, 3, rows, columns], for one row.
FOR_EACH_PROCESSOR void ReadKernel(const float* kernel, int64_t rows, int64_t columns, int64_t row,
                                   const Panels& panels, float* between) {
  for (int64_t column = 0; column < columns; column += panels.width) {
    Transform<G>(std::min(panels.width, columns - column),
                 Strided<const float>{kernel + row * columns + column, rows * columns},
                 Strided<float>{between + panels.At(row, column), panels.place});
  }
}

// The same of a kernel [3, 3, columns, rows] turned by 180 degrees, for kWidth columns, or as many as there are.
FOR_EACH_PROCESSOR void ReadTurnedKernel(const float* kernel, int64_t rows, int64_t columns, int64_t column,
                                         const Panels& panels, float* between) {
  constexpr int64_t kTaps = 9;
  const int64_t wide = std::min(kWidth, columns - column);
  float turned[kTaps][kWidth][kWidth];  // row by row of what is read column by column
  for (int64_t row = 0; row < rows; row += kWidth) {
    const int64_t high = std::min(kWidth, rows - row);
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const float* const from = kernel + ((kTaps - 1 - tap) * columns + column) * rows + row;
      for (int64_t j = 0; j < wide; ++j) {
        __builtin_prefetch(from + j * rows + kWidth);  // what lies so far apart is not fetched ahead by itself
        for (int64_t i = 0; i < high; ++i) turned[tap][i][j] = from[j * rows + i];
      }
    }
    for (int64_t i = 0; i < high; ++i) {
      Transform<G>(wide, Strided<const float>{turned[0][i], kWidth * kWidth},
                   Strided<float>{between + panels.At(row + i, column), panels.place});
    }
  }
}

FOR_EACH_PROCESSOR void WriteKernel(const float* between, int64_t rows, int64_t columns, int64_t row, float* kernel) {
  const int64_t size = rows * columns;
  Transform<TransposedG>(columns, Strided<const float>{between + row * columns, size},
                         Strided<float>{kernel + row * columns, size});
}

// Sizes of images [N, H, W, C] and of what a kernel makes of them, [N, H_out, W_out, C_out].
struct Sizes {
  int64_t images, height, width, channels, out_height, out_width, out_channels, top, left;
  int64_t Down() const { return (out_height + kSide - 1) / kSide; }
  int64_t Across() const { return (out_width + kSide - 1) / kSide; }
  int64_t AllTiles() const { return images * Down() * Across(); }
  template <typename T>
  Tiles<T> Images(T* data) const {
    return {data, height, width, channels, -top, -left, Down(), Across()};
  }
  template <typename T>
  Tiles<T> Outputs(T* data) const {
    return {data, out_height, out_width, out_channels, 0, 0, Down(), Across()};
  }
};

Sizes FromKey(const Key& key) {
  if (key[0] != 1) return {key[1], key[2], key[3], key[4], key[10], key[11], key[12], key[15], key[16]};
  return {key[9], key[10], key[11], key[12], key[2], key[3], key[4], 2 - key[15], 2 - key[16]};
}

// In a parallel region: which thread this is, and of how many.
struct Team {
  int me = omp_get_thread_num(), size = omp_get_num_threads();
};

// While it lives, oneDNN makes primitives for one thread.
class ForOneThread {
 public:
  explicit ForOneThread(bool wanted) {
    if (wanted) omp_set_num_threads(1);
  }
  ~ForOneThread() { omp_set_num_threads(before_); }

 private:
  const int before_ = omp_get_max_threads();
};

// At each of the 36 places, the product of matrices [rows, inner] and [inner, columns], in place of what is there or
// added to it. The first lies row by row or, transposed, column by column; the second row by row or as oneDNN likes it.
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

// The layout of a second matrix, where it is of panels without gaps; else of width 0.
Panels PanelsOf(const dnnl::memory::desc& layout, int64_t inner, int64_t columns) {
  const auto blocks = layout.get_inner_blks(), axes = layout.get_inner_idxs(), strides = layout.get_strides();
  const bool blocked = blocks.size() == 2 && axes[0] == 1 && axes[1] == 2 && blocks[1] % kWidth == 0 &&
                       inner % blocks[0] == 0 && columns % blocks[1] == 0 && strides[1] == blocks[0] * blocks[1];
  return blocked ? Panels{blocks[1], strides[2], strides[0]} : Panels{0, 0, 0};
}

}  // namespace

// What a convolution takes beside its tensors: how the tiles are shared out, the products, and where what lies between
// is kept, in floats from the start of the memory. Where all that a kernel has in between fits a core's cache, each
// thread works through groups of tiles of its own; else all threads work on one group after another.
struct Convolution::Plan {
  dnnl::engine engine;
  int role;
  Sizes sizes;
  bool apart;
  int threads;
  int64_t rows, groups;  // tiles in a group; the last may have fewer
  Panels panels;
  std::array<Products, 2> products;  // for a whole group and for the last; of a kernel's gradient, added up
  Products first;                    // of a kernel's gradient, for the first group of those that all threads work on
  mutable std::vector<dnnl::stream> streams;

  int64_t size = 0, zeros, outside, kernel, image, output, scratch;
  int64_t of_kernel, of_image, of_output, of_scratch;  // what each thread has, where there is one for each

  Plan(const dnnl::engine& given, const Key& key) : engine(given), role(key[0]), sizes(FromKey(key)) {
    const int64_t cell = sizes.channels * sizes.out_channels, all = sizes.AllTiles();
    const int64_t bytes = kPlaces * (sizes.channels + sizes.out_channels) * sizeof(float);
    threads = omp_get_max_threads();
    apart = kPlaces * cell * static_cast<int64_t>(sizeof(float)) <= kApart;
    rows = std::clamp<int64_t>((apart ? kApart : kTogether * threads) / bytes, 8, kMostRows);
    groups = (all + rows - 1) / rows;
    if (apart) groups = (groups + threads - 1) / threads * threads;
    rows = (all + groups - 1) / groups;
    groups = (all + rows - 1) / rows;
    MakeProducts();
    for (int thread = 0; thread < threads; ++thread) streams.emplace_back(engine);

    const int64_t each = apart ? threads : 1;
    of_kernel = Rounded(kPlaces * cell);
    of_image = Rounded(kPlaces * rows * sizes.channels);
    of_output = Rounded(kPlaces * rows * sizes.out_channels);
    of_scratch = 0;
    for (const Products* some : {&products[0], &products[1], &first}) {
      of_scratch = std::max(of_scratch, Rounded(some->Scratch()));
    }
    zeros = Take(std::max(sizes.channels, sizes.out_channels));
    outside = Take(threads * Rounded(sizes.out_channels));
    kernel = Take((role == 2 ? each : 1) * of_kernel);
    image = Take(each * of_image);
    output = Take(each * of_output);
    scratch = Take(each * of_scratch);
  }

  void MakeProducts() {
    const ForOneThread for_one(apart);
    const int64_t last = sizes.AllTiles() - (groups - 1) * rows;
    const int64_t images = rows, channels = sizes.channels, out_channels = sizes.out_channels;
    if (role == 2) {
      for (int index : {0, 1}) {
        products[index] = Products(engine, channels, index ? last : images, out_channels, true, true, false);
      }
      first = Products(engine, channels, groups > 1 ? images : last, out_channels, true, false, false);
      return;
    }
    panels = {out_channels, 0, channels * out_channels};
    for (bool free : {true, false}) {
      for (int index : {0, 1}) {
        products[index] = Products(engine, index ? last : images, channels, out_channels, false, false, free);
      }
      const Panels found = PanelsOf(products[0].Second(), channels, out_channels);
      const bool alike = products[0].Second() == products[1].Second();
      if (free && alike && found.width > 0) {
        panels = found;
        return;
      }
    }
  }

  static int64_t Rounded(int64_t values) { return (values + kWidth - 1) / kWidth * kWidth; }

  int64_t Take(int64_t values) {
    const int64_t start = size;
    size += Rounded(values);
    return start;
  }

  // Some tiles of a group, and the memory that the group has.
  struct Part {
    int thread;
    int64_t group, tiles;        // which group, and how many tiles are in it
    int64_t first, last, offset;  // these tiles, of which the first is the `offset`-th of the group
    float *image, *output, *scratch;
  };

  Part PartOf(float* memory, int64_t group, const Team& team, bool share) const {
    const int64_t start = group * rows, tiles = std::min(start + rows, sizes.AllTiles()) - start;
    const int64_t from = share ? tiles * team.me / team.size : 0;
    const int64_t to = share ? tiles * (team.me + 1) / team.size : tiles;
    const int64_t owner = apart ? team.me : 0;
    return {team.me, group, tiles, start + from, start + to, from, memory + image + owner * of_image,
            memory + output + owner * of_output, memory + scratch + owner * of_scratch};
  }

  // Reads, multiplies and writes all tiles.
  template <typename Read, typename Multiply, typename Write>
  void ForAllTiles(float* memory, const Read& read, const Multiply& multiply, const Write& write) const {
    std::atomic<bool> failed{false};  // no exception may leave a parallel region
    const auto run = [&](const Part& part) {
      try {
        const bool replaces = role == 2 && !apart && part.group == 0;
        multiply(part, replaces ? first : products[part.group + 1 == groups]);
      } catch (const dnnl::error&) {
        failed = true;
      }
    };
    if (apart) {
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t group = 0; group < groups; ++group) {
        const Part part = PartOf(memory, group, Team(), false);
        read(part);
        run(part);
        write(part);
      }
    } else {
      for (int64_t group = 0; group < groups; ++group) {
#pragma omp parallel num_threads(threads)
        read(PartOf(memory, group, Team(), true));
        run(PartOf(memory, group, Team(), false));
#pragma omp parallel num_threads(threads)
        write(PartOf(memory, group, Team(), true));
      }
    }
    if (failed) throw std::runtime_error("a product of matrices failed");
  }

  void Forward(const float* x, const float* w, float* y, float* memory) {
    const int64_t channels = sizes.channels, out_channels = sizes.out_channels;
    const auto images = sizes.Images(x);
    const auto outputs = sizes.Outputs(y);
    const bool turned = role == 1;
    const int64_t count = turned ? out_channels : channels, step = turned ? kWidth : 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < count; start += step) {
      (turned ? ReadTurnedKernel : ReadKernel)(w, channels, out_channels, start, panels, memory + kernel);
    }
    ForAllTiles(
        memory,
        [&](const Part& part) {
          ReadImage(images, memory + zeros, part.first, part.last, part.image + part.offset * channels,
                    part.tiles * channels);
        },
        [&](const Part& part, const Products& product) {
          product.Run(engine, streams[part.thread], part.image, memory + kernel, part.output, part.scratch);
        },
        [&](const Part& part) {
          WriteOutput(outputs, memory + outside + part.thread * Rounded(out_channels), part.first, part.last,
                      part.output + part.offset * out_channels, part.tiles * out_channels);
        });
  }

  void KernelGradient(const float* x, const float* g, float* w, float* memory) {
    const int64_t channels = sizes.channels, out_channels = sizes.out_channels;
    const auto images = sizes.Images(x), outputs = sizes.Outputs(g);
    const int64_t owners = apart ? threads : 1;
    float* const sums = memory + kernel;
    if (apart) {
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t i = 0; i < owners * of_kernel; ++i) sums[i] = 0.0f;
    }
    ForAllTiles(
        memory,
        [&](const Part& part) {
          ReadImage(images, memory + zeros, part.first, part.last, part.image + part.offset * channels,
                    part.tiles * channels);
          ReadCotangent(outputs, memory + zeros, part.first, part.last, part.output + part.offset * out_channels,
                        part.tiles * out_channels);
        },
        [&](const Part& part, const Products& product) {
          product.Run(engine, streams[part.thread], part.image, part.output,
                      sums + (apart ? part.thread : 0) * of_kernel, part.scratch);
        },
        [](const Part&) {});
    for (int64_t owner = 1; owner < owners; ++owner) {
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t i = 0; i < of_kernel; ++i) sums[i] += sums[owner * of_kernel + i];
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < channels; ++row) WriteKernel(sums, channels, out_channels, row, w);
  }
};

Convolution::Convolution(const dnnl::engine& engine, const Key& key) : plan_(std::make_unique<Plan>(engine, key)) {}

Convolution::~Convolution() = default;

size_t Convolution::ScratchBytes() const { return plan_->size * sizeof(float); }

void Convolution::Run(const std::array<void*, 3>& data, void* scratch) const {
  float* const image = static_cast<float*>(data[0]);
  float* const kernel = static_cast<float*>(data[1]);
  float* const output = static_cast<float*>(data[2]);
  float* const memory = static_cast<float*>(scratch);
  const int64_t values = std::max(plan_->sizes.channels, plan_->sizes.out_channels);
  std::fill(memory + plan_->zeros, memory + plan_->zeros + values, 0.0f);
  if (plan_->role == 0) plan_->Forward(image, kernel, output, memory);
  if (plan_->role == 1) plan_->Forward(output, kernel, image, memory);
  if (plan_->role == 2) plan_->KernelGradient(image, output, kernel, memory);
}

bool IsFaster(const Key& key) {
#ifndef _OPENMP
  return false;
#endif
  const bool fits = key[5] == 3 && key[6] == 3 && key[13] == 1 && key[14] == 1 && key[19] == 1 && key[20] == 1 &&
                    key[21] == 1 && *std::max_element(&key[15], &key[19]) <= 2;
  if (!fits) return false;
  const Sizes sizes = FromKey(key);
  const int64_t outputs = sizes.images * sizes.out_height * sizes.out_width, tiles = sizes.AllTiles();
  return std::min(sizes.channels, sizes.out_channels) >= kLeastChannels && tiles >= kLeastTiles &&
         outputs >= kLeastShare * tiles * kSide * kSide &&
         9 * outputs * sizes.channels * sizes.out_channels >= kLeastWork;
}

}  // namespace winograd
