"""What the report draws, from the results that workers found: JSON values only, see geluless.report.plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from geluless.verdicts.accuracy import accuracy_report_data, stored_predictions
from geluless.verdicts.equivalence import paired_drop
from geluless.verdicts.micro_networks import SEED, SIZES, Kind, Task, TaskResult

VARIANTS = (
    (Kind.BASE, "fp32-naive", "naive swap, FP32"),
    (Kind.BASE, "fp32-corrected", "bias-corrected swap, FP32"),
    (Kind.LOCAL, "fp32-relu", "ReLU distilled, FP32"),
    (Kind.LOCAL, "int8-relu", "ReLU distilled, INT8"),
    (Kind.BASE, "int8-gelu", "GELU, INT8"),
    (Kind.PAPER, "fp32-relu", "ReLU by the paper's recipe, FP32"),
    (Kind.LOCAL_KD, "fp32-relu", "ReLU distilled and fine-tuned, FP32"),
)


def micro_network_data(results: Mapping[Task, TaskResult]) -> dict[str, Any]:
    """{"micro_networks": by size, "data": images and digests, "seed", "predictions": packed, "durations": seconds by task and
    step}."""
    networks: dict[str, Any] = {}
    for size in SIZES:
        own = {task.kind: result for task, result in results.items() if task.size == size and task.plain}
        if not own:
            continue
        base = own.get(Kind.BASE)
        networks[size] = {
            "drops": _drops(own, base) if base is not None else [],
            "top1": {
                f"{kind.value} {variant}": 100 * float(result.correct(variant).mean())
                for kind, result in own.items()
                for variant in result.predictions
            },
            "blocks": [dataclasses.asdict(block) for block in base.blocks] if base is not None else [],
            "distillation": {kind.value: result.distillation for kind, result in own.items() if result.distillation is not None},
            "images": len(next(iter(own.values())).labels),
            "artifacts": {
                f"{kind.value} {variant}": digest for kind, result in own.items() for variant, digest in result.artifacts.items()
            },
            **accuracy_report_data(results, size),
            "teacher_sha256": next(iter(own.values())).teacher_sha256,
        }
    return {
        "micro_networks": networks,
        "data": sorted({result.images for result in results.values()}),
        "seed": SEED,
        "predictions": stored_predictions(results),
        "durations": {str(task): dict(result.seconds) for task, result in results.items()},
    }


def _drops(own: Mapping[Kind, TaskResult], base: TaskResult) -> list[dict[str, Any]]:
    drops = []
    for kind, variant, label in VARIANTS:
        if kind in own:
            drop = paired_drop(base.correct("fp32-gelu"), own[kind].correct(variant))
            drops.append({"variant": label, **dataclasses.asdict(drop.drop_pp), "n": drop.n})
    return drops
