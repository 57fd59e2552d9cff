// From a layer as Python describes it to panels in the order that one instruction set reads.

#pragma once

#include "memory.h"
#include "spec.h"

namespace geluless {

int padded_outputs(int outputs, const PanelLayout& layout);  // whole pairs of registers
int panel_count(int outputs, const PanelLayout& layout);

// Channels [outputs] of register order: element p of a padded array belongs to channel `channel_at(p)`, which may lie
// beyond the last one (padding).
int channel_at(int position, const PanelLayout& layout);

PackedLinear pack_layer(const LayerSpec& layer, const PanelLayout& layout, Arena& arena);

struct Norm {
  int64_t epsilon_term;
  float factor;
  const float *gamma, *beta;  // lane order, or null
  int segments, width;        // rows that are concatenated, channels of each

  int channels() const { return segments * width; }
};

Norm pack_norm(const NormSpec& spec, int segments, int width, const PanelLayout& layout, Arena& arena);

Channels pack_elementwise(const ElementwiseSpec& spec, int columns, const PanelLayout& layout, Arena& arena);

// One constant per channel of `segments` rows of `width` channels each, in lane order; null for null.
const float* pack_channels(const float* values, int segments, int width, const PanelLayout& layout, Arena& arena);

}  // namespace geluless
