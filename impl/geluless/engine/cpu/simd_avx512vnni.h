// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): 16 lanes of int32.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace geluless::GELULESS_ISA {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;  // 6 x 4 accumulators, 4 weights, 1 input: 29 of 32 registers
constexpr int kTileVectors = 4;
constexpr int kKeysAtOnce = 8;     // scores in flight: 8 accumulators
constexpr int kValuesAtOnce = 16;  // context channels in flight
constexpr int kInputOffset = 0;    // vpdpbusd multiplies the unsigned byte as it is stored
constexpr int kValueOffset = 0;

using I32 = __m512i;    // 16 x int32
using I16 = __m512i;    // 32 x int16
using Bytes = __m512i;  // 64 x uint8
using F32 = __m512;
using Weights = __m512i;
using Inputs = __m512i;

// A pack works inside 128-bit lanes: four channels of the first register, four of the second, and so on.
inline int channel_in_pair(int vector, int lane) { return lane / 4 * 8 + vector * 4 + lane % 4; }

// ---- dot products
// Inline assembly, because GCC 12 treats the accumulator of _mm512_dpbusd_epi32 as a copy and spills every one of them.
inline void dot(I32& acc, Inputs x, Weights w) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w)); }
inline Weights load_weights(const int8_t* p) { return _mm512_load_si512(p); }
inline Inputs broadcast(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
inline void dot_value(I32& acc, Bytes weights, const uint8_t* values) {  // values: four int8, broadcast by the load
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*reinterpret_cast<const int32_t*>(values)));
}
inline Bytes as_query(Bytes stored) { return _mm512_xor_si512(stored, _mm512_set1_epi8(-128)); }  // q + 128 -> q
inline void add_quads(I32& acc, Bytes weights) { dot(acc, weights, _mm512_set1_epi8(1)); }

// ---- int32
inline I32 zero_i32() { return _mm512_setzero_si512(); }
inline I32 splat_i32(int32_t x) { return _mm512_set1_epi32(x); }
inline void keep_in_register(I32& x) { asm volatile("" : "+v"(x)); }
inline I32 load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_i32(int32_t* p, I32 x) { _mm512_storeu_si512(p, x); }
inline I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
inline I32 sub_i32(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
inline I32 times(I32 x, int factor) { return _mm512_mullo_epi32(x, _mm512_set1_epi32(factor)); }
inline I32 max_i32(I32 a, I32 b) { return _mm512_max_epi32(a, b); }
inline I32 shift_right(I32 x, I32 counts) { return _mm512_srav_epi32(x, counts); }
inline int32_t sum_i32(I32 x) { return _mm512_reduce_add_epi32(x); }
inline I16 narrow(I32 a, I32 b) { return _mm512_packs_epi32(a, b); }

// ---- int16
inline I16 splat_i16(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
inline I16 load_i16(const int16_t* p) { return _mm512_loadu_si512(p); }
inline void store_i16(int16_t* p, I16 x) { _mm512_storeu_si512(p, x); }
inline I16 add_i16(I16 a, I16 b) { return _mm512_adds_epi16(a, b); }
inline I16 sub_i16(I16 a, I16 b) { return _mm512_subs_epi16(a, b); }
inline I16 min_i16(I16 a, I16 b) { return _mm512_min_epi16(a, b); }
inline I16 max_i16(I16 a, I16 b) { return _mm512_max_epi16(a, b); }
inline I16 multiply_round(I16 a, I16 b) { return _mm512_mulhrs_epi16(a, b); }  // (a b + 2^14) >> 15
inline I32 pair_dot(I16 a, I16 b) { return _mm512_madd_epi16(a, b); }
inline I32 pair_dot_add(I32 acc, I16 a, I16 b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}
// {a, b} = base + factor * x, arranged so that narrow(a, b) has the order of x. factor < 2^15.
inline void multiply_add(I16 x, int factor, I32 base, I32& a, I32& b) {
  const I32 low = _mm512_set1_epi32(factor);  // int16 pairs (factor, 0): the copy in the upper half counts nothing
  a = pair_dot_add(base, _mm512_unpacklo_epi16(x, x), low);
  b = pair_dot_add(base, _mm512_unpackhi_epi16(x, x), low);
}
struct Wide {  // sums of unsigned 32-bit values in 64 bits
  __m512i even, odd;
};
inline Wide zero_wide() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
inline void add_wide(Wide& sum, I32 x) {
  sum.even = _mm512_add_epi64(sum.even, _mm512_and_si512(x, _mm512_set1_epi64(0xffffffff)));
  sum.odd = _mm512_add_epi64(sum.odd, _mm512_srli_epi64(x, 32));
}
inline int64_t sum_wide(Wide sum) { return _mm512_reduce_add_epi64(_mm512_add_epi64(sum.even, sum.odd)); }

// ---- bytes
inline I16 load_bytes_i16(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Bytes to_bytes(I16 a, I16 b) {  // saturated to 0..255, natural order
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(a, b));
}
inline Bytes to_signed_bytes(I16 a, I16 b) {  // saturated to -128..127
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packs_epi16(a, b));
}
inline void store_bytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x); }
inline void store_half(uint8_t* p, Bytes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(x)); }
inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes and_bytes(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }

