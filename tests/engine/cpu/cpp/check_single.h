// One kernel at a time on a random case: packs the constants for an instruction set, calls its kernel once or twice, and returns
// everything that was written, with the poison around it.
//
// The same random numbers give the same case, whatever the instruction set. With `fault` one constant is a little off.

#pragma once

#include <cstring>
#include <numeric>
#include <stdexcept>

#include "check_cases.h"
#include "pack.h"
#include "windows.h"

namespace geluless {

using Values = std::vector<int32_t>;  // floats by their bits

template <class T>
Values as_values(const std::vector<T>& from) {
  if constexpr (std::is_same_v<T, float>) {
    Values out(from.size());
    std::memcpy(out.data(), from.data(), from.size() * sizeof(float));
    return out;
  }
  return Values(from.begin(), from.end());
}

// What a kernel writes to: poison between the rows and behind them, which must still be there afterwards.
template <class T>
std::vector<T> poisoned(Random& random, size_t count) {
  std::vector<T> out(count + 64);
  for (T& x : out) x = static_cast<T>(random.bits());
  return out;
}

template <Epilogue kEpilogue>
Values run_gemm(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const int outputs = index % 130 + 1, rows = index * 7 % 40 + 1, inputs = random.in(1, 130);
  LayerSpec layer = cases.layer(kEpilogue, inputs, outputs, random.one_in(2), true);
  if (fault) {  // the very last weight
    auto* weight = store.take<int8_t>(static_cast<size_t>(inputs * outputs));
    std::copy_n(layer.weight, inputs * outputs, weight)[-1] ^= 0x40;
    layer.weight = weight;
  }
  Arena arena;
  PackedLinear packed;
  arena.lay_out([&] { packed = pack_layer(layer, kernels.layout, arena); });
  if (packed.epilogue != kEpilogue) throw std::logic_error("GELU in integers with these constants is not what runs");

  const auto input_stride = static_cast<size_t>(round_up(inputs, 4) + random.in(0, 9));
  const auto stride = static_cast<size_t>(outputs + random.in(0, 9));
  const uint8_t* input = cases.any_or_extremes<uint8_t>(static_cast<size_t>(rows) * input_stride, 0, 255);
  std::vector<int32_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  for (int i = rows - 1; i > 0; --i) std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.in(0, i))]);
  const int panels = panel_count(outputs, kernels.layout), cut = panels / 2;
  const auto gemm = kernels.gemm[static_cast<int>(kEpilogue)];
  auto run = [&](auto output) {
    for (const auto& [first, last] : {std::pair(cut, panels), std::pair(0, cut)})
      gemm({input, input_stride, rows, &packed, first, last, output.data(), stride, order.data()});
    return as_values(output);
  };
  using Output = std::conditional_t<info(kEpilogue).output == Type::kS16, int16_t, uint8_t>;
  return run(poisoned<Output>(random, static_cast<size_t>(rows) * stride));
}

template <Elementwise kKernel>
Values run_elementwise(const Kernels& kernels, Random random, int index, bool fault) {
  constexpr bool kS16 = kKernel == Elementwise::kReluS16;
  using From = std::conditional_t<kS16, int16_t, uint8_t>;
  Store store;
  Cases cases{random, store};
  const int columns = index % 130 + 1, rows = index * 7 % 40 + 1;
  const auto n = static_cast<size_t>(columns), stride = n + static_cast<size_t>(random.in(0, 9));
  ElementwiseSpec spec{kKernel, cases.around(n, 1.5, 3), cases.between(n, -2, 2), 0, 0, 0, 31, 0.05f};
  spec.zero = random.in(0, 40), spec.lowest = random.in(0, 60), spec.highest = random.in(130, 255);
  if (fault) spec.zero += 3, spec.highest -= 3;
  Arena arena;
  Channels channels{};
  arena.lay_out([&] { channels = pack_elementwise(spec, columns, kernels.layout, arena); });
  const int reach = random.any({400, 32767});
  const int low = kS16 ? -reach - 1 : 0, high = kS16 ? reach : 255;
  const From* input = cases.any_or_extremes<From>(static_cast<size_t>(rows) * stride, low, high);
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(rows) * stride);
  kernels.elementwise[static_cast<int>(kKernel)]({input, output.data(), rows, columns, stride, &channels, spec.after_gemm_scale});
  return as_values(output);
}

template <class T>
Values run_norm(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const int width = index % 150 + 1, segments = random.any({1, 4}), rows = random.in(1, 9), stream_rows = random.in(1, 12);
  NormSpec spec = cases.norm(segments * width, sizeof(T) == 2);
  if (fault) spec.factor *= 1.01f;
  Arena arena;
  Norm norm;
  arena.lay_out([&] { norm = pack_norm(spec, segments, width, kernels.layout, arena); });
  const auto stream_stride = static_cast<size_t>(width + random.in(0, 9));
  const auto stride = static_cast<size_t>(segments * width + random.in(0, 9));
  const int reach = random.any({1, 300, 32767});
  const int16_t* stream = cases.any_or_extremes<int16_t>(static_cast<size_t>(stream_rows) * stream_stride, -reach - 1, reach);
  const int32_t* row_index = cases.any<int32_t>(static_cast<size_t>(rows * segments), 0, stream_rows - 1);
  std::vector<T> output = poisoned<T>(random, static_cast<size_t>(rows) * stride);
  kernels.layer_norm({stream, stream_stride, row_index, rows, segments, width, norm.epsilon_term, norm.factor, norm.gamma,
                      norm.beta, sizeof(T) == 2, output.data(), stride});
  return as_values(output);
}

