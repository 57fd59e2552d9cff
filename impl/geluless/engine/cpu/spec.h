// What the Python face hands over (lowering.py): the network as layers with epilogues and plain constants. No variant, profile
// or scale is known below this line. The arrays stay the caller's and are only read while the network is built.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"

namespace geluless {

struct LayerSpec {
  Epilogue epilogue;
  int inputs, outputs;
  bool signed_input;
  const int8_t* weight;  // [outputs, inputs]
  const int32_t* bias;   // [outputs], with the rounding half where the epilogue shifts
  // Per channel [outputs], null where the epilogue does not use them:
  const int32_t* shift;
  const int16_t* multiplier;
  const float *scale, *gain, *offset;
  const uint8_t* lut;  // [256] stored bytes
  ShiftGelu shift_gelu;
  IBertGelu ibert_gelu;
  int zero, lowest, highest;
  float inverse_scale;
};

struct NormSpec {
  int64_t epsilon_term;
  float factor;
  const float *gamma, *beta;  // [channels] or null
};

struct AttentionSpec {
  int heads, head_dim;
  std::array<int, 2> window, shift;
  const int16_t* bias_table;  // [(2 Wh - 1)(2 Ww - 1), heads]
  const int32_t* score_shift;
  const int16_t* score_multiplier;
  const float* output_multiplier;
  const uint8_t* pad;  // [3 width] stored q, k, v of a padding token; null when the grid needs none
};

// The activation as a kernel of its own, between what fc1 stores and what fc2 reads.
struct ElementwiseSpec {
  Elementwise kernel;
  const float *gain, *offset;  // [hidden] or null
  int zero, lowest, highest;
  float inverse_scale, after_gemm_scale;
};

struct BlockSpec {
  std::string name;
  NormSpec norm1, norm2;
  LayerSpec qkv, proj, fc1, fc2;
  AttentionSpec attention;
  std::optional<ElementwiseSpec> elementwise;
};

struct MergeSpec {
  std::string name;
  NormSpec norm;
  LayerSpec reduction;
};

struct StageSpec {
  int height, width, channels;
  std::optional<MergeSpec> merge;
  std::vector<BlockSpec> blocks;
};

struct NetworkSpec {
  int image_channels, image_height, image_width;
  std::array<int, 2> patch;
  float inverse_input_scale;
  int input_zero_point;
  LayerSpec patch_layer;
  NormSpec patch_norm;
  std::vector<StageSpec> stages;
  NormSpec head_norm;
  int pool_multiplier, pool_shift;
  int classes;
  const int8_t* head_weight;  // [classes, channels]
  const int32_t* head_bias;
  const float* logit_scale;
  const uint8_t* softmax_table;  // [128]
};

}  // namespace geluless
