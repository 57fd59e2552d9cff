// How a GEMM finishes its int32 accumulators, and what its kernels are called.
//
// A name says, as XNNPACK's do, the types of the operands and of the accumulator, the requantization, the activation or the type
// that is stored, the tile in rows x channels and the instruction set: gemm_u8s8_s32_fixed_relu_6x64_avx512vnni.
//
//   fixed       integers alone: v = sat16(acc >> shift), y = (v multiplier + 2^14) >> 15
//   two_stage   FasterTransformer's: in fp32 to int8, then in fp32 with the bias to the scale of the output
//   fp32        one function of the accumulator in fp32, then rint

#pragma once

#include <cstddef>
#include <iterator>
#include <optional>
#include <string_view>

namespace geluless {

// Every 8-bit tensor is stored as uint8: an unsigned one (u8) as it is, a signed one (s8) as q + 128.
enum class Type { kU8, kS8, kS16 };

enum class Requantization { kFixed, kTwoStage, kFp32 };

enum class Epilogue {
  kFixedRelu,  // the pack to uint8 is the lower clamp at zero
  kFixedS8,    // saturated to -128..127 and stored as it is: kFixedRelu without ReLU, for measuring it
  kFixedU8,    // with zero point and clamps
  kFixedS16,
  kFixedResidual,   // int16, added to the residual stream
  kFixedLut,        // to 8 bits, then a table of 256 bytes
  kFixedShiftGelu,  // to 8 bits, then I-ViT's integers
  kFixedIBertGelu,  // to 8 bits, then I-BERT's
  kTwoStageU8,
  kTwoStageS16,
  kTwoStageResidual,
  kFp32Relu,
  kFp32GeluErf,
  kFp32GeluTanh,  // the function of kGeluTanhU8
  kFp32GeluPoly,  // I-BERT's
  kFp32U8,        // int8 as FasterTransformer's GEMM stores it, with the storage offset
  kCount
};

struct EpilogueInfo {
  const char* name;
  Requantization requantization;
  Type output = Type::kU8;
  bool residual = false;  // adds to its output
  bool lut = false;       // reads the table of 256 bytes
};
constexpr EpilogueInfo kEpilogues[] = {
    {"fixed_relu", Requantization::kFixed},
    {"fixed_s8", Requantization::kFixed},
    {"fixed_u8", Requantization::kFixed},
    {"fixed_s16", Requantization::kFixed, Type::kS16},
    {"fixed_residual", Requantization::kFixed, Type::kS16, true},
    {"fixed_lut", Requantization::kFixed, Type::kU8, false, true},
    {"fixed_shift_gelu", Requantization::kFixed, Type::kU8, false, true},
    {"fixed_ibert_gelu", Requantization::kFixed, Type::kU8, false, true},
    {"two_stage_u8", Requantization::kTwoStage},
    {"two_stage_s16", Requantization::kTwoStage, Type::kS16},
    {"two_stage_residual", Requantization::kTwoStage, Type::kS16, true},
    {"fp32_relu", Requantization::kFp32},
    {"fp32_gelu_erf", Requantization::kFp32},
    {"fp32_gelu_tanh", Requantization::kFp32},
    {"fp32_gelu_poly", Requantization::kFp32},
    {"fp32_u8", Requantization::kFp32},
};

// The activation as a kernel of its own: what it computes, and the type that it reads. It writes uint8.
enum class Elementwise { kReluS16, kReluU8, kGeluTanhU8, kCount };

constexpr const char* kElementwise[] = {"relu_s16", "relu_u8", "gelu_tanh_u8"};

constexpr const EpilogueInfo& info(Epilogue epilogue) { return kEpilogues[static_cast<size_t>(epilogue)]; }
constexpr std::string_view name(Epilogue epilogue) { return info(epilogue).name; }
constexpr std::string_view name(Elementwise kernel) { return kElementwise[static_cast<size_t>(kernel)]; }

// Whether the output is an int16 tensor of its own, not the residual stream.
constexpr bool writes_s16(Epilogue epilogue) { return info(epilogue).output == Type::kS16 && !info(epilogue).residual; }

template <class Enum>
constexpr std::optional<Enum> named(std::string_view wanted) {
  for (int i = 0; i < static_cast<int>(Enum::kCount); ++i)
    if (name(static_cast<Enum>(i)) == wanted) return static_cast<Enum>(i);
  return std::nullopt;
}

static_assert(std::size(kEpilogues) == static_cast<size_t>(Epilogue::kCount));
static_assert(std::size(kElementwise) == static_cast<size_t>(Elementwise::kCount));
static_assert(named<Epilogue>("fixed_relu") == Epilogue::kFixedRelu && named<Epilogue>("fp32_u8") == Epilogue::kFp32U8);

}  // namespace geluless
