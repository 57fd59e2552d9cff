# add_engine(TARGET): the engine's sources, all but the Python module's, with their flags. Two programs are made of them: the module
# (CMakeLists.txt) and the checks that run without Python (tests/engine/cpu/cpp).

set(GELULESS_SANITIZE OFF CACHE STRING "OFF, or address+undefined: both sanitizers over the whole program")

# --- flags ---------------------------------------------------------------------------------------------------------------
# The reference engine defines every bit, so nothing may depend on how a compiler rearranges floats: no -ffast-math, and no
# contraction of a * b + c, which rounds once where the reference rounds twice. -fno-math-errno changes no value; it lets sqrt
# and rint be instructions. Never -march=native: a wheel must run on other machines than the one that built it.
set(engine_flags -O3 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra)
if(GELULESS_SANITIZE STREQUAL "address+undefined")
  list(TRANSFORM engine_flags REPLACE "^-O3$" "-O1")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=address,undefined)
elseif(GELULESS_SANITIZE)
  message(FATAL_ERROR "GELULESS_SANITIZE=${GELULESS_SANITIZE}: OFF or address+undefined")
endif()
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)  # no source is a C++20 module; newer CMake would look, and want clang-scan-deps with Clang

# --- instruction sets ----------------------------------------------------------------------------------------------------
# isa_NAME.cpp takes part, and GELULESS_WITH_NAME is defined for the dispatcher, if compiler, headers and assembler all know the
# instruction set: `probe` uses an intrinsic of its newest extension.
include(CheckCXXSourceCompiles)
function(instruction_set target name probe)  # flags...
  string(TOUPPER GELULESS_WITH_${name} with)
  string(JOIN " " CMAKE_REQUIRED_FLAGS ${ARGN})
  check_cxx_source_compiles("${probe}" ${with})
  if(NOT ${with})
    message(STATUS "geluless: isa_${name}.cpp is left out: this compiler does not know ${CMAKE_REQUIRED_FLAGS}")
    return()
  endif()
  set(source ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/isa_${name}.cpp)
  target_sources(${target} PRIVATE ${source})
  target_compile_definitions(${target} PRIVATE ${with})
  set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${ARGN})
endfunction()

# Where several objects contain the same inline function of the standard library the linker keeps the first copy: so the baseline
# goes first, and each instruction set after those it includes, and the copy that is kept runs wherever any of its callers does.
function(add_engine target)
  set(engine ${CMAKE_CURRENT_FUNCTION_LIST_DIR})
  file(GLOB baseline CONFIGURE_DEPENDS ${engine}/*.cpp)
  list(FILTER baseline EXCLUDE REGEX "/(bindings|isa_[^/]*)[.]cpp$")
  target_sources(${target} PRIVATE ${baseline} ${engine}/isa_portable.cpp)
  set_property(SOURCE ${engine}/isa_portable.cpp APPEND PROPERTY COMPILE_OPTIONS -O2)  # -O3 unrolls its arrays without end
  target_compile_features(${target} PRIVATE cxx_std_20)
  target_compile_options(${target} PRIVATE ${engine_flags})
  find_package(Threads REQUIRED)
  target_link_libraries(${target} PRIVATE Threads::Threads)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    instruction_set(${target} avx2 [[
      #include <immintrin.h>
      __m256i probe(__m256i x) { return _mm256_maddubs_epi16(x, x); }
      int main() {}
    ]] -march=x86-64-v3)
    instruction_set(${target} avxvnni [[
      #include <immintrin.h>
      __m256i probe(__m256i x) { return _mm256_dpbusd_avx_epi32(x, x, x); }
      int main() {}
    ]] -march=x86-64-v3 -mavxvnni)
    instruction_set(${target} avx512vnni [[
      #include <immintrin.h>
      __m512i probe(__m512i x) { return _mm512_permutexvar_epi8(x, _mm512_dpbusd_epi32(x, x, x)); }
      int main() {}
    ]] -march=x86-64-v4 -mavx512vnni -mavx512vbmi)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      # GCC's bug 105593: its own AVX-512 header reads an uninitialized register on purpose, and GCC 12 warns of every use.
      # The other instruction sets compile the same templates with these warnings on.
      set(quiet -Wno-uninitialized -Wno-maybe-uninitialized)
      set_property(SOURCE ${engine}/isa_avx512vnni.cpp APPEND PROPERTY COMPILE_OPTIONS ${quiet})
    endif()
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    instruction_set(${target} neon [[
      #include <arm_neon.h>
      int32x4_t probe(int32x4_t sum, int8x16_t x) { return vdotq_s32(sum, x, x); }
      int main() {}
    ]] -march=armv8.2-a+dotprod)
  endif()
endfunction()
