// Where requantized int16 registers go: uint8, int16, the residual stream. An output stage takes the registers (2 x kLanes
// channels each) of one row of a tile, and cuts off what lies beyond the matrix: padding channels exist in registers only.

#pragma once

#include "ibert_gelu.h"
#include "shift_gelu.h"
#include "simd.h"

namespace geluless::GELULESS_ISA {

// How two registers become one of bytes, and what is done before and after: each activation changes one of the three.
struct Activation {
  static Bytes pack(I16 a, I16 b) { return to_bytes(a, b); }  // saturated to 0..255
  I16 clamp(I16 x) const { return x; }
  template <int kCount>
  Bytes map(Bytes x) const {
    return x;
  }
};
struct Saturate : Activation {
  explicit Saturate(const Channels&) {}
};
struct SaturateS8 : Activation {  // -128..127: the instructions of Saturate, but for another pack
  explicit SaturateS8(const Channels&) {}
  static Bytes pack(I16 a, I16 b) { return to_signed_bytes(a, b); }
};
struct Clamp : Activation {  // a narrower range of stored bytes
  I16 low, high;
  explicit Clamp(const Channels& c) : low(splat_i16(c.lowest)), high(splat_i16(c.highest)) {}
  I16 clamp(I16 x) const { return min_i16(max_i16(x, low), high); }
};
struct LookUp : Activation {  // any function of 256 values
  Table256 lut;
  explicit LookUp(const Channels& c) : lut(load_table256(c.lut)) {}
  template <int kCount>
  Bytes map(Bytes x) const {
    return lookup(lut, x);
  }
};
struct ApplyShiftGelu : Activation {
  const ShiftGelu constants;
  explicit ApplyShiftGelu(const Channels& c) : constants(c.shift_gelu) {}
  template <int kCount>
  Bytes map(Bytes x) const {
    alignas(kAlignment) uint8_t all[2 * kPair];
    store_bytes(all, x);
    shift_gelu<kCount>(all, constants);
    return load_bytes(all);
  }
};
struct ApplyIBertGelu : Activation {
  const IBertGelu constants;
  explicit ApplyIBertGelu(const Channels& c) : constants(c.ibert_gelu) {}
  template <int kCount>
  Bytes map(Bytes x) const {
    alignas(kAlignment) uint8_t all[2 * kPair];
    store_bytes(all, x);
    ibert_gelu<kCount>(all, constants);
    return load_bytes(all);
  }
};

template <class Function>
struct StoreU8 {
  uint8_t* output;
  size_t stride;
  int columns;
  Function activation;

  StoreU8(const GemmCall& call)
      : output(static_cast<uint8_t*>(call.output)),
        stride(call.output_stride),
        columns(call.linear->outputs),
        activation(call.linear->channels) {}

  template <int kPairs>
  void put(const I16 (&x)[kPairs], int row, int column) const {
    const Bytes bytes =
        activation.template map<kPairs * kPair>(Function::pack(activation.clamp(x[0]), activation.clamp(x[kPairs - 1])));
    uint8_t* p = output + static_cast<size_t>(row) * stride + column;
    const int left = columns - column;
    if (left < kPairs * kPair) store_some_bytes(p, bytes, left);
    else if constexpr (kPairs == 2) store_bytes(p, bytes);
    else store_half(p, bytes);
  }
};

struct StoreS16 {
  int16_t* output;
  size_t stride;
  int columns;

  StoreS16(const GemmCall& call)
      : output(static_cast<int16_t*>(call.output)), stride(call.output_stride), columns(call.linear->outputs) {}

  template <int kPairs>
  void put(const I16 (&x)[kPairs], int row, int column) const {
    int16_t* p = output + static_cast<size_t>(row) * stride + column;
    for (int i = 0; i < kPairs; ++i, p += kPair) {
      const int left = columns - column - i * kPair;
      if (left >= kPair) store_i16(p, x[i]);
      else if (left > 0) store_some_i16(p, x[i], left);
    }
  }
};

// stream[row_index[row]] += x, saturating: window reverse and the undoing of the cyclic shift are this index list.
struct AddToResidual {
  int16_t* stream;
  size_t stride;
  const int32_t* row_index;
  int columns;

  AddToResidual(const GemmCall& call)
      : stream(static_cast<int16_t*>(call.output)),
        stride(call.output_stride),
        row_index(call.row_index),
        columns(call.linear->outputs) {}

  template <int kPairs>
  void put(const I16 (&x)[kPairs], int row, int column) const {
    int16_t* p = stream + static_cast<size_t>(row_index[row]) * stride + column;
    for (int i = 0; i < kPairs; ++i, p += kPair) {
      const int left = columns - column - i * kPair;
      if (left >= kPair) store_i16(p, add_i16(load_i16(p), x[i]));
      else if (left > 0) store_some_i16(p, add_i16(load_some_i16(p, left), x[i]), left);
    }
  }
};

}  // namespace geluless::GELULESS_ISA
