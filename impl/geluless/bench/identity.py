"""Whose artifact this is, asked before it is timed or judged: a figure under another network's name is worse than none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from geluless.errors import ArtifactError
from geluless.sizes import SIZES, WINDOWS

if TYPE_CHECKING:
    from geluless.bench.harness import Row
    from geluless.integer.artifact import Artifact
    from geluless.integer.plan import Plan

RANDOM = " (random)"  # behind the name of a network with random weights
REMEDY = "make it again with `geluless quantize`, or remove it from the cache"
PAPER = re.compile(r"swin_(tiny|small|base|large)_patch4_window(\d+)_(\d+)")


@dataclass(frozen=True)
class Shape:
    """Blocks and channels of each stage, and the image [height, width]."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    image: tuple[int, int]


def shape_of(plan: Plan) -> Shape:
    stages = plan.stages
    depths, widths = tuple(len(stage.blocks) for stage in stages), tuple(stage.channels for stage in stages)
    return Shape(depths, widths, (plan.stem.height, plan.stem.width))


@lru_cache(maxsize=8)
def shape_of_model(name: str) -> Shape:
    """Of timm's network `name`. The paper's are known by their numbers; any other is made to be asked.

    Raises ModelError for an unknown name.
    """
    found = PAPER.match(name)
    if found and WINDOWS.get(side := int(found[3])) == int(found[2]):
        size = SIZES[found[1]]
        return Shape(size.depths, tuple(size.channels << stage for stage in range(len(size.depths))), (side, side))
    import torch

    from geluless.models import create_model

    with torch.random.fork_rng(devices=[]):
        model = create_model(name)
    height, width = model.patch_embed.img_size
    blocks = [stage.blocks for stage in model.layers]
    return Shape(tuple(map(len, blocks)), tuple(stage[0].norm1.normalized_shape[0] for stage in blocks), (height, width))


def require_network(artifact: Artifact, model: str, *, activation: str | None) -> None:
    """Raises ArtifactError where the artifact is not of timm's network `model` with this activation (None: either): by the name
    that it bears, and by its shape, which no name can change."""
    plan = artifact.plan
    if (name := plan.model.removesuffix(RANDOM)) != model:
        raise ArtifactError(f"an artifact of {name} in place of one of {model}: {REMEDY}")
    if (found := shape_of(plan)) != (wanted := shape_of_model(model)):
        raise ArtifactError(f"an artifact that is called {model} has the shape {found}, and the network {wanted}: {REMEDY}")
    if activation not in (None, plan.activation):
        raise ArtifactError(f"an artifact of {model} with {plan.activation} in place of one with {activation}: {REMEDY}")


def problem_of(rows: Sequence[Row]) -> str | None:
    """Why these may not be compared: a row that does not say what it is of, or two that do not do the same work."""
    for row in rows:
        if not row.artifact:
            return f"{row.name} names no artifact: a time of nobody knows what"
    groups: dict[str, Row] = {}
    for row in rows:
        first = groups.setdefault(row.group, row)
        if row.macs != first.macs:
            words = (f"{one.name} ({one.model}: {one.macs:,})" for one in (first, row))
            return f"different numbers of multiply-accumulates are not compared: {' and '.join(words)}"
    return None
