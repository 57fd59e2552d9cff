// Attention of one head in one window, integers from the scores to the context:
//
//   score   = sat16(sat16((q k + half) >> shift) + bias)              int16, 2 keys per register
//   weight  = table[min(((max - score) multiplier + 2^14) >> 15, 127)] uint8, 4 keys per dword
//   context = rint(fp32(sum weight v) (output_multiplier / fp32(sum weight)))  int8
//
// Queries lie on the lanes, so maximum and sum over the keys need no shuffles between lanes: a group of kLanes queries walks
// through all keys. Keys and values are copied next to each other first (scratch), because a head's rows lie 3 C bytes apart.
//
// Orders: a score register holds keys (2p, 2p+1) for kLanes queries as `narrow` leaves them; a weight register holds, per
// query, the bytes of four keys. Bias, limit and keep tables are laid out in these orders when the engine starts.

#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "simd.h"

namespace geluless::GELULESS_ISA {

constexpr int kBlock = 32;  // head channels that are copied and transposed at once

struct AttentionShape {
  int groups, quads, blocks;  // of queries, of four keys, of kBlock channels

  AttentionShape(int tokens, int head_dim)
      : groups((tokens + kLanes - 1) / kLanes), quads((tokens + 3) / 4), blocks((head_dim + kBlock - 1) / kBlock) {}
  size_t score_registers() const { return static_cast<size_t>(2) * quads; }  // of one group
};

inline size_t score_place(int tokens, int query, int key) {
  const AttentionShape shape(tokens, 1);
  const size_t reg = static_cast<size_t>(query / kLanes) * shape.score_registers() + static_cast<size_t>(key / 2);
  return reg * kPair + static_cast<size_t>(channel_in_pair(key % 2, query % kLanes));
}
inline size_t weight_place(int tokens, int query, int key) {
  const AttentionShape shape(tokens, 1);
  const size_t reg = static_cast<size_t>(query / kLanes) * shape.quads + static_cast<size_t>(key / 4);
  return (reg * kLanes + static_cast<size_t>(query % kLanes)) * 4 + static_cast<size_t>(key % 4);
}
inline size_t score_table_size(int tokens) {
  const AttentionShape shape(tokens, 1);
  return shape.groups * shape.score_registers() * kPair;
}
inline size_t weight_table_size(int tokens) {
  const AttentionShape shape(tokens, 1);
  return static_cast<size_t>(shape.groups) * shape.quads * kLanes * 4;
}

struct AttentionScratch {
  uint8_t* keys;     // [4 quads][blocks x kBlock] stored
  uint8_t* values;   // [blocks][quads][kBlock][4], as dot_value takes them
  int32_t* queries;  // [8 blocks][kLanes] dwords, int8
  int16_t* scores;   // [2 quads][kPair]
  uint8_t* weights;  // [quads][kLanes][4]
  uint8_t* context;  // [8 blocks][kLanes] dwords, stored
  uint8_t* edge;     // kLanes + 1 rows of kBlock bytes, for a head width that is no multiple of kBlock

  static size_t size(int tokens, int head_dim) { return AttentionScratch(nullptr, tokens, head_dim).end(head_dim); }
  AttentionScratch(uint8_t* p, int tokens, int head_dim) {
    const AttentionShape shape(tokens, head_dim);
    const size_t quads = static_cast<size_t>(shape.quads), blocks = static_cast<size_t>(shape.blocks);
    auto take = [&](size_t bytes) { return std::exchange(p, p + (bytes + kAlignment - 1) / kAlignment * kAlignment); };
    keys = take(4 * quads * blocks * kBlock);
    values = take(blocks * quads * kBlock * 4);
    queries = reinterpret_cast<int32_t*>(take(8 * blocks * kLanes * 4));
    scores = reinterpret_cast<int16_t*>(take(2 * quads * kPair * 2));
    weights = take(quads * kLanes * 4);
    context = take(8 * blocks * kLanes * 4);
    edge = take((kLanes + 1) * kBlock);
    end_ = p;
  }

