"""The record of a distillation: one entry per step, printed and drawn by the report."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import nn


class Status(StrEnum):
    """The paper's signs of failure are outcomes of their own, never averaged away."""

    OK = "ok"
    NOT_CONVERGED = "not converged"  # the training loss is not clearly below that of the plain swap, or not finite
    OVERFIT = "overfit"  # training helped the training images and hurt the held-out ones


@dataclass(frozen=True)
class BlockRecord:
    """One step of a recipe: a block swapped and trained, or the final fine-tuning.

    For `local`, losses are the mean squared error of the block's output relative to the variance of the MLP's part; for
    soft labels, the temperature-scaled Kullback-Leibler divergence in nats. `before` is right after the plain swap.
    """

    block: str
    phase: str  # "local", "soft labels" or "finetune"
    loss_before: float
    loss: float
    held_out_before: float
    held_out: float
    agreement: float  # of the whole student with the teacher, top-1 on held-out images, 0..1
    seconds: float
    status: Status
    curve: tuple[tuple[int, float], ...]  # (step, training loss)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: a loss that is not finite becomes null."""
        curve = [[step, loss if math.isfinite(loss) else None] for step, loss in self.curve]
        return {**dataclasses.asdict(self), "status": self.status.value, "curve": curve}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BlockRecord:
        curve = tuple((int(step), math.nan if loss is None else float(loss)) for step, loss in value["curve"])
        return cls(**{**value, "status": Status(value["status"]), "curve": curve})


def format_record(record: BlockRecord) -> str:
    """One line: block, loss, held-out loss, agreement, time."""
    verdict = "" if record.status is Status.OK else f"  [{record.status.value}]"
    return (
        f"{record.block:<22} {record.phase:<11} loss {record.loss_before:.4f} -> {record.loss:.4f}  "
        f"held-out {record.held_out_before:.4f} -> {record.held_out:.4f}  "
        f"agreement {100 * record.agreement:5.1f} %  {record.seconds:5.1f} s{verdict}"
    )


@dataclass(frozen=True)
class Distillation:
    """The result: a student without GELU in the blocks that were swapped, and how it got there."""

    student: nn.Module
    recipe: str
    seed: int
    records: tuple[BlockRecord, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        records = [record.to_json() for record in self.records]
        return {"recipe": self.recipe, "seed": self.seed, "records": records, "warnings": list(self.warnings)}
