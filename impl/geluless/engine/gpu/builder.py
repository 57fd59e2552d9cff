"""Building blocks of a GPU program: buffers by name, and one method per kernel that knows its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.epilogues import OFFSET, Epilogue, SeparateKernel, Tensors, saturates
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Buffer, Float, Launch, Program, TapPoint
from geluless.engine.gpu.tiles import Tiles, power_of_two
from geluless.integer import plan as p
from geluless.integer.reference import relative_position_index
from geluless.integer.window_index import window_tokens

FLOAT_GELU = ("gelu-erf", "gelu-tanh", "gelu-polynomial")  # a last bit is theirs to lose: they get the fastest code there is


@dataclass
class Builder:
    """Collects launches. `tensors` are an artifact's, from which weights and tables are taken by name."""

    tensors: Tensors
    batch: int
    tiles: Tiles
    buffers: dict[str, Buffer] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    tap_points: dict[int, TapPoint] = field(default_factory=dict)

    def finished(self) -> Program:
        return Program(self.batch, self.buffers, tuple(self.launches), self.tap_points)

    def constant(self, name: str, values: Any, dtype: type) -> str:
        if name not in self.buffers:
            array: NDArray[Any] = np.ascontiguousarray(values, dtype=dtype)
            self.buffers[name] = Buffer(array.dtype.name, array.shape, array)
        return name

    def tensor(self, name: str, dtype: type) -> str:
        """A constant: the artifact's tensor of that name."""
        return self.constant(name, self.tensors[name], dtype)

    def scratch(self, name: str, dtype: str, elements: int) -> str:
        """A buffer that grows to the largest of its uses."""
        known = self.buffers.get(name)
        self.buffers[name] = Buffer(dtype, (max(elements, known.shape[0] if known else 0),))
        return name

    def launch(
        self, name: str, kernel: str, grid: tuple[int, ...], arguments: dict[str, Any], constants: dict[str, Any], *, writes: str
    ) -> None:
        warps, stages = constants.pop("warps", 4), constants.pop("stages", 1)
        fp_fusion = kernel == "gelu_after_gemm" or constants.get("EPILOGUE") in FLOAT_GELU
        full = (*grid, 1, 1)[:3]
        launch = Launch(name, kernel, (full[0], full[1], full[2]), arguments, constants, warps, stages, fp_fusion, writes)
        self.launches.append(launch)

    def tap(self, name: str, buffer: str, rows: int, width: int, *, offset: int = 0) -> None:
        self.tap_points[len(self.launches) - 1] = TapPoint(name, buffer, (rows, width), offset)

    def patches(self, stem: p.Stem, target: str) -> str:
        """Pixels to stored 8-bit patches; makes the buffers `images` and `unusable`."""
        count = self.batch * stem.channels * stem.height * stem.width
        block = min(self.tiles.architecture.elementwise, power_of_two(count))
        programs = -(-count // block)
        self.buffers[IMAGES] = Buffer("float32", (self.batch, stem.channels, stem.height, stem.width))
        self.buffers[UNUSABLE] = Buffer("int32", (programs,))
        self.scratch(target, "int8", count)
        inverse = np.float32(1.0) / np.float32(stem.input_scale)
        arguments = {"images": IMAGES, "out": target, "unusable": UNUSABLE, "count": count}
        arguments |= {"inverse_scale": Float(float(inverse)), "zero": stem.input_zero_point}
        shape = {"PLANES": stem.channels, "HEIGHT": stem.height, "WIDTH": stem.width}
        shape |= {"PATCH_H": stem.patch[0], "PATCH_W": stem.patch[1], "BLOCK": block}
        self.launch("patch_embed.quantize", "quantize_patches", (programs,), arguments, shape, writes=target)
        return target

    def linear(self, name: str, spec: p.Linear, epilogue: Epilogue, source: str, target: str, rows: int) -> None:
        tile = self.tiles.linear(rows, spec.outputs, spec.inputs, epilogue.formula)
        weight, bias = self.tensors[f"{name}.weight"], epilogue.bias
        if spec.input_low == 0:  # stored minus 128, which the bias makes good
            bias = bias + OFFSET * weight.sum(1, dtype=np.int64)
        floats = np.issubdtype(epilogue.factor.dtype, np.floating)
        arrays: dict[str, tuple[NDArray[Any] | None, type]] = {
            "weight": (weight, np.int8),
            "bias": (bias, np.int32),  # fits, and so does every partial sum: see integer.bounds
            "factor": (epilogue.factor, np.float32 if floats else np.int32),
            "shift": (epilogue.shift, np.int32),
            "gain": (epilogue.gain, np.float32),
            "offset": (epilogue.offset, np.float32),
            "table": (epilogue.table, np.int8),
        }
        arguments: dict[str, Any] = {"x": source, "out": target, "rows": rows, "inverse_scale": Float(epilogue.inverse_scale)}
        for parameter, (values, dtype) in arrays.items():
            arguments[parameter] = None if values is None else self.constant(f"{name}.{parameter}", values, dtype)
        for parameter in ("rounding", "zero", "lowest", "highest", "top", "unit", "negative"):
            arguments[parameter] = getattr(epilogue, parameter)
        constants = {"OUTPUTS": spec.outputs, "INPUTS": spec.inputs, "EPILOGUE": epilogue.formula}
        constants |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
        constants |= {"SATURATE": int(saturates(epilogue, spec, weight)), "warps": tile.warps, "stages": tile.stages}
        grid = (-(-spec.outputs // tile.block_n), -(-rows // tile.block_m))
        self.launch(name, "int8_linear", grid, arguments, constants, writes=target)

    def norm(
        self, name: str, norm: p.Norm, source: str, target: str, rows: int, *, sources: NDArray[np.int32] | None = None
    ) -> None:
        parts = 1 if sources is None else sources.shape[1]
        block = power_of_two(norm.channels // parts)
        count = self.tiles.norm_rows(parts * block)
        table = None if sources is None else self.constant(f"{name}.sources of {self.batch} images", sources, np.int32)
        gamma, beta = (self.tensor(f"{name}.{part}", np.float32) if norm.affine else None for part in ("gain", "offset"))
        arguments: dict[str, Any] = {"x": source, "sources": table}
        arguments |= {"gamma": gamma, "beta": beta, "out": target, "count": rows}
        arguments |= {"factor": Float(norm.factor), "epsilon": norm.epsilon_term}
        constants = {"CHANNELS": norm.channels, "LOW": norm.low, "HIGH": norm.high}
        constants |= {"PARTS": parts, "BLOCK_C": block, "ROWS": count}
        self.launch(name, "layer_norm", (-(-rows // count),), arguments, constants, writes=target)

    def attention(self, name: str, block: p.Block, stage: p.Stage, qkv: str, context: str) -> None:
        spec = block.attention
        tokens = spec.window[0] * spec.window[1]
        rows, regions = window_tokens(stage, spec)
        queries, keys = self.tiles.attention(tokens)
        bias = self.tensors[f"{name}.bias_table"][relative_position_index(spec.window)].transpose(2, 0, 1)
        geometry = f"windows {stage.height}x{stage.width} {spec.window} {spec.shift}"
        arguments = {
            "qkv": qkv,
            "pad": self.tensor(f"{name}.qkv.pad", np.int8) if f"{name}.qkv.pad" in self.tensors else None,
            "tokens": self.constant(f"{geometry} tokens", rows, np.int32),
            "regions": None if regions is None else self.constant(f"{geometry} regions", regions, np.int8),
            "bias": self.constant(f"{name}.bias", bias, np.int16),
            "score_shift": self.tensor(f"{name}.score_shift", np.int32),
            "score_multiplier": self.tensor(f"{name}.score_multiplier", np.int32),
            "output_multiplier": self.tensor(f"{name}.output_multiplier", np.float32),
            "table": "softmax_table",
            "out": context,
        }
        constants = {"PIXELS": stage.height * stage.width, "TOKENS": tokens, "HEADS": spec.heads, "HEAD_DIM": spec.head_dim}
        constants |= {"BLOCK_Q": queries, "BLOCK_KEYS": keys, "BLOCK_D": power_of_two(spec.head_dim, at_least=32)}
        grid = (len(rows) * -(-tokens // queries), spec.heads, self.batch)
        self.launch(name, "window_attention", grid, arguments, constants, writes=context)

    def elementwise(self, name: str, separate: SeparateKernel, source: str, hidden: str, rows: int, width: int) -> None:
        """A separate activation over fc1's int16 output `source`, or over `hidden` in place."""
        count = rows * width
        chunk = self.tiles.elementwise(count, 1 if separate.from_s16 else width, separate.kernel)
        arguments: dict[str, Any] = {"count": count, **separate.scalars}
        for parameter, values in separate.arrays.items():
            arguments[parameter] = self.constant(f"{name}.{parameter}", values, np.float32)
        arguments |= {"x": source, "out": hidden} if separate.from_s16 else {"hidden": hidden}
        constants = {"BLOCK": chunk.block, "warps": chunk.warps} | ({} if separate.from_s16 else {"CHANNELS": width})
        self.launch(name, separate.kernel, (-(-count // chunk.block),), arguments, constants, writes=hidden)

    def pool(self, head: p.Head, source: str, target: str) -> None:
        """int16 [images, tokens, channels] -> int32 [images, channels]."""
        channels = head.norm.channels
        block_c, block_t = min(64, power_of_two(channels)), min(64, power_of_two(head.tokens))
        arguments = {"x": source, "out": target, "multiplier": head.pool_multiplier, "shift": head.pool_shift}
        shape = {"TOKENS": head.tokens, "CHANNELS": channels, "BLOCK_T": block_t, "BLOCK_C": block_c}
        self.launch("head.pool", "pool", (-(-channels // block_c), self.batch), arguments, shape, writes=target)

    def classifier(self, head: p.Head, pooled: str) -> None:
        """int32 [images, channels] -> the buffer `logits`, which it makes."""
        classes, channels = head.fc.outputs, head.fc.inputs
        self.buffers[LOGITS] = Buffer("float32", (self.batch, classes))
        arguments = {"pooled": pooled, "logits": LOGITS, "scale": self.tensor("head.fc.logit_scale", np.float32)}
        arguments |= {"weight": self.tensor("head.fc.weight", np.int8), "bias": self.tensor("head.fc.bias", np.int32)}
        block_n, block_k = min(32, power_of_two(classes)), min(128, power_of_two(channels))
        shape = {"CLASSES": classes, "CHANNELS": channels, "BLOCK_N": block_n, "BLOCK_K": block_k}
        self.launch("head.fc", "classifier", (-(-classes // block_n), self.batch), arguments, shape, writes=LOGITS)
