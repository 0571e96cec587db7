// Tests whether tensors are even, as `winograd.h` defines it, from the largest magnitudes of their pixels or rows.

#pragma once

#include <algorithm>
#include <cstdint>

#include "transforms.h"

namespace winograd {
namespace {

constexpr int32_t kOctave = 1 << 23, kOne = 127 * kOctave;
constexpr int32_t kRange = 8 * kOctave, kLeast = kOne - 50 * kOctave, kMost = kOne + 40 * kOctave;

// The largest of some magnitudes, and the smallest of the magnitudes that are not 0.
struct Range {
  int32_t low = INT32_MAX, high = 0;
  INLINE void Add(int32_t magnitude) {
    low = std::min(low, magnitude > 0 ? magnitude : INT32_MAX);
    high = std::max(high, magnitude);
  }
  bool IsWithinLimits() const { return high == 0 || (high >= kLeast && high <= kMost); }
  bool IsNarrow() const { return high - low <= kRange; }
};

FOR_EACH_PROCESSOR Range RangeOf(const int32_t* magnitudes, int64_t count) {
  Range range;
  for (int64_t i = 0; i < count; ++i) range.Add(magnitudes[i]);
  return range;
}

// Returns whether the largest magnitudes of the 3x3 windows of a tile of pixels [6, 6] are in a narrow range.
bool IsEvenTile(const int32_t* const* pixels) {
  int32_t rows[6][kSide];
  for (int i = 0; i < 6; ++i, pixels += 6) {
    for (int j = 0; j < kSide; ++j) rows[i][j] = std::max({*pixels[j], *pixels[j + 1], *pixels[j + 2]});
  }
  Range range;
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) range.Add(std::max({rows[i][j], rows[i + 1][j], rows[i + 2][j]}));
  }
  return range.IsNarrow();
}

// `pixels` are the largest magnitudes of pixels, with the geometry of their images.
bool IsEvenImage(const Tiles<const int32_t>& pixels, int64_t images) {
  const Range range = RangeOf(pixels.data, images * pixels.height * pixels.width);
  if (!range.IsWithinLimits() || range.IsNarrow()) return range.IsWithinLimits();
  const int32_t outside = 0;
  bool even = true;
#pragma omp parallel for schedule(static) reduction(&& : even)
  for (int64_t tile = 0; tile < images * pixels.down * pixels.across; ++tile) {
    const int32_t* places[kPlaces];
    pixels.Places(tile, 6, &outside, places);
    even = even && IsEvenTile(places);
  }
  return even;
}

// `largest` are the largest magnitudes of the rows of a kernel [3, 3, rows, columns].
bool IsEvenKernel(const int32_t* largest, int64_t rows) {
  Range taps;
  for (const int32_t* tap = largest; tap < largest + 9 * rows; tap += rows) taps.Add(RangeOf(tap, rows).high);
  return taps.IsWithinLimits() && taps.IsNarrow();
}

}  // namespace
}  // namespace winograd
