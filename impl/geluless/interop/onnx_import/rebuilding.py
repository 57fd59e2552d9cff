"""The float network that a foreign file quantized, as a timm Swin: what calibration runs, and what the artifact is built from."""

from __future__ import annotations

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from geluless.errors import ArtifactError
from geluless.integer.plan import Activation
from geluless.interop.onnx_import.swin import ReadNorm, ReadSwin
from geluless.interop.onnx_import.weights import Layer
from geluless.models.activations import replace_gelu
from geluless.models.swin import named_blocks


def rebuild(read: ReadSwin, layers: list[Layer]) -> SwinTransformer:
    """In evaluation mode. Raises ArtifactError for a geometry that timm's Swin does not have."""
    kinds = {block.mlp.activation.kind for stage in read.stages for block in stage.blocks}
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
            i, j = (int(part) for part in name.split(".")[1::2])
            attention = read.stages[i].blocks[j].attention
            if (tuple(block.attn.window_size), tuple(block.shift_size)) != (attention.window, attention.shift):
                windows = f"windows {attention.window} shifted by {attention.shift}"
                raise ArtifactError(f"{name} has {windows}, which timm's Swin has not there")
            _fill(parameters, f"{name}.attn.relative_position_bias_table", attention.bias_table)
            if by_name[f"{name}.mlp.fc1"].bias is None:
                block.mlp.fc1.bias = None
    return swin.eval()


def _empty(read: ReadSwin) -> SwinTransformer:
    """The architecture alone. timm cuts windows to the grid and shifts every second block by half a window."""
    windows = np.array([block.attention.window for stage in read.stages for block in stage.blocks])
    first = read.stages[0].blocks[0].mlp.fc1.weight.values
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


def _norms(read: ReadSwin) -> list[tuple[str, ReadNorm]]:
    named = [("patch_embed.norm", read.embed_norm), ("norm", read.norm)]
    for i, stage in enumerate(read.stages):
        if stage.merge:
            named.append((f"layers.{i}.downsample.norm", stage.merge.norm))
        for j, block in enumerate(stage.blocks):
            named += [(f"layers.{i}.blocks.{j}.norm1", block.norm1), (f"layers.{i}.blocks.{j}.norm2", block.norm2)]
    return named


def _fill(parameters: dict[str, nn.Parameter], name: str, values: np.ndarray) -> None:
    parameter = parameters[name]
    if parameter.numel() != values.size:
        raise ArtifactError(f"{name} has {values.size} values, timm's Swin of these sizes has {parameter.numel()}")
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(values, np.float64)).reshape(parameter.shape))
