"""Refit one MLP on its own: the ReLU student's block should put out what the teacher's block does.

Inputs are the student's (so the refit corrects what earlier blocks left wrong), targets the teacher's block outputs.
First fc2 in closed form, then Adam steps on fc1 and fc2; held-out tokens decide which moment is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from geluless.distillation.recipes import LocalSettings
from geluless.distillation.records import Status

PAUSES = 4  # of the Adam steps: after each quarter the error of the held-out tokens is taken


@dataclass(frozen=True)
class Tokens:
    """One MLP's inputs and what it should put out, a row per token, split into training and held-out rows."""

    inputs: Tensor  # float32 [tokens, C]
    targets: Tensor  # float32 [tokens, C]
    held_out_inputs: Tensor
    held_out_targets: Tensor


@dataclass(frozen=True)
class Fit:
    """Relative squared errors before and after, and what happened."""

    loss_before: float
    loss: float
    held_out_before: float
    held_out: float
    status: Status
    curve: tuple[tuple[int, float], ...]


@torch.no_grad()
def relative_error(mlp: Mlp, inputs: Tensor, targets: Tensor) -> float:
    """Mean squared error over the variance of the targets."""
    chunks = zip(inputs.split(65536), targets.split(65536), strict=True)
    error = sum(F.mse_loss(mlp(x), y, reduction="sum").item() for x, y in chunks)
    return error / max(targets.var(0, unbiased=False).sum().item() * len(targets), 1e-12)


@torch.no_grad()
def refit_fc2(mlp: Mlp, inputs: Tensor, targets: Tensor, *, ridge: float) -> None:
    """Least squares for fc2's weight and bias on the activated features, shrinking towards what is there.

    Solves (H^T H / n + ridge mean(diag) I) D = H^T (Y - H W) / n in float64 for the change D, with a column of ones in H
    for the bias. Source: ridge regression in its normal equations.
    """
    width = mlp.fc2.in_features + 1
    gram = torch.zeros(width, width, dtype=torch.float64, device=inputs.device)
    cross = torch.zeros(width, mlp.fc2.out_features, dtype=torch.float64, device=inputs.device)
    for x, y in zip(inputs.split(65536), targets.split(65536), strict=True):
        features = mlp.act(mlp.fc1(x))
        residual = (y - mlp.fc2(features)).double()
        design = torch.cat([features.double(), torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], 1)
        gram += design.T @ design
        cross += design.T @ residual
    gram, cross = gram / len(inputs), cross / len(inputs)
    gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
    change = torch.linalg.solve(gram, cross)
    mlp.fc2.weight += change[:-1].T.to(mlp.fc2.weight.dtype)
    mlp.fc2.bias += change[-1].to(mlp.fc2.bias.dtype)


def adam_steps(
    mlp: Mlp, tokens: Tokens, settings: LocalSettings, generator: torch.Generator, curve: list[tuple[int, float]]
) -> Iterator[None]:
    """Minimise the squared error of random tokens, in place; pauses at each quarter and appends relative errors to `curve`."""
    parameters = [p for p in mlp.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, foreach=True)
    scale = max(tokens.targets.var(0, unbiased=False).mean().item(), 1e-12)
    pause = max(1, settings.steps // PAUSES)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
        count = min(settings.tokens_per_step, len(tokens.inputs))
        rows = torch.randint(len(tokens.inputs), (count,), generator=generator).to(tokens.inputs.device)
        loss = F.mse_loss(mlp(tokens.inputs[rows]), tokens.targets[rows]) / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == settings.steps - 1:
            curve.append((step, loss.item()))
            if not math.isfinite(curve[-1][1]):
                return
        if (step + 1) % pause == 0 or step == settings.steps - 1:
            yield


def fit_mlp(mlp: Mlp, tokens: Tokens, settings: LocalSettings, generator: torch.Generator) -> Fit:
    """Closed form, then Adam, in place; each keeps its moment of least held-out error, or is undone if it has none."""

    def errors() -> tuple[float, float]:
        train = relative_error(mlp, tokens.inputs, tokens.targets)
        return train, relative_error(mlp, tokens.held_out_inputs, tokens.held_out_targets)

    def closed_form() -> Iterator[None]:
        refit_fc2(mlp, tokens.inputs, tokens.targets, ridge=settings.ridge)
        yield

    curve: list[tuple[int, float]] = []
    before = best = errors()
    kept = copy.deepcopy(mlp.state_dict())
    overfit = diverged = False
    for step in (closed_form(), adam_steps(mlp, tokens, settings, generator, curve)):
        start, moments = best, []
        for _ in step:
            moments.append(errors())
            if math.isfinite(sum(moments[-1])) and moments[-1][1] < best[1]:
                best, kept = moments[-1], copy.deepcopy(mlp.state_dict())
        mlp.load_state_dict(kept)
        overfit |= best == start and any(train < start[0] for train, _ in moments)
        diverged |= bool(moments) and not moments[-1][0] <= start[0]  # NaN included
    diverged |= any(not math.isfinite(loss) for _, loss in curve)
    if diverged or (best[0] > settings.converged_below * before[0] and not overfit):
        status = Status.NOT_CONVERGED
    else:
        status = Status.OVERFIT if overfit else Status.OK
    return Fit(before[0], best[0], before[1], best[1], status, tuple(curve))


class TokenStreams:
    """The token tensors of teacher and student, advanced block by block: the cost is linear in the depth."""

    def __init__(
        self,
        teacher: SwinTransformer,
        student: SwinTransformer,
        seen: tuple[Tensor, Tensor],
        taught: tuple[Tensor, Tensor],
    ) -> None:
        """`seen` by the student, `taught` by the teacher: (training, held-out) images, the same ones but in a control."""
        self._networks = (teacher, student)
        self._count = len(seen[0])
        pairs = zip(self._networks, (taught, seen), strict=True)
        self._streams = [_chunked(network.patch_embed, torch.cat(images)) for network, images in pairs]  # float32 [N, H, W, C]

    def walk(self) -> Iterator[tuple[nn.Module, Tokens]]:
        """Yields each student block with its tokens; the block may be changed before the next one is asked for."""
        for stages in zip(*(network.layers for network in self._networks), strict=True):
            self._streams = [_chunked(stage.downsample, x) for stage, x in zip(stages, self._streams, strict=True)]
            for teacher_block, student_block in zip(*(stage.blocks for stage in stages), strict=True):
                target = _chunked(teacher_block, self._streams[0])
                middle = _chunked(partial(_after_attention, student_block), self._streams[1])
                inputs = _chunked(student_block.norm2, middle)
                yield student_block, self._tokens(inputs, target - middle)
                self._streams = [target, middle + _chunked(student_block.mlp, inputs)]

    def _tokens(self, inputs: Tensor, targets: Tensor) -> Tokens:
        split = [x[part].flatten(0, 2) for part in (slice(self._count), slice(self._count, None)) for x in (inputs, targets)]
        return Tokens(*split)


def _after_attention(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """The residual stream between a block's two halves."""
    return x + block._attn(block.norm1(x))


@torch.no_grad()
def _chunked(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(chunk) for chunk in x.split(128)])
