// The transforms of Winograd's algorithm: images, cotangents and kernels to transformed values, and back.
//
// A tile has 4x4 outputs and needs 6x6 values of the image: F(4x4, 3x3) of Lavin and Gray (*Fast Algorithms for
// Convolutional Neural Networks*, 2016). With the matrices A, B and G (functions in `matrices.h`),
//
//   output:  Y = A' [(G W G') . (B X B')] A      kernel:  dW = G' [(A dY A') . (B X B')] G
//
// where "." multiplies elementwise and ' transposes. Over channels and tiles, each of the 36 transformed values is a
// product of matrices, [tiles, C_in] [C_in, C_out]. The image gradient is a convolution of the cotangent with the
// transposed kernel, rotated by 180 degrees.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bfloat16.h"
#include "matrices.h"
#include "processors.h"

namespace winograd {

constexpr int64_t kSide = 4, kPlaces = 36;  // outputs along a side of a tile; transformed values
constexpr int64_t kWidth = 16;              // channels at a time

namespace {

// A float that is rounded to bfloat16 when it is read.
struct Rounded {
  float value;
};

// Reads and writes W numbers in the dtype of a tensor.

template <int W, typename T>
INLINE void Read(const T* from, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(to, from, W * sizeof(float));
  } else if constexpr (std::is_same_v<T, Rounded>) {
    for (int k = 0; k < W; ++k) to[k] = Round(from[k].value);
  } else {
    for (int k = 0; k < W; ++k) to[k] = Widen(from[k]);
  }
}

template <int W, typename T>
INLINE void Write(const float* from, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(to, from, W * sizeof(float));
  } else {
    for (int k = 0; k < W; ++k) Narrow(from[k], to + k);
  }
}

// Addresses of the values of a tile, by index: at equal distances, or arbitrary.

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

// Computes M x M' for W channels, beginning with channel c.
template <typename M, int W, typename From, typename To>
INLINE void TransformSome(int64_t c, const From& from, const To& to) {
  float x[kPlaces][W], y[kPlaces][W];
  for (int i = 0; i < M::kFrom * M::kFrom; ++i) Read<W>(from(i) + c, x[i]);
  for (int column = 0; column < M::kFrom; ++column) M::template Apply<W>(x + column, M::kFrom, y + column, M::kFrom);
  for (int row = 0; row < M::kTo; ++row) M::template Apply<W>(y + M::kFrom * row, 1, x + M::kTo * row, 1);
  for (int i = 0; i < M::kTo * M::kTo; ++i) Write<W>(x[i], to(i) + c);
}

// Computes M x M' for all channels.
template <typename M, typename From, typename To>
INLINE void Transform(int64_t channels, const From& from, const To& to) {
  int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) TransformSome<M, kWidth>(c, from, to);
  for (; c < channels; ++c) TransformSome<M, 1>(c, from, to);
}

// Returns the bits of a float without its sign. They are ordered like magnitudes, with infinity and NaN as the largest.
// A factor of 2 is a difference of 2^23.
INLINE int32_t Magnitude(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & INT32_MAX;
}

// Finds the largest magnitude of each of `count` vectors [channels].
template <typename T>
INLINE void FindLargest(const T* data, int64_t count, int64_t channels, int32_t* largest) {
  for (int64_t i = 0; i < count; ++i, data += channels) {
    int32_t most = 0;
    for (int64_t c = 0; c < channels; ++c) most = std::max(most, Magnitude(Widen(data[c])));
    largest[i] = most;
  }
}

// The epilogue of a convolution: relu(y + bias + residual); bias and residual may be absent. `bias` is [C], and
// `residual` has the shape and dtype of the output.
template <typename T>
struct Epilogue {
  const float* bias;
  const T* residual = nullptr;
  bool relu = false;
};

// Computes A' M A for W channels, beginning with channel c, and the epilogue. `to` are addresses in the output,
// relative to `start`. The residual is read at the same positions. `inside` marks positions inside of the output.
template <int W, typename T>
INLINE void FinishSome(int64_t c, const Strided<const float>& from, T* const* to, const bool* inside, const T* start,
                       const Epilogue<T>& then) {
  float y[kSide * kSide][W], bias[W];
  TransformSome<TransposedA, W>(c, from, Strided<float>{y[0] - c, W});
  std::memcpy(bias, then.bias + c, sizeof bias);
  for (int i = 0; i < kSide * kSide; ++i) {
    for (int k = 0; k < W; ++k) y[i][k] += bias[k];
    if (then.residual != nullptr && inside[i]) {
      float residual[W];
      Read<W>(then.residual + (to[i] - start) + c, residual);
      for (int k = 0; k < W; ++k) y[i][k] += residual[k];
    }
    // NaN stays NaN.
    if (then.relu) for (int k = 0; k < W; ++k) y[i][k] = y[i][k] < 0.0f ? 0.0f : y[i][k];
    Write<W>(y[i], to[i] + c);
  }
}