 private:
  uint8_t* end_;
  size_t end(int) const { return static_cast<size_t>(end_ - keys); }
};

// ---- copying in and out; bytes beyond head_dim stand for zero

inline void copy_keys(const AttentionCall& call, const AttentionShape& shape, uint8_t* keys) {
  const size_t row = static_cast<size_t>(shape.blocks) * kBlock, used = static_cast<size_t>(call.head_dim);
  const uint8_t* from = call.qkv + call.width + static_cast<size_t>(call.head) * used;
  for (int key = 0; key < call.tokens; ++key, from += call.qkv_stride, keys += row) {
    if (used == kBlock) std::memcpy(keys, from, kBlock);
    else std::memcpy(keys, from, used), std::memset(keys + used, kSignedOffset, row - used);
  }
  std::memset(keys, kSignedOffset, row * static_cast<size_t>(4 * shape.quads - call.tokens));
}

inline void copy_values(const AttentionCall& call, const AttentionShape& shape, uint8_t* values, uint8_t* edge) {
  std::memset(edge, kSignedOffset, 4 * kBlock + kBlock);
  const uint8_t* zero_row = edge + 4 * kBlock;
  for (int block = 0; block < shape.blocks; ++block) {
    const int width = std::min(kBlock, call.head_dim - block * kBlock);
    const uint8_t* from = call.qkv + 2 * static_cast<size_t>(call.width) + static_cast<size_t>(call.head) * call.head_dim +
                          static_cast<size_t>(block) * kBlock;
    for (int quad = 0; quad < shape.quads; ++quad, values += 4 * kBlock) {
      const uint8_t* rows[4];
      for (int i = 0; i < 4; ++i, from += call.qkv_stride) {
        if (4 * quad + i >= call.tokens) rows[i] = zero_row;
        else if (width == kBlock) rows[i] = from;
        else rows[i] = edge + i * kBlock, std::memcpy(edge + i * kBlock, from, static_cast<size_t>(width));
      }
      interleave_values(rows, values);
    }
  }
}

__attribute__((noinline)) inline void copy_queries(const AttentionCall& call, const AttentionShape& shape, int first, int count,
                                                   const AttentionScratch& scratch) {
  for (int block = 0; block < shape.blocks; ++block) {
    const int width = std::min(kBlock, call.head_dim - block * kBlock);
    const uint8_t* from = call.qkv + static_cast<size_t>(first) * call.qkv_stride +
                          static_cast<size_t>(call.head) * call.head_dim + static_cast<size_t>(block) * kBlock;
    Bytes dwords[8];
    if (width == kBlock && count == kLanes) {
      load_transposed(from, call.qkv_stride, kLanes, dwords);
    } else if (width == kBlock && count == 1) {
      load_transposed(from, call.qkv_stride, 1, dwords);
    } else {
      std::memset(scratch.edge, kSignedOffset, kLanes * kBlock);
      for (int i = 0; i < count; ++i)
        std::memcpy(scratch.edge + i * kBlock, from + static_cast<size_t>(i) * call.qkv_stride, static_cast<size_t>(width));
      load_transposed(scratch.edge, kBlock, kLanes, dwords);
    }
    for (int k = 0; k < 8; ++k)
      store_bytes(reinterpret_cast<uint8_t*>(scratch.queries) + (8 * block + k) * 4 * kLanes, as_query(dwords[k]));
  }
}

__attribute__((noinline)) inline void store_context(const AttentionCall& call, const AttentionShape& shape, int first, int count,
                                                    const AttentionScratch& scratch) {
  for (int block = 0; block < shape.blocks; ++block) {
    const int width = std::min(kBlock, call.head_dim - block * kBlock);
    uint8_t* to = call.output + static_cast<size_t>(first) * call.output_stride + static_cast<size_t>(call.head) * call.head_dim +
                  static_cast<size_t>(block) * kBlock;
    Bytes dwords[8];
    for (int k = 0; k < 8; ++k) dwords[k] = load_bytes(scratch.context + (8 * block + k) * 4 * kLanes);
    if (width == kBlock && count == kLanes) {
      store_transposed(dwords, to, call.output_stride, kLanes);
    } else if (width == kBlock && count == 1) {
      store_transposed(dwords, to, call.output_stride, 1);
    } else {
      store_transposed(dwords, scratch.edge, kBlock, kLanes);
      for (int i = 0; i < count; ++i)
        std::memcpy(to + static_cast<size_t>(i) * call.output_stride, scratch.edge + i * kBlock, static_cast<size_t>(width));
    }
  }
}

// ---- scores, weights, context of one group of queries

// kDwords: four-channel groups of a key, known at compile time for the usual head width of 32, else 0.
template <int kKeys, int kDwords>
inline void score_keys(const uint8_t* keys, const int32_t* queries, int dwords, I32 start, I32 shift, const int16_t* bias,
                       I16* out) {
  I32 acc[kKeys];
#pragma GCC unroll 8
  for (int j = 0; j < kKeys; ++j) acc[j] = start;
  const int count = kDwords ? kDwords : dwords;
  const size_t row = static_cast<size_t>(count) * 4;
#pragma GCC unroll 8
  for (int k = 0; k < count; ++k) {
    const Weights q = load_weights(reinterpret_cast<const int8_t*>(queries + k * kLanes));
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) dot(acc[j], broadcast(keys + j * row + 4 * k), q);
  }
#pragma GCC unroll 4
  for (int p = 0; p < kKeys / 2; ++p)
    out[p] = add_i16(narrow(shift_right(acc[2 * p], shift), shift_right(acc[2 * p + 1], shift)), load_i16(bias + p * kPair));
}

