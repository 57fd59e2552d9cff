// AVX2 with FMA (Haswell, Zen and later), 8 lanes of int32; with GELULESS_VNNI also the 256-bit vpdpbusd of AVX-VNNI.
//
// Without VNNI the dot product is exact all the same: vpmaddubsw would saturate, so bytes are widened to int16, even and odd
// ones apart, and vpmaddwd multiplies those.

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace geluless::GELULESS_ISA {

constexpr int kLanes = 8;
#ifdef GELULESS_VNNI
constexpr int kTileRows = 6;  // 6 x 2 accumulators, 2 weights, 1 input: 15 of 16 registers
#else
constexpr int kTileRows = 4;  // 4 x 2 accumulators, 4 halves of weights, 2 of an input, 1 product
#endif
constexpr int kTileVectors = 2;
constexpr int kKeysAtOnce = 4;
constexpr int kValuesAtOnce = 8;
constexpr int kInputOffset = 0;
constexpr int kValueOffset = 0;

using I32 = __m256i;
using I16 = __m256i;
using Bytes = __m256i;
using F32 = __m256;

inline int channel_in_pair(int vector, int lane) { return lane / 4 * 8 + vector * 4 + lane % 4; }

// ---- dot products
inline __m256i splat_four(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
#ifdef GELULESS_VNNI
using Weights = __m256i;
using Inputs = __m256i;
inline void dot(I32& acc, Inputs x, Weights w) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w)); }
inline Weights load_weights(const int8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
inline Inputs broadcast(const uint8_t* p) { return splat_four(p); }
inline void dot_value(I32& acc, Bytes weights, const uint8_t* values) { dot(acc, weights, splat_four(values)); }
inline void add_quads(I32& acc, Bytes weights) { dot(acc, weights, _mm256_set1_epi8(1)); }
#else
struct Weights {
  __m256i even, odd;  // int16
};
using Inputs = Weights;
inline Inputs unsigned_halves(__m256i x) { return {_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(x, 8)}; }
inline Weights signed_halves(__m256i x) { return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)}; }
inline void dot(I32& acc, const Inputs& x, const Weights& w) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x.even, w.even));
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x.odd, w.odd));
}
inline Weights load_weights(const int8_t* p) { return signed_halves(_mm256_load_si256(reinterpret_cast<const __m256i*>(p))); }
inline Inputs broadcast(const uint8_t* p) { return unsigned_halves(splat_four(p)); }
inline void dot_value(I32& acc, Bytes weights, const uint8_t* values) {
  dot(acc, unsigned_halves(weights), signed_halves(splat_four(values)));
}
inline void add_quads(I32& acc, Bytes weights) {
  const __m256i one = _mm256_set1_epi16(1);
  dot(acc, unsigned_halves(weights), {one, one});
}
#endif
inline Bytes as_query(Bytes stored) { return _mm256_xor_si256(stored, _mm256_set1_epi8(-128)); }

