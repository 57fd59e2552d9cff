"""A plan as ONNX nodes: the reference engine's forward pass, place by place, whatever the dialect.

Read it beside `integer/reference.py`: same names, same order. Tokens are rows, [B * H * W, C], as in the compiled engines: it is
the layout in which runtimes fuse bias, activation and rounding into a matrix product. Windows, shift and reverse are Gather with
the engines' row numbers. What a value means (steps, or real numbers) and how it is rounded is a dialect's: `exact.py`, `real.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geluless.integer import plan as p
from geluless.integer.reference import relative_position_index
from geluless.integer.variants import Variant
from geluless.integer.window_index import window_tokens
from geluless.interop.onnx_export import scales
from geluless.interop.onnx_export.graph import Graph, Probe
from geluless.interop.onnx_export.scales import UNIT, Scale, Tensors

INT8 = np.zeros((), np.int8)
MIDDLE = np.asarray(np.uint8(128))  # where a symmetric tensor has its zero when it is stored unsigned


@dataclass
class NetworkWriter(ABC):
    """Writes one artifact's plan into `graph`; every method takes and returns the name of a float value."""

    plan: p.Plan
    tensors: Tensors
    variant: Variant
    graph: Graph = field(default_factory=Graph)

    def write(self) -> Graph:
        """The whole graph, from `images` to `logits`."""
        stem = self.plan.stem
        x = self.embedding(stem)
        self.graph.probes["patch_embed"] = self.stream_probe(x, self.plan.stages[0])
        for i, stage in enumerate(self.plan.stages):
            if stage.merge:
                x = self._merge(x, f"layers.{i}.downsample", self.plan.stages[i - 1], stage, stage.merge)
            for j, block in enumerate(stage.blocks):
                x = self._block(x, f"layers.{i}.blocks.{j}", block, stage)
        self.logits(self.pooled(x, self.plan.stages[-1], self.plan.head), self.plan.head)
        return self.graph

    # ---------------------------------------------------------------------------------------------- what a dialect says

    @abstractmethod
    def embedding(self, spec: p.Stem) -> str:
        """`images` float32 [B, C, H, W] -> the first residual stream, [rows, C]."""

    @abstractmethod
    def normed(self, x: str, name: str, norm: p.Norm, source: p.Stage) -> str:
        """LayerNorm of the stage's residual stream to the 8-bit input of the next layer."""

    @abstractmethod
    def qkv(self, x: str, name: str, block: p.Block) -> str:
        """[rows, C] -> 8-bit q, k and v, [rows, 3 C]."""

    @abstractmethod
    def pad(self, name: str) -> NDArray:
        """float [3 C]: what a token outside the image holds."""

    @abstractmethod
    def context(self, products: str, v: str, name: str, spec: p.Attention, allowed: NDArray[np.bool_] | None, place: str) -> str:
        """q k^T [B, windows, heads, T, T] -> softmax of it times v, before its rounding. `allowed` [windows, 1, T, T]."""

    @abstractmethod
    def context_rounded(self, x: str, name: str) -> str: ...

    @abstractmethod
    def branch(self, x: str, name: str, spec: p.Linear, stage: p.Stage, *, source: float, mlp: p.Mlp | None = None) -> str:
        """A linear layer onto the stage's residual stream; `source` is the scale of its input. `mlp`: it is that MLP's fc2."""

    @abstractmethod
    def add_residual(self, x: str, branch: str, name: str, stage: p.Stage) -> str: ...

    @abstractmethod
    def stream_probe(self, x: str, stage: p.Stage) -> Probe: ...

    @abstractmethod
    def hidden(self, x: str, name: str, mlp: p.Mlp, norm: p.Norm) -> str:
        """fc1 and the variant's activation: the 8-bit input of fc2."""

    @abstractmethod
    def pooled(self, x: str, stage: p.Stage, head: p.Head) -> str:
        """The last LayerNorm and the mean over the tokens: [B, C]."""

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
        normed = self.normed(x, f"{name}.norm", spec.norm, before)
        x = self.branch(normed, f"{name}.reduction", spec.reduction, stage, source=scales.norm_scale(spec.norm))
        g.probes[name] = self.stream_probe(x, stage)
        return x

    def _block(self, x: str, name: str, block: p.Block, stage: p.Stage) -> str:
        context = self._attention(self.normed(x, f"{name}.norm1", block.norm1, stage), f"{name}.attn", block, stage)
        x = self.add_residual(x, self.branch(context, f"{name}.attn.proj", block.proj, stage, source=UNIT), f"{name}.attn", stage)
        hidden = self.hidden(self.normed(x, f"{name}.norm2", block.norm2, stage), f"{name}.mlp", block.mlp, block.norm2)
        branch = self.branch(hidden, f"{name}.mlp.fc2", block.mlp.fc2, stage, source=block.mlp.hidden_scale, mlp=block.mlp)
        x = self.add_residual(x, branch, name, stage)
        self.graph.probes[name] = self.stream_probe(x, stage)
        return x

    def _attention(self, x: str, name: str, block: p.Block, stage: p.Stage) -> str:
        """[rows, C] -> the input of proj, [rows, heads * head_dim]."""
        g, spec = self.graph, block.attention
        x = self.qkv(x, f"{name}.qkv", block)
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
        return self.context_rounded(x, f"{name}.context")

    # ----------------------------------------------------------------------------------------------------- small pieces

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

    def images(self, x: str, head: p.Head) -> tuple[str, str]:
        """([rows, C] as [B, tokens, C], the axis of the tokens)."""
        x = self.graph.node("Reshape", [x, self.graph.shape(-1, head.tokens, head.fc.inputs)], "head.pool/images")
        return x, self.graph.constant("axis 1", np.array([1], np.int64))

    def true_bias(self, name: str, zero_point: int) -> NDArray[np.int64]:
        """Without the correction for the input's zero point, which DequantizeLinear makes by itself."""
        return self.tensors[f"{name}.bias"] + zero_point * self.tensors[f"{name}.weight"].astype(np.int64).sum(1)

    def position_bias(self, name: str, spec: p.Attention) -> NDArray[np.int16]:
        """int16 [heads, T, T], in score steps."""
        table: NDArray[np.int16] = self.tensors[f"{name}.bias_table"][relative_position_index(spec.window)]
        return table.transpose(2, 0, 1)

    def probed(self, x: str, name: str, scale: Scale, zero: NDArray, *, offset: int = 0) -> str:
        """`Graph.rounded` for a tensor that the reference names: its integers plus `offset` are the reference's."""
        self.graph.probes[name] = Probe(name, offset=offset, unsigned=zero.dtype == np.uint8)
        return self.graph.rounded(x, name, scale, zero)
