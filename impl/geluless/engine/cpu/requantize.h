// Requantization: from two int32 accumulator registers to one register of int16, in integers or, beside it, in fp32.
//
// Each is a value with `I16 operator()(I32 a, I32 b, int channel)`: `channel` is the first of the pair's 2 x kLanes
// channels, and all per-channel constants lie in lane order, so plain loads fetch them. kLong: it has so many constants of
// its own that they and a whole tile of accumulators do not fit the registers together.

#pragma once

#include "gelu.h"
#include "simd.h"

namespace geluless::GELULESS_ISA {

// v = sat16(acc >> shift), y = (v m + 2^14) >> 15, plus the zero point. Bias and rounding half are in the accumulator.
template <bool kHasZero>
struct Fixed {
  static constexpr bool kLong = false;
  const Channels c;
  I16 zero = splat_i16(c.zero);

  I16 operator()(I32 a, I32 b, int channel) const {
    const I16 v = narrow(shift_right(a, load_i32(c.shift + channel)), shift_right(b, load_i32(c.shift + channel + kLanes)));
    const I16 y = multiply_round(v, load_i16(c.multiplier + channel));
    if constexpr (kHasZero) return add_i16(y, zero);  // saturates far outside every 8-bit range
    return y;
  }
};

// rint, and the zero point. Above int32 the conversion would wrap; below, it gives the lowest int32, which every clamp to 8 bits
// puts right.
inline I16 narrow_steps(F32Pair y, I16 zero) {
  const F32 ceiling = splat_f32(65536.0f);
  return add_i16(narrow(to_int(min(y.a, ceiling)), to_int(min(y.b, ceiling))), zero);
}

// A function of each fp32 register, then rint and the zero point.
template <class Function>
struct Fp32 {
  static constexpr bool kLong = Function::kLong;
  const Channels c;
  I32 zero = splat_i32(c.zero);

  I16 operator()(I32 a, I32 b, int channel) const { return narrow(one(a, channel), one(b, channel + kLanes)); }

 private:
  I32 one(I32 acc, int channel) const {
    // Above int32 the conversion would wrap; below, it gives the lowest int32, which every clamp to 8 bits puts right.
    const F32 y = min(Function::apply(to_float(acc), c, channel), splat_f32(65536.0f));
    return add_i32(to_int(y), zero);
  }
};

// The tanh form, of both registers together.
struct Fp32GeluTanh {
  static constexpr bool kLong = true;
  const Channels c;

  I16 operator()(I32 a, I32 b, int channel) const {
    const F32 x = mul(to_float(a), load_f32(c.scale + channel)), y = mul(to_float(b), load_f32(c.scale + channel + kLanes));
    return narrow_steps(gelu_tanh(x, y, splat_f32(c.inverse_scale)), splat_i16(c.zero));
  }
};

struct Scale {  // the clamp at zero is the output stage's
  static constexpr bool kLong = false;
  static F32 apply(F32 acc, const Channels& c, int channel) { return mul(acc, load_f32(c.scale + channel)); }
};
struct GeluErf {
  static constexpr bool kLong = true;
  static F32 apply(F32 acc, const Channels& c, int channel) {
    return mul(gelu_erf(mul(acc, load_f32(c.scale + channel))), splat_f32(c.inverse_scale));
  }
};
struct GeluPoly {
  static constexpr bool kLong = true;
  static F32 apply(F32 acc, const Channels& c, int channel) {
    return mul(gelu_i_bert(mul(acc, load_f32(c.scale + channel))), splat_f32(c.inverse_scale));
  }
};
struct ScaleToS8 {
  static constexpr bool kLong = false;
  static F32 apply(F32 acc, const Channels& c, int channel) {
    return max(min(mul(acc, load_f32(c.scale + channel)), splat_f32(127.0f)), splat_f32(-128.0f));
  }
};
// FasterTransformer's two roundings: to int8, then to the next scale with the bias; no contraction.
struct TwoStage {
  static constexpr bool kLong = false;
  static F32 apply(F32 acc, const Channels& c, int channel) {
    const F32 first = max(min(round(mul(acc, load_f32(c.scale + channel))), splat_f32(127.0f)), splat_f32(-128.0f));
    const F32 y = add(mul(first, load_f32(c.gain + channel)), load_f32(c.offset + channel));
    return max(y, splat_f32(-65536.0f));  // below int32 it would become the lowest one, and a negative zero point would wrap it
  }
};

}  // namespace geluless::GELULESS_ISA
