// The rate that every share of peak refers to.

#pragma once

#include "simd.h"

namespace geluless::GELULESS_ISA {

// Nothing but independent dot products in registers. Returns the multiply-accumulates done.
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