// ---- int32
inline I32 zero_i32() { return _mm256_setzero_si256(); }
inline I32 splat_i32(int32_t x) { return _mm256_set1_epi32(x); }
inline void keep_in_register(I32& x) { asm volatile("" : "+x"(x)); }
inline I32 load_i32(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_i32(int32_t* p, I32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline I32 add_i32(I32 a, I32 b) { return _mm256_add_epi32(a, b); }
inline I32 sub_i32(I32 a, I32 b) { return _mm256_sub_epi32(a, b); }
inline I32 times(I32 x, int factor) { return _mm256_mullo_epi32(x, _mm256_set1_epi32(factor)); }
inline I32 max_i32(I32 a, I32 b) { return _mm256_max_epi32(a, b); }
inline I32 shift_right(I32 x, I32 counts) { return _mm256_srav_epi32(x, counts); }
inline int32_t sum_i32(I32 x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
inline I16 narrow(I32 a, I32 b) { return _mm256_packs_epi32(a, b); }

// ---- int16
inline I16 splat_i16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
inline I16 load_i16(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_i16(int16_t* p, I16 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline I16 add_i16(I16 a, I16 b) { return _mm256_adds_epi16(a, b); }
inline I16 sub_i16(I16 a, I16 b) { return _mm256_subs_epi16(a, b); }
inline I16 min_i16(I16 a, I16 b) { return _mm256_min_epi16(a, b); }
inline I16 max_i16(I16 a, I16 b) { return _mm256_max_epi16(a, b); }
inline I16 multiply_round(I16 a, I16 b) { return _mm256_mulhrs_epi16(a, b); }
inline I32 pair_dot(I16 a, I16 b) { return _mm256_madd_epi16(a, b); }
inline I32 pair_dot_add(I32 acc, I16 a, I16 b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
inline void multiply_add(I16 x, int factor, I32 base, I32& a, I32& b) {
  const I32 low = _mm256_set1_epi32(factor);  // int16 pairs (factor, 0)
  a = pair_dot_add(base, _mm256_unpacklo_epi16(x, x), low);
  b = pair_dot_add(base, _mm256_unpackhi_epi16(x, x), low);
}
struct Wide {
  __m256i even, odd;
};
inline Wide zero_wide() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void add_wide(Wide& sum, I32 x) {
  sum.even = _mm256_add_epi64(sum.even, _mm256_and_si256(x, _mm256_set1_epi64x(0xffffffff)));
  sum.odd = _mm256_add_epi64(sum.odd, _mm256_srli_epi64(x, 32));
}
inline int64_t sum_wide(Wide sum) {
  const __m256i all = _mm256_add_epi64(sum.even, sum.odd);
  const __m128i s = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  return _mm_cvtsi128_si64(s) + _mm_extract_epi64(s, 1);
}

// ---- bytes
inline I16 load_bytes_i16(const uint8_t* p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Bytes to_bytes(I16 a, I16 b) { return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8); }
inline Bytes to_signed_bytes(I16 a, I16 b) { return _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8); }
inline void store_bytes(uint8_t* p, Bytes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline void store_half(uint8_t* p, Bytes x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(x)); }
inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Bytes splat_bytes(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
inline Bytes splat_dwords(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline Bytes and_bytes(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
inline Bytes min_bytes(Bytes a, Bytes b) { return _mm256_min_epu8(a, b); }

// A table of 16 kRows entries: one vpshufb per 16 entries. index ^ 16 r has a zero upper half exactly for the entries of row
// r; adding 0x70 with saturation sets bit 7 of all others, for which vpshufb gives zero.
template <int kRows>
struct Table {
  const uint8_t* entries;
};
using Table128 = Table<8>;
using Table256 = Table<16>;
inline Table128 load_table128(const uint8_t* p) { return {p}; }
inline Table256 load_table256(const uint8_t* p) { return {p}; }
template <int kRows>
inline Bytes lookup(const Table<kRows>& table, Bytes index) {
  __m256i out = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const __m256i row = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table.entries + 16 * r)));
    const __m256i at = _mm256_adds_epu8(_mm256_xor_si256(index, splat_bytes(16 * r)), splat_bytes(0x70));
    out = _mm256_or_si256(out, _mm256_shuffle_epi8(row, at));
  }
  return out;
}

// ---- attention
inline I16 swap_keys(I16 x) { return _mm256_shuffle_epi32(x, 0x4e); }
inline I16 first_key_only(I16 x) { return _mm256_blend_epi32(x, _mm256_set1_epi16(INT16_MIN), 0xcc); }
inline Bytes quads(I16 a, I16 b) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm256_shuffle_epi8(_mm256_packus_epi16(a, b), order);
}
inline void transpose_dwords(const __m256i (&in)[4], __m256i* out) {  // 4 x 4 inside every 128-bit lane
  const __m256i a = _mm256_unpacklo_epi32(in[0], in[1]), b = _mm256_unpackhi_epi32(in[0], in[1]);
  const __m256i c = _mm256_unpacklo_epi32(in[2], in[3]), d = _mm256_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm256_unpacklo_epi64(a, c), out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d), out[3] = _mm256_unpackhi_epi64(b, d);
}
inline void load_transposed(const uint8_t* rows, size_t stride, int count, Bytes* out) {
  __m256i row[8];
  for (int i = 0; i < 8; ++i) row[i] = i < count ? load_bytes(rows + static_cast<size_t>(i) * stride) : _mm256_setzero_si256();
  __m256i left[4], right[4];  // 128-bit halves: rows x and x + 4
  for (int x = 0; x < 4; ++x) {
    left[x] = _mm256_permute2x128_si256(row[x], row[x + 4], 0x20);
    right[x] = _mm256_permute2x128_si256(row[x], row[x + 4], 0x31);
  }
  transpose_dwords(left, out);
  transpose_dwords(right, out + 4);
}
inline void store_transposed(const Bytes* in, uint8_t* rows, size_t stride, int count) {
  const __m256i first[4] = {in[0], in[1], in[2], in[3]}, second[4] = {in[4], in[5], in[6], in[7]};
  __m256i left[4], right[4];
  transpose_dwords(first, left);
  transpose_dwords(second, right);
  for (int x = 0; x < 4; ++x) {
    if (x < count) store_bytes(rows + static_cast<size_t>(x) * stride, _mm256_permute2x128_si256(left[x], right[x], 0x20));
    if (x + 4 < count)
      store_bytes(rows + static_cast<size_t>(x + 4) * stride, _mm256_permute2x128_si256(left[x], right[x], 0x31));
  }
}
inline void interleave_values(const uint8_t* const (&rows)[4], uint8_t* out) {
  const __m128i flip = _mm_set1_epi8(-128);
  for (int half = 0; half < 2; ++half, out += 64) {
    __m128i r[4];
    for (int i = 0; i < 4; ++i)
      r[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + 16 * half)), flip);
    const __m128i a = _mm_unpacklo_epi8(r[0], r[1]), b = _mm_unpacklo_epi8(r[2], r[3]);
    const __m128i c = _mm_unpackhi_epi8(r[0], r[1]), d = _mm_unpackhi_epi8(r[2], r[3]);
    auto* to = reinterpret_cast<__m128i*>(out);
    _mm_storeu_si128(to, _mm_unpacklo_epi16(a, b)), _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(a, b));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(c, d)), _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(c, d));
  }
}

// ---- fp32
inline F32 splat_f32(float x) { return _mm256_set1_ps(x); }
inline F32 load_f32(const float* p) { return _mm256_loadu_ps(p); }
inline F32 to_float(I32 x) { return _mm256_cvtepi32_ps(x); }
inline I32 to_int(F32 x) { return _mm256_cvtps_epi32(x); }
inline F32 round(F32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 floor(F32 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
inline F32 max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
inline F32 abs(F32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 times_power_of_two(F32 x, F32 exponent) {  // normal numbers in, normal numbers out
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(exponent), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), bits));
}

}  // namespace geluless::GELULESS_ISA
