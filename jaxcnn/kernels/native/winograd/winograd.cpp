// Plans of Winograd's algorithm. Its equations and transforms are in `transforms.h`.

#include "winograd.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "products.h"
#include "range.h"
#include "threads.h"
#include "transforms.h"

namespace winograd {
namespace {

constexpr int64_t kApart = 1 << 20;         // bytes of transformed values of a thread with tiles of its own
constexpr int64_t kTogether = 4 << 20;      // bytes of transformed values per thread, if all threads share tiles
constexpr int64_t kMostRows = 1024;         // largest number of tiles that are multiplied at a time

// Below these limits, the transformations cost more time than they save.
constexpr int64_t kLeastChannels = 32, kLeastTiles = 48, kLeastWork = 1 << 24;  // work in multiply-adds
constexpr int64_t kLeastTilesOnce = 16;  // if the kernel is transformed once
constexpr double kLeastShare = 0.55;  // mean fraction of a tile that lies within the image

// Limits for bfloat16, in which the processor multiplies twice as fast. A kernel's gradient gains more, because the
// exact sums of this role are the slowest of the three roles.
constexpr int64_t kLeastChannelsOf16Bits = 256, kLeastTilesOf16Bits = 160;  // for output and image
constexpr double kLeastShareOf16Bits = 0.9;
constexpr int64_t kFewPairs = 1 << 15;  // up to this number of channel pairs, the share has no limit

// Sizes of images [N, H, W, C] and outputs [N, H_out, W_out, C_out].
struct Sizes {
  int64_t images, height, width, channels, out_height, out_width, out_channels, top, left;
  int64_t Down() const { return (out_height + kSide - 1) / kSide; }
  int64_t Across() const { return (out_width + kSide - 1) / kSide; }
  int64_t AllTiles() const { return images * Down() * Across(); }
  int64_t Pixels() const { return images * height * width; }
  template <typename T>
  Tiles<T> Images(T* data) const {
    return {data, height, width, channels, -top, -left, Down(), Across()};
  }
  template <typename T>
  Tiles<T> Outputs(T* data) const {
    return {data, out_height, out_width, out_channels, 0, 0, Down(), Across()};
  }
};

// Returns the sizes of a convolution of the image. If `turned` is true, returns the sizes of the convolution of the
// cotangent, whose result is the image's gradient.
Sizes FromKey(const Key& key, bool turned) {
  if (!turned) return {key[1], key[2], key[3], key[4], key[10], key[11], key[12], key[15], key[16]};
  return {key[9], key[10], key[11], key[12], key[2], key[3], key[4], 2 - key[15], 2 - key[16]};
}

// Index of this thread in a parallel region, and the number of threads.
struct Team {
  int me = omp_get_thread_num(), size = omp_get_num_threads();
};

}  // namespace

// A convolution without its tensors: groups of tiles, products, and offsets of transformed values in scratch memory,
// counted in floats. If the transformed kernel fits into a core's cache, each thread works on its own groups of tiles.
// Otherwise, all threads work together on one group after another.
struct Convolution::Plan {
  dnnl::engine engine;
  int role;
  bool is_bfloat16;
  Sizes sizes, turned;  // `turned`: the sizes of role 1
  bool apart;
  int threads;
  int64_t rows, groups;  // tiles in a group (the last group may have fewer); number of groups
  Panels panels;
  std::array<Products, 2> products;  // for a whole group, and for the last group; a kernel's gradient adds them
  Products first;                    // for a kernel's gradient: the first group that all threads share
  mutable std::vector<dnnl::stream> streams;

  int64_t size = 0, zeros, outside, kernel, image, output, scratch, first_largest, second_largest;
  int64_t of_kernel, of_image, of_output, of_scratch;  // sizes per thread, if each has its own

