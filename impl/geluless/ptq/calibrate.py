"""Run the calibration images through the float network and observe every tensor that gets a scale."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from geluless.errors import CalibrationError
from geluless.models.swin import named_blocks, require_swin
from geluless.ptq.folding import float_linear, fold_norm
from geluless.ptq.observers import HeadObserver, RangeObserver


@dataclass
class Observations:
    """Observers by tensor name: `NAME:in`, `NAME:out`, `NAME:gemm` (before the bias; before the
    norm's bias too as `NAME:gemm-folded`), `NAME:normalized`, `layers.I:residual`."""

    ranges: dict[str, RangeObserver] = field(default_factory=dict)
    heads: dict[str, HeadObserver] = field(default_factory=dict)
    images: int = 0

    def see(self, name: str, x: torch.Tensor) -> None:
        if name not in self.ranges:
            self.ranges[name] = RangeObserver(name)
        self.ranges[name].update(x)

    def see_heads(self, name: str, x: torch.Tensor) -> None:
        if name not in self.heads:
            self.heads[name] = HeadObserver(x.shape[-2])
        self.heads[name].update(x)

    def __getitem__(self, name: str) -> RangeObserver:
        if name not in self.ranges:
            raise CalibrationError(f"{name} has no range: it was never reached during calibration")
        return self.ranges[name]


@torch.inference_mode()
def observe(model: nn.Module, batches: Iterable[torch.Tensor]) -> Observations:
    """Float32 forward passes over `batches` (float32 [B, C, H, W], normalised), every range observed.

    Raises CalibrationError for no batches, wrong shapes, or NaN pixels.
    """
    swin = require_swin(model)
    seen = Observations()
    expected = (swin.patch_embed.proj.in_channels, *swin.patch_embed.img_size)
    training = {module: module.training for module in swin.modules()}
    swin.eval()
    try:
        with ExitStack() as stack:
            for handle in _hooks(swin, seen):
                stack.callback(handle.remove)
            for batch in batches:
                if batch.ndim != 4 or tuple(batch.shape[1:]) != expected:
                    sizes = ", ".join(map(str, expected))
                    raise CalibrationError(f"calibration batch of shape {tuple(batch.shape)}: the model takes [B, {sizes}]")
                if not torch.isfinite(batch).all():
                    raise CalibrationError(f"a calibration image (after number {seen.images}) holds NaN or infinite pixels")
                seen.see("input", batch)
                swin(batch.float())
                seen.images += len(batch)
    finally:
        for module, flag in training.items():
            module.training = flag
    if seen.images == 0:
        raise CalibrationError("no calibration images: pass at least one batch (256 images are a good number)")
    return seen


def _hooks(swin: SwinTransformer, seen: Observations) -> Iterable[torch.utils.hooks.RemovableHandle]:
    def linear(name: str, module: nn.Linear, source: nn.LayerNorm | None = None) -> torch.utils.hooks.RemovableHandle:
        added = None if source is None else torch.from_numpy(fold_norm(float_linear(module), source).bias).float()

        def hook(_: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
            seen.see(f"{name}:in", args[0])
            seen.see(f"{name}:out", out)
            seen.see(f"{name}:gemm", out if module.bias is None else out - module.bias)
            if added is not None:
                seen.see(f"{name}:gemm-folded", out - added.to(out.device))

        return module.register_forward_hook(hook)

    def norm(name: str, module: nn.LayerNorm, stream: str | None) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
            seen.see(f"{name}:normalized", _normalized(module, args[0]))
            seen.see(f"{name}:out", out)
            if stream:
                seen.see(stream, args[0])

        return module.register_forward_hook(hook)

    def stream_output(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _, __, out: seen.see(name, out))

    def qkv(name: str, module: nn.Linear, heads: int) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: tuple[Any, ...], out: torch.Tensor) -> None:
            for part, x in zip("qkv", out.unflatten(-1, (3, heads, -1)).unbind(-3), strict=True):
                seen.see_heads(f"{name}:{part}", x)
                seen.see(f"{name}:{part}", x)

        return module.register_forward_hook(hook)

    embed = swin.patch_embed
    yield embed.proj.register_forward_hook(lambda _, __, out: seen.see("patch_embed.proj:out", out))
    yield stream_output("layers.0:residual", embed)
    for i, stage in enumerate(swin.layers):
        if not isinstance(stage.downsample, nn.Identity):
            yield norm(f"layers.{i}.downsample.norm", stage.downsample.norm, None)
            yield linear(f"layers.{i}.downsample.reduction", stage.downsample.reduction, stage.downsample.norm)
            yield stream_output(f"layers.{i}:residual", stage.downsample)
    for name, block in named_blocks(swin):
        stream = ".".join(name.split(".")[:2]) + ":residual"
        yield norm(f"{name}.norm1", block.norm1, stream)
        yield linear(f"{name}.attn.qkv", block.attn.qkv, block.norm1)
        yield qkv(f"{name}.attn.qkv", block.attn.qkv, block.attn.num_heads)
        yield linear(f"{name}.attn.proj", block.attn.proj)
        yield stream_output(stream, block.attn.proj)
        yield norm(f"{name}.norm2", block.norm2, stream)
        yield linear(f"{name}.mlp.fc1", block.mlp.fc1, block.norm2)
        yield linear(f"{name}.mlp.fc2", block.mlp.fc2)
        yield stream_output(stream, block.mlp.fc2)
        yield stream_output(stream, block)
    yield norm("norm", swin.norm, None)
    yield linear("head.fc", swin.head.fc)

    def pooled(module: nn.LayerNorm, args: tuple[Any, ...], _: torch.Tensor) -> None:
        seen.see("head:pooled", _normalized(module, args[0]).mean((1, 2)))

    yield swin.norm.register_forward_hook(pooled)


def _normalized(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """LayerNorm without its affine part."""
    return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
