// LayerNorm of int16 rows from exact integer sums, then fp32 in the order that the reference engine states:
//
//   n = C x - S             int32, exact            S = sum x
//   V = C Q - S^2           int64, exact            Q = sum x^2, so V = C^2 variance
//   r = factor / sqrt(fp32(V + epsilon_term))
//   y = fp32(n) r           [ y = y gamma + beta ]   rint, clamp

#pragma once

#include <cmath>

#include "simd.h"

namespace geluless::GELULESS_ISA {

struct Moments {
  int64_t sum, squares;
};

inline Moments moments(const LayerNormCall& call, const int32_t* rows) {
  I32 sum = zero_i32();
  Wide squares = zero_wide();
  const I16 one = splat_i16(1);
  const int channels = call.segment_channels;
  for (int s = 0; s < call.segments; ++s) {
    const int16_t* x = call.stream + static_cast<size_t>(rows[s]) * call.stream_stride;
    for (int c = 0; c < channels; c += kPair) {
      const I16 v = channels - c >= kPair ? load_i16(x + c) : load_some_i16(x + c, channels - c);
      sum = pair_dot_add(sum, v, one);    // |sum| <= 32767 channels x 2^15 < 2^30 (plan.check_plan)
      add_wide(squares, pair_dot(v, v));  // at most 2^31: right as an unsigned number
    }
  }
  return {sum_i32(sum), sum_wide(squares)};
}

template <bool kAffine, bool kS16>
void layer_norm_rows(const LayerNormCall call) {
  const int channels = call.segments * call.segment_channels, width = call.segment_channels;
  const int padded = (width + kPair - 1) / kPair * kPair;
  for (int row = 0; row < call.rows; ++row) {
    const int32_t* rows = call.row_index + static_cast<size_t>(row) * call.segments;
    const auto [sum, squares] = moments(call, rows);
    const int64_t spread = channels * squares - sum * sum;
    const F32 scale = splat_f32(call.factor / std::sqrt(static_cast<float>(spread + call.epsilon_term)));
    const I32 minus_sum = splat_i32(static_cast<int32_t>(-sum));
    for (int s = 0; s < call.segments; ++s) {
      const int16_t* x = call.stream + static_cast<size_t>(rows[s]) * call.stream_stride;
      auto normed = [&](int c) {
        const I16 v = width - c >= kPair ? load_i16(x + c) : load_some_i16(x + c, width - c);
        I32 a, b;
        multiply_add(v, channels, minus_sum, a, b);
        F32 ya = mul(to_float(a), scale), yb = mul(to_float(b), scale);
        if constexpr (kAffine) {
          const float *gamma = call.gamma + s * padded + c, *beta = call.beta + s * padded + c;
          ya = add(mul(ya, load_f32(gamma)), load_f32(beta));
          yb = add(mul(yb, load_f32(gamma + kLanes)), load_f32(beta + kLanes));
          ya = min(ya, splat_f32(65536.0f)), yb = min(yb, splat_f32(65536.0f));  // beyond int32 the conversion would wrap
        }
        return narrow(to_int(ya), to_int(yb));
      };
      const size_t at = static_cast<size_t>(row) * call.output_stride + static_cast<size_t>(s) * width;
      if constexpr (kS16) {
        int16_t* out = static_cast<int16_t*>(call.output) + at;
        for (int c = 0; c < width; c += kPair) {
          if (width - c >= kPair) store_i16(out + c, normed(c));
          else store_some_i16(out + c, normed(c), width - c);
        }
      } else {
        uint8_t* out = static_cast<uint8_t*>(call.output) + at;
        const I16 offset = splat_i16(kSignedOffset);
        int c = 0;
        for (; width - c >= 2 * kPair; c += 2 * kPair)
          store_bytes(out + c, to_bytes(add_i16(normed(c), offset), add_i16(normed(c + kPair), offset)));
        for (; c < width; c += kPair) {
          const I16 y = add_i16(normed(c), offset);
          if (width - c >= kPair) store_half(out + c, to_bytes(y, y));
          else store_some_bytes(out + c, to_bytes(y, y), width - c);
        }
      }
    }
  }
}

inline void layer_norm(const LayerNormCall& call) {
  if (call.gamma) call.s16 ? layer_norm_rows<true, true>(call) : layer_norm_rows<true, false>(call);
  else call.s16 ? layer_norm_rows<false, true>(call) : layer_norm_rows<false, false>(call);
}

}  // namespace geluless::GELULESS_ISA
