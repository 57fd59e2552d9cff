// Plain C++, eight lanes: the meaning of every primitive, and the fallback where nothing better is known.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace geluless::GELULESS_ISA {

constexpr int kLanes = 8;
constexpr int kTileRows = 2;
constexpr int kTileVectors = 2;
constexpr int kKeysAtOnce = 4;
constexpr int kValuesAtOnce = 4;
constexpr int kInputOffset = 0;
constexpr int kValueOffset = 0;

using I32 = std::array<int32_t, kLanes>;
using I16 = std::array<int16_t, 2 * kLanes>;
using Bytes = std::array<uint8_t, 4 * kLanes>;
using F32 = std::array<float, kLanes>;
using Weights = Bytes;  // int8, by their bits
using Inputs = std::array<uint8_t, 4>;

inline int channel_in_pair(int vector, int lane) { return vector * kLanes + lane; }

// Element by element: out[i] = f(i).
template <class Register, class F>
inline Register each(F f) {
  Register out;
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<typename Register::value_type>(f(i));
  return out;
}
inline int32_t wrap(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }
inline int32_t saturate_i16(int32_t x) { return std::clamp<int32_t>(x, INT16_MIN, INT16_MAX); }
inline int32_t saturate_u8(int32_t x) { return std::clamp<int32_t>(x, 0, 255); }

// ---- dot products
inline void dot(I32& acc, const Inputs& x, const Weights& w) {
  for (int l = 0; l < kLanes; ++l) {
    int32_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<int32_t>(x[i]) * static_cast<int8_t>(w[4 * l + i]);
    acc[l] = wrap(int64_t{acc[l]} + sum);
  }
}
inline Weights load_weights(const int8_t* p) {
  Weights w;
  std::memcpy(w.data(), p, sizeof w);
  return w;
}
inline Inputs broadcast(const uint8_t* p) { return {p[0], p[1], p[2], p[3]}; }
inline void dot_value(I32& acc, const Bytes& weights, const uint8_t* values) {
  for (int l = 0; l < kLanes; ++l)
    for (int i = 0; i < 4; ++i) acc[l] += static_cast<int32_t>(weights[4 * l + i]) * static_cast<int8_t>(values[i]);
}
inline Bytes as_query(const Bytes& stored) {
  return each<Bytes>([&](size_t i) { return stored[i] ^ 0x80; });
}
inline void add_quads(I32& acc, const Bytes& weights) {
  for (int l = 0; l < kLanes; ++l)
    for (int i = 0; i < 4; ++i) acc[l] += weights[4 * l + i];
}

// ---- int32, wrapping
inline I32 splat_i32(int32_t x) {
  I32 out;
  out.fill(x);
  return out;
}
inline I32 zero_i32() { return splat_i32(0); }
inline void keep_in_register(I32& x) { asm volatile("" : : "r"(x.data()) : "memory"); }
inline I32 load_i32(const int32_t* p) {
  I32 out;
  std::memcpy(out.data(), p, sizeof out);
  return out;
}
inline void store_i32(int32_t* p, const I32& x) { std::memcpy(p, x.data(), sizeof x); }
inline I32 add_i32(const I32& a, const I32& b) {
  return each<I32>([&](size_t i) { return wrap(int64_t{a[i]} + b[i]); });
}
inline I32 sub_i32(const I32& a, const I32& b) {
  return each<I32>([&](size_t i) { return wrap(int64_t{a[i]} - b[i]); });
}
inline I32 times(const I32& x, int factor) {
  return each<I32>([&](size_t i) { return wrap(int64_t{x[i]} * factor); });
}
inline I32 max_i32(const I32& a, const I32& b) {
  return each<I32>([&](size_t i) { return std::max(a[i], b[i]); });
}
inline I32 shift_right(const I32& x, const I32& counts) {
  return each<I32>([&](size_t i) { return x[i] >> counts[i]; });
}
inline int32_t sum_i32(const I32& x) {
  int64_t sum = 0;
  for (const int32_t v : x) sum += v;
  return wrap(sum);
}
inline I16 narrow(const I32& a, const I32& b) {
  return each<I16>([&](size_t i) { return saturate_i16(i < kLanes ? a[i] : b[i - kLanes]); });
}

