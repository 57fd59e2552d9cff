#define GELULESS_ISA neon
#define GELULESS_SIMD "simd_neon.h"
#include "isa_kernels.h"

const geluless::Kernels* geluless::kernels_neon() {
  static constexpr Kernels kernels = neon::make_kernels("neon");
  return &kernels;
}
