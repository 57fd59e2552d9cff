"""Plants in what is judged for accuracy: labels, answers and students that are not what they are said to be.

`tests/verdicts/test_accuracy_claims.py` plants faults in every accuracy claim one by one; here are those of a liar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geluless.verdicts.micro_networks import CURVED, Kind, Task, TaskResult
from tests.redteam.judging import NEVER
from tests.support.claims import outcome
from tests.verdicts.test_accuracy_claims import Pool, world

Results = Mapping[Task, TaskResult]


def with_curved(results: Results) -> dict[Task, TaskResult]:
    """And a tiny curved network, whose evidence is that of the tiny one."""
    found = dict(results)
    for kind in (Kind.BASE, Kind.LOCAL):
        found[Task(kind, "tiny" + CURVED)] = replace(found[Task(kind, "tiny")], task=f"{kind.value}:tiny{CURVED}")
    return found


RECOVERS = ("c02", "test_distillation_recovers", {"recipe": Kind.LOCAL, "size": "tiny"})
SWAP = ("c02", "test_naive_swap_loses", {"size": "tiny"})
QUANTIZED = ("c03", "test_int8_relu_keeps_the_accuracy", {"size": "tiny", "reference": "fp32-gelu", "kind": "absolute"})
CURVED_GAIN = ("c02", "test_curved_networks_gain_over_bias_correction", {"recipe": Kind.LOCAL, "size": "tiny" + CURVED})
EVERY = (RECOVERS, SWAP, QUANTIZED, CURVED_GAIN)


def status(check: tuple[str, str, dict[str, Any]], results: Results) -> str:
    claim, test, arguments = check
    return outcome(claim, test, micro_networks=Pool(results), tier="embedded", **arguments).status


def changed(task: str, **predictions: Callable[[np.ndarray], np.ndarray]) -> Results:
    """The sound world with some answers of one task changed; names with _ for -."""
    results, of = with_curved(world()), Task.parse(task)
    found = results[of]
    answers = {name.replace("_", "-"): change(found.predictions[name.replace("_", "-")]) for name, change in predictions.items()}
    return {**results, of: replace(found, predictions={**found.predictions, **answers})}


def shuffled(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(values)


def all_labels_shuffled() -> Results:
    """After calibration and before the verdict: every network is at chance, so nobody loses anything."""
    return {task: replace(result, labels=shuffled(result.labels)) for task, result in with_curved(world()).items()}


def taught_by_another() -> Results:
    results, task = with_curved(world()), Task(Kind.LOCAL, "tiny" + CURVED)
    return {**results, task: replace(results[task], teacher_sha256="cd" * 32)}


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check[1])
def test_what_is_true_is_reproduced(check: tuple[str, str, dict[str, Any]]) -> None:
    assert status(check, with_curved(world())) == "REPRODUCED"


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check[1])
def test_labels_shuffled_between_calibration_and_verdict(check: tuple[str, str, dict[str, Any]]) -> None:
    assert status(check, all_labels_shuffled()) in NEVER


def answers(task: str, variant: str) -> Callable[[np.ndarray], np.ndarray]:
    """In place of a network's own: those of another one."""
    return lambda _: world()[Task.parse(task)].predictions[variant]


PLANTS: dict[str, tuple[tuple[str, str, dict[str, Any]], Results]] = {
    "answers to other images": (RECOVERS, changed("local:tiny", fp32_relu=shuffled)),
    "the INT8 network's answers to other images": (QUANTIZED, changed("local:tiny", int8_relu=shuffled)),
    "a naive swap that is the teacher": (SWAP, changed("base:tiny", fp32_naive=answers("base:tiny", "fp32-gelu"))),
    "a student that was not distilled": (RECOVERS, changed("local:tiny", fp32_relu=answers("base:tiny", "fp32-naive"))),
    "a control that learned from its shuffled targets": (
        RECOVERS,
        changed("control:tiny/local", fp32_shuffled=answers("control:tiny/local", "fp32-own-targets")),
    ),
    "a student of another teacher": (CURVED_GAIN, taught_by_another()),
    "a student that is the corrected swap": (
        CURVED_GAIN,
        changed("local:tiny" + CURVED, fp32_relu=answers("base:tiny", "fp32-corrected")),
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_falsehood_is_never_reproduced(plant: str) -> None:
    check, results = PLANTS[plant]
    assert status(check, results) in NEVER
