"""What the results of several tasks say together, as numbers and as JSON: ablation, seeds, draws of calibration images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from geluless.verdicts.ablation import Row, table
from geluless.verdicts.equivalence import PairedDrop, paired_drop
from geluless.verdicts.failure_signs import agreement, describe
from geluless.verdicts.micro_networks import DRAWS, Kind, Task, TaskResult
from geluless.verdicts.predictions import pack_predictions
from geluless.verdicts.statistics import deviation, student
from geluless.verdicts.verdict import Estimate

Results = Mapping[Task, TaskResult]


def ablation_table(results: Results, size: str) -> tuple[Row, ...]:
    """Every varied run of this size that is there, against its base recipe with the same seed; FP32."""
    own = {task: result for task, result in results.items() if task.size == size}
    base = {(task.kind.value, task.seed): result.correct("fp32-relu") for task, result in own.items() if _is_recipe(task)}
    varied = {(task.setting, task.seed): result.correct("fp32-relu") for task, result in own.items() if task.kind is Kind.VARIED}
    return table(base, varied)


def _is_recipe(task: Task) -> bool:
    return task.kind in (Kind.LOCAL, Kind.PAPER, Kind.LOCAL_KD)


def draw_drops(reference: TaskResult, candidate: TaskResult, variant: str) -> tuple[PairedDrop, ...]:
    """FP32 GELU against each draw of calibration images of `variant`, over the images that the draw has seen."""
    gelu = reference.correct("fp32-gelu")
    return tuple(paired_drop(gelu[: len(correct)], correct) for correct in candidate.correct_by_draw(variant))


def spread(drops: list[PairedDrop], name: str) -> tuple[Estimate, Estimate]:
    """Mean (Student) and standard deviation (chi-square) of the drop over at least two runs, in pp; n counts runs, not images."""
    values = np.array([drop.drop_pp.value for drop in drops])
    mean, sd = student(values), deviation(values)
    return (
        Estimate(f"mean drop over {name}", mean.value, mean.low, mean.high, "pp", len(drops)),
        Estimate(f"standard deviation of the drop over {name}", sd.value, sd.low, sd.high, "pp", len(drops)),
    )


def failure_sign_details(base: TaskResult, distilled: TaskResult, variant: str = "fp32-relu") -> tuple[str, ...]:
    """The failure signs of one distilled network as sentences, the naive swap's agreement beside its own."""
    gelu = base.predictions["fp32-gelu"]
    own, naive = (agreement(gelu, result.predictions[name]) for result, name in ((distilled, variant), (base, "fp32-naive")))
    same = f"top-1 agreement with the teacher: {own} distilled, {naive} naive swap; by chance kappa would be 0"
    return (same, *describe(distilled.distillation, distilled.dead_units))


def accuracy_report_data(results: Results, size: str) -> dict[str, Any]:
    """Of one size: {"ablation", "seeds", "calibration_draws", "quantization_error", "dead_units", "without_bias"}.

    ablation            [{factor, value, recipe, drop_pp: {value, low, high}, p_holm, seeds, n}], against the base recipe
    seeds               [{recipe, seed, variant, drop_pp}], against FP32 GELU; unchanged recipes
    calibration_draws   [{variant, draw, n, drop_pp}], against FP32 GELU
    quantization_error  [{layer, relative_error, variant}] in the order of the network
    dead_units          {task: {block: share}}
    without_bias        {variant: drop_pp} from with to without fc1's bias, None where it was not run
    """
    own = {task: result for task, result in results.items() if task.size == size}
    base, local, without = (own.get(Task(kind, size)) for kind in (Kind.BASE, Kind.LOCAL, Kind.NOBIAS))
    quantized = [result for result in (local, base) if result is not None]
    seeds, draws = [], []
    if base is not None:
        for task in sorted((task for task in own if _is_recipe(task)), key=str):
            for variant in own[task].predictions:
                drop = _prefix_drop(base.correct("fp32-gelu"), own[task].correct(variant))
                seeds.append({"recipe": task.kind.value, "seed": task.seed, "variant": variant, "drop_pp": _json(drop)})
        for result in quantized:
            for variant in result.draws:
                rows = zip(DRAWS, draw_drops(base, result, variant), strict=True)
                draws += [{"variant": variant, "draw": draw, "n": drop.n, "drop_pp": _json(drop)} for draw, drop in rows]
    return {
        "ablation": [row.to_json() for row in ablation_table(own, size)],
        "seeds": seeds,
        "calibration_draws": draws,
        "quantization_error": [
            {"layer": error.layer, "relative_error": error.relative_error, "variant": variant}
            for result in quantized
            for variant, errors in result.layer_errors.items()
            for error in errors
        ],
        "dead_units": {str(task): dict(result.dead_units) for task, result in own.items() if result.dead_units},
        "without_bias": None
        if local is None or without is None
        else {variant: _json(bias_drop(local, without, variant)) for variant in ("fp32-relu", "int8-relu")},
    }


def bias_drop(local: TaskResult, without: TaskResult, variant: str) -> PairedDrop:
    """From the distilled network with fc1's bias to the one without, over the images that both have seen."""
    return _prefix_drop(local.correct(variant), without.correct(variant))


def stored_predictions(results: Results) -> dict[str, Any]:
    """Every prediction of every image, packed; `geluless.verdicts.predictions.read_predictions` reads it back.

    Draws of calibration images beyond the first are variants of their own: "int8-relu, draw 1".
    """
    variants: dict[str, dict[str, np.ndarray]] = {}
    for task, result in results.items():
        variants[str(task)] = dict(result.predictions)
        for variant, values in result.draws.items():
            variants[str(task)] |= {f"{variant}, draw {draw}": drawn for draw, drawn in zip(DRAWS[1:], values[1:], strict=True)}
    return pack_predictions({str(task): result.labels for task, result in results.items()}, variants)


def _prefix_drop(reference: np.ndarray, candidate: np.ndarray) -> PairedDrop:
    n = min(len(reference), len(candidate))
    return paired_drop(reference[:n], candidate[:n])


def _json(drop: PairedDrop) -> dict[str, float]:
    return dataclasses.asdict(drop.drop_pp)
