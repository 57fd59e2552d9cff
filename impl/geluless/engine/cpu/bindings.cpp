// The Python module: networks, and single kernels for the laws and the benchmarks. read_spec.h checks what it is given.

#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "dispatch.h"
#include "network.h"
#include "read_spec.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace geluless {
namespace {

template <class T, class... Shape>
using Array = nb::ndarray<T, Shape..., nb::c_contig, nb::device::cpu>;
using Matrix = Array<nb::ndim<2>>;  // of any type, which its kernel knows
using Bytes = Array<const uint8_t, nb::ndim<2>>;

// A dataclass of lowering.py as read_spec.h reads it. It keeps its arrays alive.
class Object {
 public:
  explicit Object(nb::object object) : object_(std::move(object)) {}

  int64_t integer(const char* name, int64_t low, int64_t high) const { return in_range(name, cast<int64_t>(name), low, high); }
  double real(const char* name) const { return cast<double>(name); }
  bool flag(const char* name) const { return cast<bool>(name); }
  std::string text(const char* name) const { return cast<std::string>(name); }
  template <size_t kCount>
  std::array<int, kCount> integers(const char* name, int low, int high) const {
    const auto values = cast<std::vector<int>>(name);
    if (values.size() != kCount)
      throw std::invalid_argument(std::string(name) + ": " + std::to_string(kCount) + " integers expected");
    std::array<int, kCount> out;
    for (size_t i = 0; i < kCount; ++i) out[i] = static_cast<int>(in_range(name, values[i], low, high));
    return out;
  }
  template <class T>
  const T* array(const char* name, size_t count, bool optional = false) const {
    const nb::object value = object_.attr(name);
    if (optional && value.is_none()) return nullptr;
    Array<const T> array;
    if (!nb::try_cast(value, array, false))
      throw nb::type_error((std::string(name) + ": a contiguous array of another dtype was given").c_str());
    if (array.size() != count)
      throw std::invalid_argument(std::string(name) + ": " + std::to_string(count) + " elements expected, " +
                                  std::to_string(array.size()) + " given");
    return array.data();
  }
  Object object(const char* name) const { return Object(object_.attr(name)); }
  std::optional<Object> optional_object(const char* name) const {
    const nb::object value = object_.attr(name);
    return value.is_none() ? std::nullopt : std::optional(Object(value));
  }
  template <class F>
  void for_each(const char* name, F f) const {
    for (const nb::handle element : object_.attr(name)) f(Object(nb::borrow(element)));
  }

 private:
  template <class T>
  T cast(const char* name) const {
    return nb::cast<T>(object_.attr(name));
  }
  static int64_t in_range(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) throw std::invalid_argument(std::string(name) + " is out of range");
    return value;
  }

  nb::object object_;
};

const Kernels& kernels_for(const std::string& isa) {
  const Kernels* kernels = find_kernels(isa);
  if (!kernels) throw std::invalid_argument("instruction set " + isa + " is not available here");
  return *kernels;
}

// ------------------------------------------------------------------------------------------------------------- network

using Images = Array<const float, nb::ndim<4>>;
using Logits = Array<float, nb::ndim<2>>;

void check_shapes(const Network& network, const Images& images, const Logits& logits) {
  const Model& m = network.model();
  const bool right = images.shape(1) == static_cast<size_t>(m.channels) && images.shape(2) == static_cast<size_t>(m.height) &&
                     images.shape(3) == static_cast<size_t>(m.width) && logits.shape(0) == images.shape(0) &&
                     logits.shape(1) == static_cast<size_t>(m.head.classes);
  if (!right) throw std::invalid_argument("images or logits have the wrong shape");
}

int run(Network& network, const Images& images, const Logits& logits) {
  check_shapes(network, images, logits);
  const nb::gil_scoped_release release;
  return network.run(images.data(), static_cast<int>(images.shape(0)), logits.data());
}

