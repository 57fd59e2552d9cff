// Pooled features to logits.

#pragma once

#include "simd.h"

namespace geluless::GELULESS_ISA {

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

}  // namespace geluless::GELULESS_ISA
