// What every instruction set offers: a table of kernels over plain structs. The network above it knows no intrinsics, the
// kernels below it know no network.
//
// The packing folds the storage offset of a signed tensor (epilogue.h) into the int32 bias of the layer that reads it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "epilogue.h"

namespace geluless {

constexpr int kSignedOffset = 128;  // stored byte = q + 128 for an int8 tensor
constexpr int kAlignment = 64;      // of every buffer and every packed panel, in bytes

// How one instruction set cuts a weight matrix [outputs, inputs] into panels: `vectors` registers of `lanes` channels, for
// each group of four inputs the 4 bytes of a lane together. A last panel may be one pair of registers wide.
struct PanelLayout {
  int rows;  // of a tile
  int vectors;
  int lanes;
  int input_offset;  // what the dot product itself subtracts from every stored input byte
  // Within a pair of registers (2 x lanes channels), which channel lies in this lane: chosen so that the saturating packs of
  // the epilogue leave the channels in their natural order, and no permutation is ever executed for it.
  int (*channel_in_pair)(int vector, int lane);

  int columns() const { return vectors * lanes; }
};

// I-ViT's ShiftGELU on the 8-bit pre-activation, with everything that does not depend on the element worked out before.
struct ShiftGelu {
  int32_t zero_point;   // of the pre-activation
  int32_t top;          // the largest 1.702 q
  int32_t unit;         // one, in steps of the pre-activation
  int32_t floor;        // exponents below this are clamped
  uint32_t reciprocal;  // d / unit == (d * reciprocal) >> 20 for every d that occurs
  uint32_t negative;    // exp(-top)
  double to_hidden;     // pre-activation scale / hidden scale / 2^7
  int32_t hidden_zero;  // with the storage offset
};

// I-BERT's integer-only i-GELU on the 8-bit pre-activation; integer/gelu.py derives the constants.
struct IBertGelu {
  int32_t zero_point;         // of the pre-activation
  int32_t knee;               // |q| from which on erf is one
  int32_t one;                // in steps of erf, whose scale is negative
  int32_t shift, multiplier;  // requantization to the hidden tensor
  int32_t hidden_zero;        // with the storage offset
};

// Constants of an epilogue; per-channel arrays are padded to whole panels and lie in lane order, except the multiplier, which
// is applied after the pack has restored the natural order.
struct Channels {
  const int32_t* bias;        // accumulators start here: bias, rounding half and offset compensation
  const int32_t* shift;       // fixed point: v = sat16(acc >> shift)
  const int16_t* multiplier;  //              y = (v * multiplier + 2^14) >> 15
  const float* scale;         // fp32, two_stage: real value (or step) per accumulator unit
  const float* gain;          // two_stage: int8 -> output
  const float* offset;        // two_stage: bias in output steps
  const uint8_t* lut;         // 256 entries, stored bytes
  ShiftGelu shift_gelu;
  IBertGelu ibert_gelu;
  int32_t zero;             // output zero point plus storage offset
  int32_t lowest, highest;  // stored bytes outside are clamped
  float inverse_scale;      // fp32: 1 / hidden scale
};

struct PackedLinear {
  Epilogue epilogue;
  int inputs, outputs;
  const int8_t* panels;
  Channels channels;
};

struct GemmCall {
  const uint8_t* input;  // [rows, inputs], inputs rounded up to four readable bytes
  size_t input_stride;
  int rows;
  const PackedLinear* linear;
  int first_panel, last_panel;
  void* output;              // uint8 or int16 [rows, outputs], or the residual stream
  size_t output_stride;      // in elements
  const int32_t* row_index;  // residual only: output row of each input row
};

// An activation as a kernel of its own: reads what the GEMM stored, writes the hidden bytes.
struct ElementwiseCall {
  const void* input;  // int16 for kReluS16, else stored int8 [rows, columns]
  uint8_t* output;
  int rows, columns;
  size_t stride;  // of both, in elements
  const Channels* channels;
  float after_gemm_scale;
};

struct LayerNormCall {
  const int16_t* stream;
  size_t stream_stride;
  const int32_t* row_index;  // rows x segments: which stream rows make up one output row
  int rows, segments, segment_channels;
  int64_t epsilon_term;
  float factor;
  const float *gamma, *beta;  // lane order per segment, padded to whole register pairs; null when folded away
  bool s16;                   // int16 instead of stored int8
  void* output;
  size_t output_stride;  // in elements
};

struct AttentionHead {
  int score_shift;
  int16_t score_multiplier;
  float output_multiplier;
  const int16_t* bias;  // [key pairs][query groups... ] in score order, see attention.h
};

struct AttentionCall {
  const uint8_t* qkv;  // [tokens, 3 x width] stored int8: queries, keys, values
  size_t qkv_stride;
  int tokens, head_dim, width;
  int head;
  const AttentionHead* parameters;
  const int16_t* limit;  // null when nothing is masked; score order, 32767 or -32768
  const uint8_t* keep;   // weight order, 255 or 0
  const uint8_t* softmax_table;
  uint8_t* output;  // [tokens, width] stored int8
  size_t output_stride;
  uint8_t* scratch;  // attention_scratch(tokens, head_dim) bytes
};

struct PatchCall {
  const float* image;  // one row of patches of one channel plane: [patch_h][width]
  int width, patch_h, patch_w;
  float inverse_scale;
  int zero_point;
  uint8_t* output;  // first patch of the row, at this channel's place
  size_t output_stride;
  uint8_t* scratch;      // width rounded up to 64 bytes
  uint32_t* not_finite;  // or-ed with a non-zero value when a pixel is NaN or infinite
};

struct ClassifyCall {
  const int16_t* features;  // [inputs], zero-padded to a multiple of 64
  const int16_t* weights;   // [outputs, inputs], rows padded likewise
  size_t stride;
  const int32_t* bias;
  const float* logit_scale;
  int first, last;
  float* logits;
};

struct Kernels {
  const char* isa;
  PanelLayout layout;
  void (*gemm[static_cast<int>(Epilogue::kCount)])(const GemmCall&);
  void (*elementwise[static_cast<int>(Elementwise::kCount)])(const ElementwiseCall&);
  void (*layer_norm)(const LayerNormCall&);
  void (*attention)(const AttentionCall&);
  size_t (*attention_scratch)(int tokens, int head_dim);
  // Where the score of (query, key) lies in a bias or limit table, in int16; and its weight in a keep table, in bytes.
  size_t (*score_place)(int tokens, int query, int key);
  size_t (*weight_place)(int tokens, int query, int key);
  size_t (*score_table_size)(int tokens);   // in int16
  size_t (*weight_table_size)(int tokens);  // in bytes
  void (*quantize_patches)(const PatchCall&);
  void (*classify)(const ClassifyCall&);
  double (*peak)(int64_t repetitions);  // multiply-accumulates executed by a loop of nothing but dot products
};

inline std::string gemm_name(const Kernels& kernels, Epilogue epilogue) {
  const std::string tile = std::to_string(kernels.layout.rows) + "x" + std::to_string(kernels.layout.columns());
  return std::string("gemm_u8s8_s32_") + info(epilogue).name + "_" + tile + "_" + kernels.isa;
}

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512vnni();
const Kernels* kernels_neon();

}  // namespace geluless
