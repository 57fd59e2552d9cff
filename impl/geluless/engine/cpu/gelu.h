// GELU on one register of fp32: the forms that other engines compute.

#pragma once

#include "simd.h"

namespace geluless::GELULESS_ISA {

// 2^t for t <= 0, relative error below 2e-7 (minimax polynomial of degree 5 for 2^f on [0, 1)).
inline F32 exp2_negative(F32 t) {
  t = max(t, splat_f32(-126.0f));  // no denormals
  const F32 whole = floor(t);
  const F32 f = sub(t, whole);
  F32 p = fma(splat_f32(1.877563029e-03f), f, splat_f32(8.989363166e-03f));
  p = fma(p, f, splat_f32(5.582630873e-02f));
  p = fma(p, f, splat_f32(2.401536158e-01f));
  p = fma(p, f, splat_f32(6.931530741e-01f));
  p = fma(p, f, splat_f32(9.999999250e-01f));
  return times_power_of_two(p, whole);
}

// x/2 (1 + erf(x / sqrt 2)); erf by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7), as oneDNN does.
inline F32 gelu_erf(F32 x) {
  const F32 z = mul(abs(x), splat_f32(0.70710678f));
  const F32 t = div(splat_f32(1.0f), fma(z, splat_f32(0.3275911f), splat_f32(1.0f)));
  F32 p = fma(splat_f32(1.061405429f), t, splat_f32(-1.453152027f));
  p = fma(p, t, splat_f32(1.421413741f));
  p = fma(p, t, splat_f32(-0.284496736f));
  p = fma(p, t, splat_f32(0.254829592f));
  p = mul(p, t);
  const F32 tail = mul(p, exp2_negative(mul(mul(z, z), splat_f32(-1.44269504f))));  // 1 - erf(z)
  const F32 half = mul(x, splat_f32(0.5f));
  return fma(abs(half), sub(splat_f32(1.0f), tail), half);  // x erf(x) is even
}

// 2^t for |t| <= 126, relative error below 2.7e-6 (minimax polynomial of degree 4 for 2^f on [-1/2, 1/2]).
inline F32 exp2_coarse(F32 t) {
  const F32 whole = round(t);
  const F32 f = sub(t, whole);
  F32 p = fma(splat_f32(9.570102015e-03f), f, splat_f32(5.591786031e-02f));
  p = fma(p, f, splat_f32(2.402474482e-01f));
  p = fma(p, f, splat_f32(6.931218147e-01f));
  p = fma(p, f, splat_f32(9.999992614e-01f));
  return times_power_of_two(p, whole);
}

struct F32Pair {
  F32 a, b;
};

// inverse_scale x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3), the tanh form of FasterTransformer's kernel, of two
// registers. sigmoid(2 u) is 1 / d with d = 1 + 2^v and v = -2 u log2(e). One division serves both registers: from 1 / (d e)
// follow 1 / d, times e, and 1 / e, times d.
//
// The error is small enough for an 8-bit result: below 2^-15 of the result for x >= -7. There |v| <= 51.5, its three roundings
// and those of its constants cost a factor of at most 1 + 1.1e-5, the polynomial 1 + 2.7e-6, the other seven roundings 1 + 5e-7.
// For x < -7 the result is that of -7, which is above -2^-48 as the true one is. So no value of 255 steps or less is off by more
// than 255 2^-15 < 1/128 of a step, whatever the scale.
inline F32Pair gelu_tanh(F32 a, F32 b, F32 inverse_scale) {
  auto denominator = [](F32 x) {
    const F32 c = min(x, splat_f32(7.0f));  // from 7 on 1 + 2^v is 1
    const F32 slope = fma(mul(c, c), splat_f32(-0.10294324f), splat_f32(-2.30220819f));
    return add(exp2_coarse(mul(c, slope)), splat_f32(1.0f));
  };
  a = max(a, splat_f32(-7.0f)), b = max(b, splat_f32(-7.0f));
  const F32 of_a = denominator(a), of_b = denominator(b);
  const F32 both = div(inverse_scale, mul(of_a, of_b));  // at least 2^-40 / 2^103: where it is subnormal, both results are zero
  return {mul(a, mul(both, of_b)), mul(b, mul(both, of_a))};
}

// I-BERT's i-GELU (arXiv 2101.01321, eq. 8): erf by a clipped polynomial of degree 2.
inline F32 gelu_i_bert(F32 x) {
  const F32 z = sub(min(mul(abs(x), splat_f32(0.70710678f)), splat_f32(1.769f)), splat_f32(1.769f));
  const F32 erf = fma(mul(z, z), splat_f32(-0.2888f), splat_f32(1.0f));
  const F32 half = mul(x, splat_f32(0.5f));
  return fma(abs(half), erf, half);
}

}  // namespace geluless::GELULESS_ISA
