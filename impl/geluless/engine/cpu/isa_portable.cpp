#define GELULESS_ISA portable
#define GELULESS_SIMD "simd_portable.h"
#include "isa_kernels.h"

const geluless::Kernels* geluless::kernels_portable() {
  static constexpr Kernels kernels = portable::make_kernels("portable");
  return &kernels;
}
