// Compares every kernel and whole networks of every instruction set with `portable`, bit for bit: a program without Python, so
// that it runs where Python does not (under an emulator, on a bare board).
//
//   check_kernels [FILE]      FILE: networks with the reference's logits, written by tests/native_dump.py
//
// One line per check. Exits with 1 when anything differs, when a check cannot see a fault, or when there was nothing to compare.
// GELU in fp32 may differ by one step: the instruction sets with a fused multiply-add use it there, `portable` does not.

#include <cstdarg>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>

#include "check_file.h"
#include "dispatch.h"
#include "network.h"

namespace geluless {
namespace {

using Values = std::vector<int32_t>;  // results of one case; floats by their bits

// One kernel under test. `run` draws a case from the random numbers and runs it: the same numbers give the same case. With
// `fault` one constant is a little off, and the result of at least one case must show it.
struct KernelCheck {
  std::string name;
  int cases;
  int tolerance;
  std::function<Values(const Kernels&, Random random, int index, bool fault)> run;
};

int failures = 0;

void report(bool good, const std::string& isa, const std::string& name, const char* format, ...) {
  std::printf("%-6s %-11s %-22s ", good ? "ok" : "FAILED", isa.c_str(), name.c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
  failures += !good;
}

template <class T>
Values as_values(const std::vector<T>& from) {
  if constexpr (std::is_same_v<T, float>) {
    Values out(from.size());
    std::memcpy(out.data(), from.data(), from.size() * sizeof(float));
    return out;
  }
  return Values(from.begin(), from.end());
}

int64_t worst_difference(const Values& a, const Values& b) {
  if (a.size() != b.size()) return INT64_MAX;
  int64_t worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(int64_t{a[i]} - b[i]));
  return worst;
}

void check_kernel(const KernelCheck& check, const std::string& isa, const Kernels& kernels) {
  int64_t values = 0, worst = 0;
  int differing = 0, first = -1, noticed = 0;
  for (int i = 0; i < check.cases; ++i) {
    const Random random(static_cast<uint64_t>(i) + 1);
    const Values want = check.run(*kernels_portable(), random, i, false), got = check.run(kernels, random, i, false);
    const int64_t difference = worst_difference(want, got);
    values += static_cast<int64_t>(want.size()), worst = std::max(worst, difference);
    if (difference > check.tolerance && differing++ == 0) first = i;
    if (i % 8 == 0) noticed += worst_difference(want, check.run(kernels, random, i, true)) > check.tolerance;
  }
  if (differing) report(false, isa, check.name, "%d of %d cases differ, first case %d, by up to %lld", differing, check.cases, first, static_cast<long long>(worst));
  else if (!noticed) report(false, isa, check.name, "a fault went unnoticed");
  else report(true, isa, check.name, "%4d cases, %8lld values, worst difference %lld", check.cases, static_cast<long long>(values), static_cast<long long>(worst));
}

// ------------------------------------------------------------------------------------------------------------- kernels

template <class F>
void lay_out_twice(Arena& arena, F lay_out) {
  lay_out();
  arena.commit();
  lay_out();
}

// A buffer of poison around and between the rows that a kernel may write; all of it is compared.
template <class T>
std::vector<T> poisoned(Random& random, size_t count) {
  std::vector<T> out(count + 64);
  for (T& x : out) x = static_cast<T>(random.bits());
  return out;
}

template <Epilogue kEpilogue>
Values run_gemm(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const int outputs = index % 130 + 1, rows = index * 7 % 40 + 1, inputs = random.in(1, 130);
  LayerSpec layer = cases.layer(kEpilogue, inputs, outputs, random.one_in(2), true);
  if (fault) {  // the very last weight
    auto* weight = store.take<int8_t>(static_cast<size_t>(inputs * outputs));
    std::copy_n(layer.weight, inputs * outputs, weight)[-1] ^= 0x40;
    layer.weight = weight;
  }
  Arena arena;
  PackedLinear packed;
  lay_out_twice(arena, [&] { packed = pack_layer(layer, kernels.layout, arena); });

  const size_t input_stride = static_cast<size_t>(round_up(inputs, 4) + random.in(0, 9)), stride = static_cast<size_t>(outputs + random.in(0, 9));
  const uint8_t* input = cases.any<uint8_t>(static_cast<size_t>(rows) * input_stride, 0, 255);
  std::vector<int32_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[static_cast<size_t>(random.in(0, static_cast<int>(i) - 1))]);
  const int panels = panel_count(outputs, kernels.layout), cut = panels / 2;
  auto run = [&](auto output) {
    for (const auto& [first, last] : {std::pair(cut, panels), std::pair(0, cut)})
      kernels.gemm[static_cast<int>(packed.epilogue)]({input, input_stride, rows, &packed, first, last, output.data(), stride, order.data()});
    return as_values(output);
  };
  constexpr bool kWide = kEpilogue == Epilogue::kWords || kEpilogue == Epilogue::kResidual || kEpilogue == Epilogue::kTwiceWords ||
                         kEpilogue == Epilogue::kTwiceResidual;
  return run(poisoned<std::conditional_t<kWide, int16_t, uint8_t>>(random, static_cast<size_t>(rows) * stride));
}

template <Pass kPass>
Values run_pass(const Kernels& kernels, Random random, int index, bool fault) {
  using From = std::conditional_t<kPass == Pass::kReluWords, int16_t, uint8_t>;
  Store store;
  Cases cases{random, store};
  const int columns = index % 130 + 1, rows = index * 7 % 40 + 1;
  const auto n = static_cast<size_t>(columns), stride = n + static_cast<size_t>(random.in(0, 9));
  float *gain = cases.around(n, 1.5, 3), *offset = cases.between(n, -2, 2);
  Channels channels{};
  channels.zero = random.in(0, 40), channels.lowest = random.in(0, 60), channels.highest = random.in(130, 255), channels.per_step = 31;
  if (fault) channels.zero += 3, channels.highest -= 3;
  Arena arena;
  lay_out_twice(arena, [&] {
    channels.gain = pack_affine(gain, 1, columns, kernels.layout, arena), channels.offset = pack_affine(offset, 1, columns, kernels.layout, arena);
  });
  const int low = kPass == Pass::kReluWords ? random.any({-32768, -400}) : 0, high = kPass == Pass::kReluWords ? random.any({32767, 400}) : 255;
  const From* input = cases.any<From>(static_cast<size_t>(rows) * stride, low, high);
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(rows) * stride);
  kernels.pass[static_cast<int>(kPass)]({input, output.data(), rows, columns, stride, &channels, 0.05f});
  return as_values(output);
}

