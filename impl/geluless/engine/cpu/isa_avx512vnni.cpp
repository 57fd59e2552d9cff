#define GELULESS_ISA avx512vnni
#define GELULESS_SIMD "simd_avx512vnni.h"
#include "isa_kernels.h"

const geluless::Kernels* geluless::kernels_avx512vnni() {
  static constexpr Kernels kernels = avx512vnni::make_kernels("avx512vnni");
  return &kernels;
}
