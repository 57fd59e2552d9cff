// Reads what tests/native_dump.py writes: lowered networks with images and the reference's logits.
//
//   file    "GELULESS", then one value: a list of (name, tolerance, network, images, logits)
//   value   kind, uint32 count, count elements. Kinds: ( a list or a dataclass, whose elements are values; q int64, d double,
//           s text, b int8, B uint8, h int16, i int32, f float32; n nothing, for None. Little-endian, not aligned.
//
// A dataclass of lowering.py is the list of its fields in their order. Every count is checked against the bytes that are left
// and against the shape that the kernels will assume; any contradiction throws with the place in the file.

#pragma once

#include <bit>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

#include "check_cases.h"

namespace geluless {

static_assert(std::endian::native == std::endian::little);

struct FileCase {
  std::string name;
  double tolerance;  // of a logit; 0 demands equality
  NetworkSpec network;
  int images;
  const float *pixels, *logits;
};

class Reader {
 public:
  Reader(const std::vector<uint8_t>& bytes, Store& store)
      : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), store_(store) {}

  std::vector<FileCase> cases() {
    require(end_ - at_ >= 8 && std::memcmp(at_, "GELULESS", 8) == 0, "no dump of networks");
    at_ += 8;
    std::vector<FileCase> out(list());
    for (FileCase& c : out) {
      list(5);
      c.name = text();
      c.tolerance = real();
      c.network = network();
      const NetworkSpec& n = c.network;
      const auto [pixels, count] = array<float>();
      const size_t image = pixels_of(n);
      require(count > 0 && count % image == 0 && count / image < 1000, "whole images expected");
      c.images = static_cast<int>(count / image);
      c.pixels = pixels;
      c.logits = array<float>(count / image * static_cast<size_t>(n.classes));
    }
    require(at_ == end_, "more follows than belongs to the dump");
    return out;
  }

 private:
  void require(bool condition, const std::string& what) const {
    if (!condition) throw std::runtime_error("byte " + std::to_string(at_ - begin_) + ": " + what);
  }

