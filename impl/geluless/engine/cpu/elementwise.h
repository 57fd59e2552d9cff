// Activations as kernels of their own, for the variants that do not fuse: what the GEMM stored is read back, activated and
// written again, as FasterTransformer's add_bias_gelu kernel does on a GPU.

#pragma once

#include <algorithm>

#include "requantize.h"

namespace geluless::GELULESS_ISA {

// Calls body(offset, channel, count) for every register of 2 x kLanes channels; count is smaller at the end of a row.
template <class Body>
inline void for_each_pair(const ElementwiseCall& call, Body body) {
  for (int row = 0; row < call.rows; ++row)
    for (int channel = 0; channel < call.columns; channel += kPair)
      body(static_cast<size_t>(row) * call.stride + static_cast<size_t>(channel), channel,
           std::min(kPair, call.columns - channel));
}

inline void put_bytes(uint8_t* p, I16 x, int count) {
  if (count == kPair) store_half(p, to_bytes(x, x));
  else store_some_bytes(p, to_bytes(x, x), count);
}

inline I16 load_some_bytes_i16(const uint8_t* p, int count) {
  if (count == kPair) return load_bytes_i16(p);
  alignas(kAlignment) uint8_t all[kPair] = {};
  std::memcpy(all, p, static_cast<size_t>(count));
  return load_bytes_i16(all);
}

// int16 -> max(x, 0), clamped.
inline void relu_s16(const ElementwiseCall& call) {
  const auto* input = static_cast<const int16_t*>(call.input);
  const I16 low = splat_i16(call.channels->lowest), high = splat_i16(call.channels->highest),
            zero = splat_i16(call.channels->zero);
  for_each_pair(call, [&](size_t at, int, int count) {
    const I16 x = count == kPair ? load_i16(input + at) : load_some_i16(input + at, count);
    put_bytes(call.output + at, min_i16(max_i16(add_i16(x, zero), low), high), count);
  });
}

// Stored int8 -> fp32 registers a, b in the order that narrow() undoes -> function -> rint -> bytes.
template <class Function>
inline void map_s8(const ElementwiseCall& call, Function function) {
  const auto* input = static_cast<const uint8_t*>(call.input);
  const I32 minus = splat_i32(-kSignedOffset);
  const I16 zero = splat_i16(call.channels->zero), low = splat_i16(call.channels->lowest),
            high = splat_i16(call.channels->highest);
  for_each_pair(call, [&](size_t at, int channel, int count) {
    I32 a, b;
    multiply_add(load_some_bytes_i16(input + at, count), 1, minus, a, b);
    const I16 y = narrow_steps(function(to_float(a), to_float(b), channel), zero);
    put_bytes(call.output + at, min_i16(max_i16(y, low), high), count);
  });
}

// FasterTransformer's second rounding with the bias; ReLU is the lower clamp.
inline void relu_u8(const ElementwiseCall& call) {
  const float *gain = call.channels->gain, *offset = call.channels->offset;
  auto scaled = [=](F32 x, int channel) { return add(mul(x, load_f32(gain + channel)), load_f32(offset + channel)); };
  map_s8(call, [=](F32 a, F32 b, int channel) { return F32Pair{scaled(a, channel), scaled(b, channel + kLanes)}; });
}

// Dequantize, add the bias, tanh-GELU, requantize.
inline void gelu_tanh_u8(const ElementwiseCall& call) {
  const float* bias = call.channels->offset;
  const F32 scale = splat_f32(call.after_gemm_scale), inverse_scale = splat_f32(call.channels->inverse_scale);
  auto real = [=](F32 x, int channel) { return fma(x, scale, load_f32(bias + channel)); };
  map_s8(call, [=](F32 a, F32 b, int channel) { return gelu_tanh(real(a, channel), real(b, channel + kLanes), inverse_scale); });
}

}  // namespace geluless::GELULESS_ISA
