#define GELULESS_ISA neon
#include "kernels.h"
#include "simd_neon.h"

#include "isa_kernels.h"

namespace geluless {

const Kernels* kernels_neon() {
  static constexpr Kernels kernels = neon::make_kernels("neon");
  return &kernels;
}

}  // namespace geluless
