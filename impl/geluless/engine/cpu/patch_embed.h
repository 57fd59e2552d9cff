// Pixels to the rows that the patch embedding's GEMM reads: quantized to uint8, one row per patch.

#pragma once

#include <algorithm>
#include <cstring>

#include "simd.h"

namespace geluless::GELULESS_ISA {

// q = clamp(rint(x / scale) + zero_point, 0, 255) for `count` pixels; returns a non-zero value when one is NaN or infinite.
inline uint32_t quantize_pixels(const float* pixels, int count, float inverse_scale, int zero_point, uint8_t* out) {
  const F32 inverse = splat_f32(inverse_scale);
  const F32 low = splat_f32(static_cast<float>(-zero_point)), high = splat_f32(static_cast<float>(255 - zero_point));
  const I32 zero = splat_i32(zero_point);
  constexpr int kPixels = 64;
  uint32_t not_finite = 0;
  for (int x = 0; x < count; x += kPixels) {
    const int n = std::min(kPixels, count - x);
    alignas(kAlignment) float in[kPixels] = {};
    alignas(kAlignment) int32_t q[kPixels];
    std::memcpy(in, pixels + x, static_cast<size_t>(n) * sizeof(float));
    for (int i = 0; i < kPixels; i += kLanes)  // max() takes its second operand for NaN
      store_i32(q + i, add_i32(to_int(min(max(round(mul(load_f32(in + i), inverse)), low), high)), zero));
    for (int i = 0; i < kPixels; ++i) {
      uint32_t bits;
      std::memcpy(&bits, in + i, 4);
      not_finite |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    for (int i = 0; i < n; ++i) out[x + i] = static_cast<uint8_t>(q[i]);
  }
  return not_finite;
}

// One row of patches of one channel; a patch holds its pixels in the order (channel, y, x).
inline void quantize_patches(const PatchCall& call) {
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

}  // namespace geluless::GELULESS_ISA
