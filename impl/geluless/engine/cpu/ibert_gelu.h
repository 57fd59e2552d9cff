// I-BERT's i-GELU and the requantization behind it, in 32-bit integers alone.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace geluless::GELULESS_ISA {

// i-GELU (arXiv 2101.01321, algorithms 1 and 2) of stored pre-activations, in place: the compiler vectorises this loop for the
// instruction set of the file it is compiled in. `pack_layer` has checked that no product or sum leaves int32.
template <int kCount>
inline void ibert_gelu(uint8_t* bytes, const IBertGelu& g) {
  const int32_t half = (1 << g.shift) >> 1;
  for (int i = 0; i < kCount; ++i) {
    const int32_t q = bytes[i] - g.zero_point, size = q < 0 ? -q : q;
    const int32_t distance = (size < g.knee ? size : g.knee) - g.knee;
    const int32_t erf = distance * distance - g.one;  // of |q|
    const int32_t product = q * (g.one - (q < 0 ? -erf : erf));
    const int32_t wide = (product + half) >> g.shift;
    const int32_t v = wide < INT16_MIN ? INT16_MIN : wide > INT16_MAX ? INT16_MAX : wide;
    const int32_t stored = ((v * g.multiplier + (1 << 14)) >> 15) + g.hidden_zero;
    bytes[i] = static_cast<uint8_t>(stored < 0 ? 0 : stored > 255 ? 255 : stored);
  }
}

}  // namespace geluless::GELULESS_ISA
