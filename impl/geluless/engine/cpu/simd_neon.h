// NEON with the dot-product extension (Armv8.2: Cortex-A55 and A75, Neoverse N1, Apple A13 and M1, and later): 4 lanes of int32.
//
// sdot multiplies signed bytes by signed bytes and udot unsigned by unsigned, never one by the other (that is Armv8.6). So the
// stored input byte of a GEMM is flipped to stored - 128 (kInputOffset), while the softmax weights, which are unsigned, meet
// the values of attention as they are stored, q + 128 (kValueOffset).

#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace geluless::GELULESS_ISA {

constexpr int kLanes = 4;
constexpr int kTileRows = 6;  // 6 x 4 accumulators, 4 weights, 4 registers for the inputs: all 32
constexpr int kTileVectors = 4;
constexpr int kKeysAtOnce = 4;     // one chain of dot products each; more only cost general registers
constexpr int kValuesAtOnce = 16;  // context channels in flight
constexpr int kInputOffset = 128;
constexpr int kValueOffset = 128;

using I32 = int32x4_t;
using I16 = int16x8_t;
using Bytes = uint8x16_t;
using F32 = float32x4_t;
using Weights = int8x16_t;
using Inputs = int8x8_t;  // four bytes in the low half: sdot by element spreads them over the lanes itself

inline int channel_in_pair(int vector, int lane) { return vector * kLanes + lane; }  // sqxtn and sqxtn2 keep the order

// ---- dot products
inline void dot(I32& acc, Inputs x, Weights w) { acc = vdotq_lane_s32(acc, w, x, 0); }
inline Weights load_weights(const int8_t* p) { return vld1q_s8(p); }
inline uint32_t load_four(const uint8_t* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return four;
}
// Flipped in a general register: ldr, eor and fmov leave the vector pipes, of which many cores have two, to the dot products.
// ld1r or an eor of vectors would take one slot of them per row and step.
inline Inputs broadcast(const uint8_t* p) { return vcreate_s8(load_four(p) ^ 0x80808080u); }
inline void dot_value(I32& acc, Bytes weights, const uint8_t* values) {
  acc = vreinterpretq_s32_u32(vdotq_lane_u32(vreinterpretq_u32_s32(acc), weights, vcreate_u8(load_four(values)), 0));
}
inline Bytes as_query(Bytes stored) { return veorq_u8(stored, vdupq_n_u8(0x80)); }
inline void add_quads(I32& acc, Bytes weights) {
  acc = vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(acc), weights, vdupq_n_u8(1)));
}

// ---- int32
inline I32 zero_i32() { return vdupq_n_s32(0); }
inline I32 splat_i32(int32_t x) { return vdupq_n_s32(x); }
inline void keep_in_register(I32& x) { asm volatile("" : "+w"(x)); }
inline I32 load_i32(const int32_t* p) { return vld1q_s32(p); }
inline void store_i32(int32_t* p, I32 x) { vst1q_s32(p, x); }
inline I32 add_i32(I32 a, I32 b) { return vaddq_s32(a, b); }
inline I32 sub_i32(I32 a, I32 b) { return vsubq_s32(a, b); }
inline I32 times(I32 x, int factor) { return vmulq_n_s32(x, factor); }
inline I32 max_i32(I32 a, I32 b) { return vmaxq_s32(a, b); }
inline I32 shift_right(I32 x, I32 counts) { return vshlq_s32(x, vnegq_s32(counts)); }  // sshl by a negative count
inline int32_t sum_i32(I32 x) { return vaddvq_s32(x); }
inline I16 narrow(I32 a, I32 b) { return vqmovn_high_s32(vqmovn_s32(a), b); }

