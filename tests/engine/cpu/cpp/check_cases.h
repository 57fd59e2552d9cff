// Random layers, norms, attention and whole networks for check_kernels: shapes as ragged as a plan allows, scales chosen so
// that results spread over their range instead of all saturating, and among them constants at their limits.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#define GELULESS_ISA check
#include "ibert_gelu.h"
#include "shift_gelu.h"
#include "spec.h"

namespace geluless {

class Random {  // xorshift64*
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t bits() {
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return static_cast<uint32_t>(state_ * 0x2545f4914f6cdd1du >> 32);
  }
  int in(int low, int high) { return low + static_cast<int>(bits() % (static_cast<uint32_t>(high - low) + 1)); }  // both included
  double real(double low, double high) { return low + (high - low) * bits() / 4294967295.0; }
  double spread(double middle, double factor) { return middle * std::exp(real(-1, 1) * std::log(factor)); }
  bool one_in(int n) { return in(1, n) == 1; }
  template <class T, size_t kCount>
  T any(const T (&values)[kCount]) {
    return values[in(0, static_cast<int>(kCount) - 1)];
  }

 private:
  uint64_t state_;
};

// Owns arrays, each an allocation of exactly its size: a sanitizer sees every step beyond.
class Store {
 public:
  template <class T>
  T* take(size_t count) {
    blocks_.push_back(std::make_unique<std::byte[]>(count * sizeof(T)));
    return reinterpret_cast<T*>(blocks_.back().get());
  }
  template <class T, class F>
  T* fill(size_t count, F value) {
    T* out = take<T>(count);
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<T>(value());
    return out;
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

inline size_t pixels_of(const NetworkSpec& net) {
  return static_cast<size_t>(net.image_channels) * static_cast<size_t>(net.image_height) * static_cast<size_t>(net.image_width);
}

struct Cases {
  Random& random;
  Store& store;

  template <class T>
  T* any(size_t count, int low, int high) {
    return store.fill<T>(count, [&] { return random.in(low, high); });
  }
  template <class T>
  T* any_or_extremes(size_t count, int low, int high) {  // all values, or only the two ends
    if (!random.one_in(5)) return any<T>(count, low, high);
    return store.fill<T>(count, [&] { return random.one_in(2) ? low : high; });
  }
  float* around(size_t count, double middle, double factor) {
    return store.fill<float>(count, [&] { return random.spread(middle, factor); });
  }
  float* between(size_t count, double low, double high) {
    return store.fill<float>(count, [&] { return random.real(low, high); });
  }

  // ShiftGELU's constants as lowering.shift_gelu_constants derives them, and the table of all 256 results.
  void shift_gelu(LayerSpec& layer) {
    const double pre_scale = random.real(0.006, 0.1), hidden_scale = random.spread(0.03, 3);
    const int zero_point = random.in(0, 255), unit = static_cast<int>(std::nearbyint(1 / pre_scale));
    const int q = 255 - zero_point, top = q + (q >> 1) + (q >> 3) + (q >> 4);
    const int exponent = std::max(-top + (-top >> 1) - (-top >> 4), -23 * unit);
    const int whole = -exponent / unit, rest = -(-exponent % unit);
    const uint32_t negative = static_cast<uint32_t>((rest >> 1) + unit) << 23 >> whole;
    const auto reciprocal = static_cast<uint32_t>(((1 << 20) + unit - 1) / unit);
    const double to_hidden = pre_scale / 128 / hidden_scale;
    layer.shift_gelu = {zero_point, top, unit, -23 * unit, reciprocal, negative, to_hidden, random.in(0, 40)};
    uint8_t* lut = store.take<uint8_t>(256);
    for (int i = 0; i < 256; ++i) lut[i] = static_cast<uint8_t>(i);
    check::shift_gelu<256>(lut, layer.shift_gelu);
    layer.lut = lut;
  }

  // I-BERT's as integer/gelu.py does, and its table.
  void ibert_gelu(LayerSpec& layer) {
    const double pre_scale = random.real(0.006, 0.1), hidden_scale = random.spread(0.03, 3);
    const double erf_scale = pre_scale * std::sqrt(0.5), step = 0.2888 * erf_scale * erf_scale;
    int exponent = 0;
    const double mantissa = std::frexp(pre_scale * step / 2 / hidden_scale, &exponent);
    const int knee = -static_cast<int>(std::floor(-1.769 / erf_scale)), one = -static_cast<int>(std::floor(-1 / step));
    const int multiplier = static_cast<int>(std::nearbyint(mantissa * 4096));
    layer.ibert_gelu = {random.in(0, 255), knee, one, -3 - exponent, multiplier, random.in(0, 40)};
    uint8_t* lut = store.take<uint8_t>(256);
    for (int i = 0; i < 256; ++i) lut[i] = static_cast<uint8_t>(i);
    check::ibert_gelu<256>(lut, layer.ibert_gelu);
    layer.lut = lut;
  }

  // `wild`: some channels have constants at their limits, as only an artifact made to hurt would.
  LayerSpec layer(Epilogue epilogue, int inputs, int outputs, bool signed_input, bool wild = false) {
    const auto n = static_cast<size_t>(outputs);
    LayerSpec l{};
    l.epilogue = epilogue, l.inputs = inputs, l.outputs = outputs, l.signed_input = signed_input;
    l.weight = any_or_extremes<int8_t>(n * static_cast<size_t>(inputs), -127, 127);
    const double reach = 73.0 * (signed_input ? 50 : 100) * std::sqrt(inputs);  // of an accumulator: one standard deviation
    const bool s16 = writes_s16(epilogue), residual = info(epilogue).residual;
    const double target = s16 ? 2000 : residual ? 400 : 60;
    int32_t* bias = any<int32_t>(n, static_cast<int>(-reach), static_cast<int>(reach));
    int32_t* shift = store.take<int32_t>(n);
    int16_t* multiplier = store.take<int16_t>(n);
    for (size_t i = 0; i < n; ++i) {  // target / reach = multiplier / 2^(15 + shift), with the int16 between them in range
      shift[i] = std::max(0, static_cast<int>(std::log2(4 * reach / 32768)) + 1) + random.in(0, 2);
      const double exact = random.spread(target / reach, 3) * std::ldexp(32768, shift[i]);
      multiplier[i] = static_cast<int16_t>(std::min(exact, 32767.0));
      if (wild && random.one_in(8)) shift[i] = random.any({0, 1, 29, 30});
      if (wild && random.one_in(8)) multiplier[i] = random.any<int16_t>({0, 1, 32767});
      if (wild && random.one_in(12)) bias[i] = random.any({-(1 << 29), 1 << 29});
    }
    l.bias = bias, l.shift = shift, l.multiplier = multiplier;
    l.zero = s16 ? random.in(-3000, 3000) : residual ? 0 : random.in(0, 200);
    l.lowest = 0, l.highest = 255;
    if (random.one_in(2)) l.lowest = random.in(0, 128), l.highest = random.in(129, 255);
    float* scale = nullptr;
    switch (epilogue) {
      case Epilogue::kFixedLut: l.lut = any<uint8_t>(256, 0, 255); break;
      case Epilogue::kFixedShiftGelu: shift_gelu(l); break;
      case Epilogue::kFixedIBertGelu: ibert_gelu(l); break;
      case Epilogue::kTwoStageU8:
      case Epilogue::kTwoStageS16:
      case Epilogue::kTwoStageResidual:
        scale = around(n, 60 / reach, 3), l.gain = around(n, target / 60, 3), l.offset = between(n, -target, target);
        break;
      case Epilogue::kFp32GeluErf:
      case Epilogue::kFp32GeluTanh:
      case Epilogue::kFp32GeluPoly:
        scale = around(n, 2 / reach, 3), l.inverse_scale = static_cast<float>(random.spread(30, 2)), l.zero = random.in(0, 30);
        break;
      case Epilogue::kFp32Relu:
      case Epilogue::kFp32U8: scale = around(n, target / reach, 3); break;
      case Epilogue::kFixedS8:
      case Epilogue::kFixedRelu: l.lowest = 0, l.highest = 255, l.zero = 0; break;
      default: break;
    }
    if (epilogue == Epilogue::kFp32U8) l.zero = kSignedOffset;
    for (size_t i = 0; i < n; ++i) {  // only the fixed-point requantization has its rounding half in the bias
      if (!scale && shift[i] > 0) bias[i] += 1 << (shift[i] - 1);
      if (scale && wild && random.one_in(10)) scale[i] = random.any({0.0f, -1.0f, 1e9f, -1e9f});
    }
    l.scale = scale;
    return l;
  }

  NormSpec norm(int channels, bool s16) {
    const auto n = static_cast<size_t>(channels);
    const double deviation = s16 ? 2000 : 45;
    NormSpec norm{random.any({1, 100, 1 << 20}), static_cast<float>(random.spread(deviation, 2)), nullptr, nullptr};
    if (random.one_in(2)) norm.factor = 1, norm.gamma = around(n, deviation, 2), norm.beta = between(n, -deviation, deviation);
    return norm;
  }

  AttentionSpec attention(int heads, int head_dim, std::array<int, 2> window, bool wild = false) {
    const auto n = static_cast<size_t>(heads);
    const auto offsets = static_cast<size_t>((2 * window[0] - 1) * (2 * window[1] - 1));
    AttentionSpec a{};
    a.heads = heads, a.head_dim = head_dim, a.window = window, a.shift = {0, 0};
    const int usual = std::max(0, static_cast<int>(std::log2(4000 * std::sqrt(head_dim) / 1000)));
    a.score_shift = wild ? any<int32_t>(n, 0, 30) : any<int32_t>(n, usual, usual + 2);
    a.score_multiplier = wild ? any<int16_t>(n, 0, 32767) : any<int16_t>(n, 400, 4000);
    a.bias_table = wild ? any<int16_t>(offsets * n, INT16_MIN, INT16_MAX) : any<int16_t>(offsets * n, -500, 500);
    a.output_multiplier = wild ? between(n, -300, 300) : around(n, 1.5, 2);
    return a;
  }

  const uint8_t* softmax_table() {  // exp(-i / 20), or anything
    const bool any_values = random.one_in(3);
    int i = 0;
    return store.fill<uint8_t>(128, [&] { return any_values ? random.in(0, 255) : std::nearbyint(255 * std::exp(-0.05 * i++)); });
  }

  float* pixels(size_t count) { return between(count, -3, 3); }

  BlockSpec block(const std::string& name, const StageSpec& stage, Epilogue fc1, std::optional<Elementwise> kernel) {
    const bool two_stage = random.one_in(3), signed_hidden = fc1 == Epilogue::kFixedU8 && random.one_in(2);
    const int heads = random.in(1, 3), head_dim = random.any({3, 4, 8, 17, 32, 33, 40}), width = heads * head_dim;
    const int c = stage.channels, hidden = random.in(5, 90);
    BlockSpec b{};
    b.name = name;
    b.norm1 = norm(c, false), b.norm2 = norm(c, false);
    b.qkv = layer(two_stage ? Epilogue::kTwoStageU8 : Epilogue::kFixedU8, c, 3 * width, true);
    b.qkv.zero = kSignedOffset, b.qkv.lowest = 0, b.qkv.highest = 255;
    b.proj = layer(two_stage ? Epilogue::kTwoStageResidual : Epilogue::kFixedResidual, width, c, true);
    const bool s16 = fc1 == Epilogue::kFixedS16;  // the same constants: uint8 follows both
    b.fc1 = layer(s16 ? Epilogue::kFixedU8 : fc1, c, hidden, true);
    b.fc1.epilogue = fc1;
    b.fc2 = layer(two_stage ? Epilogue::kTwoStageResidual : Epilogue::kFixedResidual, hidden, c, signed_hidden);
    const std::array<int, 2> window{random.in(2, 7), random.in(2, 7)};
    b.attention = attention(heads, head_dim, window);
    for (int axis = 0; axis < 2; ++axis)
      if (window[axis] < (axis ? stage.width : stage.height)) b.attention.shift[axis] = random.in(0, window[axis] - 1);
    const bool padded = stage.height % window[0] || stage.width % window[1];
    if (padded) b.attention.pad = any<uint8_t>(static_cast<size_t>(3 * width), 0, 255);
    if (!kernel) return b;
    ElementwiseSpec e{*kernel, nullptr, nullptr, random.in(0, 30), random.in(0, 100), random.in(130, 255), 1, 1};
    const auto n = static_cast<size_t>(hidden);
    if (*kernel == Elementwise::kReluU8) e.gain = around(n, 1.5, 3);
    if (*kernel == Elementwise::kGeluTanhU8)
      e.inverse_scale = static_cast<float>(random.spread(30, 2)), e.after_gemm_scale = 0.05f;
    if (*kernel != Elementwise::kReluS16) e.offset = between(n, -2, 2);
    b.elementwise = e;
    return b;
  }

  // Every block finishes fc1 in the same way, as a variant does.
  NetworkSpec network(Epilogue fc1, std::optional<Elementwise> kernel) {
    NetworkSpec net{};
    net.image_channels = random.in(1, 3), net.patch = {random.in(1, 4), random.in(1, 5)};
    int height = random.in(3, 17), width = random.in(3, 17), channels = random.in(4, 40);
    net.image_height = height * net.patch[0], net.image_width = width * net.patch[1];
    net.inverse_input_scale = static_cast<float>(random.real(20, 60)), net.input_zero_point = random.in(0, 255);
    net.patch_layer = layer(Epilogue::kFixedS16, net.image_channels * net.patch[0] * net.patch[1], channels, false);
    net.patch_norm = norm(channels, true);
    for (int s = 0, count = random.in(1, 3); s < count; ++s) {
      const std::string name = "stage" + std::to_string(s);
      StageSpec stage{height, width, channels, {}, {}};
      if (s > 0) {
        const int before = channels;
        stage.channels = channels = random.in(4, 70);
        stage.height = height = (height + 1) / 2, stage.width = width = (width + 1) / 2;
        const Epilogue s16 = random.one_in(2) ? Epilogue::kFixedS16 : Epilogue::kTwoStageS16;
        stage.merge = MergeSpec{name + ".merge", norm(4 * before, false), layer(s16, 4 * before, channels, true)};
      }
      for (int b = 0, blocks = random.in(1, 2); b < blocks; ++b)
        stage.blocks.push_back(block(name + ".block" + std::to_string(b), stage, fc1, kernel));
      net.stages.push_back(std::move(stage));
    }
    net.head_norm = norm(channels, true);
    net.pool_shift = static_cast<int>(std::log2(height * width)) + 1, net.pool_multiplier = random.in(5000, 32767);
    net.classes = random.in(1, 20);
    const auto classes = static_cast<size_t>(net.classes);
    net.head_weight = any<int8_t>(classes * static_cast<size_t>(channels), -127, 127);
    net.head_bias = any<int32_t>(classes, -100000, 100000);
    net.logit_scale = around(classes, 1e-4, 2);
    net.softmax_table = softmax_table();
    return net;
  }
};

}  // namespace geluless
