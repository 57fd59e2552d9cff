"""From a float Swin and its ranges to the integers of an artifact: one walk through the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import nn

from geluless.errors import CalibrationError, ModelError
from geluless.integer import plan as p
from geluless.integer.artifact import Artifact
from geluless.integer.gelu import gelu_erf, gelu_table
from geluless.integer.requantization import encode_multiplier
from geluless.integer.schema import MAX_SHIFT, POOLED, SOFTMAX_STEP, SOFTMAX_STEPS
from geluless.ptq.calibrate import Observations
from geluless.ptq.folding import (
    ACCUMULATOR_MARGIN,
    FloatLinear,
    IntLinear,
    Output,
    QuantParams,
    emit_norm,
    emit_single,
    emit_two_stage,
    float_linear,
    fold_norm,
    gelu_interval,
    overridden_weight,
    quantize_weight,
)
from geluless.ptq.overrides import QuantOverrides
from geluless.ptq.profiles import Profile, RangeRule

INT8, UINT8, INT16 = (-128, 127), (0, 255), (-(2**15), 2**15 - 1)
# Of the int16 residual stream over everything calibration saw in the stage. A 16-bit requantization saturates at its
# multiplier, which lies between half of int16 and all of it, so a branch has at least half of this headroom.
HEADROOM = 4.0
POOLED_HEADROOM = 1.25  # of the pooled features over everything calibration saw
SCORE_RESOLUTION = 0.25  # a score step is at most this part of a table step


class Builder:
    """Walks the network once, from the stem to the head, and emits the plan with its tensors.

    `raised` names the overrides whose step was too fine: an output finer than the accumulator that feeds it is empty.
    """

    def __init__(
        self,
        swin: SwinTransformer,
        seen: Observations,
        profile: Profile,
        activation: p.Activation,
        overrides: QuantOverrides | None = None,
    ) -> None:
        self.swin, self.seen, self.profile, self.activation = swin, seen, profile, activation
        self.overrides = overrides or QuantOverrides()
        self.tensors: dict[str, NDArray[Any]] = {}
        self.raised: dict[str, None] = {}

    def build(self, name: str, parents: dict[str, str]) -> Artifact:
        steps = np.arange(SOFTMAX_STEPS)
        self.tensors["softmax_table"] = np.rint(255 * np.exp(-SOFTMAX_STEP * steps)).astype(np.uint8)
        residual_scales = [self._prepare_stage(i) for i in range(len(self.swin.layers))]
        stem = self._stem(residual_scales[0])
        stages = tuple(self._stage(i, residual_scales) for i in range(len(self.swin.layers)))
        head = self._head(residual_scales[-1], stages[-1])
        plan = p.Plan(p.FORMAT, name, self.profile.recorded, self.activation, stem, stages, head, parents)
        return Artifact(plan, self.tensors)

    # ------------------------------------------------------------------------------------------------ small pieces

    def _symmetric(self, tensor: str, *, levels: int = 127) -> float:
        return self.seen[tensor].symmetric(self.profile.range_rule, levels=levels) / levels

    def _int8_qparams(self, tensor: str) -> QuantParams:
        return self.overrides.qparams.get(tensor) or QuantParams(self._symmetric(tensor), 0, *INT8)

    def _norm_qparams(self, norm: str, *, folded: bool) -> QuantParams:
        return self._int8_qparams(f"{norm}:normalized" if folded else f"{norm}:out")

    def _weights(self, name: str, module: nn.Linear, qparams: QuantParams, norm: nn.LayerNorm | None = None) -> IntLinear:
        layer = float_linear(module)
        if norm is not None and self.profile.fold_norms:
            layer = fold_norm(layer, norm)
        return self._quantized(name, layer, qparams, per_channel=self.profile.per_channel_weights)

    def _quantized(self, name: str, layer: FloatLinear, qparams: QuantParams, *, per_channel: bool) -> IntLinear:
        if (weight := self.overrides.weights.get(name)) is not None:
            return overridden_weight(layer, qparams, weight.steps, weight.scale)
        return quantize_weight(layer, qparams, per_channel=per_channel)

    def _no_finer(self, tensor: str, scale: float, finest: float) -> float:
        self._note_if(tensor, scale < finest)
        return max(scale, finest)

    def _note_if(self, tensor: str, raised: bool) -> None:
        if raised and tensor in self.overrides.qparams:
            self.raised[tensor] = None

    def _emit(self, name: str, linear: IntLinear, output: Output) -> p.Linear:
        if name.rsplit(".", 1)[-1] in self.profile.two_stage_layers:
            return emit_two_stage(name, linear, output, self._after_gemm(name), self.tensors)
        return emit_single(name, linear, output, self.tensors)

    def _after_gemm(self, name: str) -> float:
        """The scale of FasterTransformer's int8 between GEMM and bias: of what the accumulator holds, folded or not."""
        follows_norm = name.endswith((".qkv", ".fc1", ".reduction"))
        return self._symmetric(f"{name}:gemm-folded" if follows_norm and self.profile.fold_norms else f"{name}:gemm")

    # ---------------------------------------------------------------------------------------------------- the parts

    def _prepare_stage(self, i: int) -> float:
        """The int16 scale of stage i: headroom over what was seen, and no finer than any accumulator that feeds it."""
        stage = self.swin.layers[i]
        scales = [HEADROOM * self.seen[f"layers.{i}:residual"].symmetric(RangeRule.MIN_MAX) / INT16[1]]
        if not isinstance(stage.downsample, nn.Identity):
            scales.append(self._reduction(i).finest_output)
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            scales += [self._proj(name, block).finest_output, self._fc2(name, block).finest_output]
        return float(np.float32(max(scales)))

    def _reduction(self, i: int) -> IntLinear:
        merge = self.swin.layers[i].downsample
        qparams = self._norm_qparams(f"layers.{i}.downsample.norm", folded=self.profile.fold_norms)
        return self._weights(f"layers.{i}.downsample.reduction", merge.reduction, qparams, merge.norm)

    def _proj(self, name: str, block: SwinTransformerBlock) -> IntLinear:
        return self._weights(f"{name}.attn.proj", block.attn.proj, self._int8_qparams(f"{name}.attn.proj:in"))

    def _fc1(self, name: str, block: SwinTransformerBlock) -> IntLinear:
        qparams = self._norm_qparams(f"{name}.norm2", folded=self.profile.fold_norms)
        return self._weights(f"{name}.mlp.fc1", block.mlp.fc1, qparams, block.norm2)

    def _fc2(self, name: str, block: SwinTransformerBlock) -> IntLinear:
        return self._weights(f"{name}.mlp.fc2", block.mlp.fc2, self._hidden_qparams(name, block))

    def _hidden_qparams(self, name: str, block: SwinTransformerBlock) -> QuantParams:
        """The 8-bit tensor between activation and fc2. A ReLU's comes straight from fc1's accumulator, so is no finer."""
        tensor = f"{name}.mlp.fc2:in"
        if (qparams := self.overrides.qparams.get(tensor)) is not None:
            if self.activation is p.Activation.RELU:
                qparams = replace(qparams, scale=self._no_finer(tensor, qparams.scale, self._fc1(name, block).finest_output))
            return qparams
        if self.activation is p.Activation.GELU and self.profile.unsigned_hidden:
            low, high = self.seen[tensor].interval(self.profile.range_rule)
            scale = (high - low) / 255
            return QuantParams(scale, round(-low / scale), *UINT8)
        low_high, levels = (UINT8, 255) if self.profile.unsigned_hidden else (INT8, 127)
        return QuantParams(max(self._symmetric(tensor, levels=levels), self._fc1(name, block).finest_output), 0, *low_high)

    def _stem(self, residual_scale: float) -> p.Stem:
        embed = self.swin.patch_embed
        qparams = self.overrides.qparams.get("patch_embed.proj:in") or self._image_qparams()
        linear = self._quantized("patch_embed.proj", float_linear(embed.proj), qparams, per_channel=True)
        seen = self.seen["patch_embed.proj:out"].symmetric(RangeRule.MIN_MAX)
        embedding_scale = max(HEADROOM * seen / INT16[1], linear.finest_output)
        proj = emit_single("patch_embed.proj", linear, Output(embedding_scale, 0, *INT16), self.tensors)
        stream = Output(residual_scale, 0, *INT16)
        if not isinstance(embed.norm, nn.LayerNorm):
            raise ModelError("a Swin without LayerNorm after its patch embedding is not handled")
        norm = emit_norm("patch_embed.norm", embed.norm, embedding_scale, stream, self.tensors, folded=False)
        height, width = embed.img_size
        return p.Stem(embed.proj.in_channels, height, width, embed.patch_size, qparams.scale, qparams.zero_point, proj, norm)

    def _image_qparams(self) -> QuantParams:
        low, high = self.seen["input"].interval(RangeRule.MIN_MAX)
        scale = float(np.float32((high - low) / 255))
        return QuantParams(scale, int(np.clip(round(-low / scale), 0, 255)), *UINT8)

    def _stage(self, i: int, residual_scales: list[float]) -> p.Stage:
        stage, scale = self.swin.layers[i], residual_scales[i]
        merge = None
        if not isinstance(stage.downsample, nn.Identity):
            name, linear = f"layers.{i}.downsample", self._reduction(i)
            between = Output(linear.qparams.scale, linear.qparams.zero_point, *INT8)
            folded = self.profile.fold_norms
            norm = emit_norm(f"{name}.norm", stage.downsample.norm, residual_scales[i - 1], between, self.tensors, folded=folded)
            merge = p.Merge(norm, self._emit(f"{name}.reduction", linear, Output(scale, 0, *INT16)))
        height, width = stage.output_resolution
        blocks = tuple(self._block(f"layers.{i}.blocks.{j}", block, scale) for j, block in enumerate(stage.blocks))
        return p.Stage(height, width, blocks[0].norm1.channels, scale, merge, blocks)

    def _block(self, name: str, block: SwinTransformerBlock, residual_scale: float) -> p.Block:
        folded, stream = self.profile.fold_norms, Output(residual_scale, 0, *INT16)
        qparams = [self._norm_qparams(f"{name}.norm{k}", folded=folded) for k in (1, 2)]
        outputs = [Output(qparams.scale, qparams.zero_point, *INT8) for qparams in qparams]
        norm1, norm2 = (
            emit_norm(f"{name}.norm{k}", norm, residual_scale, output, self.tensors, folded=folded)
            for k, norm, output in zip((1, 2), (block.norm1, block.norm2), outputs, strict=True)
        )
        qkv, attention = self._attention(f"{name}.attn", block, qparams[0])
        proj = self._emit(f"{name}.attn.proj", self._proj(name, block), stream)
        return p.Block(norm1, qkv, attention, proj, norm2, self._mlp(f"{name}.mlp", block, stream))

    def _attention(self, name: str, block: SwinTransformerBlock, qparams: QuantParams) -> tuple[p.Linear, p.Attention]:
        attn = block.attn
        heads = attn.num_heads
        head_dim = attn.qkv.out_features // (3 * heads)
        context = self._int8_qparams(f"{name}.proj:in")
        linear, offsets = self._weights(f"{name}.qkv", attn.qkv, qparams, block.norm1), self._qkv_offsets(name, context)
        added, tensors = np.repeat(offsets, heads * head_dim), [f"{name}.qkv:{part}" for part in "qkv"]
        if added.any():
            linear = replace(linear, source=replace(linear.source, bias=linear.source.bias + added))
        finest = linear.step.reshape(3, heads, head_dim).max(2) * ACCUMULATOR_MARGIN
        scales = np.stack([self._head_scales(tensor, heads, offset) for tensor, offset in zip(tensors, offsets, strict=True)])
        for tensor, low in zip(tensors, (scales < finest).any(1), strict=True):
            self._note_if(tensor, low)
        scales = np.maximum(scales, finest)  # [3, heads]
        # Scores too small for the widest shift would leave the position bias, which shares their unit, no room in int16.
        step = scales[0] * scales[1] * head_dim**-0.5 / SOFTMAX_STEP  # of the table, per accumulator step
        scales[:2] *= np.sqrt(np.maximum(1, SCORE_RESOLUTION * 2.0**-MAX_SHIFT / step))
        qkv = self._emit(f"{name}.qkv", linear, Output(np.repeat(scales.reshape(-1), head_dim), 0, *INT8))

        table_steps = scales[0] * scales[1] * head_dim**-0.5 / SOFTMAX_STEP
        if (table_steps >= 1).any():
            raise CalibrationError(f"{name}: attention scores are too large to quantize; is the checkpoint the right one?")
        shift = np.clip(np.floor(np.log2(SCORE_RESOLUTION / table_steps)), 0, MAX_SHIFT).astype(np.uint8)
        unit = table_steps * 2.0**shift
        self.tensors[f"{name}.score_shift"] = shift
        self.tensors[f"{name}.score_multiplier"] = np.rint(unit * 2**15).clip(0, INT16[1]).astype(np.int16)
        bias = attn.relative_position_bias_table.detach().double().numpy() / (unit * SOFTMAX_STEP)
        self.tensors[f"{name}.bias_table"] = np.rint(bias).clip(*INT16).astype(np.int16)
        self.tensors[f"{name}.output_multiplier"] = (scales[2] / context.scale).astype(np.float32)
        if any(size % window for size, window in zip(block.input_resolution, attn.window_size, strict=True)):
            padding = float_linear(attn.qkv).bias + added  # of a zero token: timm pads after the norm
            steps = padding / np.repeat(scales.reshape(-1), head_dim)
            self.tensors[f"{name}.qkv.pad"] = np.rint(steps).clip(*INT8).astype(np.int8)
        window, moved = tuple(attn.window_size), tuple(block.shift_size)
        return qkv, p.Attention(heads, head_dim, window, moved)

    def _qkv_offsets(self, name: str, context: QuantParams) -> NDArray[np.float64]:
        """Real values that q, k and v are stored with, for grids that have zero points.

        One added to k adds the same to all scores of a query, which softmax does not see. One added to v is added to the context,
        since the weights of a query sum to one, and becomes the context's zero point. Nothing like it holds for q.
        """
        key = self.overrides.qparams.get(f"{name}.qkv:k")
        return np.array([0.0, 0.0 if key is None else key.zero_point * key.scale, context.zero_point * context.scale])

    def _head_scales(self, tensor: str, heads: int, offset: float) -> NDArray[np.float64]:
        """The step of q, k or v for each head."""
        if (qparams := self.overrides.qparams.get(tensor)) is not None:
            return np.full(heads, qparams.scale)
        if self.profile.per_head_scales:
            return (self.seen.heads[tensor].largest + abs(offset)) / 127
        return np.full(heads, self._symmetric(tensor) + abs(offset) / 127)

    def _mlp(self, name: str, block: SwinTransformerBlock, stream: Output) -> p.Mlp:
        owner = name.removesuffix(".mlp")
        hidden, linear = self._hidden_qparams(owner, block), self._fc1(owner, block)
        two_stage = "fc1" in self.profile.two_stage_layers
        if self.activation is p.Activation.GELU and not two_stage:
            pre = self._pre_activation(name, hidden, linear.finest_output)
            function = self.overrides.activations.get(name, gelu_erf)
            table = gelu_table(float(pre.scale), pre.zero_point, hidden.scale, hidden.zero_point, function=function)
            self.tensors[f"{name}.table"] = table
        else:
            pre = Output(hidden.scale, hidden.zero_point, hidden.low, hidden.high)
        fc1 = self._emit(f"{name}.fc1", linear, pre)
        self.tensors[f"{name}.fc1.accumulator_scale"] = linear.step.astype(np.float32)
        self.tensors[f"{name}.fc1.real_bias"] = linear.source.bias.astype(np.float32)
        fc2 = self._emit(f"{name}.fc2", self._fc2(owner, block), stream)
        return p.Mlp(
            fc1=fc1,
            fc2=fc2,
            has_bias=block.mlp.fc1.bias is not None,
            hidden_scale=float(np.float32(hidden.scale)),
            hidden_zero_point=hidden.zero_point,
            pre_scale=float(np.float32(pre.scale)),
            pre_zero_point=pre.zero_point,
            after_gemm_scale=float(np.float32(self._after_gemm(f"{name}.fc1"))),
        )

    def _pre_activation(self, name: str, hidden: QuantParams, finest: float) -> Output:
        if (qparams := self.overrides.qparams.get(f"{name}.fc1:out")) is not None:
            return Output(self._no_finer(f"{name}.fc1:out", qparams.scale, finest), qparams.zero_point, *UINT8)
        low, high = gelu_interval(self.seen[f"{name}.fc1:out"], hidden)
        scale = max((high - low) / 255, finest)
        return Output(scale, int(np.clip(round(-low / scale), 0, 255)), *UINT8)

    def _head(self, residual_scale: float, stage: p.Stage) -> p.Head:
        folded, fc, tokens = self.overrides.fold_head, self.swin.head.fc, stage.height * stage.width
        seen = self.seen["norm:normalized" if folded else "norm:out"]
        norm_scale = HEADROOM * seen.symmetric(RangeRule.MIN_MAX) / INT16[1]
        norm = emit_norm("norm", self.swin.norm, residual_scale, Output(norm_scale, 0, *INT16), self.tensors, folded=folded)
        pooled = QuantParams(self._pooled_scale(norm_scale / tokens * ACCUMULATOR_MARGIN, folded=folded), 0, *POOLED)
        multiplier, shift = encode_multiplier(np.array([norm_scale / (tokens * pooled.scale)]), bits=15)
        layer = fold_norm(float_linear(fc), self.swin.norm) if folded else float_linear(fc)
        linear = self._quantized("head.fc", layer, pooled, per_channel=True)
        self.tensors["head.fc.weight"], self.tensors["head.fc.bias"] = linear.weight, linear.bias
        self.tensors["head.fc.logit_scale"] = linear.step.astype(np.float32)
        classes, channels = linear.weight.shape
        plan = p.Linear(channels, classes, *POOLED, p.Rounding.SINGLE, 0, -(2**31), 2**31 - 1)
        return p.Head(norm, tokens, int(multiplier[0]), int(shift[0]), plan)

    def _pooled_scale(self, finest: float, *, folded: bool) -> float:
        if (qparams := self.overrides.qparams.get("head.fc:in")) is not None:
            return self._no_finer("head.fc:in", qparams.scale, finest)
        largest = POOLED_HEADROOM * self.seen["head:pooled" if folded else "head.fc:in"].symmetric(RangeRule.MIN_MAX)
        return max(largest / POOLED[1], finest)