int trace(Network& network, const Images& images, const Logits& logits, const nb::callable& tap) {
  check_shapes(network, images, logits);
  if (images.shape(0) != 1) throw std::invalid_argument("trace takes one image");
  const nb::gil_scoped_release release;  // or another thread's call would wait with it for a pass that needs it
  return network.trace(images.data(), logits.data(), [&](const std::string& name, int token, const int32_t* values, int columns) {
    const nb::gil_scoped_acquire acquire;
    const nb::bytes raw(reinterpret_cast<const char*>(values), static_cast<size_t>(columns) * sizeof(int32_t));
    tap(name, token, raw);
  });
}

// (part, kernel, place of its first instruction in this module's file) of every call.
std::vector<std::tuple<std::string, std::string, uint64_t>> kernel_runs(Network& network, const Images& images,
                                                                        const Logits& logits) {
  check_shapes(network, images, logits);
  if (images.shape(0) != 1) throw std::invalid_argument("kernel_runs takes one image");
  const nb::gil_scoped_release release;
  std::vector<std::tuple<std::string, std::string, uint64_t>> found;
  for (const KernelRun& run : network.kernel_runs(images.data(), logits.data())) {
    Dl_info file;
    if (!dladdr(run.code, &file)) throw std::runtime_error("the loader does not know where " + run.kernel + " lies");
    const auto place = static_cast<const char*>(run.code) - static_cast<const char*>(file.dli_fbase);
    found.emplace_back(run.part, run.kernel, static_cast<uint64_t>(place));
  }
  return found;
}

// --------------------------------------------------------------------- single kernels, for the laws and the benchmarks

// A layer packed for one instruction set, and a call of its GEMM on raw buffers.
class KernelLayer {
 public:
  KernelLayer(const std::string& isa, nb::object layer) : kernels_(kernels_for(isa)) {
    const LayerSpec spec = read_layer(Object(layer));
    arena_.lay_out([&] { packed_ = pack_layer(spec, kernels_.layout, arena_); });
  }
  int panels() const { return panel_count(packed_.outputs, kernels_.layout); }
  std::string name() const { return gemm_name(kernels_, packed_.epilogue); }

  // input: uint8 [rows, stride]; output: uint8 or int16 [anything, stride]; row_index: int32 [rows], residual only.
  void run(Bytes input, Matrix output, int first, int last, std::optional<Array<const int32_t, nb::ndim<1>>> row_index) const {
    const EpilogueInfo& epilogue = info(packed_.epilogue);
    const size_t rows = input.shape(0);
    require(input.shape(1) >= static_cast<size_t>(round_up(packed_.inputs, 4)), "input");
    require(output.shape(1) >= static_cast<size_t>(packed_.outputs), "output");
    require(output.itemsize() == (epilogue.output == Type::kS16 ? 2 : 1), "output");
    require(first >= 0 && first <= last && last <= panels(), "panels");
    require(epilogue.residual == row_index.has_value(), "row_index");
    if (row_index) {
      require(row_index->shape(0) == rows, "row_index");
      for (size_t r = 0; r < rows; ++r)
        require(row_index->data()[r] >= 0 && static_cast<size_t>(row_index->data()[r]) < output.shape(0), "row_index");
    } else {
      require(output.shape(0) >= rows, "output");
    }
    const nb::gil_scoped_release release;
    kernels_.gemm[static_cast<int>(packed_.epilogue)]({input.data(), input.shape(1), static_cast<int>(rows), &packed_, first,
                                                       last, output.data(), output.shape(1),
                                                       row_index ? row_index->data() : nullptr});
  }

 private:
  const Kernels& kernels_;
  Arena arena_;
  PackedLinear packed_;
};

