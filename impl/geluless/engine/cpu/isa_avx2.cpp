#define GELULESS_ISA avx2
#define GELULESS_SIMD "simd_avx2.h"
#include "isa_kernels.h"

const geluless::Kernels* geluless::kernels_avx2() {
  static constexpr Kernels kernels = avx2::make_kernels("avx2");
  return &kernels;
}
