// The two ends of the network: float pixels to patches of bytes, pooled features to logits.

#pragma once

#include <algorithm>
#include <cstring>

namespace geluless::GELULESS_ISA {

// q = clamp(rint(x / scale) + zero_point, 0, 255) for `count` pixels; returns a non-zero value when one is NaN or infinite.
inline uint32_t quantize_pixels(const float* pixels, int count, float inverse_scale, int zero_point, uint8_t* out) {
  const F32 inverse = splat_f32(inverse_scale);
  const F32 low = splat_f32(static_cast<float>(-zero_point)), high = splat_f32(static_cast<float>(255 - zero_point));
  const I32 zero = splat_i32(zero_point);
  constexpr int kBlock = 64;
  uint32_t not_finite = 0;
  for (int x = 0; x < count; x += kBlock) {
    const int n = std::min(kBlock, count - x);
    alignas(kAlignment) float in[kBlock] = {};
    alignas(kAlignment) int32_t q[kBlock];
    std::memcpy(in, pixels + x, static_cast<size_t>(n) * sizeof(float));
    for (int i = 0; i < kBlock; i += kLanes)  // max() takes its second operand for NaN
      store_i32(q + i, add_i32(to_int(min(max(round(mul(load_f32(in + i), inverse)), low), high)), zero));
    for (int i = 0; i < kBlock; ++i) {
      uint32_t bits;
      std::memcpy(&bits, in + i, 4);
      not_finite |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    for (int i = 0; i < n; ++i) out[x + i] = static_cast<uint8_t>(q[i]);
  }
  return not_finite;
}

// One row of patches of one channel; a patch holds its pixels in the order (channel, y, x).
inline void patches(const PatchCall& call) {
  for (int y = 0; y < call.patch_h; ++y) {
    const float* pixels = call.image + static_cast<size_t>(y) * call.width;
    *call.not_finite |= quantize_pixels(pixels, call.width, call.inverse_scale, call.zero_point, call.scratch);
    uint8_t* out = call.output + static_cast<size_t>(y) * call.patch_w;
    const uint8_t* in = call.scratch;
    if (call.patch_w == 4) {
      for (int x = 0; x < call.width; x += 4, out += call.output_stride) std::memcpy(out, in + x, 4);
    } else {
      for (int x = 0; x < call.width; x += call.patch_w, out += call.output_stride)
        std::memcpy(out, in + x, static_cast<size_t>(call.patch_w));
    }
  }
}

// logits = fp32(features weights + bias) logit_scale; 12-bit features keep every pair sum in int32 (plan.POOLED).
inline void classify(const ClassifyCall& call) {
  for (int n = call.first; n < call.last; ++n) {
    const int16_t* w = call.weights + static_cast<size_t>(n) * call.stride;
    I32 acc = zero_i32();
    for (size_t k = 0; k < call.stride; k += kPair) acc = pair_dot_add(acc, load_i16(call.features + k), load_i16(w + k));
    const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sum_i32(acc)) + static_cast<uint32_t>(call.bias[n]));
    call.logits[n] = static_cast<float>(sum) * call.logit_scale[n];
  }
}

// Nothing but independent dot products in registers: the rate that every share of peak refers to.
__attribute__((noinline)) inline double peak(int64_t repetitions) {
  constexpr int kChains = kLanes == 16 ? 12 : 10;
  alignas(kAlignment) static const uint8_t bytes[4 * kLanes] = {};
  alignas(kAlignment) static const int8_t weights[4 * kLanes] = {};
  I32 acc[kChains];  // every loop over it is unrolled: an index known only at run time would put it into memory
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) acc[c] = zero_i32();
  const Inputs x = broadcast(bytes);
  const Weights w = load_weights(weights);
  for (int64_t i = 0; i < repetitions; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) {
      dot(acc[c], x, w);
      keep_in_register(acc[c]);
    }
  }
  I32 all = acc[0];
#pragma GCC unroll 16
  for (int c = 1; c < kChains; ++c) all = add_i32(all, acc[c]);
  volatile int32_t sink = sum_i32(all);
  (void)sink;
  return static_cast<double>(repetitions) * kChains * kLanes * 4;
}

}  // namespace geluless::GELULESS_ISA
