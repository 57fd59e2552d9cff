#define GELULESS_ISA avx512vnni
#include "kernels.h"
#include "simd_avx512vnni.h"

#include "isa_kernels.h"

namespace geluless {

const Kernels* kernels_avx512vnni() {
  static constexpr Kernels kernels = avx512vnni::make_kernels("avx512vnni");
  return &kernels;
}

}  // namespace geluless