// An activation as a kernel of its own. input: uint8 [rows, stride], int16 for relu_s16; output: uint8 of the same shape.
class KernelElementwise {
 public:
  KernelElementwise(const std::string& isa, nb::object elementwise, int columns) : kernels_(kernels_for(isa)), columns_(columns) {
    require(columns > 0 && columns <= kMaxSize, "elementwise");
    const ElementwiseSpec spec = read_elementwise(Object(elementwise), columns);
    kernel_ = spec.kernel, after_gemm_scale_ = spec.after_gemm_scale;
    arena_.lay_out([&] { channels_ = pack_elementwise(spec, columns, kernels_.layout, arena_); });
  }
  void run(Matrix input, Array<uint8_t, nb::ndim<2>> output) const {
    require(input.itemsize() == (kernel_ == Elementwise::kReluS16 ? 2 : 1), "input");
    require(input.shape(0) == output.shape(0) && input.shape(1) == output.shape(1), "output");
    require(input.shape(1) >= static_cast<size_t>(columns_), "input");
    const nb::gil_scoped_release release;
    kernels_.elementwise[static_cast<int>(kernel_)](
        {input.data(), output.data(), static_cast<int>(input.shape(0)), columns_, input.shape(1), &channels_, after_gemm_scale_});
  }

 private:
  const Kernels& kernels_;
  int columns_;
  Elementwise kernel_;
  float after_gemm_scale_;
  Arena arena_;
  Channels channels_{};
};

// stream int16 [rows, stride], row_index int32 [out rows, segments], norm as in lowering.py -> output uint8 or int16.
class KernelNorm {
 public:
  KernelNorm(const std::string& isa, nb::object norm, int segments, int width) : kernels_(kernels_for(isa)) {
    require(segments > 0 && width > 0 && int64_t{segments} * width <= 32767, "norm");
    const NormSpec spec = read_norm(Object(norm), segments * width);
    arena_.lay_out([&] { norm_ = pack_norm(spec, segments, width, kernels_.layout, arena_); });
  }
  void run(Array<const int16_t, nb::ndim<2>> stream, Array<const int32_t, nb::ndim<2>> row_index, Matrix output) const {
    require(row_index.shape(1) == static_cast<size_t>(norm_.segments) && stream.shape(1) >= static_cast<size_t>(norm_.width),
            "stream");
    require(output.shape(0) >= row_index.shape(0) && output.shape(1) >= static_cast<size_t>(norm_.channels()), "output");
    require(output.itemsize() <= 2, "output");
    for (size_t i = 0; i < row_index.size(); ++i)
      require(row_index.data()[i] >= 0 && static_cast<size_t>(row_index.data()[i]) < stream.shape(0), "row_index");
    kernels_.layer_norm({stream.data(), stream.shape(1), row_index.data(), static_cast<int>(row_index.shape(0)), norm_.segments,
                         norm_.width, norm_.epsilon_term, norm_.factor, norm_.gamma, norm_.beta, output.itemsize() == 2,
                         output.data(), output.shape(1)});
  }

 private:
  const Kernels& kernels_;
  Arena arena_;
  Norm norm_;
};

// Attention of every head in one window; masked: uint8 [tokens, tokens], non-zero where a key is hidden from a query.
class KernelAttention {
 public:
  KernelAttention(const std::string& isa, nb::object attention, Bytes masked, Array<const uint8_t, nb::ndim<1>> softmax_table)
      : kernels_(kernels_for(isa)) {
    const AttentionSpec spec = read_attention(Object(attention));
    tokens_ = spec.window[0] * spec.window[1], head_dim_ = spec.head_dim;
    const auto tokens = static_cast<size_t>(tokens_);
    require(masked.shape(0) == tokens && masked.shape(1) == tokens && softmax_table.size() == 128 && tokens_ <= 513, "attention");
    auto hidden = [&](int query, int key) {
      return masked.data()[static_cast<size_t>(query) * tokens + static_cast<size_t>(key)] != 0;
    };
    const bool any = std::any_of(masked.data(), masked.data() + masked.size(), [](uint8_t m) { return m; });
    arena_.lay_out([&] {
      heads_ = make_heads(spec, kernels_, arena_);
      scratch_ = arena_.take<uint8_t>(kernels_.attention_scratch(tokens_, head_dim_));
      table_ = arena_.take<uint8_t>(128);
      if (any) mask_ = make_mask(tokens_, hidden, kernels_, arena_);
    });
    std::copy_n(softmax_table.data(), 128, table_);
  }
  void run(Bytes qkv, Array<uint8_t, nb::ndim<2>> output) const {
    const int width = static_cast<int>(heads_.size()) * head_dim_;
    require(qkv.shape(0) == static_cast<size_t>(tokens_) && qkv.shape(1) >= 3 * static_cast<size_t>(width), "qkv");
    require(output.shape(0) >= qkv.shape(0) && output.shape(1) >= static_cast<size_t>(width), "output");
    const nb::gil_scoped_release release;
    for (size_t head = 0; head < heads_.size(); ++head)
      kernels_.attention({qkv.data(), qkv.shape(1), tokens_, head_dim_, width, static_cast<int>(head), &heads_[head], mask_.limit,
                          mask_.keep, table_, output.data(), output.shape(1), scratch_});
  }

