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

// x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of FasterTransformer's kernel.
inline F32 gelu_tanh(F32 x) {
  const F32 cubic = fma(mul(x, x), splat_f32(0.044715f), splat_f32(1.0f));
  const F32 u = mul(mul(abs(x), cubic), splat_f32(-2.30220819f));  // -2 |u| log2(e)
  const F32 e = exp2_negative(u);
  const F32 tail = div(mul(abs(x), e), add(e, splat_f32(1.0f)));  // |x| (1 - sigmoid(2 |u|))
  return sub(max(x, splat_f32(0.0f)), tail);
}

// I-BERT's i-GELU (arXiv 2101.01321, eq. 8): erf by a clipped polynomial of degree 2.
inline F32 gelu_i_bert(F32 x) {
  const F32 z = sub(min(mul(abs(x), splat_f32(0.70710678f)), splat_f32(1.769f)), splat_f32(1.769f));
  const F32 erf = fma(mul(z, z), splat_f32(-0.2888f), splat_f32(1.0f));
  const F32 half = mul(x, splat_f32(0.5f));
  return fma(abs(half), erf, half);
}

}  // namespace geluless::GELULESS_ISA
