// Instantiates every kernel for one instruction set and makes their table. Each isa_*.cpp is compiled with its own flags;
// everything lives in a namespace of its own, so the linker can never take one instruction set's copy of a template for
// another's.

#pragma once

// Not sorted: the order decides where GCC 12 spills in the portable kernels, and the gate counts spills.
// clang-format off
#include "gemm.h"
#include "attention.h"
#include "patch_embed.h"
#include "classifier.h"
#include "peak.h"
#include "layer_norm.h"
#include "elementwise.h"
// clang-format on

namespace geluless::GELULESS_ISA {

constexpr Kernels make_kernels(const char* isa) {
  Kernels k{};
  k.isa = isa;
  k.layout = {kTileRows, kTileVectors, kLanes, kInputOffset, channel_in_pair};
  auto set = [&](Epilogue e, void (*f)(const GemmCall&)) { k.gemm[static_cast<int>(e)] = f; };
  set(Epilogue::kFixedRelu, gemm<Fixed<false>, StoreU8<Saturate>>);
  set(Epilogue::kFixedS8, gemm<Fixed<false>, StoreU8<SaturateS8>>);
  set(Epilogue::kFixedU8, gemm<Fixed<true>, StoreU8<Clamp>>);
  set(Epilogue::kFixedS16, gemm<Fixed<true>, StoreS16>);
  set(Epilogue::kFixedResidual, gemm<Fixed<false>, AddToResidual>);
  set(Epilogue::kFixedLut, gemm<Fixed<true>, StoreU8<LookUp>>);
  set(Epilogue::kFixedShiftGelu, gemm<Fixed<true>, StoreU8<ApplyShiftGelu>>);
  set(Epilogue::kFixedIBertGelu, gemm<Fixed<true>, StoreU8<ApplyIBertGelu>>);
  set(Epilogue::kTwoStageU8, gemm<Fp32<TwoStage>, StoreU8<Clamp>>);
  set(Epilogue::kTwoStageS16, gemm<Fp32<TwoStage>, StoreS16>);
  set(Epilogue::kTwoStageResidual, gemm<Fp32<TwoStage>, AddToResidual>);
  set(Epilogue::kFp32GeluTanh, gemm<Fp32GeluTanh, StoreU8<Clamp>>);
  set(Epilogue::kFp32Relu, gemm<Fp32<Scale>, StoreU8<Clamp>>);
  set(Epilogue::kFp32GeluErf, gemm<Fp32<GeluErf>, StoreU8<Clamp>>);
  set(Epilogue::kFp32GeluPoly, gemm<Fp32<GeluPoly>, StoreU8<Clamp>>);
  set(Epilogue::kFp32U8, gemm<Fp32<ScaleToS8>, StoreU8<Saturate>>);
  k.elementwise[static_cast<int>(Elementwise::kReluS16)] = relu_s16;
  k.elementwise[static_cast<int>(Elementwise::kReluU8)] = relu_u8;
  k.elementwise[static_cast<int>(Elementwise::kGeluTanhU8)] = gelu_tanh_u8;
  k.layer_norm = layer_norm;
  k.attention = attention;
  k.attention_scratch = AttentionScratch::size;
  k.score_place = score_place;
  k.weight_place = weight_place;
  k.score_table_size = score_table_size;
  k.weight_table_size = weight_table_size;
  k.quantize_patches = quantize_patches;
  k.classify = classify;
  k.peak = peak;
  return k;
}

}  // namespace geluless::GELULESS_ISA