// ---- int16
inline I16 splat_i16(int x) {
  I16 out;
  out.fill(static_cast<int16_t>(x));
  return out;
}
inline I16 load_i16(const int16_t* p) {
  I16 out;
  std::memcpy(out.data(), p, sizeof out);
  return out;
}
inline void store_i16(int16_t* p, const I16& x) { std::memcpy(p, x.data(), sizeof x); }
inline I16 add_i16(const I16& a, const I16& b) {
  return each<I16>([&](size_t i) { return saturate_i16(a[i] + b[i]); });
}
inline I16 sub_i16(const I16& a, const I16& b) {
  return each<I16>([&](size_t i) { return saturate_i16(a[i] - b[i]); });
}
inline I16 min_i16(const I16& a, const I16& b) {
  return each<I16>([&](size_t i) { return std::min(a[i], b[i]); });
}
inline I16 max_i16(const I16& a, const I16& b) {
  return each<I16>([&](size_t i) { return std::max(a[i], b[i]); });
}
inline I16 multiply_round(const I16& a, const I16& b) {
  return each<I16>([&](size_t i) { return (a[i] * b[i] + (1 << 14)) >> 15; });
}
inline I32 pair_dot_add(const I32& acc, const I16& a, const I16& b) {
  return each<I32>(
      [&](size_t i) { return wrap(int64_t{acc[i]} + int64_t{a[2 * i]} * b[2 * i] + int64_t{a[2 * i + 1]} * b[2 * i + 1]); });
}
inline I32 pair_dot(const I16& a, const I16& b) { return pair_dot_add(zero_i32(), a, b); }
inline void multiply_add(const I16& x, int factor, const I32& base, I32& a, I32& b) {
  a = each<I32>([&](size_t i) { return wrap(int64_t{x[i]} * factor + base[i]); });
  b = each<I32>([&](size_t i) { return wrap(int64_t{x[i + kLanes]} * factor + base[i]); });
}
struct Wide {
  int64_t sum;
};
inline Wide zero_wide() { return {0}; }
inline void add_wide(Wide& wide, const I32& x) {
  for (const int32_t v : x) wide.sum += static_cast<uint32_t>(v);
}
inline int64_t sum_wide(Wide wide) { return wide.sum; }

// ---- bytes
inline I16 load_bytes_i16(const uint8_t* p) {
  return each<I16>([&](size_t i) { return p[i]; });
}
inline Bytes to_bytes(const I16& a, const I16& b) {
  return each<Bytes>([&](size_t i) { return saturate_u8(i < a.size() ? a[i] : b[i - a.size()]); });
}
inline Bytes to_signed_bytes(const I16& a, const I16& b) {
  return each<Bytes>([&](size_t i) {
    const int x = i < a.size() ? a[i] : b[i - a.size()];
    return static_cast<uint8_t>(std::clamp(x, -128, 127));
  });
}
inline void store_bytes(uint8_t* p, const Bytes& x) { std::memcpy(p, x.data(), sizeof x); }
inline void store_half(uint8_t* p, const Bytes& x) { std::memcpy(p, x.data(), sizeof x / 2); }
inline Bytes load_bytes(const uint8_t* p) {
  Bytes out;
  std::memcpy(out.data(), p, sizeof out);
  return out;
}
inline Bytes splat_bytes(int x) {
  Bytes out;
  out.fill(static_cast<uint8_t>(x));
  return out;
}
inline Bytes splat_dwords(uint32_t x) {
  return each<Bytes>([&](size_t i) { return x >> (8 * (i % 4)); });
}
inline Bytes and_bytes(const Bytes& a, const Bytes& b) {
  return each<Bytes>([&](size_t i) { return a[i] & b[i]; });
}
inline Bytes min_bytes(const Bytes& a, const Bytes& b) {
  return each<Bytes>([&](size_t i) { return std::min(a[i], b[i]); });
}
struct Table128 {
  const uint8_t* entries;
};
struct Table256 {
  const uint8_t* entries;
};
inline Table128 load_table128(const uint8_t* p) { return {p}; }
inline Table256 load_table256(const uint8_t* p) { return {p}; }
template <class Table>
inline Bytes lookup(const Table& t, const Bytes& index) {
  return each<Bytes>([&](size_t i) { return t.entries[index[i]]; });
}

