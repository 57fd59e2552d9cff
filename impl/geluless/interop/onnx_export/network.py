"""A plan as ONNX nodes: the reference engine's forward pass, place by place, whatever the dialect.

Read it beside `integer/reference.py`: same names, same order. Tokens are rows, [B * H * W, C], as in the compiled engines: it is
the layout in which runtimes fuse bias, activation and rounding into a matrix product. Windows, shift and reverse are Gather with
the engines' row numbers. What a value means (steps, or real numbers) and how it is rounded is a dialect's: `exact.py`, `real.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer import plan as p
from geluless.integer.reference import relative_position_index
from geluless.integer.requantization import INT16_MAX, INT16_MIN
from geluless.integer.variants import Variant
from geluless.integer.window_index import window_tokens
from geluless.interop.onnx_export import scales
from geluless.interop.onnx_export.graph import Graph, Tap
from geluless.interop.onnx_export.scales import UNIT, Scale, Tensors

INT8 = np.zeros((), np.int8)
MIDDLE = np.asarray(np.uint8(128))  # where a symmetric tensor has its zero when it is stored unsigned
CLAMPED = (Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_SEPARATE)  # fc1's own rounding, then ReLU


@dataclass
class NetworkWriter(ABC):
    """Writes one artifact's plan into `graph`; every method takes and returns the name of a float value.

    `source` and `target` are the real scales of what a layer reads and writes. signed: 8-bit activations are int8 around zero,
    for a runtime that takes no others, instead of uint8 around 128, for which runtimes have their fastest kernels.
    """

    plan: p.Plan
    tensors: Tensors
    variant: Variant
    signed: bool = False
    graph: Graph = field(default_factory=Graph)

    def write(self) -> Graph:
        """The whole graph, from `images` to `logits`."""
        stem, stages, head = self.plan.stem, self.plan.stages, self.plan.head
        x, source = self.embedding(stem), scales.embedding_scale(stem)
        x = self._wide_norm(x, "patch_embed.norm", stem.norm, source=source, target=stages[0].residual_scale)
        self._tap_stream("patch_embed", x, stages[0])
        for i, stage in enumerate(stages):
            if stage.merge:
                x = self._merge(x, f"layers.{i}.downsample", stages[i - 1], stage, stage.merge)
            for j, block in enumerate(stage.blocks):
                x = self._block(x, f"layers.{i}.blocks.{j}", block, stage)
        x = self._wide_norm(x, "norm", head.norm, source=stages[-1].residual_scale, target=scales.norm_scale(head.norm))
        x = self.graph.node("Reshape", [x, self.graph.shape(-1, head.tokens, head.fc.inputs)], "head.pool/images")
        self.logits(self.pooled(x, self.graph.constant("axis 1", np.array([1], np.int64)), head), head)
        return self.graph

    # ---------------------------------------------------------------------------------------------- what a dialect says

    @abstractmethod
    def step(self, scale: Scale) -> Scale:
        """The scale in the file of a tensor whose steps are worth `scale`."""

    @abstractmethod
    def clip(self, x: str, name: str, low: int, high: int) -> str:
        """The bounds of a tensor that no QuantizeLinear follows."""

    @abstractmethod
    def embedding(self, spec: p.Stem) -> str:
        """`images` float32 [B, C, H, W] -> the patch projection, [rows, C]."""

    @abstractmethod
    def layer_norm(self, x: str, name: str, norm: p.Norm, *, source: float, target: float) -> str:
        """Before the bounds of its rounding."""

    @abstractmethod
    def linear(self, x: str, name: str, spec: p.Linear, *, source: float, target: float, zero: int = 0) -> str:
        """A linear layer before the bounds of its rounding; `zero` is the zero point of its input."""

    @abstractmethod
    def pad(self, name: str) -> NDArray[Any]:
        """float [3 C]: what a token outside the image holds."""

    @abstractmethod
    def context(self, products: str, v: str, name: str, spec: p.Attention, allowed: NDArray[np.bool_] | None, place: str) -> str:
        """q k^T [B, windows, heads, T, T] -> softmax of it times v, before its rounding. `allowed` [windows, 1, T, T]."""

    @abstractmethod
    def activation(self, x: str, name: str, mlp: p.Mlp, *, source: float) -> str:
        """fc1 and the activation of a variant that is not in CLAMPED."""

    @abstractmethod
    def hidden_byte(self, x: str, name: str, mlp: p.Mlp) -> str:
        """The activation's output as the 8-bit input of fc2."""

    @abstractmethod
    def pooled(self, x: str, axis: str, head: p.Head) -> str:
        """The mean over the tokens, [B, tokens, C] -> [B, C]; `axis` names their axis."""

    @abstractmethod
    def logits(self, x: str, head: p.Head) -> str: ...

    # ------------------------------------------------------------------------------------------------------- the places

    def _merge(self, x: str, name: str, before: p.Stage, stage: p.Stage, spec: p.Merge) -> str:
        g, channels = self.graph, before.channels
        odd = (before.height % 2, before.width % 2)
        if any(odd):
            x = g.node("Reshape", [x, g.shape(-1, before.height, before.width, channels)], f"{name}/grid")
            pads = g.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, *odd, 0], np.int64))
            x = g.node("Pad", [x, pads], f"{name}/padded")
        x = g.node("Reshape", [x, g.shape(-1, stage.height, 2, stage.width, 2, channels)], f"{name}/neighbours")
        x = g.node("Transpose", [x], f"{name}/quads", perm=[0, 1, 3, 4, 2, 5])  # timm's order: column parity outermost
        x = g.node("Reshape", [x, g.shape(-1, 4 * channels)], f"{name}/joined")
        x = self._narrow_norm(x, f"{name}.norm", spec.norm, before)
        x = self._branch(x, f"{name}.reduction", spec.reduction, stage, source=scales.norm_scale(spec.norm))
        return self._tap_stream(name, x, stage)

    def _block(self, x: str, name: str, block: p.Block, stage: p.Stage) -> str:
        mlp = block.mlp
        context = self._attention(self._narrow_norm(x, f"{name}.norm1", block.norm1, stage), f"{name}.attn", block, stage)
        x = self._add(x, self._branch(context, f"{name}.attn.proj", block.proj, stage, source=UNIT), f"{name}.attn")
        hidden = self._hidden(self._narrow_norm(x, f"{name}.norm2", block.norm2, stage), f"{name}.mlp", block)
        source, zero = mlp.hidden_scale, mlp.hidden_zero_point
        x = self._add(x, self._branch(hidden, f"{name}.mlp.fc2", mlp.fc2, stage, source=source, zero=zero), name)
        return self._tap_stream(name, x, stage)

    def _attention(self, x: str, name: str, block: p.Block, stage: p.Stage) -> str:
        """[rows, C] -> the input of proj, [rows, heads * head_dim]."""
        g, spec = self.graph, block.attention
        x = self.linear(x, f"{name}.qkv", block.qkv, source=scales.norm_scale(block.norm1), target=UNIT)
        x = self.byte(x, f"{name}.qkv", UNIT)
        pixels, regions = window_tokens(stage, spec)  # both [windows, T], -1 where the grid is padded
        windows, tokens = pixels.shape
        place = f"{stage.height}x{stage.width} by {spec.window[0]}x{spec.window[1]} shifted {spec.shift[0]}x{spec.shift[1]}"
        x = g.node("Reshape", [x, g.shape(-1, stage.height * stage.width, block.qkv.outputs)], f"{name}/image")
        index = g.constant(f"tokens of windows {place}", np.maximum(pixels.reshape(-1), 0).astype(np.int64))
        x = g.node("Gather", [x, index], f"{name}/windows", axis=1)  # [B, windows * T, 3 C]
        if (pixels < 0).any():
            inside = g.constant(f"inside of windows {place}", pixels.reshape(-1, 1) >= 0)
            x = g.node("Where", [inside, x, g.real(f"{name}.qkv.pad", self.pad(f"{name}.qkv"))], f"{name}/padded")
        x = g.node("Reshape", [x, g.shape(-1, windows, tokens, 3, spec.heads, spec.head_dim)], f"{name}/heads")
        q, k, v = (
            g.node("Gather", [x, g.constant(f"part {i}", np.array(i, np.int64))], f"{name}/{part}", axis=3)
            for i, part in enumerate("qkv")
        )  # each [B, windows, T, heads, d]
        q, v = (g.node("Transpose", [part], f"{part}/by head", perm=[0, 1, 3, 2, 4]) for part in (q, v))
        k = g.node("Transpose", [k], f"{k}/by head", perm=[0, 1, 3, 4, 2])  # [B, windows, heads, d, T]
        allowed = None if regions is None else (regions[:, :, None] == regions[:, None, :])[:, None]
        products = g.node("MatMul", [q, k], f"{name}/products")
        x = self.context(products, v, name, spec, allowed, place)
        x = g.node("Transpose", [x], f"{name}/by token", perm=[0, 1, 3, 2, 4])
        x = g.node("Reshape", [x, g.shape(-1, windows * tokens, block.proj.inputs)], f"{name}/context rows")
        home = np.empty(stage.height * stage.width, np.int64)
        home[pixels[pixels >= 0]] = np.flatnonzero(pixels.reshape(-1) >= 0)
        x = g.node("Gather", [x, g.constant(f"windows of tokens {place}", home)], f"{name}/in place", axis=1)
        x = g.node("Reshape", [x, g.shape(-1, block.proj.inputs)], f"{name}/rows")
        return self.byte(x, f"{name}.context", UNIT)

    def _hidden(self, x: str, name: str, block: p.Block) -> str:
        """fc1 and the variant's activation: the 8-bit input of fc2."""
        mlp, source = block.mlp, scales.norm_scale(block.norm2)
        if self.variant in CLAMPED:
            x = self.linear(x, f"{name}.fc1", mlp.fc1, source=source, target=mlp.hidden_scale)
            x = self.graph.node("Relu", [x], f"{name}/relu")
        else:
            x = self.activation(x, name, mlp, source=source)
        return self.hidden_byte(x, f"{name}.hidden", mlp)

    # ----------------------------------------------------------------------------------------------------- small pieces

    def _wide_norm(self, x: str, name: str, norm: p.Norm, *, source: float, target: float) -> str:
        """LayerNorm to the first residual stream, or to what is pooled: 16 bits."""
        return self.clip(self.layer_norm(x, name, norm, source=source, target=target), name, norm.low, norm.high)

    def _narrow_norm(self, x: str, name: str, norm: p.Norm, stage: p.Stage) -> str:
        """LayerNorm of the stage's residual stream to the 8-bit input of the next layer."""
        target = scales.norm_scale(norm)
        return self.byte(self.layer_norm(x, name, norm, source=stage.residual_scale, target=target), name, target)

    def _branch(self, x: str, name: str, spec: p.Linear, stage: p.Stage, *, source: float, zero: int = 0) -> str:
        """A linear layer onto the stage's residual stream."""
        x = self.linear(x, name, spec, source=source, target=stage.residual_scale, zero=zero)
        return self.clip(x, name, spec.low, spec.high)

    def _add(self, x: str, branch: str, name: str) -> str:
        return self.clip(self.graph.node("Add", [x, branch], f"{name}/residual"), f"{name}/residual", INT16_MIN, INT16_MAX)

    def _tap_stream(self, name: str, x: str, stage: p.Stage) -> str:
        self.graph.taps[name] = Tap(x, scale=float(self.step(stage.residual_scale)))
        return x

    def byte(self, x: str, name: str, scale: Scale, *, tapped: bool = True) -> str:
        """A symmetric 8-bit tensor. tapped: the reference names it too."""
        zero, offset = (INT8, 0) if self.signed else (MIDDLE, -128)
        if tapped:
            self.graph.taps[name] = Tap(name, offset=offset, unsigned=not self.signed)
        return self.graph.rounded(x, name, self.step(scale), zero)

    def product(self, x: str, name: str, scale: Scale) -> str:
        """x [rows, K] times the int8 weights of `name`, kept [K, N] in the file, each channel N times its scale."""
        weight = self.graph.constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)
        weight = self.graph.dequantize(weight, f"{name}.weight", scale, INT8, axis=1)
        return self.graph.node("MatMul", [x, weight], f"{name}/product")

    def patches(self, x: str, spec: p.Stem, scale: Scale, *bias: str) -> str:
        """The patch projection, a convolution whose stride is its kernel: [B, C, H, W] -> [rows, N]."""
        g, name, patch = self.graph, "patch_embed.proj", list(spec.patch)
        weight = self.tensors[f"{name}.weight"].reshape(spec.proj.outputs, spec.channels, *spec.patch)  # int8 [N, C, h, w]
        kernel = g.dequantize(g.constant(f"{name}.weight", weight), f"{name}.weight", scale, INT8, axis=0)
        x = g.node("Conv", [x, kernel, *bias], f"{name}/product", kernel_shape=patch, strides=patch)
        x = g.node("Transpose", [x], f"{name}/tokens", perm=[0, 2, 3, 1])
        return g.node("Reshape", [x, g.shape(-1, spec.proj.outputs)], f"{name}/rows")

    def true_bias(self, name: str, zero_point: int) -> NDArray[np.int64]:
        """Without the correction for the input's zero point, which DequantizeLinear makes by itself."""
        return self.tensors[f"{name}.bias"] + zero_point * self.tensors[f"{name}.weight"].astype(np.int64).sum(1)

    def position_bias(self, name: str, spec: p.Attention) -> NDArray[np.int16]:
        """int16 [heads, T, T], in score steps."""
        table: NDArray[np.int16] = self.tensors[f"{name}.bias_table"][relative_position_index(spec.window)]
        return table.transpose(2, 0, 1)
