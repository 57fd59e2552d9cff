// Instantiates every kernel for the instruction set whose primitives were included before, and makes their table.
// Each isa_*.cpp is compiled with its own flags; everything lives in a namespace of its own, so the linker can never take
// one instruction set's copy of a template for another's.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"

#include "gemm.h"

#include "attention.h"
#include "ends.h"
#include "layer_norm.h"
#include "pass.h"
#include "plant.h"

namespace geluless::GELULESS_ISA {

constexpr Kernels make_kernels(const char* name) {
  Kernels k{};
  k.name = name;
  k.layout = {kLanes, kTileVectors, kInputOffset, channel_in_pair};
  auto set = [&](Epilogue e, void (*f)(const GemmCall&)) { k.gemm[static_cast<int>(e)] = f; };
  set(Epilogue::kRelu, gemm<Fixed<false>, ToBytes<Saturate>>);
  set(Epilogue::kBare, gemm<Fixed<false>, ToBytes<SaturateSigned>>);
  set(Epilogue::kBytes, gemm<Fixed<true>, ToBytes<Clamp>>);
  set(Epilogue::kWords, gemm<Fixed<true>, ToWords>);
  set(Epilogue::kResidual, gemm<Fixed<false>, AddToStream>);
  set(Epilogue::kTable, gemm<Fixed<true>, ToBytes<LookUp>>);
  set(Epilogue::kShiftGelu, gemm<Fixed<true>, ToBytes<Shift>>);
  set(Epilogue::kTwiceBytes, gemm<Float<Twice>, ToBytes<Clamp>>);
  set(Epilogue::kTwiceWords, gemm<Float<Twice>, ToWords>);
  set(Epilogue::kTwiceResidual, gemm<Float<Twice>, AddToStream>);
  set(Epilogue::kReluFloat, gemm<Float<ReluFloat>, ToBytes<Clamp>>);
  set(Epilogue::kGeluErf, gemm<Float<GeluErf>, ToBytes<Clamp>>);
  set(Epilogue::kGeluPolynomial, planted<gemm<Float<GeluPolynomial>, ToBytes<Clamp>>>());
  set(Epilogue::kAfterGemm, gemm<Float<AfterGemm>, ToBytes<Saturate>>);
  k.pass[static_cast<int>(Pass::kReluWords)] = relu_words;
  k.pass[static_cast<int>(Pass::kReluAfterGemm)] = relu_after_gemm;
  k.pass[static_cast<int>(Pass::kGeluAfterGemm)] = gelu_after_gemm;
  k.layer_norm = layer_norm;
  k.attention = attention;
  k.attention_scratch = AttentionScratch::size;
  k.score_place = score_place;
  k.weight_place = weight_place;
  k.score_table_size = score_table_size;
  k.weight_table_size = weight_table_size;
  k.patches = patches;
  k.classify = classify;
  k.peak = peak;
  return k;
}

}  // namespace geluless::GELULESS_ISA
