"""The ranges an artifact needs: which of them a file has, and calibration for the others."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer

from geluless.errors import CalibrationError
from geluless.integer.plan import Activation
from geluless.interop.onnx_import.ir import Quantizer
from geluless.interop.onnx_import.swin import ReadMlp, ReadSwin, named_blocks
from geluless.ptq.calibrate import Observations, observe
from geluless.ptq.observers import RangeObserver
from geluless.ptq.quantize import digested


def needed(read: ReadSwin) -> list[str]:
    """The tensors whose ranges make an artifact of this network."""
    names = ["patch_embed.proj:in", "patch_embed.proj:out"]
    for i, stage in enumerate(read.stages):
        names += [f"layers.{i}.downsample.norm:out"] if stage.merge else []
        names.append(f"layers.{i}:residual")
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            names += [f"{name}.norm1:out", *(f"{name}.attn.qkv:{part}" for part in "qkv"), f"{name}.attn.proj:in"]
            names += [f"{name}.norm2:out", f"{name}.mlp.fc2:in"]
            names += [f"{name}.mlp.fc1:out"] if block.mlp.activation.kind is Activation.GELU else []
    return [*names, "norm:out", "head.fc:in"]


def reaches(read: ReadSwin) -> dict[str, float]:
    """Largest magnitudes, where the file tells them, of tensors that are int16 here whatever the file's grid is."""
    found = {"patch_embed.proj:out": read.embedding_reach, "norm:out": read.norm_reach}
    found |= {f"layers.{i}:residual": stage.reach for i, stage in enumerate(read.stages)}
    return {name: reach for name, reach in found.items() if reach is not None}


def observations(
    read: ReadSwin, swin: SwinTransformer, batches: Iterable[torch.Tensor] | None, *, given: Collection[str]
) -> tuple[Observations, dict[str, str]]:
    """What calibration sees, with the file's own reaches in it, and the calibration's part of the artifact's parents.

    Raises CalibrationError when a tensor outside of `given` has no range and there are no batches.
    """
    known = reaches(read)
    missing = [name for name in needed(read) if name not in given and name not in known]
    parents: dict[str, str] = {}
    if batches is not None:
        digest = hashlib.sha256()
        seen = observe(swin, digested(batches, digest))
        parents = {"calibration": digest.hexdigest(), "calibration_images": str(seen.images)}
    elif missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        named = f"{', '.join(missing[:3])}{more}"
        raise CalibrationError(f"the file keeps {named} in float, without a range: pass calibration images (batches=)")
    else:
        seen = Observations()
    for name, reach in known.items():
        _set(seen, name, reach)
    for name, block in named_blocks(read):
        if batches is None or block.mlp.fc1.after is not None:
            _set(seen, f"{name}.mlp.fc1:gemm", _after_gemm(block.mlp))
    return seen, parents


def _set(seen: Observations, name: str, reach: float) -> None:
    """A range known otherwise is that of an observer which saw its two ends."""
    seen.ranges[name] = RangeObserver(name)
    seen.ranges[name].update(torch.tensor([-reach, reach]))


def _after_gemm(mlp: ReadMlp) -> float:
    """The magnitude of fc1's product without its bias, for FasterTransformer's variant: from the file's grid or from those
    behind."""
    activation = mlp.activation
    behind = activation.pre or activation.hidden
    if mlp.fc1.after is not None or behind is None:
        return 1.0 if mlp.fc1.after is None else _largest(mlp.fc1.after)
    return _largest(behind.grid) + (0.0 if mlp.fc1.bias is None else float(np.abs(mlp.fc1.bias).max()))


def _largest(grid: Quantizer) -> float:
    return max(-grid.lowest, grid.highest)
