// I-ViT's ShiftGELU, in 32-bit integers and one division.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace geluless::GELULESS_ISA {

// I-ViT's ShiftGELU (arXiv 2207.01405, section 3.3) of stored pre-activations, in place: the compiler vectorises this loop
// for the instruction set of the file it is compiled in.
template <int kCount>
inline void shift_gelu(uint8_t* bytes, const ShiftGelu& g) {
  for (int i = 0; i < kCount; ++i) {
    const int32_t q = bytes[i] - g.zero_point;
    int32_t d = q + (q >> 1) + (q >> 3) + (q >> 4) - g.top;  // 1.702 q below its maximum
    d = d + (d >> 1) - (d >> 4);                             // times log2(e)
    d = d < g.floor ? g.floor : d;
    const uint32_t whole = (static_cast<uint32_t>(-d) * g.reciprocal) >> 20;
    const int32_t rest = d + static_cast<int32_t>(whole) * g.unit;  // in (-unit, 0]
    const uint32_t positive = (static_cast<uint32_t>((rest >> 1) + g.unit) << 23) >> whole;
    const double sum = static_cast<double>(positive) + static_cast<double>(g.negative);
    const double total = sum > 2147483647.0 ? 2147483647.0 : sum;
    const auto factor = static_cast<uint32_t>(static_cast<int32_t>(2147483647.0 / total));  // exact: both below 2^53
    const auto sigmoid = static_cast<int32_t>((positive * factor) >> 24);
    const int32_t stored = static_cast<int32_t>(__builtin_rint(q * sigmoid * g.to_hidden)) + g.hidden_zero;
    bytes[i] = static_cast<uint8_t>(stored < 0 ? 0 : stored > 255 ? 255 : stored);
  }
}

}  // namespace geluless::GELULESS_ISA