// Images [N, H, W, C] as tiles. The first tile begins at (first_row, first_column), which may lie outside of the image;
// the next begins kSide further.
template <typename T>
struct Tiles {
  T* data;
  int64_t height, width, channels, first_row, first_column, down, across;  // down x across tiles in an image

  // Finds the addresses of the side x side values of a tile. Values outside of the image have the address `outside`.
  void Places(int64_t tile, int side, T* outside, T** places) const {
    const int64_t image = tile / (down * across), place = tile % (down * across);
    const int64_t row = place / across * kSide + first_row, column = place % across * kSide + first_column;
    for (int i = 0; i < side * side; ++i) {
      const int64_t y = row + i / side, x = column + i % side;
      const bool inside = y >= 0 && y < height && x >= 0 && x < width;
      places[i] = inside ? data + ((image * height + y) * width + x) * channels : outside;
    }
  }

  // Finds the largest magnitudes of the pixels [kSide, kSide] in the middle of a tile [side, side]. Pixels beyond them
  // belong to the outermost tiles, so that each pixel belongs to one tile.
  INLINE void FindLargestOf(int64_t tile, int side, int32_t* largest) const {
    const auto begin = [side](int64_t place, int64_t places, int64_t first, int64_t size) {
      const int64_t middle = std::min(place * kSide + first + (side - kSide) / 2, size);
      return place == 0 ? 0 : place == places ? size : middle;
    };
    const int64_t row = tile % (down * across) / across, column = tile % across;
    const int64_t left = begin(column, across, first_column, width);
    const int64_t right = begin(column + 1, across, first_column, width);
    const int64_t above = tile / (down * across) * height;
    for (int64_t y = begin(row, down, first_row, height); y < begin(row + 1, down, first_row, height); ++y) {
      const int64_t pixel = (above + y) * width + left;
      FindLargest(data + pixel * channels, right - left, channels, largest + pixel);
    }
  }
};

// Transforms tiles [first, last) to [36, tiles, C], and finds the largest magnitude of their pixels; `between` points
// to the first tile.
template <typename M, typename T>
INLINE void ReadTiles(const Tiles<const T>& image, const T* zeros, int64_t first, int64_t last, float* between,
                      int64_t distance, int32_t* largest) {
  const T* places[kPlaces];
  for (int64_t tile = first; tile < last; ++tile, between += image.channels) {
    image.Places(tile, M::kFrom, zeros, places);
    image.FindLargestOf(tile, M::kFrom, largest);
    Transform<M>(image.channels, Scattered<const T>{places}, Strided<float>{between, distance});
  }
}

template <typename T>
INLINE void WriteTiles(const Tiles<T>& image, T* outside, int64_t first, int64_t last, const float* between,
                       int64_t distance) {
  T* places[kPlaces];
  for (int64_t tile = first; tile < last; ++tile, between += image.channels) {
    image.Places(tile, kSide, outside, places);
    Transform<TransposedA>(image.channels, Strided<const float>{between, distance}, Scattered<T>{places});
  }
}

// Does the same as `WriteTiles`, with an epilogue.
template <typename T>
INLINE void FinishTiles(const Tiles<T>& image, T* outside, int64_t first, int64_t last, const float* between,
                        int64_t distance, const Epilogue<T>& then) {
  T* places[kPlaces];
  bool inside[kPlaces];
  for (int64_t tile = first; tile < last; ++tile, between += image.channels) {
    image.Places(tile, kSide, outside, places);
    for (int i = 0; i < kSide * kSide; ++i) inside[i] = places[i] != outside;
    const Strided<const float> from{between, distance};
    const T* const start = image.data;
    int64_t c = 0;
    for (; c + kWidth <= image.channels; c += kWidth) FinishSome<kWidth>(c, from, places, inside, start, then);
    for (; c < image.channels; ++c) FinishSome<1>(c, from, places, inside, start, then);
  }
}

// A function that is compiled once for each processor cannot be a template.

FOR_EACH_PROCESSOR void ReadImage(const Tiles<const float>& image, const float* zeros, int64_t first, int64_t last,
                                  float* between, int64_t distance, int32_t* largest) {
  ReadTiles<B>(image, zeros, first, last, between, distance, largest);
}

FOR_EACH_PROCESSOR_OF_16_BITS void ReadImage(const Tiles<const Bfloat16>& image, const Bfloat16* zeros, int64_t first,
                                             int64_t last, float* between, int64_t distance, int32_t* largest) {
  ReadTiles<B>(image, zeros, first, last, between, distance, largest);
}

FOR_EACH_PROCESSOR void ReadCotangent(const Tiles<const float>& image, const float* zeros, int64_t first, int64_t last,
                                      float* between, int64_t distance, int32_t* largest) {
  ReadTiles<A>(image, zeros, first, last, between, distance, largest);
}