  Plan(const dnnl::engine& given, const Key& key)
      : engine(given), role(key[0]), is_bfloat16(key[kImageType] != 0), sizes(FromKey(key, role == 1)), turned(FromKey(key, true)) {
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
    of_kernel = Whole(kPlaces * cell);
    of_image = Whole(kPlaces * rows * sizes.channels);
    of_output = Whole(kPlaces * rows * sizes.out_channels);
    of_scratch = 0;
    for (const Products* some : {&products[0], &products[1], &first}) {
      of_scratch = std::max(of_scratch, Whole(some->Scratch()));
    }
    zeros = Take(std::max(sizes.channels, sizes.out_channels));
    outside = Take(threads * Whole(sizes.out_channels));
    kernel = Take((role == 2 ? each : 1) * of_kernel);
    image = Take(each * of_image);
    output = Take(each * of_output);
    scratch = Take(each * of_scratch);
    first_largest = Take(sizes.Pixels());
    second_largest = Take(role == 2 ? turned.Pixels() : 9 * turned.out_channels);
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

  static int64_t Whole(int64_t values) { return (values + kWidth - 1) / kWidth * kWidth; }

  int64_t Take(int64_t values) {
    const int64_t start = size;
    size += Whole(values);
    return start;
  }

  // Some tiles of a group, and the memory of the group.
  struct Part {
    int thread;
    int64_t group, tiles;        // the group, and its number of tiles
    int64_t first, last, offset;  // these tiles; the first is number `offset` of the group
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

  // Returns whether images with the largest magnitudes `largest` are even.
  bool AreEven(const int32_t* largest, const Sizes& s) const {
    return IsEvenImage({largest, s.height, s.width, 1, -s.top, -s.left, s.Down(), s.Across()}, s.images);
  }

  // Returns whether the kernel is even.
  bool IsEven(const float* w, float* memory) const {
    int32_t* const of_w = reinterpret_cast<int32_t*>(memory + second_largest);
    const int64_t rows_of_w = turned.out_channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < 9 * rows_of_w; ++row) {
      FindLargestOfRows(w + row * turned.channels, 1, turned.channels, of_w + row);
    }
    return IsEvenKernel(of_w, rows_of_w);
  }

  // Transforms a kernel of floats. Floats of the type `Rounded` are first rounded to bfloat16.
  template <typename Weight>
  void Transform(const Weight* w, float* transformed) const {
    const bool turned = role == 1;
    const int64_t channels = sizes.channels, out_channels = sizes.out_channels;
    const int64_t count = turned ? out_channels : channels, step = turned ? kWidth : 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t start = 0; start < count; start += step) {
      if (turned) {
        ReadTurnedKernel(w, channels, out_channels, start, panels, transformed);
      } else {
        ReadKernel(w, channels, out_channels, start, panels, transformed);
      }
    }
  }

  // Multiplies all tiles of an image by a transformed kernel. Returns whether the image is even; otherwise the result
  // is useless. `write` writes a part of the output from the products, which are `distance` apart.
  template <typename T, typename WritePart>
  bool Multiply(const T* x, float* transformed, float* memory, const WritePart& write) const {
    int32_t* const of_x = reinterpret_cast<int32_t*>(memory + first_largest);
    const int64_t channels = sizes.channels, out_channels = sizes.out_channels;
    const auto images = sizes.Images(x);
    const T* const around = reinterpret_cast<const T*>(memory + zeros);
    ForAllTiles(
        memory,
        [&](const Part& part) {
          ReadImage(images, around, part.first, part.last, part.image + part.offset * channels, part.tiles * channels,
                    of_x);
        },
        [&](const Part& part, const Products& product) {
          product.Run(engine, streams[part.thread], part.image, transformed, part.output, part.scratch);
        },
        [&](const Part& part) {
          float* const beyond = memory + outside + part.thread * Whole(out_channels);
          write(part, beyond, part.output + part.offset * out_channels, part.tiles * out_channels);
        });
    return AreEven(of_x, sizes);
  }

  // Multiplies an image by a transformed kernel, and writes the output, after an epilogue if it has a bias.
  template <typename T>
  bool Finish(const T* x, float* transformed, T* y, const Epilogue<T>& then, float* memory) const {
    const auto outputs = sizes.Outputs(y);
    return Multiply(x, transformed, memory, [&](const Part& part, float* beyond, const float* from, int64_t distance) {
      T* const around = reinterpret_cast<T*>(beyond);
      if (then.bias == nullptr) return WriteOutput(outputs, around, part.first, part.last, from, distance);
      FinishOutput(outputs, around, part.first, part.last, from, distance, then);
    });
  }

  // Like `KernelGradient`, returns whether both operands are even. Otherwise the result is useless.
  template <typename Weight, typename T>
  bool Forward(const T* x, const float* w, const float* bias, T* y, float* memory) const {
    if (!IsEven(w, memory)) return false;
    Transform(reinterpret_cast<const Weight*>(w), memory + kernel);
    return Finish<T>(x, memory + kernel, y, {bias}, memory);
  }

