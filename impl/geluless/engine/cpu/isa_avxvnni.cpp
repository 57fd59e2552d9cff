#define GELULESS_ISA avxvnni
#define GELULESS_SIMD "simd_avx2.h"
#define GELULESS_VNNI 1
#include "isa_kernels.h"

const geluless::Kernels* geluless::kernels_avxvnni() {
  static constexpr Kernels kernels = avxvnni::make_kernels("avxvnni");
  return &kernels;
}