template <int kDwords>
__attribute__((noinline)) I16 score_group(const AttentionCall& call, const AttentionShape& shape, int group,
                                          const AttentionScratch& scratch) {
  const AttentionHead& head = *call.parameters;
  const int dwords = 8 * shape.blocks;
  const size_t row = static_cast<size_t>(dwords) * 4;
  // Stored keys are k + 128; what the dot product does not subtract itself is one constant per query.
  I32 query_sum = zero_i32();
  alignas(4) constexpr uint8_t kOnes[4] = {kInputOffset + 1, kInputOffset + 1, kInputOffset + 1, kInputOffset + 1};
  for (int k = 0; k < dwords; ++k)
    dot(query_sum, broadcast(kOnes), load_weights(reinterpret_cast<const int8_t*>(scratch.queries + k * kLanes)));
  const int half = head.score_shift > 0 ? 1 << (head.score_shift - 1) : 0;
  const I32 start = sub_i32(splat_i32(half), times(query_sum, kSignedOffset - kInputOffset));
  const I32 shift = splat_i32(head.score_shift);

  const int16_t* bias = head.bias + static_cast<size_t>(group) * shape.score_registers() * kPair;
  const int16_t* limit = call.limit ? call.limit + static_cast<size_t>(group) * shape.score_registers() * kPair : nullptr;
  const uint8_t* keys = scratch.keys;
  int16_t* scores = scratch.scores;
  I16 top = splat_i16(INT16_MIN);
  const int quads = shape.quads;
  int quad = 0;
  auto keep = [&](I16 score) {
    if (limit) score = min_i16(score, load_i16(limit)), limit += kPair;
    store_i16(scores, score);
    scores += kPair;
    top = max_i16(top, score);
  };
  const bool ragged = call.tokens % 4 != 0;
  constexpr int kQuads = kKeysAtOnce / 4;
  for (; quad + kQuads <= quads - (ragged ? 1 : 0); quad += kQuads, keys += kKeysAtOnce * row, bias += 2 * kQuads * kPair) {
    I16 out[kKeysAtOnce / 2];
    score_keys<kKeysAtOnce, kDwords>(keys, scratch.queries, dwords, start, shift, bias, out);
#pragma GCC unroll 4
    for (int p = 0; p < kKeysAtOnce / 2; ++p) keep(out[p]);
  }
  for (; quad < quads; ++quad, keys += 4 * row, bias += 2 * kPair) {
    I16 out[2];
    score_keys<4, kDwords>(keys, scratch.queries, dwords, start, shift, bias, out);
    if (ragged && quad == quads - 1) {  // keys that do not exist must not raise the maximum
      const int valid = call.tokens % 4;
      if (valid < 3) out[1] = splat_i16(INT16_MIN);
      if (valid % 2) out[valid / 2] = first_key_only(out[valid / 2]);
    }
    keep(out[0]);
    keep(out[1]);
  }
  return max_i16(top, swap_keys(top));
}