 private:
  const Kernels& kernels_;
  int tokens_, head_dim_;
  Arena arena_;
  std::vector<AttentionHead> heads_;
  Mask mask_;
  uint8_t *table_ = nullptr, *scratch_ = nullptr;
};

void define(nb::module_& m) {
  m.doc() = "The compiled INT8 engine; geluless.engine.cpu is its Python face.";
  m.def("built", &built_isas, "Instruction sets this module was built for, best first.");
  m.def("available", &available_isas, "Those among them that this processor reports, best first.");
  m.def(
      "peak",
      [](const std::string& isa, int64_t repetitions) {
        const Kernels& kernels = kernels_for(isa);
        const nb::gil_scoped_release release;
        return kernels.peak(repetitions);
      },
      "isa"_a, "repetitions"_a, "Run a loop of nothing but dot products; returns how many multiply-accumulates it did.");
  nb::exception<NoThreads>(m, "NoThreads", PyExc_RuntimeError);
  nb::class_<Network>(m, "Network")
      .def(
          "__init__",
          [](Network* self, nb::object network, const std::string& isa, int threads, bool blocked) {
            if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must lie in 1..1024");
            new (self) Network(read_network(Object(network)), kernels_for(isa), threads, blocked);
          },
          "network"_a, "isa"_a, "threads"_a, "blocked"_a = false)
      .def("run", &run, "images"_a.noconvert(), "logits"_a.noconvert())
      .def("trace", &trace, "images"_a.noconvert(), "logits"_a.noconvert(), "tap"_a)
      .def("kernel_runs", &kernel_runs, "images"_a.noconvert(), "logits"_a.noconvert())
      .def_prop_ro("bytes", &Network::bytes);
  nb::class_<KernelLayer>(m, "KernelLayer")
      .def(nb::init<const std::string&, nb::object>(), "isa"_a, "layer"_a)
      .def_prop_ro("panels", &KernelLayer::panels)
      .def_prop_ro("name", &KernelLayer::name)
      .def("run", &KernelLayer::run, "input"_a.noconvert(), "output"_a.noconvert(), "first"_a, "last"_a,
           "row_index"_a.noconvert().none() = nb::none());
  nb::class_<KernelElementwise>(m, "KernelElementwise")
      .def(nb::init<const std::string&, nb::object, int>(), "isa"_a, "elementwise"_a, "columns"_a)
      .def("run", &KernelElementwise::run, "input"_a.noconvert(), "output"_a.noconvert());
  nb::class_<KernelNorm>(m, "KernelNorm")
      .def(nb::init<const std::string&, nb::object, int, int>(), "isa"_a, "norm"_a, "segments"_a, "width"_a)
      .def("run", &KernelNorm::run, "stream"_a.noconvert(), "row_index"_a.noconvert(), "output"_a.noconvert());
  nb::class_<KernelAttention>(m, "KernelAttention")
      .def(nb::init<const std::string&, nb::object, Bytes, Array<const uint8_t, nb::ndim<1>>>(), "isa"_a, "attention"_a,
           "masked"_a.noconvert(), "softmax_table"_a.noconvert())
      .def("run", &KernelAttention::run, "qkv"_a.noconvert(), "output"_a.noconvert());
}

}  // namespace
}  // namespace geluless

NB_MODULE(_native, m) { geluless::define(m); }
