// The network as one instruction set wants it: packed weights, laid-out tables, index lists. Immutable once built.

#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "pack.h"
#include "windows.h"

namespace geluless {

struct PackedElementwise {
  Elementwise kernel;
  Channels channels;
  float after_gemm_scale;
};

struct Block {
  std::string name;
  Norm norm1, norm2;
  PackedLinear qkv, proj, fc1, fc2;
  int head_dim;
  bool signed_hidden;
  std::vector<AttentionHead> heads;
  const uint8_t* pad;  // stored q, k, v of a padding token, or null
  std::optional<PackedElementwise> elementwise;
  const Windows* windows;
};

struct Merge {
  std::string name;
  Norm norm;
  PackedLinear reduction;
  const int32_t* rows;  // [tokens, 4] of the stage before
};

struct Stage {
  int tokens, channels;
  std::optional<Merge> merge;
  std::vector<Block> blocks;
  const int32_t* raster;  // [tokens] 0, 1, 2, ...
  int teams;              // the windows are split among so many teams of threads
  std::deque<Windows> windows;
};

struct Head {
  Norm norm;
  int pool_multiplier, pool_shift;
  int classes;
  size_t stride;          // of the weights: channels, padded
  const int16_t* weight;  // [classes, stride]
  const int32_t* bias;
  const float* logit_scale;
};

struct Model {
  int channels, height, width;
  std::array<int, 2> patch;
  float inverse_input_scale;
  int input_zero_point;
  PackedLinear patch_layer;
  Norm patch_norm;
  std::vector<Stage> stages;
  Head head;
  const uint8_t* softmax_table;
  Arena arena;

  Model(const NetworkSpec& spec, const Kernels& kernels, int threads);

 private:
  void lay_out(const NetworkSpec& spec, const Kernels& kernels, int threads);
};

}  // namespace geluless
