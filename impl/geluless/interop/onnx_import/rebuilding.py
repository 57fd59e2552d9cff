"""The float network that a file quantized, as a timm Swin: what calibration runs, and what the artifact is built from.

Its weights go along as the file's integers wherever int8 can hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from geluless.errors import ArtifactError
from geluless.integer.plan import Activation
from geluless.interop.onnx_import.import_log import ImportLog, Reason
from geluless.interop.onnx_import.ir import Known
from geluless.interop.onnx_import.swin import Float64, ReadBlock, ReadLinear, ReadNorm, ReadSwin
from geluless.models.activations import replace_gelu
from geluless.models.swin import named_blocks
from geluless.ptq.overrides import WeightOverride


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer of the rebuilt network. `given` holds the file's integers; None where it has to be quantized here."""

    name: str
    weight: Float64  # [N, K]
    bias: Float64 | None
    given: WeightOverride | None


def linear_layers(read: ReadSwin, log: ImportLog) -> Iterator[Layer]:
    """Every linear layer by its name in timm, with the factors that a file has outside of it folded in."""
    yield _layer("patch_embed.proj", read.embed, log)
    for i, stage in enumerate(read.stages):
        if stage.merge:
            yield _layer(f"layers.{i}.downsample.reduction", stage.merge.reduction, log)
        for j, block in enumerate(stage.blocks):
            yield from _block_layers(f"layers.{i}.blocks.{j}", block, log)
    yield _layer("head.fc", read.fc, log)


def score_ratio(block: ReadBlock) -> float:
    """What is left of the factor of q k after the plan's own 1 / sqrt(head_dim); q takes it."""
    attention = block.attention
    head_dim = len(attention.qkv.weight.values) // (3 * attention.heads)
    return attention.factor * head_dim**0.5


def rebuild(read: ReadSwin, layers: list[Layer]) -> SwinTransformer:
    """In evaluation mode. Raises ArtifactError for a geometry that timm's Swin does not have."""
    blocks = dict(read.named_blocks())
    kinds = {block.activation.kind for block in blocks.values()}
    if len(kinds) > 1:
        raise ArtifactError("some of its MLPs have GELU and some ReLU: an artifact has one activation")
    swin = _empty(read)
    parameters = dict(swin.named_parameters())
    if kinds == {Activation.RELU}:
        replace_gelu(swin)
    by_name = {layer.name: layer for layer in layers}
    with torch.no_grad():
        for name, layer in by_name.items():
            _fill(parameters, f"{name}.weight", layer.weight)
            if f"{name}.bias" in parameters:
                _fill(parameters, f"{name}.bias", np.zeros(len(layer.weight)) if layer.bias is None else layer.bias)
            elif layer.bias is not None:
                raise ArtifactError(f"{name} has a bias, which a Swin's merging of patches has not")
        for name, norm in _norms(read):
            _fill(parameters, f"{name}.weight", norm.gamma)
            _fill(parameters, f"{name}.bias", norm.beta)
            module = swin.get_submodule(name)
            assert isinstance(module, nn.LayerNorm)
            module.eps = norm.epsilon
        for name, block in named_blocks(swin):
            attention = blocks[name].attention
            if (tuple(block.attn.window_size), tuple(block.shift_size)) != (attention.window, attention.shift):
                windows = f"windows {attention.window} shifted by {attention.shift}"
                raise ArtifactError(f"{name} has {windows}, which timm's Swin has not there")
            _fill(parameters, f"{name}.attn.relative_position_bias_table", attention.bias_table)
            if by_name[f"{name}.mlp.fc1"].bias is None:
                block.mlp.fc1.bias = None
    return swin.eval()


