// Reads the dataclasses of lowering.py and refuses what the kernels' buffers are not made for: every count of elements, and every
// shape that must fit another. Throws std::invalid_argument.
//
// `From` is an object with named fields, which are read in the order of their declaration: one from Python (bindings.cpp), one
// from a file (tests/engine/cpu/cpp/check_file.h). Of a field `name` it gives
//
//   integer(name, low, high)  real(name)  flag(name)  text(name)    a number, bounds included, or a string
//   integers<N>(name, low, high)                                    a tuple
//   array<T>(name, count, optional)                                 the data of `count` elements, null for an optional None
//   object(name)  optional_object(name)  for_each(name, f)          another From; f is called with each of a tuple

#pragma once

#include <cmath>
#include <stdexcept>

#include "spec.h"

namespace geluless {

constexpr int kMaxSize = 1 << 16, kMaxShift = 30;

inline void require(bool condition, const std::string& where) {
  if (!condition) throw std::invalid_argument(where + ": the shapes do not fit together");
}

template <class Enum>
Enum kernel_named(const std::string& wanted) {
  const std::optional<Enum> found = named<Enum>(wanted);
  if (!found) throw std::invalid_argument("no kernel is called " + wanted);
  return *found;
}

inline void require_shifts(const std::string& name, const int32_t* shift, size_t count) {
  for (size_t i = 0; shift && i < count; ++i)
    if (shift[i] < 0 || shift[i] > kMaxShift) throw std::invalid_argument(name + ": a value outside 0..30");
}

template <class From>
int int32_of(const From& from, const char* name) {
  return from.integer(name, INT32_MIN, INT32_MAX);
}

template <class From>
ShiftGelu read_shift_gelu(const From& from) {
  ShiftGelu g{};
  g.zero_point = int32_of(from, "zero_point");
  g.top = int32_of(from, "top");
  g.unit = int32_of(from, "unit");
  g.floor = int32_of(from, "floor");
  g.reciprocal = static_cast<uint32_t>(from.integer("reciprocal", 0, UINT32_MAX));
  g.negative = static_cast<uint32_t>(from.integer("negative", 0, UINT32_MAX));
  g.to_hidden = from.real("to_hidden");
  g.hidden_zero = int32_of(from, "hidden_zero");
  return g;
}

template <class From>
IBertGelu read_ibert_gelu(const From& from) {
  IBertGelu g{};
  g.zero_point = int32_of(from, "zero_point");
  g.knee = int32_of(from, "knee");
  g.one = int32_of(from, "one");
  g.shift = int32_of(from, "shift");
  g.multiplier = int32_of(from, "multiplier");
  g.hidden_zero = int32_of(from, "hidden_zero");
  return g;
}

template <class From>
LayerSpec read_layer(const From& from) {
  LayerSpec layer{};
  layer.epilogue = kernel_named<Epilogue>(from.text("epilogue"));
  layer.inputs = from.integer("inputs", 1, 1 << 24);
  layer.outputs = from.integer("outputs", 1, kMaxSize);
  layer.signed_input = from.flag("signed_input");
  const auto outputs = static_cast<size_t>(layer.outputs);
  layer.weight = from.template array<int8_t>("weight", outputs * static_cast<size_t>(layer.inputs));
  layer.bias = from.template array<int32_t>("bias", outputs);
  const EpilogueInfo& reads = info(layer.epilogue);
  const bool fixed = reads.requantization == Requantization::kFixed,
             two_stage = reads.requantization == Requantization::kTwoStage;
  layer.shift = from.template array<int32_t>("shift", outputs, !fixed);
  layer.multiplier = from.template array<int16_t>("multiplier", outputs, !fixed);
  layer.scale = from.template array<float>("scale", outputs, fixed);
  layer.gain = from.template array<float>("gain", outputs, !two_stage);
  layer.offset = from.template array<float>("offset", outputs, !two_stage);
  layer.lut = from.template array<uint8_t>("lut", 256, !reads.lut);
  require_shifts("shift", layer.shift, outputs);
  if (const auto constants = from.optional_object("shift_gelu")) layer.shift_gelu = read_shift_gelu(*constants);
  if (const auto constants = from.optional_object("ibert_gelu")) layer.ibert_gelu = read_ibert_gelu(*constants);
  layer.zero = int32_of(from, "zero");
  layer.lowest = int32_of(from, "lowest");
  layer.highest = int32_of(from, "highest");
  layer.inverse_scale = static_cast<float>(from.real("inverse_scale"));
  return layer;
}

template <class From>
NormSpec read_norm(const From& from, int channels) {
  const auto count = static_cast<size_t>(channels);
  NormSpec norm{};
  norm.epsilon_term = from.integer("epsilon_term", INT64_MIN, INT64_MAX);
  norm.factor = static_cast<float>(from.real("factor"));
  if (!(norm.factor > 0.0f && norm.factor <= 65536.0f))
    throw std::invalid_argument("factor must lie in (0, 65536]: the result must fit int32");
  norm.gamma = from.template array<float>("gamma", count, true);
  norm.beta = from.template array<float>("beta", count, norm.gamma == nullptr);
  return norm;
}

template <class From>
AttentionSpec read_attention(const From& from) {
  AttentionSpec a{};
  a.heads = from.integer("heads", 1, kMaxSize);
  a.head_dim = from.integer("head_dim", 1, 1024);
  a.window = from.template integers<2>("window", 1, 128);
  a.shift = from.template integers<2>("shift", 0, 127);
  if (a.shift[0] >= a.window[0] || a.shift[1] >= a.window[1])
    throw std::invalid_argument("window and shift must satisfy 0 <= shift < window <= 128");
  const auto heads = static_cast<size_t>(a.heads), width = heads * static_cast<size_t>(a.head_dim);
  const size_t offsets = static_cast<size_t>(2 * a.window[0] - 1) * static_cast<size_t>(2 * a.window[1] - 1);
  a.bias_table = from.template array<int16_t>("bias_table", offsets * heads);
  a.score_shift = from.template array<int32_t>("score_shift", heads);
  a.score_multiplier = from.template array<int16_t>("score_multiplier", heads);
  a.output_multiplier = from.template array<float>("output_multiplier", heads);
  a.pad = from.template array<uint8_t>("pad", 3 * width, true);
  require_shifts("score_shift", a.score_shift, heads);
  for (size_t h = 0; h < heads; ++h) {
    if (!(std::fabs(a.output_multiplier[h]) <= 1048576.0f)) throw std::invalid_argument("output_multiplier: a value beyond 2^20");
    if (a.score_multiplier[h] < 0) throw std::invalid_argument("score_multiplier: a negative value");
  }
  return a;
}

template <class From>
ElementwiseSpec read_elementwise(const From& from, int hidden) {
  ElementwiseSpec e{};
  e.kernel = kernel_named<Elementwise>(from.text("kernel"));
  const auto count = static_cast<size_t>(hidden);
  e.gain = from.template array<float>("gain", count, e.kernel != Elementwise::kReluU8);
  e.offset = from.template array<float>("offset", count, e.kernel == Elementwise::kReluS16);
  e.zero = int32_of(from, "zero");
  e.lowest = int32_of(from, "lowest");
  e.highest = int32_of(from, "highest");
  e.inverse_scale = static_cast<float>(from.real("inverse_scale"));
  e.after_gemm_scale = static_cast<float>(from.real("after_gemm_scale"));
  return e;
}

template <class From>
BlockSpec read_block(const From& from, const StageSpec& stage) {
  BlockSpec b{};
  b.name = from.text("name");
  b.norm1 = read_norm(from.object("norm1"), stage.channels);
  b.norm2 = read_norm(from.object("norm2"), stage.channels);
  b.qkv = read_layer(from.object("qkv"));
  b.proj = read_layer(from.object("proj"));
  b.fc1 = read_layer(from.object("fc1"));
  b.fc2 = read_layer(from.object("fc2"));
  b.attention = read_attention(from.object("attention"));
  if (const auto kernel = from.optional_object("elementwise")) b.elementwise = read_elementwise(*kernel, b.fc1.outputs);

  const int width = b.attention.heads * b.attention.head_dim;
  require(b.qkv.inputs == stage.channels && b.qkv.outputs == 3 * width, b.name + ".qkv");
  require(b.proj.inputs == width && b.proj.outputs == stage.channels, b.name + ".proj");
  require(b.fc1.inputs == stage.channels, b.name + ".fc1");
  require(b.fc2.inputs == b.fc1.outputs && b.fc2.outputs == stage.channels, b.name + ".fc2");
  const auto [rows, columns] = b.attention.window;
  require(b.attention.pad || (stage.height % rows == 0 && stage.width % columns == 0), b.name + ".pad");
  require(info(b.qkv.epilogue).output == Type::kU8, b.name + ".qkv");
  require(info(b.proj.epilogue).residual && info(b.fc2.epilogue).residual, b.name);
  const bool feeds_s16 = b.elementwise && b.elementwise->kernel == Elementwise::kReluS16;
  require(!info(b.fc1.epilogue).residual && writes_s16(b.fc1.epilogue) == feeds_s16, b.name + ".fc1");
  return b;
}

// height, width, channels: of the stage before, then of this one.
template <class From>
StageSpec read_stage(const From& from, bool first, int& height, int& width, int& channels) {
  StageSpec stage{};
  stage.height = from.integer("height", 1, kMaxSize);
  stage.width = from.integer("width", 1, kMaxSize);
  stage.channels = from.integer("channels", 1, 32767);
  if (const auto merge = from.optional_object("merge")) {
    require(!first, "merge");
    stage.merge =
        MergeSpec{merge->text("name"), read_norm(merge->object("norm"), 4 * channels), read_layer(merge->object("reduction"))};
    const LayerSpec& reduction = stage.merge->reduction;
    require(reduction.inputs == 4 * channels && writes_s16(reduction.epilogue), stage.merge->name);
    channels = reduction.outputs, height = (height + 1) / 2, width = (width + 1) / 2;
  }
  require(stage.height == height && stage.width == width && stage.channels == channels, "stage");
  require(int64_t{height} * width <= 1 << 22, "stage");
  from.for_each("blocks", [&](const From& block) { stage.blocks.push_back(read_block(block, stage)); });
  require(!stage.blocks.empty(), "stage");
  return stage;
}

template <class From>
NetworkSpec read_network(const From& from) {
  NetworkSpec n{};
  const std::array<int, 3> image = from.template integers<3>("image", 1, kMaxSize);
  n.image_channels = image[0], n.image_height = image[1], n.image_width = image[2];
  n.patch = from.template integers<2>("patch", 1, kMaxSize);
  require(image[1] % n.patch[0] == 0 && image[2] % n.patch[1] == 0, "patch");
  n.inverse_input_scale = static_cast<float>(from.real("inverse_input_scale"));
  n.input_zero_point = int32_of(from, "input_zero_point");
  n.patch_layer = read_layer(from.object("patch_layer"));
  require(n.patch_layer.inputs == int64_t{image[0]} * n.patch[0] * n.patch[1] && writes_s16(n.patch_layer.epilogue),
          "patch_layer");
  int height = image[1] / n.patch[0], width = image[2] / n.patch[1], channels = n.patch_layer.outputs;
  n.patch_norm = read_norm(from.object("patch_norm"), channels);
  from.for_each("stages", [&](const From& s) { n.stages.push_back(read_stage(s, n.stages.empty(), height, width, channels)); });
  require(!n.stages.empty(), "stages");
  n.head_norm = read_norm(from.object("head_norm"), channels);
  n.pool_multiplier = int32_of(from, "pool_multiplier");
  n.pool_shift = from.integer("pool_shift", 0, kMaxShift);
  n.classes = from.integer("classes", 1, kMaxSize);
  const auto classes = static_cast<size_t>(n.classes);
  n.head_weight = from.template array<int8_t>("head_weight", classes * static_cast<size_t>(channels));
  n.head_bias = from.template array<int32_t>("head_bias", classes);
  n.logit_scale = from.template array<float>("logit_scale", classes);
  n.softmax_table = from.template array<uint8_t>("softmax_table", 128);
  return n;
}

}  // namespace geluless
