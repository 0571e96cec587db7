// The matrices A, B and G of Winograd's algorithm, and their transposes, as functions.
//
// The algorithm interpolates at six points, which determine its rounding error. With the usual points 0, +-1, +-2 and
// infinity, the error is 5 times the error of exact sums. With 0, +-3/4, +-3/2 and infinity, the error is twice the
// error of exact sums (float32, 64 channels).

#pragma once

#include "processors.h"

namespace winograd {
namespace {

// The matrices, applied along one dimension for W channels. Inputs are `s` apart, and outputs are `r` apart.

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

}  // namespace
}  // namespace winograd