__attribute__((noinline)) inline I32 weigh_group(const AttentionCall& call, const AttentionShape& shape, int group, I16 top,
                                                 const AttentionScratch& scratch) {
  const I16 multiplier = splat_i16(call.parameters->score_multiplier);
  const Table128 table = load_table128(call.softmax_table);
  const Bytes last = splat_bytes(127);
  const uint8_t* keep = call.keep ? call.keep + static_cast<size_t>(group) * shape.quads * kLanes * 4 : nullptr;
  const int16_t* scores = scratch.scores;
  uint8_t* weights = scratch.weights;
  I32 total = zero_i32();
  auto weigh = [&] {
    const I16 a = multiply_round(sub_i16(top, load_i16(scores)), multiplier);
    const I16 b = multiply_round(sub_i16(top, load_i16(scores + kPair)), multiplier);
    scores += 2 * kPair;
    Bytes w = lookup(table, min_bytes(quads(a, b), last));
    if (keep) w = and_bytes(w, load_bytes(keep)), keep += 4 * kLanes;
    return w;
  };
  auto put = [&](Bytes w) {
    store_bytes(weights, w);
    weights += 4 * kLanes;
    add_quads(total, w);
  };
  const int whole = call.tokens / 4;
  for (int quad = 0; quad < whole; ++quad) put(weigh());
  if (const int valid = call.tokens % 4; valid > 0) put(and_bytes(weigh(), splat_dwords((1u << (8 * valid)) - 1)));
  return total;
}

// kValuesAtOnce channels of the context: weights (uint8) times values (int8) over all keys.
__attribute__((noinline)) inline void context_channels(const AttentionShape& shape, const uint8_t* values, F32 ratio, I32 offset,
                                                       const AttentionScratch& scratch, uint8_t* out) {
  I32 acc[kValuesAtOnce];
#pragma GCC unroll 16
  for (int c = 0; c < kValuesAtOnce; ++c) acc[c] = offset;
  const uint8_t* weights = scratch.weights;
#pragma GCC unroll 1
  for (int quad = 0; quad < shape.quads; ++quad, weights += 4 * kLanes, values += 4 * kBlock) {
    const Bytes w = load_bytes(weights);
#pragma GCC unroll 16
    for (int c = 0; c < kValuesAtOnce; ++c) dot_value(acc[c], w, values + 4 * c);
  }
  const I16 stored = splat_i16(kSignedOffset);
  auto finish = [&](I32 a, I32 b) {
    return add_i16(narrow(to_int(mul(to_float(a), ratio)), to_int(mul(to_float(b), ratio))), stored);
  };
#pragma GCC unroll 4
  for (int c = 0; c < kValuesAtOnce; c += 4)
    store_bytes(out + c * kLanes, quads(finish(acc[c], acc[c + 1]), finish(acc[c + 2], acc[c + 3])));
}

inline void attention(const AttentionCall& call) {
  const AttentionShape shape(call.tokens, call.head_dim);
  const AttentionScratch scratch(call.scratch, call.tokens, call.head_dim);
  copy_keys(call, shape, scratch.keys);
  copy_values(call, shape, scratch.values, scratch.edge);
  for (int group = 0; group < shape.groups; ++group) {
    const int first = group * kLanes, count = std::min(kLanes, call.tokens - first);
    copy_queries(call, shape, first, count, scratch);
    const I16 top = shape.blocks == 1 ? score_group<8>(call, shape, group, scratch) : score_group<0>(call, shape, group, scratch);
    const I32 total = weigh_group(call, shape, group, top, scratch);
    const F32 ratio = div(splat_f32(call.parameters->output_multiplier), to_float(max_i32(total, splat_i32(1))));
    const I32 offset = times(total, -kValueOffset);
    for (int block = 0; block < shape.blocks; ++block)
      for (int c = 0; c < kBlock; c += kValuesAtOnce)
        context_channels(shape, scratch.values + (static_cast<size_t>(block) * shape.quads * kBlock + c) * 4, ratio, offset,
                         scratch, scratch.context + (static_cast<size_t>(block) * kBlock + c) * kLanes);
    store_context(call, shape, first, count, scratch);
  }
}

}  // namespace geluless::GELULESS_ISA