// ---- attention
inline I16 swap_keys(const I16& x) {
  return each<I16>([&](size_t i) { return x[(i + kLanes) % x.size()]; });
}
inline I16 first_key_only(const I16& x) {
  return each<I16>([&](size_t i) { return i < kLanes ? x[i] : INT16_MIN; });
}
inline Bytes quads(const I16& a, const I16& b) {
  return each<Bytes>([&](size_t i) {
    const I16& from = i % 4 < 2 ? a : b;
    return saturate_u8(from[(i % 2) * kLanes + i / 4]);
  });
}
constexpr int kTransposeBytes = 32;  // of a row
inline void load_transposed(const uint8_t* rows, size_t stride, int count, Bytes* out) {
  for (int k = 0; k < kTransposeBytes / 4; ++k)
    for (int l = 0; l < kLanes; ++l) {
      if (l < count) std::memcpy(out[k].data() + 4 * l, rows + static_cast<size_t>(l) * stride + 4 * k, 4);
      else std::memset(out[k].data() + 4 * l, 0, 4);
    }
}
inline void store_transposed(const Bytes* in, uint8_t* rows, size_t stride, int count) {
  for (int l = 0; l < count; ++l)
    for (int k = 0; k < kTransposeBytes / 4; ++k)
      std::memcpy(rows + static_cast<size_t>(l) * stride + 4 * k, in[k].data() + 4 * l, 4);
}
inline void interleave_values(const uint8_t* const (&rows)[4], uint8_t* out) {
  for (int channel = 0; channel < 32; ++channel)
    for (int row = 0; row < 4; ++row) out[4 * channel + row] = rows[row][channel] ^ 0x80;
}

// ---- fp32
inline F32 splat_f32(float x) {
  F32 out;
  out.fill(x);
  return out;
}
inline F32 load_f32(const float* p) {
  F32 out;
  std::memcpy(out.data(), p, sizeof out);
  return out;
}
inline F32 to_float(const I32& x) {
  return each<F32>([&](size_t i) { return static_cast<float>(x[i]); });
}
inline I32 to_int(const F32& x) {  // half to even; what does not fit becomes the lowest int32, as on x86
  return each<I32>([&](size_t i) {
    const float r = std::nearbyintf(x[i]);
    return r >= -2147483648.0f && r < 2147483648.0f ? static_cast<int32_t>(r) : INT32_MIN;
  });
}
inline F32 round(const F32& x) {
  return each<F32>([&](size_t i) { return std::nearbyintf(x[i]); });
}
inline F32 floor(const F32& x) {
  return each<F32>([&](size_t i) { return std::floor(x[i]); });
}
inline F32 add(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] + b[i]; });
}
inline F32 sub(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] - b[i]; });
}
inline F32 mul(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] * b[i]; });
}
inline F32 div(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] / b[i]; });
}
inline F32 min(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] < b[i] ? a[i] : b[i]; });
}
inline F32 max(const F32& a, const F32& b) {
  return each<F32>([&](size_t i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline F32 abs(const F32& x) {
  return each<F32>([&](size_t i) { return std::fabs(x[i]); });
}
inline F32 fma(const F32& a, const F32& b, const F32& c) {  // std::fma without hardware is a slow library call
  return each<F32>([&](size_t i) { return a[i] * b[i] + c[i]; });
}
inline F32 times_power_of_two(const F32& x, const F32& exponent) {
  return each<F32>([&](size_t i) { return std::ldexp(x[i], static_cast<int>(exponent[i])); });
}

}  // namespace geluless::GELULESS_ISA
