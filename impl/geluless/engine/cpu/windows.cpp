#include "windows.h"

#include <algorithm>

#include "threads.h"

namespace geluless {

namespace {

// Which of two regions a token of the last window along one axis belongs to: the cyclic shift brought the second one there
// from the other edge of the image.
int region(int position, int window, int shift) { return position >= window - shift; }

// Tokens of different regions do not see each other.
Mask shift_mask(std::array<int, 2> window, std::array<int, 2> shift, const Kernels& kernels, Arena& arena) {
  auto region_of = [&](int token) {
    return 2 * region(token / window[1], window[0], shift[0]) + region(token % window[1], window[1], shift[1]);
  };
  return make_mask(
      window[0] * window[1], [&](int query, int key) { return region_of(query) != region_of(key); }, kernels, arena);
}

const int16_t* expand_bias(const AttentionSpec& attention, int head, const Kernels& kernels, Arena& arena) {
  const auto [rows, columns] = attention.window;
  const int tokens = rows * columns;
  int16_t* out = arena.take<int16_t>(kernels.score_table_size(tokens));
  if (!arena.committed()) return nullptr;
  for (int query = 0; query < tokens; ++query)
    for (int key = 0; key < tokens; ++key) {
      const int down = query / columns - key / columns + rows - 1, right = query % columns - key % columns + columns - 1;
      out[kernels.score_place(tokens, query, key)] =
          attention.bias_table[static_cast<size_t>(down * (2 * columns - 1) + right) * attention.heads + head];
    }
  return out;
}

}  // namespace

Windows make_windows(int height, int width, std::array<int, 2> window, std::array<int, 2> shift, int teams,
                     const Kernels& kernels, Arena& arena) {
  const int down = (height + window[0] - 1) / window[0], across = (width + window[1] - 1) / window[1];
  const StreamRows stream{height * width};
  Windows out;
  out.tokens = window[0] * window[1];
  out.count = down * across;
  int32_t* rows = arena.take<int32_t>(static_cast<size_t>(out.count) * out.tokens);
  out.rows = rows;
  out.mask_of.assign(static_cast<size_t>(out.count), -1);
  std::array<int, 4> masks{-1, -1, -1, -1};
  for (int team = 0; team < teams; ++team) {
    const Share share{team, teams};
    for (int w = share.begin(out.count); w < share.end(out.count); ++w) {
      const int top = w / across * window[0], left = w % across * window[1];
      if (arena.committed())
        for (int t = 0; t < out.tokens; ++t) {
          const int y = top + t / window[1], x = left + t % window[1];
          const bool inside = y < height && x < width;
          rows[static_cast<size_t>(w) * out.tokens + t] =
              inside ? (y + shift[0]) % height * width + (x + shift[1]) % width : stream.discard_row(team);
        }
      const int lowest = shift[0] > 0 && w / across == down - 1, rightmost = shift[1] > 0 && w % across == across - 1;
      if (lowest || rightmost) {
        int& mask = masks[static_cast<size_t>(2 * lowest + rightmost)];
        if (mask < 0) {
          mask = static_cast<int>(out.masks.size());
          out.masks.push_back(shift_mask(window, {lowest * shift[0], rightmost * shift[1]}, kernels, arena));
        }
        out.mask_of[static_cast<size_t>(w)] = mask;
      }
    }
  }
  return out;
}

const int32_t* merge_rows(int height, int width, Arena& arena) {
  const int down = (height + 1) / 2, across = (width + 1) / 2;
  int32_t* rows = arena.take<int32_t>(static_cast<size_t>(down) * across * 4);
  if (!arena.committed()) return nullptr;
  const StreamRows stream{height * width};
  for (int y = 0; y < down; ++y)
    for (int x = 0; x < across; ++x)
      for (int part = 0; part < 4; ++part) {
        const int from_y = 2 * y + part % 2, from_x = 2 * x + part / 2;
        rows[(static_cast<size_t>(y) * across + x) * 4 + part] =
            from_y < height && from_x < width ? from_y * width + from_x : stream.zero_row();
      }
  return rows;
}

const int32_t* raster_rows(int tokens, Arena& arena) {
  int32_t* rows = arena.take<int32_t>(static_cast<size_t>(tokens));
  for (int t = 0; arena.committed() && t < tokens; ++t) rows[t] = t;
  return rows;
}

Mask make_mask(int tokens, const std::function<bool(int query, int key)>& hidden, const Kernels& kernels, Arena& arena) {
  const size_t scores = kernels.score_table_size(tokens), weights = kernels.weight_table_size(tokens);
  int16_t* limit = arena.take<int16_t>(scores);
  uint8_t* keep = arena.take<uint8_t>(weights);
  if (!arena.committed()) return {};
  std::fill_n(limit, scores, INT16_MAX);
  std::fill_n(keep, weights, uint8_t{255});
  for (int query = 0; query < tokens; ++query)
    for (int key = 0; key < tokens; ++key)
      if (hidden(query, key)) {
        limit[kernels.score_place(tokens, query, key)] = INT16_MIN;
        keep[kernels.weight_place(tokens, query, key)] = 0;
      }
  return {limit, keep};
}

std::vector<AttentionHead> make_heads(const AttentionSpec& attention, const Kernels& kernels, Arena& arena) {
  std::vector<AttentionHead> heads;
  for (int h = 0; h < attention.heads; ++h)
    heads.push_back({attention.score_shift[h], attention.score_multiplier[h], attention.output_multiplier[h],
                     expand_bias(attention, h, kernels, arena)});
  return heads;
}

}  // namespace geluless