template <class T>
Values run_norm(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const int width = index % 150 + 1, segments = random.any({1, 4}), rows = random.in(1, 9), stream_rows = random.in(1, 12);
  NormSpec norm = cases.norm(segments * width, sizeof(T) == 2);
  if (fault) norm.factor *= 1.01f;
  Arena arena;
  const float *gain = nullptr, *offset = nullptr;
  lay_out_twice(arena, [&] {
    gain = pack_affine(norm.gain, segments, width, kernels.layout, arena), offset = pack_affine(norm.offset, segments, width, kernels.layout, arena);
  });
  const auto stream_stride = static_cast<size_t>(width + random.in(0, 9)), stride = static_cast<size_t>(segments * width + random.in(0, 9));
  const int reach = random.any({1, 300, 32767});
  const int16_t* stream = cases.any<int16_t>(static_cast<size_t>(stream_rows) * stream_stride, -reach - 1, reach);
  const int32_t* row_index = cases.any<int32_t>(static_cast<size_t>(rows * segments), 0, stream_rows - 1);
  std::vector<T> output = poisoned<T>(random, static_cast<size_t>(rows) * stride);
  kernels.layer_norm({stream, stream_stride, row_index, rows, segments, width, norm.epsilon_term, norm.factor, gain, offset,
                      sizeof(T) == 2, output.data(), stride});
  return as_values(output);
}

