// Swin's geometry as lists of stream rows: windows, cyclic shift, padding and masks become indices once, when the engine
// starts; at run time no token is ever moved.

#pragma once

#include <functional>

#include "memory.h"
#include "spec.h"

namespace geluless {

// Rows of a residual stream: one per token, then a row of zeros that nobody writes (beyond the edge when merging), then one
// row per thread that padding tokens write and nobody reads.
struct StreamRows {
  int tokens;

  int zero_row() const { return tokens; }
  int discard_row(int thread) const { return tokens + 1 + thread; }
  int count(int threads) const { return tokens + 1 + threads; }
};

struct Mask {
  const int16_t* limit = nullptr;  // score order: 32767, or -32768 where masked
  const uint8_t* keep = nullptr;   // weight order: 255, or 0 where masked
};

struct Windows {
  int tokens = 0, count = 0;      // of a window; windows
  const int32_t* rows = nullptr;  // [count, tokens] stream rows
  std::vector<int> mask_of;       // per window: index into masks or -1
  std::vector<Mask> masks;
};

Windows make_windows(int height, int width, std::array<int, 2> window, std::array<int, 2> shift, int teams,
                     const Kernels& kernels, Arena& arena);

// [tokens of the merged grid, 4]: the neighbours in timm's order (column parity outermost), zero_row beyond an odd edge.
const int32_t* merge_rows(int height, int width, Arena& arena);

// [tokens] 0, 1, 2, ...
const int32_t* raster_rows(int tokens, Arena& arena);

// Hides from each query of a window the keys for which `hidden(query, key)` is true.
Mask make_mask(int tokens, const std::function<bool(int query, int key)>& hidden, const Kernels& kernels, Arena& arena);

// Each with its relative position bias for every (query, key) of a window, in score order.
std::vector<AttentionHead> make_heads(const AttentionSpec& attention, const Kernels& kernels, Arena& arena);

}  // namespace geluless
