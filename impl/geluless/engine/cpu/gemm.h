// uint8 [rows, inputs] times int8 panels, accumulated in int32 registers, finished by an epilogue before anything is stored.
//
//   for each panel of 64 channels            weights stay in the first-level cache while all rows pass
//     for each tile of 6 rows                24 accumulators live in registers from bias to epilogue
//       for each group of 4 inputs           4 weight loads, 6 broadcasts, 24 dot products
//     epilogue                               requantize to int16, store
//
// Rows are cut into tiles of kTileRows and kTileRows - 1 that come out even (49 = 4 x 6 + 5 x 5); only fewer than
// kTileRows (kTileRows - 1) rows can leave single ones over. Channel widths are those of the packing (pack.h).

#pragma once

#include "requantize.h"

#include "output_stage.h"

namespace geluless::GELULESS_ISA {

template <class Requantize, class OutputStage>
struct FusedEpilogue {
  Requantize requantize;
  OutputStage output;

  explicit FusedEpilogue(const GemmCall& call) : requantize{call.linear->channels}, output(call) {}

  template <int kRows, int kVectors>
  void run(const I32 (&acc)[kRows][kVectors], int row, int column) const {
    if constexpr (Requantize::kLong) {  // its constants need the registers more than the accumulators do: rows one by one
      I32 all[kRows][kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) all[i][j] = acc[i][j];
#pragma GCC unroll 1
      for (int i = 0; i < kRows; ++i) finish_row(all[i], row + i, column);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) finish_row(acc[i], row + i, column);
    }
  }

 private:
  template <int kVectors>
  void finish_row(const I32 (&acc)[kVectors], int row, int column) const {
    I16 pairs[kVectors / 2];
#pragma GCC unroll 2
    for (int p = 0; p < kVectors / 2; ++p) pairs[p] = requantize(acc[2 * p], acc[2 * p + 1], column + p * kPair);
    output.put(pairs, row, column);
  }
};

// One tile. A function of its own, never inlined: inside a larger one GCC keeps accumulators in memory.
template <int kRows, int kVectors, class Epilogue>
__attribute__((noinline)) void tile(const GemmCall& call, const Epilogue& epilogue, const int8_t* panel, int row, int column) {
  I32 acc[kRows][kVectors];
  const int32_t* bias = call.linear->channels.bias + column;
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) {
    const I32 start = load_i32(bias + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) acc[i][j] = start;
  }
  // One pointer serves three rows: base, base + stride and base + 2 stride are x86 addressing modes.
  constexpr int kPointers = (kRows + 2) / 3;
  const size_t stride = call.input_stride;
  const uint8_t* rows[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) rows[i] = call.input + (static_cast<size_t>(row) + 3 * i) * stride;

  for (int k = 0; k < call.linear->inputs; k += 4) {
    Weights w[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) w[j] = load_weights(panel + j * 4 * kLanes);
    panel += kVectors * 4 * kLanes;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Inputs x = broadcast(rows[i / 3] + (i % 3) * stride);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) dot(acc[i][j], x, w[j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) rows[i] += 4;
  }
  const Epilogue local = epilogue;  // a copy whose address never escapes: byte stores cannot alias its pointers
  local.template run<kRows, kVectors>(acc, row, column);
}

template <int kVectors, class Epilogue>
void panel_rows(const GemmCall& call, const Epilogue& epilogue, const int8_t* panel, int column) {
  constexpr int kShort = kTileRows - 1;
  const int tiles = (call.rows + kTileRows - 1) / kTileRows;
  const int shorter = tiles * kTileRows - call.rows;  // how many tiles have to do with one row less
  int row = 0;
  if (shorter <= tiles) {
    for (int t = 0; t < tiles - shorter; ++t, row += kTileRows) tile<kTileRows, kVectors>(call, epilogue, panel, row, column);
    for (int t = 0; t < shorter; ++t, row += kShort) tile<kShort, kVectors>(call, epilogue, panel, row, column);
  } else {
    for (; row + kTileRows <= call.rows; row += kTileRows) tile<kTileRows, kVectors>(call, epilogue, panel, row, column);
    for (; row < call.rows; ++row) tile<1, kVectors>(call, epilogue, panel, row, column);
  }
}

template <class Requantize, class OutputStage>
void gemm(const GemmCall& call) {
  using Epilogue = FusedEpilogue<Requantize, OutputStage>;
  const Epilogue epilogue(call);
  const size_t depth = static_cast<size_t>((call.linear->inputs + 3) / 4) * 4;
  constexpr int kWidth = kTileVectors * kLanes;
  for (int index = call.first_panel; index < call.last_panel; ++index) {
    const int column = index * kWidth;
    const int8_t* panel = call.linear->panels + static_cast<size_t>(column) * depth;
    if constexpr (kTileVectors > 2) {
      if (call.linear->outputs - column <= kPair) {  // the last panel may be one pair wide
        panel_rows<2>(call, epilogue, panel, column);
        continue;
      }
    }
    panel_rows<kTileVectors>(call, epilogue, panel, column);
  }
}

}  // namespace geluless::GELULESS_ISA