Values run_attention(const Kernels& kernels, Random random, int index, bool fault) {
  Store store;
  Cases cases{random, store};
  const std::array<int, 2> window = index % 37 == 36 ? std::array{12, 12} : std::array{2 + index % 37 / 6, 2 + index % 37 % 6};
  const int tokens = window[0] * window[1], heads = random.in(1, 3), head_dim = random.one_in(3) ? 32 : random.in(1, 70);
  AttentionSpec spec = cases.attention(heads, head_dim, window, random.one_in(4));
  if (fault) {
    auto* multiplier = store.take<int16_t>(static_cast<size_t>(heads));
    std::transform(spec.score_multiplier, spec.score_multiplier + heads, multiplier, [](int16_t m) { return m / 8 * 7; });
    spec.score_multiplier = multiplier;
  }
  const int style = random.in(0, 2);  // nothing masked, two regions as a shift makes them, or half of all pairs
  const uint8_t *region = cases.any<uint8_t>(static_cast<size_t>(tokens), 0, 1), *pair = cases.any<uint8_t>(static_cast<size_t>(tokens * tokens), 0, 1);
  auto masked = [&](int q, int k) { return style == 1 ? region[q] != region[k] : style == 2 && q != k && pair[q * tokens + k]; };
  Arena arena;
  std::vector<AttentionHead> parameters;
  const size_t scores = kernels.score_table_size(tokens), weights = kernels.weight_table_size(tokens);
  int16_t* limit = nullptr;
  uint8_t *keep = nullptr, *scratch = nullptr;
  lay_out_twice(arena, [&] {
    parameters.clear();
    for (int h = 0; h < heads; ++h)
      parameters.push_back({spec.score_shift[h], spec.score_multiplier[h], spec.output_multiplier[h], expand_bias(spec, h, kernels, arena)});
    limit = arena.take<int16_t>(scores), keep = arena.take<uint8_t>(weights);
    scratch = arena.take<uint8_t>(kernels.attention_scratch(tokens, head_dim));
  });
  std::fill_n(limit, scores, INT16_MAX), std::fill_n(keep, weights, uint8_t{255});
  for (int q = 0; q < tokens; ++q)
    for (int k = 0; k < tokens; ++k)
      if (masked(q, k)) limit[kernels.score_place(tokens, q, k)] = INT16_MIN, keep[kernels.weight_place(tokens, q, k)] = 0;

  const int width = heads * head_dim;
  const auto qkv_stride = static_cast<size_t>(3 * width + random.in(0, 9)), stride = static_cast<size_t>(width + random.in(0, 9));
  const uint8_t *qkv = cases.any<uint8_t>(static_cast<size_t>(tokens) * qkv_stride, 0, 255), *table = cases.softmax_table();
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(tokens) * stride);
  for (int h = 0; h < heads; ++h)
    kernels.attention({qkv, qkv_stride, tokens, head_dim, width, h, &parameters[static_cast<size_t>(h)], style ? limit : nullptr,
                       style ? keep : nullptr, table, output.data(), stride, scratch});
  return as_values(output);
}

Values run_patches(const Kernels& kernels, Random random, int, bool fault) {
  Store store;
  Cases cases{random, store};
  const int patch_h = random.in(1, 5), patch_w = random.in(1, 5), patches = random.in(1, 50), width = patches * patch_w;
  const auto stride = static_cast<size_t>(patch_h * patch_w + random.in(0, 9));
  float* image = cases.pixels(static_cast<size_t>(patch_h * width));
  for (int i = 0; i < patch_h * width; ++i)
    if (random.one_in(20)) image[i] = random.any({3e38f, -3e38f, 0.0f, -0.0f, 1e-45f, 0.5f, 1.5f, -2.5f});
  std::vector<uint8_t> output = poisoned<uint8_t>(random, static_cast<size_t>(patches) * stride), scratch(static_cast<size_t>(round_up(width, 64)));
  const float inverse = random.one_in(2) ? 1.0f : static_cast<float>(random.real(20, 60));  // at 1, halves end on ties
  uint32_t finite = 0, wrong = 0;
  const int zero = random.in(0, 255) ^ fault;
  kernels.patches({image, width, patch_h, patch_w, inverse, zero, output.data(), stride, scratch.data(), &finite});
  std::vector<uint8_t> ignored(output.size());
  image[random.in(0, patch_h * width - 1)] = random.any({INFINITY, -INFINITY, NAN});
  kernels.patches({image, width, patch_h, patch_w, inverse, zero, ignored.data(), stride, scratch.data(), &wrong});
  output.push_back(finite == 0 && wrong != 0);
  return as_values(output);
}

Values run_classify(const Kernels& kernels, Random random, int, bool fault) {
  Store store;
  Cases cases{random, store};
  const int outputs = random.in(1, 30), inputs = random.in(1, 200);
  const auto stride = static_cast<size_t>(round_up(inputs, 64));
  int16_t *features = cases.any<int16_t>(stride, -2048, 2047), *weights = cases.any<int16_t>(stride * static_cast<size_t>(outputs), -127, 127);
  std::fill(features + inputs, features + stride, int16_t{0});
  if (fault) features[inputs - 1] ^= 1;
  const int32_t* bias = cases.any<int32_t>(static_cast<size_t>(outputs), -100000, 100000);
  const float* scale = cases.around(static_cast<size_t>(outputs), 1e-3, 9);
  std::vector<float> logits(static_cast<size_t>(outputs) + 2, 7.0f);
  kernels.classify({features, weights, stride, bias, scale, outputs / 2, outputs, logits.data()});
  kernels.classify({features, weights, stride, bias, scale, 0, outputs / 2, logits.data()});
  return as_values(logits);
}