  // ---- values
  uint32_t head(char kind, size_t size) {
    require(end_ - at_ >= 5, "the file ends too early");
    require(*at_ == kind, std::string("a value of kind ") + kind + " expected");
    uint32_t count;
    std::memcpy(&count, at_ + 1, 4);
    require(count <= static_cast<size_t>(end_ - at_ - 5) / size, "the file ends too early");
    at_ += 5;
    return count;
  }
  bool none() {
    if (at_ == end_ || *at_ != 'n') return false;
    require(head('n', 1) == 0, "None has no elements");
    return true;
  }
  uint32_t list() { return head('(', 5); }  // every element takes five bytes at least
  void list(uint32_t fields) { require(list() == fields, std::to_string(fields) + " fields expected"); }
  template <class T>
  std::pair<const T*, size_t> array() {
    constexpr char kind = std::is_same_v<T, int64_t>    ? 'q'
                          : std::is_same_v<T, double>   ? 'd'
                          : std::is_same_v<T, int8_t>   ? 'b'
                          : std::is_same_v<T, uint8_t>  ? 'B'
                          : std::is_same_v<T, int16_t>  ? 'h'
                          : std::is_same_v<T, int32_t>  ? 'i'
                          : std::is_same_v<T, float>    ? 'f'
                                                        : 's';
    const size_t count = head(kind, sizeof(T));
    T* out = store_.take<T>(count);
    std::memcpy(out, at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return {out, count};
  }
  template <class T>
  const T* array(size_t expected, bool optional = false) {
    if (optional && none()) return nullptr;
    const auto [data, count] = array<T>();
    require(count == expected, std::to_string(expected) + " elements expected");
    return data;
  }
  int integer(int64_t low, int64_t high) { return static_cast<int>(wide(low, high)); }
  int64_t wide(int64_t low, int64_t high) {
    const int64_t value = *array<int64_t>(1);
    require(low <= value && value <= high, "an integer out of range");
    return value;
  }
  int32_t int32() { return integer(INT32_MIN, INT32_MAX); }
  double real() { return *array<double>(1); }
  float single() { return static_cast<float>(real()); }
  std::string text() {
    const auto [data, count] = array<char>();
    return {data, count};
  }
  std::array<int, 2> pair(int low, int high) {
    list(2);
    const int first = integer(low, high), second = integer(low, high);
    return {first, second};
  }

  // ---- the dataclasses of lowering.py
  LayerSpec layer() {
    static const std::map<std::string, Epilogue> epilogues = {
        {"relu", Epilogue::kRelu},         {"bytes", Epilogue::kBytes},         {"words", Epilogue::kWords},
        {"residual", Epilogue::kResidual}, {"table", Epilogue::kTable},         {"shift-gelu", Epilogue::kShiftGelu},
        {"relu-float", Epilogue::kReluFloat}, {"gelu-erf", Epilogue::kGeluErf}, {"twice-bytes", Epilogue::kTwiceBytes},
        {"twice-words", Epilogue::kTwiceWords}, {"twice-residual", Epilogue::kTwiceResidual},
        {"gelu-polynomial", Epilogue::kGeluPolynomial}, {"after-gemm", Epilogue::kAfterGemm}};
    list(17);
    LayerSpec l{};
    const auto found = epilogues.find(text());
    require(found != epilogues.end(), "no such epilogue");
    l.epilogue = found->second;
    l.inputs = integer(1, 1 << 24), l.outputs = integer(1, 1 << 16), l.signed_input = integer(0, 1);
    const auto n = static_cast<size_t>(l.outputs);
    l.weight = array<int8_t>(n * static_cast<size_t>(l.inputs));
    l.bias = array<int32_t>(n);
    const bool table = l.epilogue == Epilogue::kTable || l.epilogue == Epilogue::kShiftGelu;
    const bool fixed = l.epilogue <= Epilogue::kShiftGelu;  // the integer law comes first
    const bool twice = Epilogue::kTwiceBytes <= l.epilogue && l.epilogue <= Epilogue::kTwiceResidual;
    l.shift = array<int32_t>(n, !fixed), l.multiplier = array<int16_t>(n, !fixed);
    for (size_t i = 0; l.shift && i < n; ++i) require(0 <= l.shift[i] && l.shift[i] <= 30, "a shift out of range");
    l.scale = array<float>(n, fixed), l.gain = array<float>(n, !twice), l.offset = array<float>(n, !twice);
    l.table = array<uint8_t>(256, !table);
    if (!none()) {
      list(8);
      ShiftGelu& g = l.shift_gelu;
      g.zero_point = int32(), g.top = int32(), g.unit = int32(), g.floor = int32();
      g.reciprocal = static_cast<uint32_t>(wide(0, UINT32_MAX)), g.negative = static_cast<uint32_t>(wide(0, UINT32_MAX));
      g.to_hidden = real(), g.hidden_zero = int32();
    }
    l.zero = int32(), l.lowest = int32(), l.highest = int32(), l.per_step = single();
    return l;
  }
  NormSpec norm(int channels) {
    list(4);
    NormSpec n{};
    n.epsilon_term = wide(1, INT64_MAX), n.factor = single();
    n.gain = array<float>(static_cast<size_t>(channels), true), n.offset = array<float>(static_cast<size_t>(channels), !n.gain);
    return n;
  }
  AttentionSpec attention() {
    list(9);
    AttentionSpec a{};
    a.heads = integer(1, 1 << 16), a.head_dim = integer(1, 1024), a.window = pair(1, 128), a.shift = pair(0, 127);
    require(a.shift[0] < a.window[0] && a.shift[1] < a.window[1], "a shift as large as its window");
    const auto heads = static_cast<size_t>(a.heads);
    a.bias_table = array<int16_t>(static_cast<size_t>((2 * a.window[0] - 1) * (2 * a.window[1] - 1)) * heads);
    a.score_shift = array<int32_t>(heads), a.score_multiplier = array<int16_t>(heads), a.output_multiplier = array<float>(heads);
    for (size_t h = 0; h < heads; ++h) require(0 <= a.score_shift[h] && a.score_shift[h] <= 30, "a shift out of range");
    a.pad = array<uint8_t>(3 * heads * static_cast<size_t>(a.head_dim), true);
    return a;
  }
  std::optional<PassSpec> separate(int hidden) {
    static const std::map<std::string, Pass> passes = {
        {"relu-words", Pass::kReluWords}, {"relu-after-gemm", Pass::kReluAfterGemm}, {"gelu-after-gemm", Pass::kGeluAfterGemm}};
    if (none()) return std::nullopt;
    list(8);
    const auto found = passes.find(text());
    require(found != passes.end(), "no such kernel");
    PassSpec p{};
    p.pass = found->second;
    const auto n = static_cast<size_t>(hidden);
    p.gain = array<float>(n, p.pass != Pass::kReluAfterGemm), p.offset = array<float>(n, p.pass == Pass::kReluWords);
    p.zero = int32(), p.lowest = int32(), p.highest = int32(), p.per_step = single(), p.after_gemm_scale = single();
    return p;
  }
  static bool words(const LayerSpec& l) { return l.epilogue == Epilogue::kWords || l.epilogue == Epilogue::kTwiceWords; }
  static bool residual(const LayerSpec& l) { return l.epilogue == Epilogue::kResidual || l.epilogue == Epilogue::kTwiceResidual; }
  BlockSpec block(const StageSpec& stage) {
    list(9);
    const int c = stage.channels;
    BlockSpec b{};
    b.name = text();
    b.norm1 = norm(c), b.norm2 = norm(c);
    b.qkv = layer(), b.proj = layer(), b.fc1 = layer(), b.fc2 = layer();
    b.attention = attention();
    b.pass = separate(b.fc1.outputs);
    const int width = b.attention.heads * b.attention.head_dim;
    const bool fits = b.qkv.inputs == c && b.qkv.outputs == 3 * width && b.proj.inputs == width && b.proj.outputs == c &&
                      b.fc1.inputs == c && b.fc2.inputs == b.fc1.outputs && b.fc2.outputs == c;
    require(fits, "the layers of a block do not fit together");
    const auto [rows, columns] = b.attention.window;
    require(b.attention.pad || (stage.height % rows == 0 && stage.width % columns == 0), "pad is missing");
    const bool bytes = !words(b.qkv) && !residual(b.qkv) && !residual(b.fc1);
    const bool relu_words = b.pass && b.pass->pass == Pass::kReluWords;
    require(bytes && words(b.fc1) == relu_words && residual(b.proj) && residual(b.fc2), "an epilogue in the wrong place");
    return b;
  }
  NetworkSpec network() {
    list(15);
    NetworkSpec n{};
    list(3);
    n.image_channels = integer(1, 1 << 16), n.image_height = integer(1, 1 << 16), n.image_width = integer(1, 1 << 16);
    n.patch = pair(1, 1 << 16);
    require(n.image_height % n.patch[0] == 0 && n.image_width % n.patch[1] == 0, "the image is no whole number of patches");
    n.inverse_input_scale = single(), n.input_zero_point = integer(0, 255);
    n.patch_layer = layer();
    const int64_t patch = int64_t{n.image_channels} * n.patch[0] * n.patch[1];
    require(n.patch_layer.inputs == patch && words(n.patch_layer), "patch_layer does not fit");
    int height = n.image_height / n.patch[0], width = n.image_width / n.patch[1], channels = n.patch_layer.outputs;
    n.patch_norm = norm(channels);
    for (uint32_t left = list(); left > 0; --left) n.stages.push_back(stage(height, width, channels));
    require(!n.stages.empty(), "no stages");
    n.head_norm = norm(channels);
    n.pool_multiplier = integer(0, 32767), n.pool_shift = integer(0, 30), n.classes = integer(1, 1 << 16);
    const auto classes = static_cast<size_t>(n.classes);
    n.head_weight = array<int8_t>(classes * static_cast<size_t>(channels));
    n.head_bias = array<int32_t>(classes), n.logit_scale = array<float>(classes), n.softmax_table = array<uint8_t>(128);
    return n;
  }
  StageSpec stage(int& height, int& width, int& channels) {
    list(5);
    StageSpec s{integer(1, 1 << 16), integer(1, 1 << 16), integer(1, 32767), {}, {}};
    if (!none()) {
      list(3);
      const std::string name = text();
      const NormSpec before = norm(4 * channels);
      s.merge = MergeSpec{name, before, layer()};
      require(s.merge->reduction.inputs == 4 * channels && words(s.merge->reduction), "a merge does not fit");
      channels = s.merge->reduction.outputs, height = (height + 1) / 2, width = (width + 1) / 2;
    }
    require(s.height == height && s.width == width && s.channels == channels, "a stage does not fit");
    require(int64_t{height} * width <= 1 << 22, "too many tokens");
    for (uint32_t left = list(); left > 0; --left) s.blocks.push_back(block(s));
    require(!s.blocks.empty(), "a stage without blocks");
    return s;
  }

  const uint8_t *begin_, *at_, *end_;
  Store& store_;
};

}  // namespace geluless
