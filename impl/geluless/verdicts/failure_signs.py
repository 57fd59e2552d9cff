"""Signs of a failed distillation: dead units, a curve that explodes or stays flat, agreement that is chance alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from statsmodels.stats.inter_rater import cohens_kappa, to_table
from torch import Tensor, nn

from geluless.models.swin import named_blocks

FLAT = 0.99  # the mean of the curve's last quarter over that of its first: it went nowhere
EXPLODED = 2.0  # it went up


@dataclass(frozen=True)
class Agreement:
    """How often two networks say the same: top-1 share 0..1, and Cohen's kappa, which is 0 where they agree by chance alone."""

    share: float
    kappa: float

    def __str__(self) -> str:
        return f"{100 * self.share:.2f} % (kappa {self.kappa:.3f})"


def agreement(one: np.ndarray, other: np.ndarray, *, classes: int = 10) -> Agreement:
    """Of two vectors of class indices, integer [N]. ValueError for other shapes or none."""
    if one.shape != other.shape or one.ndim != 1 or len(one) == 0:
        raise ValueError(f"predictions must be two non-empty vectors of one length, not {one.shape} and {other.shape}")
    share = float((one == other).mean())
    constant = len(np.unique(np.concatenate([one, other]))) == 1  # expected by chance: always
    counts, _ = to_table(np.stack([one, other], 1).astype(np.int64), bins=np.arange(-0.5, classes))
    return Agreement(share, 0.0 if constant else float(cohens_kappa(counts, return_results=False)))


@torch.inference_mode()
def dead_units(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """By block, the share of its MLP's hidden units that are zero for every token of all `batches`, float32 [B, C, H, W]."""
    alive: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
            fired = (output > 0).flatten(0, -2).any(0)  # bool [hidden]
            alive[name] = alive[name] | fired if name in alive else fired

        return record

    with ExitStack() as stack:
        for name, block in named_blocks(model):
            stack.callback(block.mlp.act.register_forward_hook(hook(name)).remove)
        for batch in batches:
            model(batch)
    return {name: 1 - float(units.float().mean()) for name, units in alive.items()}


def curve_shape(curve: Sequence[Sequence[float | None]]) -> str:
    """ "exploded", "flat" or "falls" for [(step, loss), ...]; null or not finite is exploded, fewer than 4 points say falls."""
    losses = [math.nan if loss is None else float(loss) for _, loss in curve]
    if not all(map(math.isfinite, losses)):
        return "exploded"
    if len(losses) < 4:
        return "falls"
    quarter = len(losses) // 4
    ratio = sum(losses[-quarter:]) / max(sum(losses[:quarter]), 1e-12)
    return "exploded" if ratio > EXPLODED else "flat" if ratio > FLAT else "falls"


def describe(distillation: Mapping[str, Any] | None, dead: Mapping[str, float]) -> tuple[str, ...]:
    """The failure signs of one run as sentences; `distillation` is Distillation.to_json()."""
    lines = []
    if dead:
        worst = max(dead, key=lambda name: dead[name])
        mean = sum(dead.values()) / len(dead)
        lines.append(f"dead hidden units: {100 * mean:.2f} % on average, most in {worst}, {100 * dead[worst]:.1f} %")
    if distillation is not None:
        found = [curve_shape(record["curve"]) for record in distillation["records"]]
        lines.append("learning curves: " + ", ".join(f"{found.count(word)} {word}" for word in ("falls", "flat", "exploded")))
    return tuple(lines)
