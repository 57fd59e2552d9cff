// The Python module: reads lowering.py's dataclasses, checks every array against the shape the kernels will assume, and runs.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dispatch.h"
#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace geluless {
namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T, class... Shape>
using Array = nb::ndarray<T, Shape..., nb::c_contig, nb::device::cpu>;

// ------------------------------------------------------------------------------------------------- reading dataclasses

template <class T>
T field(nb::handle object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

std::array<int, 2> pair(nb::handle object, const char* name) {
  const auto values = nb::cast<std::vector<int>>(object.attr(name));
  if (values.size() != 2) throw nb::value_error((std::string(name) + " must be a pair").c_str());
  return {values[0], values[1]};
}

// The data of an array attribute with exactly `count` elements; null for None. The object keeps the array alive.
template <class T>
const T* data(nb::handle object, const char* name, size_t count, bool optional = false) {
  const nb::object value = object.attr(name);
  if (optional && value.is_none()) return nullptr;
  In<T> array;
  if (!nb::try_cast(value, array, false))
    throw nb::type_error((std::string(name) + ": a contiguous array of another dtype was given").c_str());
  if (array.size() != count)
    throw nb::value_error((std::string(name) + ": " + std::to_string(count) + " elements expected, " + std::to_string(array.size()) + " given").c_str());
  return array.data();
}

int positive(nb::handle object, const char* name, int limit = 1 << 16) {
  const int value = field<int>(object, name);
  if (value < 1 || value > limit) throw nb::value_error((std::string(name) + " is out of range").c_str());
  return value;
}

struct EpilogueInfo {
  Epilogue epilogue;
  bool shift, scale, twice, table;  // which arrays it reads
};
const std::map<std::string, EpilogueInfo> kEpilogues = {
    {"relu", {Epilogue::kRelu, true, false, false, false}},
    {"bare", {Epilogue::kBare, true, false, false, false}},
    {"bytes", {Epilogue::kBytes, true, false, false, false}},
    {"words", {Epilogue::kWords, true, false, false, false}},
    {"residual", {Epilogue::kResidual, true, false, false, false}},
    {"table", {Epilogue::kTable, true, false, false, true}},
    {"shift-gelu", {Epilogue::kShiftGelu, true, false, false, true}},
    {"twice-bytes", {Epilogue::kTwiceBytes, false, true, true, false}},
    {"twice-words", {Epilogue::kTwiceWords, false, true, true, false}},
    {"twice-residual", {Epilogue::kTwiceResidual, false, true, true, false}},
    {"relu-float", {Epilogue::kReluFloat, false, true, false, false}},
    {"gelu-erf", {Epilogue::kGeluErf, false, true, false, false}},
    {"gelu-polynomial", {Epilogue::kGeluPolynomial, false, true, false, false}},
    {"after-gemm", {Epilogue::kAfterGemm, false, true, false, false}},
};
const std::map<std::string, Pass> kPasses = {
    {"relu-words", Pass::kReluWords},
    {"relu-after-gemm", Pass::kReluAfterGemm},
    {"gelu-after-gemm", Pass::kGeluAfterGemm},
};

template <class Map>
const auto& named(const Map& map, const std::string& name) {
  const auto found = map.find(name);
  if (found == map.end()) throw nb::value_error(("no kernel is called " + name).c_str());
  return found->second;
}

LayerSpec read_layer(nb::handle from) {
  const EpilogueInfo info = named(kEpilogues, field<std::string>(from, "epilogue"));
  LayerSpec layer{};
  layer.epilogue = info.epilogue;
  layer.inputs = positive(from, "inputs", 1 << 24);
  layer.outputs = positive(from, "outputs");
  layer.signed_input = field<bool>(from, "signed_input");
  const auto outputs = static_cast<size_t>(layer.outputs);
  layer.weight = data<int8_t>(from, "weight", outputs * static_cast<size_t>(layer.inputs));
  layer.bias = data<int32_t>(from, "bias", outputs);
  layer.shift = data<int32_t>(from, "shift", outputs, !info.shift);
  layer.multiplier = data<int16_t>(from, "multiplier", outputs, !info.shift);
  layer.scale = data<float>(from, "scale", outputs, !info.scale);
  layer.gain = data<float>(from, "gain", outputs, !info.twice);
  layer.offset = data<float>(from, "offset", outputs, !info.twice);
  layer.table = data<uint8_t>(from, "table", 256, !info.table);
  for (size_t n = 0; layer.shift && n < outputs; ++n)
    if (layer.shift[n] < 0 || layer.shift[n] > 30) throw nb::value_error("shift: a value outside 0..30");
  layer.zero = field<int>(from, "zero");
  layer.lowest = field<int>(from, "lowest");
  layer.highest = field<int>(from, "highest");
  layer.per_step = field<float>(from, "per_step");
  if (const nb::object g = from.attr("shift_gelu"); !g.is_none())
    layer.shift_gelu = {field<int32_t>(g, "zero_point"),  field<int32_t>(g, "top"),      field<int32_t>(g, "unit"),
                        field<int32_t>(g, "floor"),       field<uint32_t>(g, "reciprocal"), field<uint32_t>(g, "negative"),
                        field<double>(g, "to_hidden"),    field<int32_t>(g, "hidden_zero")};
  return layer;
}

NormSpec read_norm(nb::handle from, int channels) {
  const auto count = static_cast<size_t>(channels);
  const float factor = field<float>(from, "factor");
  if (!(factor > 0.0f && factor <= 65536.0f)) throw nb::value_error("factor must lie in (0, 65536]: the result must fit int32");
  return {field<int64_t>(from, "epsilon_term"), factor, data<float>(from, "gain", count, true),
          data<float>(from, "offset", count, true)};
}

AttentionSpec read_attention(nb::handle from) {
  AttentionSpec a{};
  a.heads = positive(from, "heads");
  a.head_dim = positive(from, "head_dim", 1024);
  a.window = pair(from, "window");
  a.shift = pair(from, "shift");
  for (int axis = 0; axis < 2; ++axis)
    if (a.window[axis] < 1 || a.window[axis] > 128 || a.shift[axis] < 0 || a.shift[axis] >= a.window[axis])
      throw nb::value_error("window and shift must satisfy 0 <= shift < window <= 128");
  const auto heads = static_cast<size_t>(a.heads), width = heads * static_cast<size_t>(a.head_dim);
  const size_t offsets = static_cast<size_t>(2 * a.window[0] - 1) * static_cast<size_t>(2 * a.window[1] - 1);
  a.bias_table = data<int16_t>(from, "bias_table", offsets * heads);
  a.score_shift = data<int32_t>(from, "score_shift", heads);
  a.score_multiplier = data<int16_t>(from, "score_multiplier", heads);
  a.output_multiplier = data<float>(from, "output_multiplier", heads);
  a.pad = data<uint8_t>(from, "pad", 3 * width, true);
  for (size_t h = 0; h < heads; ++h) {
    if (a.score_shift[h] < 0 || a.score_shift[h] > 30) throw nb::value_error("score_shift: a value outside 0..30");
    if (!(std::fabs(a.output_multiplier[h]) <= 1048576.0f)) throw nb::value_error("output_multiplier: a value beyond 2^20");
    if (a.score_multiplier[h] < 0) throw nb::value_error("score_multiplier: a negative value");
  }
  return a;
}

void require(bool condition, const std::string& where) {
  if (!condition) throw nb::value_error((where + ": the shapes do not fit together").c_str());
}

BlockSpec read_block(nb::handle from, const StageSpec& stage) {
  BlockSpec b{};
  b.name = field<std::string>(from, "name");
  b.norm1 = read_norm(from.attr("norm1"), stage.channels);
  b.norm2 = read_norm(from.attr("norm2"), stage.channels);
  b.qkv = read_layer(from.attr("qkv"));
  b.proj = read_layer(from.attr("proj"));
  b.fc1 = read_layer(from.attr("fc1"));
  b.fc2 = read_layer(from.attr("fc2"));
  b.attention = read_attention(from.attr("attention"));
  const int width = b.attention.heads * b.attention.head_dim;
  const bool fits = b.qkv.inputs == stage.channels && b.qkv.outputs == 3 * width && b.proj.inputs == width &&
                    b.proj.outputs == stage.channels && b.fc1.inputs == stage.channels && b.fc2.inputs == b.fc1.outputs &&
                    b.fc2.outputs == stage.channels;
  require(fits, b.name);
  const auto [rows, columns] = b.attention.window;
  require(b.attention.pad || (stage.height % rows == 0 && stage.width % columns == 0), b.name + ": pad");
  if (const nb::object s = from.attr("separate"); !s.is_none()) {
    const auto hidden = static_cast<size_t>(b.fc1.outputs);
    const Pass kernel = named(kPasses, field<std::string>(s, "kernel"));
    b.pass = PassSpec{kernel,
                      data<float>(s, "gain", hidden, kernel != Pass::kReluAfterGemm),
                      data<float>(s, "offset", hidden, kernel == Pass::kReluWords),
                      field<int>(s, "zero"),
                      field<int>(s, "lowest"),
                      field<int>(s, "highest"),
                      field<float>(s, "per_step"),
                      field<float>(s, "after_gemm_scale")};
    require((b.fc1.epilogue == Epilogue::kWords) == (kernel == Pass::kReluWords), b.name + ".separate");
  }
  const bool words = b.fc1.epilogue == Epilogue::kWords || b.fc1.epilogue == Epilogue::kTwiceWords;
  require(!words || b.pass, b.name + ".mlp");
  return b;
}

bool residual(const LayerSpec& layer) {
  return layer.epilogue == Epilogue::kResidual || layer.epilogue == Epilogue::kTwiceResidual;
}
bool words(const LayerSpec& layer) { return layer.epilogue == Epilogue::kWords || layer.epilogue == Epilogue::kTwiceWords; }

NetworkSpec read_network(nb::handle from) {
  NetworkSpec n{};
  const auto image = nb::cast<std::vector<int>>(from.attr("image"));
  if (image.size() != 3) throw nb::value_error("image must be (channels, height, width)");
  n.image_channels = image[0], n.image_height = image[1], n.image_width = image[2];
  n.patch = pair(from, "patch");
  for (const int size : {image[0], image[1], image[2], n.patch[0], n.patch[1]}) require(size > 0 && size <= 1 << 16, "image");
  require(image[1] % n.patch[0] == 0 && image[2] % n.patch[1] == 0, "patch");
  n.inverse_input_scale = field<float>(from, "inverse_input_scale");
  n.input_zero_point = field<int>(from, "input_zero_point");
  n.patch_layer = read_layer(from.attr("patch_layer"));
  require(n.patch_layer.inputs == image[0] * n.patch[0] * n.patch[1] && words(n.patch_layer), "patch_layer");
  n.patch_norm = read_norm(from.attr("patch_norm"), n.patch_layer.outputs);
  int height = image[1] / n.patch[0], width = image[2] / n.patch[1], channels = n.patch_layer.outputs;
  for (const nb::handle s : from.attr("stages")) {
    StageSpec stage{positive(s, "height"), positive(s, "width"), positive(s, "channels"), {}, {}};
    if (const nb::object m = s.attr("merge"); !m.is_none()) {
      require(!n.stages.empty(), "merge");
      stage.merge = MergeSpec{field<std::string>(m, "name"), read_norm(m.attr("norm"), 4 * channels), read_layer(m.attr("reduction"))};
      const LayerSpec& reduction = stage.merge->reduction;
      require(reduction.inputs == 4 * channels && words(reduction), stage.merge->name);
      channels = reduction.outputs, height = (height + 1) / 2, width = (width + 1) / 2;
    }
    require(int64_t{stage.height} * stage.width <= 1 << 22, "stage");
    require(stage.height == height && stage.width == width && stage.channels == channels && channels <= 32767, "stage");
    for (const nb::handle b : s.attr("blocks")) {
      stage.blocks.push_back(read_block(b, stage));
      require(residual(stage.blocks.back().proj) && residual(stage.blocks.back().fc2), stage.blocks.back().name);
      require(!words(stage.blocks.back().qkv) && !residual(stage.blocks.back().qkv) && !residual(stage.blocks.back().fc1), "qkv");
    }
    require(!stage.blocks.empty(), "stage");
    n.stages.push_back(std::move(stage));
  }
  require(!n.stages.empty(), "stages");
  n.head_norm = read_norm(from.attr("head_norm"), channels);
  n.pool_multiplier = field<int>(from, "pool_multiplier");
  n.pool_shift = field<int>(from, "pool_shift");
  require(n.pool_shift >= 0 && n.pool_shift <= 30, "pool_shift");
  n.classes = positive(from, "classes");
  n.head_weight = data<int8_t>(from, "head_weight", static_cast<size_t>(n.classes) * static_cast<size_t>(channels));
  n.head_bias = data<int32_t>(from, "head_bias", static_cast<size_t>(n.classes));
  n.logit_scale = data<float>(from, "logit_scale", static_cast<size_t>(n.classes));
  n.softmax_table = data<uint8_t>(from, "softmax_table", 128);
  return n;
}

const Kernels& kernels_named(const std::string& isa) {
  const Kernels* kernels = find_kernels(isa);
  if (!kernels) throw nb::value_error(("instruction set " + isa + " is not available here").c_str());
  return *kernels;
}

// ------------------------------------------------------------------------------------------------------------- network

using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void check_shapes(const Network& network, const Images& images, const Logits& logits) {
  const Model& m = network.model();
  const bool right = images.shape(1) == static_cast<size_t>(m.channels) && images.shape(2) == static_cast<size_t>(m.height) &&
                     images.shape(3) == static_cast<size_t>(m.width) && logits.shape(0) == images.shape(0) &&
                     logits.shape(1) == static_cast<size_t>(m.head.classes);
  if (!right) throw nb::value_error("images or logits have the wrong shape");
}

int run(Network& network, const Images& images, const Logits& logits) {
  check_shapes(network, images, logits);
  const nb::gil_scoped_release release;
  return network.run(images.data(), static_cast<int>(images.shape(0)), logits.data());
}

int trace(Network& network, const Images& images, const Logits& logits, const nb::callable& record) {
  check_shapes(network, images, logits);
  if (images.shape(0) != 1) throw nb::value_error("trace takes one image");
  return network.trace(images.data(), logits.data(), [&](const std::string& name, int token, const int32_t* values, int columns) {
    const nb::bytes raw(reinterpret_cast<const char*>(values), static_cast<size_t>(columns) * sizeof(int32_t));
    record(name, token, raw);
  });
}

// --------------------------------------------------------------------- single kernels, for the laws and the benchmarks

// A layer packed for one instruction set, and a call of its GEMM on raw buffers.
class KernelLayer {
 public:
  KernelLayer(const std::string& isa, nb::handle layer) : kernels_(kernels_named(isa)) {
    const LayerSpec spec = read_layer(layer);
    pack_layer(spec, kernels_.layout, arena_);
    arena_.commit();
    packed_ = pack_layer(spec, kernels_.layout, arena_);
  }
  int panels() const { return panel_count(packed_.outputs, kernels_.layout); }

  // input: uint8 [rows, stride]; output: uint8 or int16 [anything, stride]; row_index: int32 [rows], residual only.
  void run(Array<const uint8_t, nb::ndim<2>> input, nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu> output, int first, int last,
           std::optional<Array<const int32_t, nb::ndim<1>>> row_index) const {
    const bool wide = packed_.epilogue == Epilogue::kWords || packed_.epilogue == Epilogue::kTwiceWords || row_index;
    const size_t rows = input.shape(0);
    require(input.shape(1) >= static_cast<size_t>(round_up(packed_.inputs, 4)), "input");
    require(output.shape(1) >= static_cast<size_t>(packed_.outputs), "output");
    require(output.itemsize() == (wide ? 2 : 1), "output");
    require(first >= 0 && first <= last && last <= panels(), "panels");
    require((packed_.epilogue == Epilogue::kResidual || packed_.epilogue == Epilogue::kTwiceResidual) == row_index.has_value(), "row_index");
    if (row_index) {
      require(row_index->shape(0) == rows, "row_index");
      for (size_t r = 0; r < rows; ++r)
        require(row_index->data()[r] >= 0 && static_cast<size_t>(row_index->data()[r]) < output.shape(0), "row_index");
    } else {
      require(output.shape(0) >= rows, "output");
    }
    const nb::gil_scoped_release release;
    kernels_.gemm[static_cast<int>(packed_.epilogue)]({input.data(), input.shape(1), static_cast<int>(rows), &packed_, first, last,
                                                       output.data(), output.shape(1), row_index ? row_index->data() : nullptr});
  }

 private:
  const Kernels& kernels_;
  Arena arena_;
  PackedLinear packed_;
};

// stream int16 [rows, stride], row_index int32 [out rows, segments], norm as in lowering.py -> output uint8 or int16.
class KernelNorm {
 public:
  KernelNorm(const std::string& isa, nb::handle norm, int segments, int width) : kernels_(kernels_named(isa)), segments_(segments), width_(width) {
    require(segments > 0 && width > 0 && int64_t{segments} * width <= 32767, "norm");
    spec_ = read_norm(norm, segments * width);
    lay_out();
    arena_.commit();
    lay_out();
  }
  void run(Array<const int16_t, nb::ndim<2>> stream, Array<const int32_t, nb::ndim<2>> row_index,
           nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu> output) const {
    require(row_index.shape(1) == static_cast<size_t>(segments_) && stream.shape(1) >= static_cast<size_t>(width_), "stream");
    require(output.shape(0) >= row_index.shape(0) && output.shape(1) >= static_cast<size_t>(segments_) * static_cast<size_t>(width_), "output");
    require(output.itemsize() <= 2, "output");
    for (size_t i = 0; i < row_index.size(); ++i)
      require(row_index.data()[i] >= 0 && static_cast<size_t>(row_index.data()[i]) < stream.shape(0), "row_index");
    kernels_.layer_norm({stream.data(), stream.shape(1), row_index.data(), static_cast<int>(row_index.shape(0)), segments_, width_,
                         spec_.epsilon_term, spec_.factor, gain_, offset_, output.itemsize() == 2, output.data(), output.shape(1)});
  }

 private:
  void lay_out() {
    gain_ = pack_affine(spec_.gain, segments_, width_, kernels_.layout, arena_);
    offset_ = pack_affine(spec_.offset, segments_, width_, kernels_.layout, arena_);
  }
  const Kernels& kernels_;
  int segments_, width_;
  NormSpec spec_;
  Arena arena_;
  const float *gain_ = nullptr, *offset_ = nullptr;
};

// Attention of every head in one window; masked: uint8 [tokens, tokens], non-zero where a key is hidden from a query.
class KernelAttention {
 public:
  KernelAttention(const std::string& isa, nb::handle attention, Array<const uint8_t, nb::ndim<2>> masked,
                  Array<const uint8_t, nb::ndim<1>> softmax_table)
      : kernels_(kernels_named(isa)), spec_(read_attention(attention)), tokens_(spec_.window[0] * spec_.window[1]) {
    const auto tokens = static_cast<size_t>(tokens_);
    require(masked.shape(0) == tokens && masked.shape(1) == tokens && softmax_table.size() == 128 && tokens_ <= 513, "attention");
    lay_out(masked.data(), softmax_table.data());
    arena_.commit();
    heads_.clear();
    lay_out(masked.data(), softmax_table.data());
  }
  void run(Array<const uint8_t, nb::ndim<2>> qkv, Array<uint8_t, nb::ndim<2>> output) const {
    const auto width = static_cast<size_t>(spec_.heads * spec_.head_dim);
    require(qkv.shape(0) == static_cast<size_t>(tokens_) && qkv.shape(1) >= 3 * width, "qkv");
    require(output.shape(0) >= qkv.shape(0) && output.shape(1) >= width, "output");
    const nb::gil_scoped_release release;
    for (int head = 0; head < spec_.heads; ++head)
      kernels_.attention({qkv.data(), qkv.shape(1), tokens_, spec_.head_dim, static_cast<int>(width), head, &heads_[static_cast<size_t>(head)],
                          limit_, keep_, table_, output.data(), output.shape(1), scratch_});
  }

 private:
  void lay_out(const uint8_t* masked, const uint8_t* table) {
    for (int head = 0; head < spec_.heads; ++head)
      heads_.push_back({spec_.score_shift[head], spec_.score_multiplier[head], spec_.output_multiplier[head], expand_bias(spec_, head, kernels_, arena_)});
    uint8_t* entries = arena_.take<uint8_t>(128);
    scratch_ = arena_.take<uint8_t>(kernels_.attention_scratch(tokens_, spec_.head_dim));
    const size_t scores = kernels_.score_table_size(tokens_), weights = kernels_.weight_table_size(tokens_);
    int16_t* limit = arena_.take<int16_t>(scores);
    uint8_t* keep = arena_.take<uint8_t>(weights);
    if (!arena_.committed()) return;
    std::copy_n(table, 128, entries);
    table_ = entries;
    const auto count = static_cast<size_t>(tokens_) * static_cast<size_t>(tokens_);
    if (std::none_of(masked, masked + count, [](uint8_t m) { return m; })) return;
    std::fill_n(limit, scores, INT16_MAX);
    std::fill_n(keep, weights, uint8_t{255});
    for (int q = 0; q < tokens_; ++q)
      for (int k = 0; k < tokens_; ++k)
        if (masked[static_cast<size_t>(q) * static_cast<size_t>(tokens_) + static_cast<size_t>(k)]) {
          limit[kernels_.score_place(tokens_, q, k)] = INT16_MIN;
          keep[kernels_.weight_place(tokens_, q, k)] = 0;
        }
    limit_ = limit, keep_ = keep;
  }
  const Kernels& kernels_;
  AttentionSpec spec_;
  int tokens_;
  Arena arena_;
  std::vector<AttentionHead> heads_;
  const int16_t* limit_ = nullptr;
  const uint8_t *keep_ = nullptr, *table_ = nullptr;
  uint8_t* scratch_ = nullptr;
};

void define(nb::module_& m) {
  m.doc() = "The compiled INT8 engine; geluless.engine.cpu is its Python face.";
  m.def("built", &built_isas, "Instruction sets this module was built for, best first.");
  m.def("available", &available_isas, "Those among them that this processor reports, best first.");
  m.def("peak", [](const std::string& isa, int64_t repetitions) {
    const Kernels& kernels = kernels_named(isa);
    const nb::gil_scoped_release release;
    return kernels.peak(repetitions);
  }, "isa"_a, "repetitions"_a, "Run a loop of nothing but dot products; returns how many multiply-accumulates it did.");
  nb::class_<Network>(m, "Network")
      .def("__init__", [](Network* self, nb::handle network, const std::string& isa, int threads) {
        if (threads < 1 || threads > 1024) throw nb::value_error("threads must lie in 1..1024");
        new (self) Network(read_network(network), kernels_named(isa), threads);
      }, "network"_a, "isa"_a, "threads"_a)
      .def("run", &run, "images"_a.noconvert(), "logits"_a.noconvert())
      .def("trace", &trace, "images"_a.noconvert(), "logits"_a.noconvert(), "record"_a)
      .def_prop_ro("bytes", &Network::bytes);
  nb::class_<KernelLayer>(m, "KernelLayer")
      .def(nb::init<const std::string&, nb::handle>(), "isa"_a, "layer"_a)
      .def_prop_ro("panels", &KernelLayer::panels)
      .def("run", &KernelLayer::run, "input"_a.noconvert(), "output"_a.noconvert(), "first"_a, "last"_a, "row_index"_a.noconvert().none() = nb::none());
  nb::class_<KernelNorm>(m, "KernelNorm")
      .def(nb::init<const std::string&, nb::handle, int, int>(), "isa"_a, "norm"_a, "segments"_a, "width"_a)
      .def("run", &KernelNorm::run, "stream"_a.noconvert(), "row_index"_a.noconvert(), "output"_a.noconvert());
  nb::class_<KernelAttention>(m, "KernelAttention")
      .def(nb::init<const std::string&, nb::handle, Array<const uint8_t, nb::ndim<2>>, Array<const uint8_t, nb::ndim<1>>>(), "isa"_a,
           "attention"_a, "masked"_a.noconvert(), "softmax_table"_a.noconvert())
      .def("run", &KernelAttention::run, "qkv"_a.noconvert(), "output"_a.noconvert());
}

}  // namespace
}  // namespace geluless

NB_MODULE(_native, m) { geluless::define(m); }