def _block_layers(name: str, block: ReadBlock, log: ImportLog) -> Iterator[Layer]:
    """Factors per channel of the context go into v: softmax mixes tokens, not channels. Those behind a ReLU go into fc1."""
    attention, activation = block.attention, block.activation
    width = len(attention.qkv.weight.values) // 3
    rows = np.ones(3 * width)
    rows[:width] = score_ratio(block)
    if attention.vector is not None:
        rows[2 * width :] = attention.vector
    yield _layer(f"{name}.attn.qkv", attention.qkv, log, rows=rows)
    yield _layer(f"{name}.attn.proj", attention.proj, log)
    if activation.vector is None or activation.kind is Activation.RELU:
        yield _layer(f"{name}.mlp.fc1", block.fc1, log, rows=activation.vector)
        yield _layer(f"{name}.mlp.fc2", block.fc2, log)
    else:
        log.change(f"{name}.mlp.fc2", Reason.GELU_FACTORS)
        yield _layer(f"{name}.mlp.fc1", block.fc1, log)
        yield Layer(f"{name}.mlp.fc2", _real(block.fc2.weight) * activation.vector, block.fc2.bias, None)


def _layer(name: str, read: ReadLinear, log: ImportLog, *, rows: Float64 | None = None) -> Layer:
    rows = np.ones(len(read.weight.values)) if rows is None else rows
    held = _integers(name, read.weight, log)
    given = None if held is None else WeightOverride(held[0], held[1] * rows)
    return Layer(name, _real(read.weight) * rows[:, None], None if read.bias is None else read.bias * rows, given)


def _real(weight: Known) -> Float64:
    if weight.grid is None:
        return weight.values.astype(np.float64)
    return (weight.grid.steps - weight.grid.zero) * weight.grid.scale


def _integers(name: str, weight: Known, log: ImportLog) -> tuple[NDArray[np.int8], Float64] | None:
    """(steps [N, K], scale [N]), or None with the reason in the log."""
    grid = weight.grid
    if grid is None:
        log.change(name, Reason.WEIGHT_FLOAT)
        return None
    if (grid.scale != grid.scale[:, :1]).any():
        log.change(name, Reason.WEIGHT_INPUT_CHANNELS)
        return None
    steps = grid.steps - grid.zero
    if steps.min(initial=0) < -128 or steps.max(initial=0) > 127:
        log.change(name, Reason.WEIGHT_ZERO_POINT)
        return None
    if (steps == -128).any():
        log.change(name, Reason.WEIGHT_LOWEST)
    return np.maximum(steps, -127).astype(np.int8), grid.scale[:, 0].copy()


def _empty(read: ReadSwin) -> SwinTransformer:
    """The architecture alone. timm cuts windows to the grid and shifts every second block by half a window."""
    windows = np.array([block.attention.window for _, block in read.named_blocks()])
    first = read.stages[0].blocks[0].fc1.weight.values
    channels = read.stages[0].channels
    for i, stage in enumerate(read.stages):
        widths = {len(block.attention.qkv.weight.values) for block in stage.blocks}
        if stage.channels != channels * 2**i or widths != {3 * stage.channels}:
            raise ArtifactError(f"layers.{i} has {stage.channels} channels: those of timm's Swin double from stage to stage")
        if len({block.attention.heads for block in stage.blocks}) > 1:
            raise ArtifactError(f"layers.{i}: its blocks have different numbers of heads, which timm's Swin has not")
    try:
        return SwinTransformer(
            img_size=read.image[1:],
            patch_size=read.patch,
            in_chans=read.image[0],
            num_classes=len(read.fc.weight.values),
            embed_dim=channels,
            depths=tuple(len(stage.blocks) for stage in read.stages),
            num_heads=tuple(stage.blocks[0].attention.heads for stage in read.stages),
            window_size=tuple(int(size) for size in windows.max(0)),
            mlp_ratio=len(first) / channels,
            drop_path_rate=0.0,
            weight_init="skip",
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"timm has no Swin of these sizes ({error})") from error


def _norms(read: ReadSwin) -> Iterator[tuple[str, ReadNorm]]:
    yield "patch_embed.norm", read.embed_norm
    yield "norm", read.norm
    for name, merge in read.named_merges():
        yield f"{name}.norm", merge.norm
    for name, block in read.named_blocks():
        yield f"{name}.norm1", block.norm1
        yield f"{name}.norm2", block.norm2


def _fill(parameters: dict[str, nn.Parameter], name: str, values: np.ndarray) -> None:
    parameter = parameters[name]
    if parameter.numel() != values.size:
        raise ArtifactError(f"{name} has {values.size} values, timm's Swin of these sizes has {parameter.numel()}")
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(values, np.float64)).reshape(parameter.shape))
