"""The checks of c02, c03 and c13 on faked results: sound ones are reproduced, and each planted fault ends in another verdict."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from geluless.distillation import Status
from geluless.verdicts.ablation import CONTROL, CONTROL_JUDGED, SETTINGS
from geluless.verdicts.claim_fixture import ClaimFixture, ClaimProtocolError
from geluless.verdicts.layer_errors import LayerError
from geluless.verdicts.micro_networks import SEEDS, SIZES, Kind, Task, TaskResult
from geluless.verdicts.registry import load_registry
from geluless.verdicts.verdict import Record

CLAIMS = Path(__file__).parents[2] / "claims"
N = 10_000
LABELS = (np.arange(N) % 10).astype(np.uint8)
ORDER = np.random.default_rng(0).permutation(N)
IMAGES = "fake, 10,000 images, which chose the networks too"
Results = dict[Task, TaskResult]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CLAIMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


C02 = loaded("test_c02_distillation_recovers")
C03 = loaded("test_c03_accuracy_after_int8")
C13 = loaded("test_c13_sensitivity_of_distillation")
ROWS = {row.id: row for row in load_registry(CLAIMS / "claims.toml")}


class Pool:
    """Hands out what was put in."""

    def __init__(self, results: Mapping[Task, TaskResult]) -> None:
        self._results = results

    def get(self, *tasks: Task) -> tuple[TaskResult, ...]:
        return tuple(self._results[task] for task in tasks)


def judged(check: Callable[..., None], results: Results, **arguments: object) -> Record:
    row = ROWS[Path(check.__code__.co_filename).name[5:8]]
    claim = ClaimFixture(row, item=check.__name__.removeprefix("test_"), node=check.__name__)
    check(claim, Pool(results), "embedded", **arguments)
    assert claim.record is not None
    return claim.record


def wrong(*spans: tuple[int, int], first: int = N) -> np.ndarray:
    """Predictions of the first images that are wrong on those spans of a random order, and right elsewhere."""
    predictions = LABELS.copy()
    for start, stop in spans:
        predictions[ORDER[start:stop]] = (predictions[ORDER[start:stop]] + 1) % 10
    return predictions[:first]


# Each loses and gains some images against the teacher, as real networks do: in points 1.4, 1.0, 0.1 and 0.1.
GELU = wrong((0, 900))
NAIVE = wrong((0, 800), (1000, 1240))
CORRECTED = wrong((0, 850), (1000, 1150))
RELU = wrong((0, 890), (1000, 1020))
INT8 = wrong((0, 880), (1000, 1030))
BAD = wrong((0, 850), (1000, 1250))
GUESSES = np.random.default_rng(1).integers(0, 10, N).astype(np.uint8)


def record(status: Status = Status.OK, *, loss: float = 0.5) -> dict[str, Any]:
    return {"status": status.value, "loss_before": 1.0, "loss": loss, "curve": []}


def run(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"records": list(steps), "warnings": []}


GOOD_RUN = run(*[record()] * 12)


class Seconds(dict[str, float]):
    """A second for whatever step is asked for."""

    def __missing__(self, step: str) -> float:
        return 1.0


def result(task: Task, **fields: Any) -> TaskResult:
    fields = {"seconds": Seconds({"FP32": 1.0}), **fields}
    return TaskResult(str(task), IMAGES, "ab" * 32, LABELS, **fields)


def world() -> Results:
    """Every task that the checks below read, as a sound run would leave it."""
    tasks = {Task.parse(f"base:{size}"): base(CORRECTED) for size in SIZES}
    tasks |= {Task.parse(f"local:{size}"): local() for size in SIZES}
    tasks |= {Task.parse(f"local:tiny#{seed}"): {"predictions": {"fp32-relu": RELU}} for seed in SEEDS[1:]}
    tasks |= {Task.parse(f"control:{size}/local"): control() for size in SIZES}
    tasks[Task.parse("control:tiny/paper")] = control()
    tasks[Task.parse("paper:tiny")] = distilled({"fp32-relu": RELU})
    tasks[Task.parse("first:tiny")] = {"predictions": {"fp32-naive": NAIVE, "fp32-local": RELU, "fp32-paper": RELU}}
    for name, setting in SETTINGS.items():
        if setting.default:
            tasks[Task.parse(f"varied:tiny/{name}")] = distilled({"fp32-relu": RELU})
    tasks[Task.parse("varied:tiny/data-tenth")]["distillation"] = run(*[record(Status.OVERFIT)] * 8, *[record()] * 4)
    still = run(*[record(Status.NOT_CONVERGED, loss=1.0)] * 12)
    tasks[Task.parse(f"varied:tiny/{CONTROL}")] = {"predictions": {"fp32-relu": NAIVE}, "distillation": still}
    return {task: result(task, **fields) for task, fields in tasks.items()}


def base(corrected: np.ndarray) -> dict[str, Any]:
    predictions = {"fp32-gelu": GELU, "fp32-naive": NAIVE, "fp32-corrected": corrected, "int8-gelu": GELU, "int8-naive": NAIVE}
    return {
        "predictions": predictions,
        "draws": {"int8-gelu": (GELU, GELU, GELU)},
        "artifacts": {"int8-gelu": "cd" * 32},
    }


def distilled(predictions: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"predictions": predictions, "distillation": GOOD_RUN, "dead_units": {"layers.0.blocks.0": 0.02}}


def local() -> dict[str, Any]:
    return {
        **distilled({"fp32-relu": RELU, "int8-relu": INT8}),
        "draws": {"int8-relu": (INT8, INT8, INT8)},
        "draws_engine": "fake",
        "artifacts": {"int8-relu": "ef" * 32},
        "layer_errors": {"int8-relu": (LayerError("patch_embed", 0.01), LayerError("layers.0.blocks.0", 0.02))},
    }


def control() -> dict[str, Any]:
    guesses, own = GUESSES[:CONTROL_JUDGED], RELU[:CONTROL_JUDGED]
    return {
        "predictions": {"fp32-shuffled": guesses, "fp32-own-targets": own, "int8-blank": guesses},
        "silenced_units": {"layers.0.blocks.0": 0.55},
    }


def changed(results: Results, name: str, **fields: Any) -> Results:
    """With the fields of one task replaced; predictions are merged."""
    task = Task.parse(name)
    old = results[task]
    if "predictions" in fields:
        fields["predictions"] = {**old.predictions, **fields["predictions"]}
    return {**results, task: dataclasses.replace(old, **fields)}


LOCAL, PAPER = {"recipe": Kind.LOCAL, "size": "tiny"}, {"recipe": Kind.PAPER, "size": "tiny"}
CHECKS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (C02.test_naive_swap_loses, {"size": "small"}),
    (C02.test_bias_corrected_swap_loses, {"size": "small"}),
    *((C02.test_distillation_recovers, {"recipe": Kind.LOCAL, "size": size}) for size in SIZES),
    (C02.test_distillation_recovers, PAPER),
    *((C02.test_gain_over_bias_correction, {"recipe": Kind.LOCAL, "size": size}) for size in SIZES),
    (C02.test_gain_over_bias_correction, PAPER),
    (C02.test_other_seeds, {}),
    (C02.test_first_block_swap_loses, {}),
    (C02.test_first_block_recovers, {"by": "local"}),
    (C02.test_first_block_recovers, {"by": "paper"}),
    *((C02.test_no_sign_of_failure, {"sign": sign}) for sign in C02.SIGNS),
    *(
        (C03.test_int8_relu_keeps_the_accuracy, {"size": "tiny", "reference": reference, "kind": kind})
        for reference in C03.REFERENCES
        for kind in C03.TESTS
    ),
    (C03.test_other_calibration_draws, {"size": "tiny"}),
    (C03.test_quantization_adds_no_error, {"size": "large"}),
    (C13.test_ablation_on_the_embedded_networks, {"recipe": "local", "factor": "learning rate"}),
    (C13.test_ablation_on_the_embedded_networks, {"recipe": "paper", "factor": "data fraction"}),
]


@pytest.mark.parametrize(("check", "arguments"), CHECKS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_sound_run_is_reproduced_and_says_which_images_judged_it(check: Callable[..., None], arguments: dict[str, Any]) -> None:
    found = judged(check, world(), **arguments)
    assert found.status == "REPRODUCED", found.sentence
    assert found.evidence is not None
    assert IMAGES in found.evidence.ran


REFUSED: list[tuple[str, Callable[..., None], dict[str, Any], str, dict[str, Any], str]] = [
    (
        "nothing lost",
        C02.test_naive_swap_loses,
        {"size": "tiny"},
        "base:tiny",
        {"predictions": {"fp32-naive": GELU}},
        "UNDECIDED",
    ),
    (
        "a swap that gains",
        C02.test_naive_swap_loses,
        {"size": "tiny"},
        "base:tiny",
        {"predictions": {"fp32-naive": wrong((0, 700), (1000, 1050))}},
        "REFUTED",
    ),
    (
        "bias correction repairs it",
        C02.test_bias_corrected_swap_loses,
        {"size": "tiny"},
        "base:tiny",
        {"predictions": {"fp32-corrected": RELU}},
        "REFUTED",
    ),
    (
        "a real loss that may be smaller",
        C02.test_bias_corrected_swap_loses,
        {"size": "tiny"},
        "base:tiny",
        {"predictions": {"fp32-corrected": wrong((0, 850), (1000, 1120))}},
        "UNDECIDED",
    ),
    ("two points lost", C02.test_distillation_recovers, LOCAL, "local:tiny", {"predictions": {"fp32-relu": BAD}}, "REFUTED"),
    (
        "the naive swap is as good",
        C02.test_distillation_recovers,
        LOCAL,
        "base:tiny",
        {"predictions": {"fp32-naive": RELU}},
        "UNDECIDED",
    ),
    (
        "bias correction is as good",
        C02.test_gain_over_bias_correction,
        LOCAL,
        "base:tiny",
        {"predictions": {"fp32-corrected": RELU}},
        "UNDECIDED",
    ),
    (
        "bias correction is better",
        C02.test_gain_over_bias_correction,
        PAPER,
        "base:tiny",
        {"predictions": {"fp32-corrected": wrong((0, 800))}},
        "REFUTED",
    ),
    ("a bad seed", C02.test_other_seeds, {}, "local:tiny#2", {"predictions": {"fp32-relu": BAD}}, "REFUTED"),
    (
        "the first block costs nothing",
        C02.test_first_block_swap_loses,
        {},
        "first:tiny",
        {"predictions": {"fp32-naive": RELU}},
        "UNDECIDED",
    ),
    (
        "the first block does not recover",
        C02.test_first_block_recovers,
        {"by": "paper"},
        "first:tiny",
        {"predictions": {"fp32-paper": BAD}},
        "REFUTED",
    ),
    (
        "steps that stand still",
        C02.test_no_sign_of_failure,
        {"sign": "distillation-does-not-converge"},
        "paper:tiny",
        {"distillation": run(*[record(loss=1.0)] * 12)},
        "REFUTED",
    ),
    (
        "steps that overfit",
        C02.test_no_sign_of_failure,
        {"sign": "distillation-overfits"},
        "local:large",
        {"distillation": run(*[record(Status.OVERFIT)] * 24)},
        "REFUTED",
    ),
    ("dead units", C02.test_no_sign_of_failure, {"sign": "units-die"}, "local:base", {"dead_units": {"a": 0.3}}, "REFUTED"),
    (
        "guesses",
        C02.test_no_sign_of_failure,
        {"sign": "agreement-is-chance"},
        "local:small",
        {"predictions": {"fp32-relu": GUESSES}},
        "REFUTED",
    ),
    (
        "a bad draw",
        C03.test_other_calibration_draws,
        {"size": "tiny"},
        "local:tiny",
        {"draws": {"int8-relu": (INT8, INT8, BAD)}},
        "REFUTED",
    ),
    (
        "a bad quantization",
        C03.test_quantization_adds_no_error,
        {"size": "tiny"},
        "local:tiny",
        {"predictions": {"int8-relu": BAD}},
        "REFUTED",
    ),
    (
        "a bad setting",
        C13.test_ablation_on_the_embedded_networks,
        {"recipe": "paper", "factor": "data fraction"},
        "varied:tiny/paper-data-1-percent",
        {"predictions": {"fp32-relu": BAD}},
        "REFUTED",
    ),
]


@pytest.mark.parametrize(
    ("check", "arguments", "task", "fields", "status"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_planted_fault_is_not_reproduced(
    check: Callable[..., None], arguments: dict[str, Any], task: str, fields: dict[str, Any], status: str
) -> None:
    found = judged(check, changed(world(), task, **fields), **arguments)
    assert found.status == status, found.sentence


GOOD_SHUFFLED = {"fp32-shuffled": RELU[:CONTROL_JUDGED]}
BAD_TWIN = {"fp32-own-targets": GUESSES[::-1][:CONTROL_JUDGED]}
NO_CONTROL: list[tuple[str, Callable[..., None], dict[str, Any], str, dict[str, Any]]] = [
    (
        "labels that were not shuffled",
        C02.test_distillation_recovers,
        LOCAL,
        "control:tiny/local",
        {"predictions": GOOD_SHUFFLED},
    ),
    (
        "the same, of the paper's recipe",
        C02.test_distillation_recovers,
        PAPER,
        "control:tiny/paper",
        {"predictions": GOOD_SHUFFLED},
    ),
    ("a run too small to learn", C02.test_distillation_recovers, LOCAL, "control:tiny/local", {"predictions": BAD_TWIN}),
    (
        "labels not shuffled, gain",
        C02.test_gain_over_bias_correction,
        LOCAL,
        "control:tiny/local",
        {"predictions": GOOD_SHUFFLED},
    ),
    ("a naive swap that loses nothing", C02.test_other_seeds, {}, "base:tiny", {"predictions": {"fp32-naive": GELU}}),
    (
        "a learning rate of zero that learns",
        C02.test_no_sign_of_failure,
        {"sign": "distillation-does-not-converge"},
        f"varied:tiny/{CONTROL}",
        {"distillation": GOOD_RUN},
    ),
    (
        "60 images that suffice",
        C02.test_no_sign_of_failure,
        {"sign": "distillation-overfits"},
        "varied:tiny/data-tenth",
        {"distillation": GOOD_RUN},
    ),
    (
        "silenced units that fire",
        C02.test_no_sign_of_failure,
        {"sign": "units-die"},
        "control:tiny/local",
        {"silenced_units": {"a": 0.01}},
    ),
    (
        "blank images that suffice",
        C03.test_quantization_adds_no_error,
        {"size": "tiny"},
        "control:tiny/local",
        {"predictions": {"int8-blank": RELU[:CONTROL_JUDGED]}},
    ),
    (
        "a learning rate of zero with other answers",
        C13.test_ablation_on_the_embedded_networks,
        {"recipe": "local", "factor": "batch"},
        f"varied:tiny/{CONTROL}",
        {"predictions": {"fp32-relu": BAD}},
    ),
]


@pytest.mark.parametrize(
    ("check", "arguments", "task", "fields"), [row[1:] for row in NO_CONTROL], ids=[r[0] for r in NO_CONTROL]
)
def test_a_control_that_does_not_hold_reproduces_nothing(
    check: Callable[..., None], arguments: dict[str, Any], task: str, fields: dict[str, Any]
) -> None:
    try:
        status = judged(check, changed(world(), task, **fields), **arguments).status
    except ClaimProtocolError:
        status = "ERROR"
    assert status in ("UNDECIDED", "ERROR")


def test_each_control_is_of_its_own_recipe_and_size() -> None:
    """A control that passes at one size spoils the check there, and no other."""
    spoiled = changed(world(), "control:base/local", predictions=GOOD_SHUFFLED)
    found = {size: judged(C02.test_distillation_recovers, spoiled, recipe=Kind.LOCAL, size=size).status for size in SIZES}
    assert found == {**dict.fromkeys(SIZES, "REPRODUCED"), "base": "UNDECIDED"}


def test_the_first_draw_and_the_first_seed_are_judged_once() -> None:
    bad_draw = changed(world(), "local:tiny", draws={"int8-relu": (BAD, INT8, INT8)})
    assert judged(C03.test_other_calibration_draws, bad_draw, size="tiny").status == "REPRODUCED"
    bad_seed = changed(world(), "local:tiny", predictions={"fp32-relu": BAD})
    assert judged(C02.test_other_seeds, bad_seed).status == "REPRODUCED"
    assert judged(C02.test_distillation_recovers, bad_seed, **LOCAL).status == "REFUTED"


def test_one_recipe_s_bad_value_is_not_the_other_s() -> None:
    spoiled = changed(world(), "varied:tiny/paper-data-1-percent", predictions={"fp32-relu": BAD})
    fraction = {"factor": "data fraction"}
    assert judged(C13.test_ablation_on_the_embedded_networks, spoiled, recipe="local", **fraction).status == "REPRODUCED"
    assert judged(C13.test_ablation_on_the_embedded_networks, spoiled, recipe="paper", **fraction).status == "REFUTED"


@pytest.mark.parametrize("check", [C03.test_int8_relu_keeps_the_accuracy, C13.test_ablation_on_the_embedded_networks])
def test_the_bias_corrected_swap_stands_beside_the_naive_one(check: Callable[..., None]) -> None:
    arguments = {"size": "tiny", "reference": "fp32-gelu", "kind": "absolute"}
    if check is C13.test_ablation_on_the_embedded_networks:
        arguments = {"recipe": "paper", "factor": "data fraction"}
    names = [number.name for number in judged(check, world(), **arguments).numbers]
    assert any(name.startswith("gain over the bias-corrected swap") for name in names)
    assert sum("naive swap" in name for name in names) >= 1
