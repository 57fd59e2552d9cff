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

// gain or offset of an affine LayerNorm over `segments` rows of `width` channels each.
const float* pack_affine(const float* values, int segments, int width, const PanelLayout& layout, Arena& arena);

}  // namespace geluless