const std::vector<KernelCheck> kKernelChecks = {
    {"gemm relu", 130, 0, run_gemm<Epilogue::kRelu>},
    {"gemm bytes", 130, 0, run_gemm<Epilogue::kBytes>},
    {"gemm words", 130, 0, run_gemm<Epilogue::kWords>},
    {"gemm residual", 130, 0, run_gemm<Epilogue::kResidual>},
    {"gemm table", 130, 0, run_gemm<Epilogue::kTable>},
    {"gemm shift-gelu", 130, 0, run_gemm<Epilogue::kShiftGelu>},
    {"gemm twice-bytes", 130, 0, run_gemm<Epilogue::kTwiceBytes>},
    {"gemm twice-words", 130, 0, run_gemm<Epilogue::kTwiceWords>},
    {"gemm twice-residual", 130, 0, run_gemm<Epilogue::kTwiceResidual>},
    {"gemm relu-float", 130, 0, run_gemm<Epilogue::kReluFloat>},
    {"gemm gelu-erf", 130, 1, run_gemm<Epilogue::kGeluErf>},
    {"gemm gelu-polynomial", 130, 1, run_gemm<Epilogue::kGeluPolynomial>},
    {"gemm after-gemm", 130, 0, run_gemm<Epilogue::kAfterGemm>},
    {"pass relu-words", 130, 0, run_pass<Pass::kReluWords>},
    {"pass relu-after-gemm", 130, 0, run_pass<Pass::kReluAfterGemm>},
    {"pass gelu-after-gemm", 130, 1, run_pass<Pass::kGeluAfterGemm>},
    {"norm bytes", 150, 0, run_norm<uint8_t>},
    {"norm words", 150, 0, run_norm<int16_t>},
    {"attention", 37 * 4, 0, run_attention},
    {"patches", 100, 0, run_patches},
    {"classify", 50, 0, run_classify},
};

// ------------------------------------------------------------------------------------------------------------ networks

struct Row {
  std::string tensor;
  Values values;
};

// Every intermediate tensor row by row, the logits last; false where a pixel was no number.
std::vector<Row> trace(Network& network, const float* image, int classes) {
  std::vector<Row> rows;
  std::vector<float> logits(static_cast<size_t>(classes));
  network.trace(image, logits.data(), [&](const std::string& name, int, const int32_t* values, int columns) {
    rows.push_back({name, Values(values, values + columns)});
  });
  rows.push_back({"logits", as_values(logits)});
  return rows;
}

// The first tensor that differs, or an empty name. An arm with GELU in fp32 may first differ in a hidden tensor, and there by
// one step; what follows is computed from other numbers and says nothing more.
std::string first_difference(const std::vector<Row>& want, const std::vector<Row>& got, bool last_bit, int64_t& compared) {
  if (want.size() != got.size()) return "the number of rows";
  std::string excused;
  for (size_t i = 0; i < want.size(); ++i) {
    const std::string& name = want[i].tensor;
    if (!excused.empty() && name != excused) return "";
    const int64_t difference = worst_difference(want[i].values, got[i].values);
    const bool hidden = name.size() > 11 && name.compare(name.size() - 11, 11, ".mlp.hidden") == 0;
    if (difference > (last_bit && hidden ? 1 : 0)) return name;
    if (difference > 0) excused = name;
    compared += static_cast<int64_t>(want[i].values.size());
  }
  return "";
}

struct Arm {
  const char* name;
  Epilogue fc1;
  std::optional<Pass> pass;
  bool last_bit;
};
const Arm kArms[] = {
    {"relu", Epilogue::kRelu, {}, false},
    {"relu, zero point", Epilogue::kBytes, {}, false},
    {"relu-float", Epilogue::kReluFloat, {}, false},
    {"relu-separate", Epilogue::kWords, Pass::kReluWords, false},
    {"relu, after gemm", Epilogue::kAfterGemm, Pass::kReluAfterGemm, false},
    {"gelu-lut", Epilogue::kTable, {}, false},
    {"gelu-shift", Epilogue::kShiftGelu, {}, false},
    {"gelu-fused", Epilogue::kGeluErf, {}, true},
    {"gelu-poly", Epilogue::kGeluPolynomial, {}, true},
    {"gelu-separate", Epilogue::kAfterGemm, Pass::kGeluAfterGemm, true},
};

