"""How far each layer's output in the integer network lies from that of the float network it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geluless.integer import reference
from geluless.integer.variants import choose_variant

if TYPE_CHECKING:
    from geluless.integer.artifact import Artifact


@dataclass(frozen=True)
class LayerError:
    """|integer - float| / |float|, Frobenius norms over all values of all images; the integers in real units."""

    layer: str
    relative_error: float


@torch.inference_mode()
def layer_errors(model: nn.Module, artifact: Artifact, batches: Iterable[Tensor]) -> tuple[LayerError, ...]:
    """The residual stream after the embedding, each patch merging and each block, in the order of the network.

    `batches`: float32 [B, C, H, W]. Earlier layers' errors are passed on: this is what arrives, not what a layer adds.
    """
    scales = _scales(artifact)
    modules = dict(model.named_modules())
    variant = choose_variant(artifact.plan, None)
    squares = {name: [0.0, 0.0] for name in scales}
    real: dict[str, np.ndarray] = {}

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
            real[name] = output.double().numpy()

        return record

    def compare(name: str, tensor: np.ndarray) -> None:
        if name in scales:
            want = real[name]  # float64 [B, H, W, C]
            squares[name][0] += float(((tensor * scales[name] - want) ** 2).sum())
            squares[name][1] += float((want**2).sum())

    model.eval()
    with ExitStack() as stack:
        for name in scales:
            stack.callback(modules[name].register_forward_hook(hook(name)).remove)
        for batch in batches:
            model(batch)
            reference.forward(batch.numpy(), artifact.plan, artifact.tensors, variant, compare)
    return tuple(LayerError(name, (error / max(size, 1e-300)) ** 0.5) for name, (error, size) in squares.items())


def _scales(artifact: Artifact) -> dict[str, float]:
    """The real value of one integer step, by the names that the reference and timm's modules share."""
    scales = {"patch_embed": artifact.plan.stages[0].residual_scale}
    for i, stage in enumerate(artifact.plan.stages):
        if stage.merge:
            scales[f"layers.{i}.downsample"] = stage.residual_scale
        scales |= {f"layers.{i}.blocks.{j}": stage.residual_scale for j in range(len(stage.blocks))}
    return scales
