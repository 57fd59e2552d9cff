// A defect on purpose, for trying the gate: cmake -DGELULESS_PLANT=slowdown|spill|float|layoutN, of which nothing is ever
// released. The first three sit around one kernel, gelu-polynomial's, and change no value. `layoutN` changes no instruction: it
// moves every kernel behind the portable ones by 1024 + N bytes, as an edit elsewhere may.

#pragma once

#include "kernels.h"

#ifdef GELULESS_PLANT_SLOWDOWN
#include <chrono>
#endif

namespace geluless::GELULESS_ISA {

#if defined(GELULESS_PLANT_SLOWDOWN) || defined(GELULESS_PLANT_SPILL) || defined(GELULESS_PLANT_FLOAT)

template <void (*kernel)(const GemmCall&)>
[[gnu::noinline]] void with_defect(const GemmCall& call) {
  void (*volatile run)(const GemmCall&) = kernel;  // volatile: or the kernel would be inlined here, and compiled to other code
#if defined(GELULESS_PLANT_SLOWDOWN)
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  run(call);
  const auto end = Clock::now() + (Clock::now() - begun) / 20;  // 5 %
  while (Clock::now() < end) {
  }
#elif defined(GELULESS_PLANT_SPILL)
  typedef int Vector __attribute__((vector_size(16)));
  const Vector rows = {call.rows, call.first_panel, call.last_panel, 0};
  volatile Vector spilled = rows;
  (void)spilled;
  run(call);
#else
  volatile float product = static_cast<float>(call.rows);
  product = product * product;
  run(call);
#endif
}

template <void (*kernel)(const GemmCall&)>
constexpr auto planted() {
  return with_defect<kernel>;
}

#else

#if defined(GELULESS_PLANT_LAYOUT)  // in isa_portable.cpp only: the first of these objects that is linked
#define GELULESS_TEXT_OF(n) #n
#define GELULESS_TEXT(n) GELULESS_TEXT_OF(n)
// retain: or the linker drops what nobody calls. Eight bytes less, because the function's own end is padded to sixteen.
[[gnu::retain, gnu::used, gnu::noinline]] static void moves_what_follows() {
  asm volatile(".skip 1024 + " GELULESS_TEXT(GELULESS_PLANT_LAYOUT) " - 8, 0x90");
}
#endif

template <void (*kernel)(const GemmCall&)>
constexpr auto planted() {
  return kernel;
}

#endif

}  // namespace geluless::GELULESS_ISA
