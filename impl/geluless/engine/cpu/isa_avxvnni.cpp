#define GELULESS_ISA avxvnni
#define GELULESS_VNNI 1
#include "kernels.h"
#include "simd_avx2.h"

#include "isa_kernels.h"

namespace geluless {

const Kernels* kernels_avxvnni() {
  static constexpr Kernels kernels = avxvnni::make_kernels("avxvnni");
  return &kernels;
}

}  // namespace geluless