inline Values run_attention(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const std::array<int, 2> window = index % 37 == 36 ? std::array{12, 12} : std::array{2 + index % 37 / 6, 2 + index % 37 % 6};
  const int tokens = window[0] * window[1], heads = random.in(1, 3), head_dim = random.one_in(3) ? 32 : random.in(1, 70);
  AttentionSpec spec = cases.attention(heads, head_dim, window, random.one_in(4));
  if (fault) {
    auto* multiplier = store.take<int16_t>(static_cast<size_t>(heads));
    std::transform(spec.score_multiplier, spec.score_multiplier + heads, multiplier, [](int16_t m) { return m / 8 * 7; });
    spec.score_multiplier = multiplier;
  }
  const int style = random.in(0, 2);  // nothing masked, two regions as a shift makes them, or half of all pairs
  const uint8_t* region = cases.any<uint8_t>(static_cast<size_t>(tokens), 0, 1);
  const uint8_t* pair = cases.any<uint8_t>(static_cast<size_t>(tokens * tokens), 0, 1);
  auto masked = [&](int q, int k) { return style == 1 ? region[q] != region[k] : style == 2 && q != k && pair[q * tokens + k]; };
  Arena arena;
  std::vector<AttentionHead> parameters;
  Mask mask;
  uint8_t* scratch = nullptr;
  arena.lay_out([&] {
    parameters = make_heads(spec, kernels, arena);
    if (style) mask = make_mask(tokens, masked, kernels, arena);
    scratch = arena.take<uint8_t>(kernels.attention_scratch(tokens, head_dim));
  });

  const int width = heads * head_dim;
  const auto qkv_stride = static_cast<size_t>(3 * width + random.in(0, 9)), stride = static_cast<size_t>(width + random.in(0, 9));
  const uint8_t* qkv = cases.any_or_extremes<uint8_t>(static_cast<size_t>(tokens) * qkv_stride, 0, 255);
  const uint8_t* table = cases.softmax_table();
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(tokens) * stride);
  for (int h = 0; h < heads; ++h)
    kernels.attention({qkv, qkv_stride, tokens, head_dim, width, h, &parameters[static_cast<size_t>(h)], mask.limit, mask.keep,
                       table, output.data(), stride, scratch});
  return as_values(output);
}

inline Values run_quantize_patches(const Kernels& kernels, Random random, int, bool fault) {
  Store store;
  Cases cases{random, store};
  const int patch_h = random.in(1, 5), patch_w = random.in(1, 5), patches = random.in(1, 50), width = patches * patch_w;
  const auto stride = static_cast<size_t>(patch_h * patch_w + random.in(0, 9));
  float* image = cases.pixels(static_cast<size_t>(patch_h * width));
  for (int i = 0; i < patch_h * width; ++i)
    if (random.one_in(20)) image[i] = random.any({3e38f, -3e38f, 0.0f, -0.0f, 1e-45f, 0.5f, 1.5f, -2.5f});
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(patches) * stride);
  std::vector<uint8_t> scratch(static_cast<size_t>(round_up(width, 64)));
  const float inverse = random.one_in(2) ? 1.0f : static_cast<float>(random.real(20, 60));  // at 1, halves end on ties
  uint32_t finite = 0, wrong = 0;
  const int zero = random.in(0, 255) ^ fault;
  kernels.quantize_patches({image, width, patch_h, patch_w, inverse, zero, output.data(), stride, scratch.data(), &finite});
  std::vector<uint8_t> ignored(output.size());
  image[random.in(0, patch_h * width - 1)] = random.any({INFINITY, -INFINITY, NAN});
  kernels.quantize_patches({image, width, patch_h, patch_w, inverse, zero, ignored.data(), stride, scratch.data(), &wrong});
  output.push_back(finite == 0 && wrong != 0);
  return as_values(output);
}

inline Values run_classify(const Kernels& kernels, Random random, int, bool fault) {
  Store store;
  Cases cases{random, store};
  const int outputs = random.in(1, 30), inputs = random.in(1, 200);
  const auto stride = static_cast<size_t>(round_up(inputs, 64));
  int16_t* features = cases.any<int16_t>(stride, -2048, 2047);
  const int16_t* weights = cases.any<int16_t>(stride * static_cast<size_t>(outputs), -127, 127);
  std::fill(features + inputs, features + stride, int16_t{0});
  if (fault) features[inputs - 1] ^= 1;
  const int32_t* bias = cases.any<int32_t>(static_cast<size_t>(outputs), -100000, 100000);
  const float* scale = cases.around(static_cast<size_t>(outputs), 1e-3, 9);
  std::vector<float> logits(static_cast<size_t>(outputs) + 2, 7.0f);
  kernels.classify({features, weights, stride, bias, scale, outputs / 2, outputs, logits.data()});
  kernels.classify({features, weights, stride, bias, scale, 0, outputs / 2, logits.data()});
  return as_values(logits);
}

}  // namespace geluless