FOR_EACH_PROCESSOR_OF_16_BITS void ReadCotangent(const Tiles<const Bfloat16>& image, const Bfloat16* zeros,
                                                 int64_t first, int64_t last, float* between, int64_t distance,
                                                 int32_t* largest) {
  ReadTiles<A>(image, zeros, first, last, between, distance, largest);
}

FOR_EACH_PROCESSOR void WriteOutput(const Tiles<float>& image, float* outside, int64_t first, int64_t last,
                                    const float* between, int64_t distance) {
  WriteTiles(image, outside, first, last, between, distance);
}

FOR_EACH_PROCESSOR_OF_16_BITS void WriteOutput(const Tiles<Bfloat16>& image, Bfloat16* outside, int64_t first,
                                               int64_t last, const float* between, int64_t distance) {
  WriteTiles(image, outside, first, last, between, distance);
}

FOR_EACH_PROCESSOR void FinishOutput(const Tiles<float>& image, float* outside, int64_t first, int64_t last,
                                     const float* between, int64_t distance, const Epilogue<float>& then) {
  FinishTiles(image, outside, first, last, between, distance, then);
}

FOR_EACH_PROCESSOR_OF_16_BITS void FinishOutput(const Tiles<Bfloat16>& image, Bfloat16* outside, int64_t first,
                                                int64_t last, const float* between, int64_t distance,
                                                const Epilogue<Bfloat16>& then) {
  FinishTiles(image, outside, first, last, between, distance, then);
}

// Layout of the second matrix of a product: panels of `width` columns, row-major, `distance` apart.
struct Panels {
  int64_t width, distance, place;  // `place`: distance between the 36 matrices
  int64_t At(int64_t row, int64_t column) const { return column / width * distance + row * width + column % width; }
};

// Transforms one row of a kernel [3, 3, rows, columns] to [36, rows, columns].
template <typename T>
INLINE void ReadRow(const T* kernel, int64_t rows, int64_t columns, int64_t row, const Panels& panels, float* between) {
  for (int64_t column = 0; column < columns; column += panels.width) {
    Transform<G>(std::min(panels.width, columns - column),
                 Strided<const T>{kernel + row * columns + column, rows * columns},
                 Strided<float>{between + panels.At(row, column), panels.place});
  }
}

FOR_EACH_PROCESSOR void ReadKernel(const float* kernel, int64_t rows, int64_t columns, int64_t row,
                                   const Panels& panels, float* between) {
  ReadRow(kernel, rows, columns, row, panels, between);
}

FOR_EACH_PROCESSOR void ReadKernel(const Rounded* kernel, int64_t rows, int64_t columns, int64_t row,
                                   const Panels& panels, float* between) {
  ReadRow(kernel, rows, columns, row, panels, between);
}

// Transforms up to kWidth columns of a kernel [3, 3, columns, rows], rotated by 180 degrees.
template <typename T>
INLINE void ReadTurnedColumns(const T* kernel, int64_t rows, int64_t columns, int64_t column, const Panels& panels,
                              float* between) {
  constexpr int64_t kTaps = 9;
  const int64_t wide = std::min(kWidth, columns - column);
  T turned[kTaps][kWidth][kWidth];  // transposed from the column-major source
  for (int64_t row = 0; row < rows; row += kWidth) {
    const int64_t high = std::min(kWidth, rows - row);
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      const T* const from = kernel + ((kTaps - 1 - tap) * columns + column) * rows + row;
      for (int64_t j = 0; j < wide; ++j) {
        __builtin_prefetch(from + j * rows + kWidth);  // the hardware does not prefetch at this distance
        for (int64_t i = 0; i < high; ++i) turned[tap][i][j] = from[j * rows + i];
      }
    }
    for (int64_t i = 0; i < high; ++i) {
      Transform<G>(wide, Strided<const T>{turned[0][i], kWidth * kWidth},
                   Strided<float>{between + panels.At(row + i, column), panels.place});
    }
  }
}

FOR_EACH_PROCESSOR void ReadTurnedKernel(const float* kernel, int64_t rows, int64_t columns, int64_t column,
                                         const Panels& panels, float* between) {
  ReadTurnedColumns(kernel, rows, columns, column, panels, between);
}

FOR_EACH_PROCESSOR void ReadTurnedKernel(const Rounded* kernel, int64_t rows, int64_t columns, int64_t column,
                                         const Panels& panels, float* between) {
  ReadTurnedColumns(kernel, rows, columns, column, panels, between);
}

FOR_EACH_PROCESSOR void FindLargestOfRows(const float* data, int64_t rows, int64_t columns, int32_t* largest) {
  FindLargest(data, rows, columns, largest);
}

FOR_EACH_PROCESSOR void WriteKernel(const float* between, int64_t rows, int64_t columns, int64_t row, float* kernel) {
  const int64_t size = rows * columns;
  Transform<TransposedG>(columns, Strided<const float>{between + row * columns, size},
                         Strided<float>{kernel + row * columns, size});
}

}  // namespace
}  // namespace winograd