void check_networks(const Arm& arm, const std::string& isa, const Kernels& kernels) {
  constexpr int kNetworks = 8, kImages = 3;
  int64_t values = 0;
  int noticed = 0;
  for (int i = 0; i < kNetworks; ++i) {
    Random random(static_cast<uint64_t>(1000 + i));
    Store store;
    Cases cases{random, store};
    NetworkSpec spec = cases.network(arm.fc1, arm.pass);
    const size_t pixels = static_cast<size_t>(spec.image_channels) * static_cast<size_t>(spec.image_height) * static_cast<size_t>(spec.image_width);
    const float* images = cases.pixels(kImages * pixels);
    Network portable(spec, *kernels_portable(), 1), network(spec, kernels, 1 + i % 4);
    std::vector<float> single, batch(static_cast<size_t>(kImages * spec.classes));
    network.run(images, kImages, batch.data());
    for (int image = 0; image < kImages; ++image) {
      const float* at = images + static_cast<size_t>(image) * pixels;
      const std::vector<Row> want = trace(portable, at, spec.classes), got = trace(network, at, spec.classes);
      const std::string different = first_difference(want, got, arm.last_bit, values);
      const Values& logits = got.back().values;
      if (!different.empty()) return report(false, isa, std::string("network ") + arm.name, "network %d: %s differs", i, different.c_str());
      if (std::memcmp(logits.data(), batch.data() + image * spec.classes, logits.size() * sizeof(float)) != 0)
        return report(false, isa, std::string("network ") + arm.name, "network %d: a batch on %d threads differs", i, 1 + i % 4);
    }
    int64_t ignored = 0;  // control: one scale of the last block a little off
    BlockSpec& last = spec.stages.back().blocks.back();
    const float* changed = cases.around(static_cast<size_t>(last.attention.heads), 1.7, 1.2);
    last.attention.output_multiplier = changed;
    Network faulty(spec, kernels, 1);
    noticed += !first_difference(trace(portable, images, spec.classes), trace(faulty, images, spec.classes), arm.last_bit, ignored).empty();
  }
  report(noticed > 0, isa, std::string("network ") + arm.name, noticed ? "%4d networks, %6lld values" : "a fault went unnoticed", kNetworks,
         static_cast<long long>(values));
}

// Networks of a file, on one thread and on two, against the reference's logits.
void check_file(const std::vector<FileCase>& cases, const std::string& isa, const Kernels& kernels) {
  for (const FileCase& c : cases) {
    double worst = 0;
    const auto count = static_cast<size_t>(c.images * c.network.classes);
    for (const int threads : {1, 2}) {
      Network network(c.network, kernels, threads);
      std::vector<float> logits(count);
      if (network.run(c.pixels, c.images, logits.data()) >= 0) worst = INFINITY;
      for (size_t i = 0; i < count; ++i) {
        const double difference = std::abs(static_cast<double>(logits[i]) - c.logits[i]);
        worst = std::max(worst, std::isnan(difference) ? INFINITY : difference);
      }
    }
    report(worst <= c.tolerance, isa, c.name, "%4d images, %6zu logits, worst difference %g, allowed %g", c.images, count, worst, c.tolerance);
  }
}

int run(const char* path) {
  Store store;
  std::vector<FileCase> cases;
  if (path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw std::runtime_error("cannot be read");
    cases = Reader(bytes, store).cases();
  }
  int compared = 0;
  for (const std::string& isa : built_isas()) {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) {
      std::printf("left out: %s, which this processor does not report\n", isa.c_str());
      continue;
    }
    if (isa != "portable") {
      for (const KernelCheck& check : kKernelChecks) check_kernel(check, isa, *kernels);
      for (const Arm& arm : kArms) check_networks(arm, isa, *kernels);
      ++compared;
    }
    check_file(cases, isa, *kernels);
  }
  if (compared == 0) std::printf("nothing to compare: no instruction set but portable runs here\n");
  else std::printf("%d instruction sets compared with portable, %d checks failed\n", compared, failures);
  return compared == 0 || failures > 0;
}

}  // namespace
}  // namespace geluless

int main(int count, char** arguments) {
  if (count > 2) return std::fprintf(stderr, "usage: %s [FILE]\n", arguments[0]), 2;
  const char* path = count == 2 ? arguments[1] : nullptr;
  try {
    return geluless::run(path);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s: %s\n", path ? path : arguments[0], error.what()), 2;
  }
}
