#include "model.h"

#include <algorithm>

namespace geluless {

namespace {

template <class T, class From>
const T* copy(const From* values, size_t count, Arena& arena) {
  T* out = arena.take<T>(count);
  if (arena.committed()) std::copy_n(values, count, out);
  return out;
}

// How many teams share the windows of a stage: as many as keep the busiest thread's work least. Fewer teams mean more
// threads per team, which split heads and columns instead, at the price of a barrier per layer.
int choose_teams(int windows, int threads) {
  int best = 1;
  double least = 1e30;
  for (int teams = 1; teams <= std::min(windows, threads); ++teams) {
    const int members = threads / teams;
    const double busiest = static_cast<double>((windows + teams - 1) / teams) / members;
    if (busiest <= least) best = teams, least = busiest;
  }
  return best;
}

const Windows* windows_of(const AttentionSpec& attention, const StageSpec& spec, Stage& stage,
                          std::vector<std::array<int, 4>>& known, const Kernels& kernels, Arena& arena) {
  const std::array<int, 4> key{attention.window[0], attention.window[1], attention.shift[0], attention.shift[1]};
  const auto found = std::find(known.begin(), known.end(), key);
  if (found != known.end()) return &stage.windows[static_cast<size_t>(found - known.begin())];
  known.push_back(key);
  stage.windows.push_back(make_windows(spec.height, spec.width, attention.window, attention.shift, stage.teams, kernels, arena));
  return &stage.windows.back();
}

int window_count(const StageSpec& spec, const AttentionSpec& a) {
  return ((spec.height + a.window[0] - 1) / a.window[0]) * ((spec.width + a.window[1] - 1) / a.window[1]);
}

std::optional<PackedElementwise> make_elementwise(const BlockSpec& spec, const PanelLayout& layout, Arena& arena) {
  if (!spec.elementwise) return std::nullopt;
  const ElementwiseSpec& from = *spec.elementwise;
  return PackedElementwise{from.kernel, pack_elementwise(from, spec.fc1.outputs, layout, arena), from.after_gemm_scale};
}

Block make_block(const BlockSpec& spec, int channels, const Windows* windows, const Kernels& kernels, Arena& arena) {
  const PanelLayout& layout = kernels.layout;
  const AttentionSpec& attention = spec.attention;
  return Block{spec.name,
               pack_norm(spec.norm1, 1, channels, layout, arena),
               pack_norm(spec.norm2, 1, channels, layout, arena),
               pack_layer(spec.qkv, layout, arena),
               pack_layer(spec.proj, layout, arena),
               pack_layer(spec.fc1, layout, arena),
               pack_layer(spec.fc2, layout, arena),
               attention.head_dim,
               spec.fc2.signed_input,
               make_heads(attention, kernels, arena),
               attention.pad ? copy<uint8_t>(attention.pad, static_cast<size_t>(spec.qkv.outputs), arena) : nullptr,
               make_elementwise(spec, layout, arena),
               windows};
}

}  // namespace

Model::Model(const NetworkSpec& spec, const Kernels& kernels, int threads) {
  arena.lay_out([&] { lay_out(spec, kernels, threads); });
}

void Model::lay_out(const NetworkSpec& spec, const Kernels& kernels, int threads) {
  channels = spec.image_channels, height = spec.image_height, width = spec.image_width;
  patch = spec.patch;
  inverse_input_scale = spec.inverse_input_scale;
  input_zero_point = spec.input_zero_point;
  patch_layer = pack_layer(spec.patch_layer, kernels.layout, arena);
  patch_norm = pack_norm(spec.patch_norm, 1, spec.patch_layer.outputs, kernels.layout, arena);
  softmax_table = copy<uint8_t>(spec.softmax_table, 128, arena);

  stages.clear();
  const StageSpec* before = nullptr;
  for (const StageSpec& from : spec.stages) {
    Stage stage{};
    stage.tokens = from.height * from.width, stage.channels = from.channels;
    stage.raster = raster_rows(stage.tokens, arena);
    stage.teams = choose_teams(window_count(from, from.blocks.front().attention), threads);
    if (from.merge) {
      const MergeSpec& merge = *from.merge;
      stage.merge = Merge{merge.name, pack_norm(merge.norm, 4, before->channels, kernels.layout, arena),
                          pack_layer(merge.reduction, kernels.layout, arena), merge_rows(before->height, before->width, arena)};
    }
    std::vector<std::array<int, 4>> known;
    for (const BlockSpec& block : from.blocks) {
      const Windows* windows = windows_of(block.attention, from, stage, known, kernels, arena);
      stage.blocks.push_back(make_block(block, from.channels, windows, kernels, arena));
    }
    stages.push_back(std::move(stage));  // a deque keeps the addresses of its elements when it moves
    before = &from;
  }

  const int last = spec.stages.back().channels;
  const auto stride = static_cast<size_t>(round_up(last, 64));
  head = {pack_norm(spec.head_norm, 1, last, kernels.layout, arena),
          spec.pool_multiplier,
          spec.pool_shift,
          spec.classes,
          stride,
          nullptr,
          copy<int32_t>(spec.head_bias, static_cast<size_t>(spec.classes), arena),
          copy<float>(spec.logit_scale, static_cast<size_t>(spec.classes), arena)};
  int16_t* weight = arena.take<int16_t>(stride * static_cast<size_t>(spec.classes));
  for (int n = 0; arena.committed() && n < spec.classes; ++n)
    std::copy_n(spec.head_weight + static_cast<size_t>(n) * last, last, weight + static_cast<size_t>(n) * stride);
  head.weight = weight;
}

}  // namespace geluless
