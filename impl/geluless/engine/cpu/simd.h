// The primitives of the instruction set that a file is compiled for, and what follows from them. GELULESS_ISA is its name and
// that of the namespace, GELULESS_SIMD the header with its primitives.

#pragma once

#include <cstring>

#include "kernels.h"

#include GELULESS_SIMD

namespace geluless::GELULESS_ISA {

constexpr int kPair = 2 * kLanes;  // channels of one int16 register

inline void store_some_bytes(uint8_t* p, Bytes x, int count) {
  alignas(kAlignment) uint8_t all[2 * kPair];
  store_bytes(all, x);
  std::memcpy(p, all, static_cast<size_t>(count));
}
inline void store_some_i16(int16_t* p, I16 x, int count) {
  alignas(kAlignment) int16_t all[kPair];
  store_i16(all, x);
  std::memcpy(p, all, static_cast<size_t>(count) * sizeof(int16_t));
}
inline I16 load_some_i16(const int16_t* p, int count) {
  alignas(kAlignment) int16_t all[kPair] = {};
  std::memcpy(all, p, static_cast<size_t>(count) * sizeof(int16_t));
  return load_i16(all);
}

}  // namespace geluless::GELULESS_ISA
