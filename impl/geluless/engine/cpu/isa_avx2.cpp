#define GELULESS_ISA avx2
#include "kernels.h"
#include "simd_avx2.h"

#include "isa_kernels.h"

namespace geluless {

const Kernels* kernels_avx2() {
  static constexpr Kernels kernels = avx2::make_kernels("avx2");
  return &kernels;
}

}  // namespace geluless
