// bfloat16 numbers as bits, and their conversions, written so that compilers vectorize them on every processor.

#pragma once

#include <cstdint>
#include <cstring>

#include "processors.h"

struct Bfloat16 {
  uint16_t bits;
};

template <typename To, typename From>
INLINE To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

INLINE float Widen(float x) { return x; }
INLINE float Widen(Bfloat16 x) { return BitCast<float>(static_cast<uint32_t>(x.bits) << 16); }

INLINE void Narrow(float x, float* to) { *to = x; }

// Rounds to the nearest bfloat16, and to the even one if two are equally near. NaN stays NaN.
INLINE void Narrow(float x, Bfloat16* to) {
  const uint32_t bits = BitCast<uint32_t>(x);
  const uint32_t is_nan = x != x ? ~0u : 0u;
  const uint32_t rounded = bits + ((0x7fff + ((bits >> 16) & 1)) & ~is_nan);
  to->bits = static_cast<uint16_t>((rounded | (is_nan & 0x400000)) >> 16);
}

// Returns the nearest bfloat16.
INLINE float Round(float x) {
  Bfloat16 rounded;
  Narrow(x, &rounded);
  return Widen(rounded);
}

// Converts a float whose value is a bfloat16.
INLINE void NarrowExactly(float x, float* to) { *to = x; }
INLINE void NarrowExactly(float x, Bfloat16* to) { to->bits = static_cast<uint16_t>(BitCast<uint32_t>(x) >> 16); }
