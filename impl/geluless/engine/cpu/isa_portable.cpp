#define GELULESS_ISA portable
#include "kernels.h"
#include "simd_portable.h"

#include "isa_kernels.h"

namespace geluless {

const Kernels* kernels_portable() {
  static constexpr Kernels kernels = portable::make_kernels("portable");
  return &kernels;
}

}  // namespace geluless