  template <typename T>
  bool KernelGradient(const T* x, const T* g, float* w, float* memory) const {
    int32_t* const of_x = reinterpret_cast<int32_t*>(memory + first_largest);
    int32_t* const of_g = reinterpret_cast<int32_t*>(memory + second_largest);
    const int64_t channels = sizes.channels, out_channels = sizes.out_channels;
    const auto images = sizes.Images(x), outputs = sizes.Outputs(g);
    const T* const around = reinterpret_cast<const T*>(memory + zeros);
    const int64_t owners = apart ? threads : 1;
    float* const sums = memory + kernel;
    if (apart) {
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int64_t i = 0; i < owners * of_kernel; ++i) sums[i] = 0.0f;
    }
    ForAllTiles(
        memory,
        [&](const Part& part) {
          ReadImage(images, around, part.first, part.last, part.image + part.offset * channels, part.tiles * channels,
                    of_x);
          ReadCotangent(outputs, around, part.first, part.last, part.output + part.offset * out_channels,
                        part.tiles * out_channels, of_g);
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
    return AreEven(of_x, sizes) && AreEven(of_g, turned);
  }

  // Computes the tensor of the role. Images and outputs have dtype T.
  template <typename Weight, typename T>
  bool Run(T* x, float* w, T* y, const float* bias, float* memory) const {
    ClearZeros(memory);
    if (role == 0) return Forward<Weight>(x, w, bias, y, memory);
    if (role == 1) return Forward<Weight>(y, w, bias, x, memory);
    return KernelGradient(x, y, w, memory);
  }

  void ClearZeros(float* memory) const {
    std::fill_n(memory + zeros, std::max(sizes.channels, sizes.out_channels), 0.0f);
  }
};

Convolution::Convolution(const dnnl::engine& engine, const Key& key) : plan_(std::make_unique<Plan>(engine, key)) {}

Convolution::~Convolution() = default;

size_t Convolution::ScratchBytes() const { return plan_->size * sizeof(float); }

std::array<int64_t, 4> Convolution::KernelSizes() const {
  return {plan_->of_kernel, plan_->panels.width, plan_->panels.distance, plan_->panels.place};
}

bool Convolution::TransformKernel(const float* kernel, float* data, void* scratch) const {
  if (!plan_->IsEven(kernel, static_cast<float*>(scratch))) return false;
  plan_->Transform(kernel, data);
  return true;
}

bool Convolution::Infer(const float* image, const float* kernel, const float* bias, const float* residual, bool relu,
                        float* output, void* scratch) const {
  float* const memory = static_cast<float*>(scratch);
  plan_->ClearZeros(memory);
  return plan_->Finish<float>(image, const_cast<float*>(kernel), output, {bias, residual, relu}, memory);
}

bool Convolution::Run(const std::array<void*, 3>& data, const float* bias, void* scratch) const {
  float* const kernel = static_cast<float*>(data[1]);
  float* const memory = static_cast<float*>(scratch);
  if (plan_->is_bfloat16) {
    return plan_->Run<Rounded>(static_cast<Bfloat16*>(data[0]), kernel, static_cast<Bfloat16*>(data[2]), bias, memory);
  }
  return plan_->Run<float>(static_cast<float*>(data[0]), kernel, static_cast<float*>(data[2]), bias, memory);
}

bool IsFaster(const Key& key, bool once) {
  if (!kHasThreads || key[kKernelType] != 0) return false;
  const bool fits = key[5] == 3 && key[6] == 3 && key[13] == 1 && key[14] == 1 && key[19] == 1 && key[20] == 1 &&
                    key[21] == 1 && *std::max_element(&key[15], &key[19]) <= 2;
  if (!fits) return false;
  const Sizes sizes = FromKey(key, key[0] == 1);
  const int64_t outputs = sizes.images * sizes.out_height * sizes.out_width, tiles = sizes.AllTiles();
  const int64_t channels = std::min(sizes.channels, sizes.out_channels), pairs = sizes.channels * sizes.out_channels;
  const double share = static_cast<double>(outputs) / (tiles * kSide * kSide);
  if (channels < kLeastChannels || tiles < (once ? kLeastTilesOnce : kLeastTiles) || share < kLeastShare ||
      9 * outputs * pairs < kLeastWork) {
    return false;
  }
  if (key[kImageType] == 0) return true;
  if (key[0] == 2) return share >= kLeastShareOf16Bits || pairs <= kFewPairs;
  return share >= kLeastShareOf16Bits && channels >= kLeastChannelsOf16Bits && tiles >= kLeastTilesOf16Bits;
}

}  // namespace winograd