// ---- int16
inline I16 splat_i16(int x) { return vdupq_n_s16(static_cast<int16_t>(x)); }
inline I16 load_i16(const int16_t* p) { return vld1q_s16(p); }
inline void store_i16(int16_t* p, I16 x) { vst1q_s16(p, x); }
inline I16 add_i16(I16 a, I16 b) { return vqaddq_s16(a, b); }
inline I16 sub_i16(I16 a, I16 b) { return vqsubq_s16(a, b); }
inline I16 min_i16(I16 a, I16 b) { return vminq_s16(a, b); }
inline I16 max_i16(I16 a, I16 b) { return vmaxq_s16(a, b); }
// sqrdmulh: (2 a b + 2^15) >> 16 = (a b + 2^14) >> 15, saturated. That differs from pmulhrsw, which wraps, only for
// a = b = -32768; one factor is always a multiplier, 0..32767.
inline I16 multiply_round(I16 a, I16 b) { return vqrdmulhq_s16(a, b); }
// Two products per lane, but i and i + 4 where other instruction sets add neighbours: every caller sums over all lanes.
inline I32 pair_dot_add(I32 acc, I16 a, I16 b) { return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(b)), a, b); }
inline I32 pair_dot(I16 a, I16 b) { return vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b); }
inline void multiply_add(I16 x, int factor, I32 base, I32& a, I32& b) {  // factor < 2^15
  a = vmlal_n_s16(base, vget_low_s16(x), static_cast<int16_t>(factor));
  b = vmlal_high_n_s16(base, x, static_cast<int16_t>(factor));
}
using Wide = uint64x2_t;  // sums of unsigned 32-bit values
inline Wide zero_wide() { return vdupq_n_u64(0); }
inline void add_wide(Wide& sum, I32 x) { sum = vpadalq_u32(sum, vreinterpretq_u32_s32(x)); }
inline int64_t sum_wide(Wide sum) { return static_cast<int64_t>(vaddvq_u64(sum)); }

// ---- bytes
inline I16 load_bytes_i16(const uint8_t* p) { return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p))); }
inline Bytes to_bytes(I16 a, I16 b) { return vqmovun_high_s16(vqmovun_s16(a), b); }
inline Bytes to_signed_bytes(I16 a, I16 b) { return vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(a), b)); }
inline void store_bytes(uint8_t* p, Bytes x) { vst1q_u8(p, x); }
inline void store_half(uint8_t* p, Bytes x) { vst1_u8(p, vget_low_u8(x)); }
inline Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
inline Bytes splat_bytes(int x) { return vdupq_n_u8(static_cast<uint8_t>(x)); }
inline Bytes splat_dwords(uint32_t x) { return vreinterpretq_u8_u32(vdupq_n_u32(x)); }
inline Bytes and_bytes(Bytes a, Bytes b) { return vandq_u8(a, b); }
inline Bytes min_bytes(Bytes a, Bytes b) { return vminq_u8(a, b); }

// tbl reads 64 entries from four registers and gives 0 for an index beyond them, where tbx keeps what was there.
// index ^ 64 r lies below 64 exactly for the entries of part r. The table stays in memory: loads are free beside tbl, and GCC 12
// would not keep a structure of register quadruples in registers.
template <int kParts>
struct Table {
  const uint8_t* entries;
};
using Table128 = Table<2>;
using Table256 = Table<4>;
inline Table128 load_table128(const uint8_t* p) { return {p}; }
inline Table256 load_table256(const uint8_t* p) { return {p}; }
template <int kParts>
inline Bytes lookup(const Table<kParts>& table, Bytes index) {
  Bytes out = vqtbl4q_u8(vld1q_u8_x4(table.entries), index);
#pragma GCC unroll 4
  for (int r = 1; r < kParts; ++r)
    out = vqtbx4q_u8(out, vld1q_u8_x4(table.entries + 64 * r), veorq_u8(index, splat_bytes(64 * r)));
  return out;
}

