#include "pack.h"

#include <algorithm>

#define GELULESS_ISA baseline
#include "ibert_gelu.h"
#include "shift_gelu.h"

namespace geluless {

int padded_outputs(int outputs, const PanelLayout& layout) { return round_up(outputs, 2 * layout.lanes); }

int panel_count(int outputs, const PanelLayout& layout) {
  const int width = layout.columns();
  return (padded_outputs(outputs, layout) + width - 1) / width;
}

int channel_at(int position, const PanelLayout& layout) {
  const int pair = 2 * layout.lanes, inside = position % pair;
  return position - inside + layout.channel_in_pair(inside / layout.lanes, inside % layout.lanes);
}

namespace {

template <class T>
const T* reorder(const T* values, int outputs, T padding, const PanelLayout& layout, Arena& arena) {
  if (!values) return nullptr;
  const int padded = padded_outputs(outputs, layout);
  T* out = arena.take<T>(static_cast<size_t>(padded));
  if (!arena.committed()) return nullptr;
  for (int p = 0; p < padded; ++p) {
    const int channel = channel_at(p, layout);
    out[p] = channel < outputs ? values[channel] : padding;
  }
  return out;
}

// What is applied after the pack, where channels are in their natural order again: only padded.
const int16_t* natural(const int16_t* values, int outputs, const PanelLayout& layout, Arena& arena) {
  if (!values) return nullptr;
  int16_t* out = arena.take<int16_t>(static_cast<size_t>(padded_outputs(outputs, layout)));
  if (arena.committed()) std::copy_n(values, outputs, out);
  return out;
}

// acc = sum (stored - input_offset) w + bias'. With stored = q + 128 for a signed input the real sum of q w needs
// bias' = bias - (128 - input_offset) sum w; modulo 2^32, as the accumulator itself.
const int32_t* compensated_bias(const LayerSpec& layer, const PanelLayout& layout, Arena& arena) {
  std::vector<int32_t> bias(static_cast<size_t>(layer.outputs));
  const int excess = (layer.signed_input ? kSignedOffset : 0) - layout.input_offset;
  for (int n = 0; n < layer.outputs; ++n) {
    int32_t sum = 0;  // at most 2^16 weights of 127
    for (int k = 0; k < layer.inputs; ++k) sum += layer.weight[static_cast<size_t>(n) * layer.inputs + k];
    const uint32_t correction = static_cast<uint32_t>(excess) * static_cast<uint32_t>(sum);
    bias[static_cast<size_t>(n)] = static_cast<int32_t>(static_cast<uint32_t>(layer.bias[n]) - correction);
  }
  return reorder(bias.data(), layer.outputs, 0, layout, arena);
}

// [panel][inputs / 4][vector][lane][4]
const int8_t* pack_weights(const LayerSpec& layer, const PanelLayout& layout, Arena& arena) {
  const int padded = padded_outputs(layer.outputs, layout), depth = round_up(layer.inputs, 4);
  int8_t* out = arena.take<int8_t>(static_cast<size_t>(padded) * depth);
  if (!arena.committed()) return nullptr;
  const int lanes = layout.lanes, width = layout.columns();
  for (int p = 0; p < padded; ++p) {
    const int channel = channel_at(p, layout);
    if (channel >= layer.outputs) continue;  // the arena is zero
    const int panel = p / width * width;
    const int vectors = std::min(width, padded - panel) / lanes;
    const int8_t* row = layer.weight + static_cast<size_t>(channel) * layer.inputs;
    int8_t* to = out + static_cast<size_t>(panel) * depth + static_cast<size_t>((p - panel) / lanes * lanes + p % lanes) * 4;
    const size_t step = static_cast<size_t>(vectors) * lanes * 4;
    for (int k = 0; k < layer.inputs; k += 4, to += step)
      std::memcpy(to, row + k, static_cast<size_t>(std::min(4, layer.inputs - k)));
  }
  return out;
}

// Whether the constants are what they claim to be, so that no shift or product of shift_gelu() leaves its type.
bool is_consistent(const ShiftGelu& g) {
  const int32_t q = 255 - g.zero_point;
  const bool range = g.zero_point >= 0 && q >= 0 && g.unit >= 1 && g.unit <= 255 && g.to_hidden > 0 && g.to_hidden <= 16384.0 &&
                     g.hidden_zero >= -256 && g.hidden_zero <= 256;
  return range && g.top == q + (q >> 1) + (q >> 3) + (q >> 4) && g.floor == -23 * g.unit &&
         g.reciprocal == static_cast<uint32_t>(((1 << 20) + g.unit - 1) / g.unit);
}

// Whether no product or sum of ibert_gelu() leaves int32: with |q| <= 255, and squares and `one` at most 2^21, the product is at
// most 255 2^22, and the rounding half at most 2^29.
bool is_consistent(const IBertGelu& g) {
  return g.zero_point >= 0 && g.zero_point <= 255 && g.knee >= 0 && g.knee <= 1448 && g.one >= 0 && g.one <= 1 << 21 &&
         g.shift >= 0 && g.shift <= 30 && g.multiplier >= 1 && g.multiplier <= INT16_MAX && g.hidden_zero >= -256 &&
         g.hidden_zero <= 256;
}

// Whether 32-bit integers give the table's value for every pre-activation. ShiftGELU's do unless the scale of the pre-activation
// is finer than 1/255 or a value ends on a tie, I-BERT's unless that scale is finer than 1/550 or so coarse that the product
// would be shifted to the left. Then the table stands in, with the same bits.
bool integers_fit(const LayerSpec& layer) {
  uint8_t bytes[256];
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  if (layer.epilogue == Epilogue::kFixedShiftGelu) {
    if (!is_consistent(layer.shift_gelu)) return false;
    baseline::shift_gelu<256>(bytes, layer.shift_gelu);
  } else {
    if (!is_consistent(layer.ibert_gelu)) return false;
    baseline::ibert_gelu<256>(bytes, layer.ibert_gelu);
  }
  return std::equal(bytes, bytes + 256, layer.lut);
}

}  // namespace

PackedLinear pack_layer(const LayerSpec& layer, const PanelLayout& layout, Arena& arena) {
  PackedLinear packed{};
  const bool in_integers = layer.epilogue == Epilogue::kFixedShiftGelu || layer.epilogue == Epilogue::kFixedIBertGelu;
  const bool lut_instead = in_integers && !integers_fit(layer);
  packed.epilogue = lut_instead ? Epilogue::kFixedLut : layer.epilogue;
  packed.inputs = layer.inputs;
  packed.outputs = layer.outputs;
  packed.panels = pack_weights(layer, layout, arena);
  Channels& c = packed.channels;
  c.bias = compensated_bias(layer, layout, arena);
  c.shift = reorder(layer.shift, layer.outputs, int32_t{0}, layout, arena);
  c.multiplier = natural(layer.multiplier, layer.outputs, layout, arena);
  c.scale = reorder(layer.scale, layer.outputs, 0.0f, layout, arena);
  c.gain = reorder(layer.gain, layer.outputs, 0.0f, layout, arena);
  c.offset = reorder(layer.offset, layer.outputs, 0.0f, layout, arena);
  if (layer.lut) {
    uint8_t* lut = arena.take<uint8_t>(256);
    if (arena.committed()) std::memcpy(lut, layer.lut, 256);
    c.lut = lut;
  }
  c.shift_gelu = layer.shift_gelu;
  c.ibert_gelu = layer.ibert_gelu;
  c.zero = layer.zero;
  c.lowest = layer.lowest;
  c.highest = layer.highest;
  c.inverse_scale = layer.inverse_scale;
  return packed;
}

Norm pack_norm(const NormSpec& spec, int segments, int width, const PanelLayout& layout, Arena& arena) {
  const float* gamma = pack_channels(spec.gamma, segments, width, layout, arena);
  return {spec.epsilon_term, spec.factor, gamma, pack_channels(spec.beta, segments, width, layout, arena), segments, width};
}

Channels pack_elementwise(const ElementwiseSpec& spec, int columns, const PanelLayout& layout, Arena& arena) {
  Channels c{};
  c.gain = pack_channels(spec.gain, 1, columns, layout, arena);
  c.offset = pack_channels(spec.offset, 1, columns, layout, arena);
  c.zero = spec.zero;
  c.lowest = spec.lowest;
  c.highest = spec.highest;
  c.inverse_scale = spec.inverse_scale;
  return c;
}

const float* pack_channels(const float* values, int segments, int width, const PanelLayout& layout, Arena& arena) {
  if (!values) return nullptr;
  const int padded = padded_outputs(width, layout);
  float* out = arena.take<float>(static_cast<size_t>(segments) * padded);
  if (!arena.committed()) return nullptr;
  for (int s = 0; s < segments; ++s)
    for (int p = 0; p < padded; ++p) {
      const int channel = channel_at(p, layout);
      out[s * padded + p] = channel < width ? values[s * width + channel] : 0.0f;
    }
  return out;
}

}  // namespace geluless
