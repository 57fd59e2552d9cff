#include "dispatch.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace geluless {

namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avxvnni() {  // CPUID leaf 7, sub-leaf 1, EAX bit 4
  unsigned eax, ebx, ecx, edx;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#elif defined(__aarch64__) && defined(__linux__)
bool has_neon() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif

struct Entry {
  const Kernels* kernels;
  bool (*supported)();
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
#ifdef GELULESS_WITH_AVX512VNNI
      {kernels_avx512vnni(), has_avx512vnni},
#endif
#ifdef GELULESS_WITH_AVXVNNI
      {kernels_avxvnni(), has_avxvnni},
#endif
#ifdef GELULESS_WITH_AVX2
      {kernels_avx2(), has_avx2},
#endif
#ifdef GELULESS_WITH_NEON
      {kernels_neon(), has_neon},
#endif
      {kernels_portable(), [] { return true; }},
  };
  return all;
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Entry& e : entries()) names.emplace_back(e.kernels->isa);
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Entry& e : entries())
    if (e.supported()) names.emplace_back(e.kernels->isa);
  return names;
}

const Kernels* find_kernels(const std::string& isa) {
  const char* trusted = std::getenv("GELULESS_TRUST_ISA");
  for (const Entry& e : entries())
    if (isa == e.kernels->isa && (e.supported() || (trusted && isa == trusted))) return e.kernels;
  return nullptr;
}

}  // namespace geluless