// ---- attention: scores of two keys for 4 queries fill one I16, weights of four keys one dword per query
inline I16 swap_keys(I16 x) { return vextq_s16(x, x, 4); }
inline I16 first_key_only(I16 x) { return vcombine_s16(vget_low_s16(x), vdup_n_s16(INT16_MIN)); }
inline Bytes quads(I16 a, I16 b) {
  alignas(16) static constexpr uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return vqtbl1q_u8(to_bytes(a, b), vld1q_u8(kOrder));
}
inline void transpose_dwords(Bytes (&x)[4]) {  // lane i of register k <-> lane k of register i
  auto dwords = [&](int i) { return vreinterpretq_u32_u8(x[i]); };
  const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(dwords(0), dwords(1)));
  const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(dwords(0), dwords(1)));
  const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(dwords(2), dwords(3)));
  const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(dwords(2), dwords(3)));
  x[0] = vreinterpretq_u8_u64(vtrn1q_u64(a, c)), x[1] = vreinterpretq_u8_u64(vtrn1q_u64(b, d));
  x[2] = vreinterpretq_u8_u64(vtrn2q_u64(a, c)), x[3] = vreinterpretq_u8_u64(vtrn2q_u64(b, d));
}
inline void load_transposed(const uint8_t* rows, size_t stride, int count, Bytes* out) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Bytes x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = i < count ? vld1q_u8(rows + static_cast<size_t>(i) * stride + 16 * half) : vdupq_n_u8(0);
    transpose_dwords(x);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) out[4 * half + i] = x[i];
  }
}
inline void store_transposed(const Bytes* in, uint8_t* rows, size_t stride, int count) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    Bytes x[4] = {in[4 * half], in[4 * half + 1], in[4 * half + 2], in[4 * half + 3]};
    transpose_dwords(x);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      if (i < count) vst1q_u8(rows + static_cast<size_t>(i) * stride + 16 * half, x[i]);
  }
}
inline void interleave_values(const uint8_t* const (&rows)[4], uint8_t* out) {  // by zips: st4 is the slower way on most cores
  for (int half = 0; half < 2; ++half, out += 64) {
    Bytes r[4];
    for (int i = 0; i < 4; ++i) r[i] = vld1q_u8(rows[i] + 16 * half);
    const Bytes a = vzip1q_u8(r[0], r[2]), b = vzip1q_u8(r[1], r[3]), c = vzip2q_u8(r[0], r[2]), d = vzip2q_u8(r[1], r[3]);
    vst1q_u8(out, vzip1q_u8(a, b)), vst1q_u8(out + 16, vzip2q_u8(a, b));
    vst1q_u8(out + 32, vzip1q_u8(c, d)), vst1q_u8(out + 48, vzip2q_u8(c, d));
  }
}

// ---- fp32
inline F32 splat_f32(float x) { return vdupq_n_f32(x); }
inline F32 load_f32(const float* p) { return vld1q_f32(p); }
inline F32 to_float(I32 x) { return vcvtq_f32_s32(x); }
// fcvtns: half to even. Below int32 it gives the lowest int32, as x86 does; above, where x86 does that too, it gives the
// highest, but every caller stays below 2^31. NaN, which only a refused image holds, becomes 0.
inline I32 to_int(F32 x) { return vcvtnq_s32_f32(x); }
inline F32 round(F32 x) { return vrndnq_f32(x); }
inline F32 floor(F32 x) { return vrndmq_f32(x); }
inline F32 add(F32 a, F32 b) { return vaddq_f32(a, b); }
inline F32 sub(F32 a, F32 b) { return vsubq_f32(a, b); }
inline F32 mul(F32 a, F32 b) { return vmulq_f32(a, b); }
inline F32 div(F32 a, F32 b) { return vdivq_f32(a, b); }
inline F32 min(F32 a, F32 b) { return vminnmq_f32(a, b); }  // the number of a number and a (quiet) NaN
inline F32 max(F32 a, F32 b) { return vmaxnmq_f32(a, b); }
inline F32 abs(F32 x) { return vabsq_f32(x); }
inline F32 fma(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
inline F32 times_power_of_two(F32 x, F32 exponent) {  // normal numbers in, normal numbers out
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtq_s32_f32(exponent), 23)));
}

}  // namespace geluless::GELULESS_ISA