struct Table128 {
  __m512i low, high;
};
inline Table128 load_table128(const uint8_t* p) { return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64)}; }
inline Bytes lookup(const Table128& t, Bytes index) { return _mm512_permutex2var_epi8(t.low, index, t.high); }
struct Table256 {
  Table128 first, second;
};
inline Table256 load_table256(const uint8_t* p) { return {load_table128(p), load_table128(p + 128)}; }
inline Bytes lookup(const Table256& t, Bytes index) {
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), lookup(t.first, index), lookup(t.second, index));
}

// ---- attention: scores of two keys for 16 queries fill one I16, weights of four keys one dword per query
inline I16 swap_keys(I16 x) { return _mm512_shuffle_epi32(x, _MM_PERM_BADC); }
inline Bytes quads(I16 a, I16 b) {  // keys (0, 1) and (2, 3) -> one dword of four bytes per query, saturated to 0..255
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm512_shuffle_epi8(_mm512_packus_epi16(a, b), order);
}
inline I16 first_key_only(I16 x) {  // the second key of every query at the lowest score
  return _mm512_mask_blend_epi64(0xaa, x, _mm512_set1_epi16(INT16_MIN));
}
inline Bytes min_bytes(Bytes a, Bytes b) { return _mm512_min_epu8(a, b); }
inline Bytes splat_bytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }

inline Bytes splat_dwords(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }

inline void transpose_dwords(const __m512i (&in)[4], __m512i* out) {  // 4 x 4 inside every 128-bit lane
  const __m512i a = _mm512_unpacklo_epi32(in[0], in[1]), b = _mm512_unpackhi_epi32(in[0], in[1]);
  const __m512i c = _mm512_unpacklo_epi32(in[2], in[3]), d = _mm512_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm512_unpacklo_epi64(a, c), out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d), out[3] = _mm512_unpackhi_epi64(b, d);
}

// Rows of 32 bytes -> 8 registers, lane i of register k = dword k of row i. Rows from `count` on are zero.
inline void load_transposed(const uint8_t* rows, size_t stride, int count, Bytes* out) {
  __m512i left[4], right[4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) {
    left[x] = right[x] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      if (4 * q + x >= count) continue;
      const auto* row = reinterpret_cast<const __m128i*>(rows + (4 * q + x) * stride);
      left[x] = _mm512_mask_broadcast_i32x4(left[x], static_cast<__mmask16>(0xf << (4 * q)), _mm_loadu_si128(row));
      right[x] = _mm512_mask_broadcast_i32x4(right[x], static_cast<__mmask16>(0xf << (4 * q)), _mm_loadu_si128(row + 1));
    }
  }
  transpose_dwords(left, out);
  transpose_dwords(right, out + 4);
}
inline void store_transposed(const Bytes* in, uint8_t* rows, size_t stride, int count) {  // the inverse
  __m512i left[4], right[4];
  __m512i first[4] = {in[0], in[1], in[2], in[3]}, second[4] = {in[4], in[5], in[6], in[7]};
  transpose_dwords(first, left);
  transpose_dwords(second, right);
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) {
    const __m512i low = _mm512_permutex2var_epi64(left[x], _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), right[x]);
    const __m512i high = _mm512_permutex2var_epi64(left[x], _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), right[x]);
    auto put = [&](int row, __m256i bytes) {
      if (row < count) _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + row * stride), bytes);
    };
    put(x, _mm512_castsi512_si256(low));
    put(4 + x, _mm512_extracti64x4_epi64(low, 1));
    put(8 + x, _mm512_castsi512_si256(high));
    put(12 + x, _mm512_extracti64x4_epi64(high, 1));
  }
}
// Four rows of 32 stored values -> for each of the 32 channels its four int8 together (128 bytes).
inline void interleave_values(const uint8_t* const (&rows)[4], uint8_t* out) {
  auto load = [](const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
  const __m512i flip = _mm512_set1_epi8(-128);
  const __m512i a = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(load(rows[0])), load(rows[1]), 1), flip);
  const __m512i b = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(load(rows[2])), load(rows[3]), 1), flip);
  alignas(64) static constexpr struct Order {
    uint8_t index[64];
    constexpr Order() : index{} {
      for (int channel = 0; channel < 16; ++channel)
        for (int row = 0; row < 4; ++row) index[4 * channel + row] = static_cast<uint8_t>(row / 2 * 64 + row % 2 * 32 + channel);
    }
  } order;
  const __m512i index = _mm512_load_si512(order.index);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi8(a, index, b));
  _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi8(a, _mm512_add_epi8(index, _mm512_set1_epi8(16)), b));
}

// ---- fp32
inline F32 splat_f32(float x) { return _mm512_set1_ps(x); }
inline F32 load_f32(const float* p) { return _mm512_loadu_ps(p); }
inline F32 to_float(I32 x) { return _mm512_cvtepi32_ps(x); }
inline I32 to_int(F32 x) { return _mm512_cvtps_epi32(x); }  // half to even
inline F32 round(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 abs(F32 x) { return _mm512_abs_ps(x); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 floor(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline F32 times_power_of_two(F32 x, F32 exponent) { return _mm512_scalef_ps(x, exponent); }

}  // namespace geluless::GELULESS_ISA
