// Compares every kernel and whole networks of every instruction set with `portable`, bit for bit: a program without Python, so
// that it runs where Python does not (under an emulator, on a bare board).
//
//   check_kernels [FILE]      FILE: networks with the reference's logits, written by tests/support/native_dump.py
//
// One line per check. Exits with 1 when anything differs, when a check cannot see a fault, or when there was nothing to compare.
// GELU in fp32 may differ by one step: the instruction sets with a fused multiply-add use it there, `portable` does not.

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>

#include "check_file.h"
#include "check_single.h"
#include "dispatch.h"
#include "network.h"

namespace geluless {
namespace {

// One kernel under test. The result of at least one case must show a fault: a check that cannot fail is none.
struct KernelCheck {
  std::string name;
  int cases;
  int tolerance;
  std::function<Values(const Kernels&, Random random, int index, bool fault)> run;
};

int failures = 0;

[[gnu::format(printf, 4, 5)]] void report(bool good, const std::string& isa, const std::string& name, const char* format, ...) {
  std::printf("%-6s %-10s %-34s ", good ? "ok" : "FAILED", isa.c_str(), name.c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
  failures += !good;
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
  if (differing)
    report(false, isa, check.name, "%d of %d cases differ, first %d, by up to %" PRId64, differing, check.cases, first, worst);
  else if (!noticed) report(false, isa, check.name, "a fault went unnoticed");
  else report(true, isa, check.name, "%4d cases, %8" PRId64 " values, worst difference %" PRId64, check.cases, values, worst);
}

template <Epilogue kEpilogue>
KernelCheck gemm_check(int tolerance = 0) {
  return {"gemm_u8s8_s32_" + std::string(name(kEpilogue)), 130, tolerance, run_gemm<kEpilogue>};
}
template <Elementwise kKernel>
KernelCheck elementwise_check(int tolerance = 0) {
  return {std::string(name(kKernel)), 130, tolerance, run_elementwise<kKernel>};
}

const std::vector<KernelCheck> kKernelChecks = {
    gemm_check<Epilogue::kFixedRelu>(),
    gemm_check<Epilogue::kFixedS8>(),
    gemm_check<Epilogue::kFixedU8>(),
    gemm_check<Epilogue::kFixedS16>(),
    gemm_check<Epilogue::kFixedResidual>(),
    gemm_check<Epilogue::kFixedLut>(),
    gemm_check<Epilogue::kFixedShiftGelu>(),
    gemm_check<Epilogue::kFixedIBertGelu>(),
    gemm_check<Epilogue::kTwoStageU8>(),
    gemm_check<Epilogue::kTwoStageS16>(),
    gemm_check<Epilogue::kTwoStageResidual>(),
    gemm_check<Epilogue::kFp32Relu>(),
    gemm_check<Epilogue::kFp32GeluErf>(1),
    gemm_check<Epilogue::kFp32GeluTanh>(1),
    gemm_check<Epilogue::kFp32GeluPoly>(1),
    gemm_check<Epilogue::kFp32U8>(),
    elementwise_check<Elementwise::kReluS16>(),
    elementwise_check<Elementwise::kReluU8>(),
    elementwise_check<Elementwise::kGeluTanhU8>(1),
    {"layer_norm_s16_u8", 150, 0, run_norm<uint8_t>},
    {"layer_norm_s16_s16", 150, 0, run_norm<int16_t>},
    {"attention", 37 * 4, 0, run_attention},
    {"quantize_patches", 100, 0, run_quantize_patches},
    {"classify", 50, 0, run_classify},
};

// ------------------------------------------------------------------------------------------------------------ networks

struct Row {
  std::string tensor;
  Values values;
};

// Every intermediate tensor row by row, the logits last.
std::vector<Row> trace(Network& network, const float* image, int classes) {
  std::vector<Row> rows;
  std::vector<float> logits(static_cast<size_t>(classes));
  network.trace(image, logits.data(), [&](const std::string& name, int, const int32_t* values, int columns) {
    rows.push_back({name, Values(values, values + columns)});
  });
  rows.push_back({"logits", as_values(logits)});
  return rows;
}

// The first tensor that differs, or an empty name. A variant with GELU in fp32 may first differ in a hidden tensor, and there by
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

// With one constant a little off, for the controls: the context of the last block is an eighth smaller.
NetworkSpec damaged(NetworkSpec spec, Store& store) {
  AttentionSpec& attention = spec.stages.back().blocks.back().attention;
  float* smaller = store.take<float>(static_cast<size_t>(attention.heads));
  for (int head = 0; head < attention.heads; ++head) smaller[head] = 0.875f * attention.output_multiplier[head];
  attention.output_multiplier = smaller;
  return spec;
}

struct Variant {
  const char* name;
  Epilogue fc1;
  std::optional<Elementwise> kernel;
  bool last_bit;
};
const Variant kVariants[] = {
    {"relu", Epilogue::kFixedRelu, {}, false},
    {"relu, zero point", Epilogue::kFixedU8, {}, false},
    {"relu-float", Epilogue::kFp32Relu, {}, false},
    {"relu-separate", Epilogue::kFixedS16, Elementwise::kReluS16, false},
    {"relu-separate-int8", Epilogue::kFp32U8, Elementwise::kReluU8, false},
    {"gelu-lut", Epilogue::kFixedLut, {}, false},
    {"gelu-ibert", Epilogue::kFixedIBertGelu, {}, false},
    {"gelu-shift", Epilogue::kFixedShiftGelu, {}, false},
    {"gelu-fused", Epilogue::kFp32GeluErf, {}, true},
    {"gelu-fused-tanh", Epilogue::kFp32GeluTanh, {}, true},
    {"gelu-poly", Epilogue::kFp32GeluPoly, {}, true},
    {"gelu-separate", Epilogue::kFp32U8, Elementwise::kGeluTanhU8, true},
};

void check_networks(const Variant& variant, const std::string& isa, const Kernels& kernels) {
  constexpr int kNetworks = 8, kImages = 3;
  const std::string name = std::string("network ") + variant.name;
  int64_t values = 0;
  int noticed = 0;
  for (int i = 0; i < kNetworks; ++i) {
    Random random(static_cast<uint64_t>(1000 + i));
    Store store;
    Cases cases{random, store};
    const NetworkSpec spec = cases.network(variant.fc1, variant.kernel);
    const size_t pixels = pixels_of(spec);
    const float* images = cases.pixels(kImages * pixels);
    Network expected(spec, *kernels_portable(), 1), network(spec, kernels, 1 + i % 4, i % 2 == 1);
    std::vector<float> single, batch(static_cast<size_t>(kImages * spec.classes));
    network.run(images, kImages, batch.data());
    for (int image = 0; image < kImages; ++image) {
      const float* at = images + static_cast<size_t>(image) * pixels;
      const std::vector<Row> want = trace(expected, at, spec.classes), got = trace(network, at, spec.classes);
      const std::string different = first_difference(want, got, variant.last_bit, values);
      const Values& logits = got.back().values;
      if (!different.empty()) return report(false, isa, name, "network %d: %s differs", i, different.c_str());
      if (std::memcmp(logits.data(), batch.data() + image * spec.classes, logits.size() * sizeof(float)) != 0)
        return report(false, isa, name, "network %d: a batch on %d threads differs", i, 1 + i % 4);
    }
    int64_t ignored = 0;
    Network faulty(damaged(spec, store), kernels, 1);
    const std::vector<Row> want = trace(expected, images, spec.classes), got = trace(faulty, images, spec.classes);
    noticed += !first_difference(want, got, variant.last_bit, ignored).empty();
  }
  if (noticed) report(true, isa, name, "%4d networks, %8" PRId64 " values", kNetworks, values);
  else report(false, isa, name, "a fault went unnoticed");
}

// The largest difference from the reference's logits; infinite when an image is refused.
double distance(const NetworkSpec& spec, const FileCase& c, const Kernels& kernels, int threads) {
  Network network(spec, kernels, threads);
  std::vector<float> logits(static_cast<size_t>(c.images) * static_cast<size_t>(spec.classes));
  if (network.run(c.pixels, c.images, logits.data()) >= 0) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double difference = std::abs(static_cast<double>(logits[i]) - c.logits[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

void check_file(const std::vector<FileCase>& cases, Store& store, const std::string& isa, const Kernels& kernels) {
  for (const FileCase& c : cases) {
    const double worst = std::max(distance(c.network, c, kernels, 1), distance(c.network, c, kernels, 2));
    const bool noticed = distance(damaged(c.network, store), c, kernels, 1) > c.tolerance;
    if (noticed)
      report(worst <= c.tolerance, isa, c.name, "%4d images, worst difference %g, allowed %g", c.images, worst, c.tolerance);
    else report(false, isa, c.name, "a fault went unnoticed");
  }
}

int run(const char* path) {
  Store store;
  std::vector<FileCase> cases;
  if (path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw std::runtime_error("cannot be read");
    cases = read_cases(Reader(bytes, store));
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
      for (const Variant& variant : kVariants) check_networks(variant, isa, *kernels);
      ++compared;
    }
    check_file(cases, store, isa, *kernels);
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
