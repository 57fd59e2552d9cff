"""The accuracy side of the evidence: ablation, variants, failure signs, layer errors, draws, and predictions as stored."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

import geluless
from geluless.bench.identity import require_network
from geluless.data import embedded_images
from geluless.data.selection import Selection, select
from geluless.distillation import RECIPES, Distillation, RecipeError, SoftLabelSettings, distill
from geluless.distillation.recipes import LocalSettings, Recipe
from geluless.engine.engine import Engine
from geluless.errors import MissingResource
from geluless.integer.artifact import Artifact
from geluless.models import named_blocks
from geluless.ptq.quantize import quantize
from geluless.verdicts import worker as worker_module
from geluless.verdicts.ablation import CONTROL, CONTROL_IMAGES, SETTINGS, control_recipe, recipe_of, setting_of, table
from geluless.verdicts.accuracy import ablation_table, accuracy_report_data, bias_drop, draw_drops, failure_sign_details, spread
from geluless.verdicts.equivalence import paired_drop
from geluless.verdicts.failure_signs import agreement, curve_shape, dead_units, silence
from geluless.verdicts.layer_errors import LayerError, layer_errors
from geluless.verdicts.micro_networks import DRAWS, FLOAT_GELUS, SILENCED, Kind, Task, TaskResult
from geluless.verdicts.predictions import pack_predictions, read_predictions
from geluless.verdicts.report_data import micro_network_data
from geluless.verdicts.statistics import deviation, mean_difference, student
from geluless.verdicts.worker import TWO_STAGE, Worker, calibration_indices, run_task
from tests.support.compiled import requires_native
from tests.support.networks import MemoryImages, awkward_images, awkward_swin

LOCAL = Recipe("quick", 0.2, local=LocalSettings(96, 1e-3, 10, 128, 2e-3, 0.95))
SOFT = SoftLabelSettings(epochs=0.2, batch_size=16, learning_rate=3e-4, weight_decay=0.0, temperature=3.0, max_gradient_norm=1.0)
PAPER = Recipe("quick paper", 0.2, soft_labels=SOFT)
IMAGES = MemoryImages(120)
LABELS = np.arange(200, dtype=np.uint8) % 10


def wrong_at(*images: int) -> np.ndarray:
    predictions = LABELS.copy()
    predictions[list(images)] = (predictions[list(images)] + 1) % 10
    return predictions


def result(task: Task, **fields: object) -> TaskResult:
    return TaskResult(str(task), "fake, 200 images", "ab" * 32, LABELS, **fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ the tasks


@pytest.mark.parametrize(
    "text", ["local:tiny", "local:small#2", "varied:tiny/rate-quarter", "control:base/local+kd", "first:tiny"]
)
def test_a_task_reads_what_it_writes(text: str) -> None:
    assert str(Task.parse(text)) == text
    assert Task.parse(text).expected_seconds > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("varied:tiny", "setting of the ablation"),
        ("local:tiny/rate-quarter", "setting of the ablation"),
        ("control:tiny", "a recipe to control"),
        ("control:tiny/magic", "no recipe is called"),
        ("varied:tiny/rate-tripled", "no setting is called"),
        ("base:tiny#1", "no other seed"),
        ("local:tiny#one", "invalid literal"),
    ],
)
def test_a_task_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task.parse(text)


def test_draws_are_balanced_and_differ_and_the_first_is_the_stated_one() -> None:
    from geluless.data.balance import balanced_indices

    labels = np.random.default_rng(0).integers(0, 10, 2000)
    draws = [calibration_indices(labels, 256, draw=draw) for draw in DRAWS]
    assert draws[0] == balanced_indices(labels, 256)
    assert len({tuple(draw) for draw in draws}) == len(DRAWS)
    for draw in draws:
        assert len(set(draw)) == 256
        assert set(np.bincount(labels[draw])) <= {25, 26}
    assert draws[1] == calibration_indices(labels, 256, draw=1)


# --------------------------------------------------------------------------------------------------------- the ablation


@pytest.mark.parametrize("name", [*SETTINGS, CONTROL])
def test_a_setting_changes_its_own_factor_alone(name: str) -> None:
    setting = setting_of(name)
    base, varied = RECIPES[setting.recipe], recipe_of(setting)
    pairs = zip((base.local, base.soft_labels), (varied.local, varied.soft_labels), strict=True)
    changed = {
        field.name
        for one, other in pairs
        if one is not None
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    }
    assert changed == {*setting.times, *setting.to}
    assert changed or setting.backwards or setting.images
    assert setting.images or setting.selection is Selection.BALANCED


def test_every_factor_that_the_paper_leaves_open_is_varied() -> None:
    factors = {setting.factor for setting in SETTINGS.values()}
    assert {"learning rate", "steps", "batch", "data fraction", "order of blocks"} <= factors
    paper = {setting.factor for setting in SETTINGS.values() if setting.recipe == "paper"}
    assert {"learning rate", "batch", "epochs", "temperature", "data fraction", "selection", "order of blocks"} <= paper
    default = {setting.factor for setting in SETTINGS.values() if setting.default}
    assert {"learning rate", "steps", "batch", "data fraction"} <= default


def test_a_default_run_takes_one_minute_at_most_for_the_papers_settings() -> None:
    assert sum(setting.seconds for setting in SETTINGS.values() if setting.default and setting.recipe == "paper") <= 60


class Reached(Exception):
    """What a worker was about to distil."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], dict[str, Any]]:
    """What `distill` is called with for a task, the images among it; nothing is distilled."""

    def refuse(teacher: object, images: object, **arguments: object) -> None:
        raise Reached({"images": images, **arguments})

    def logits(self: Worker, model: object, indices: range, *, images: object = None) -> np.ndarray:
        return np.random.default_rng(2).normal(size=(len(indices), 10))

    monkeypatch.setattr(worker_module, "distill", refuse)
    monkeypatch.setattr(Worker, "_logits", logits)

    def of(task: Task) -> dict[str, Any]:
        with pytest.raises(Reached) as reached:
            Worker(task, images=8, report=lambda line: None).run()
        found: dict[str, Any] = reached.value.args[0]
        return found

    return of


@pytest.mark.parametrize("name", [*SETTINGS, CONTROL])
def test_a_setting_reaches_the_recipe(name: str, asked: Callable[[Task], dict[str, Any]]) -> None:
    setting, found = setting_of(name), asked(Task(Kind.VARIED, "tiny", 1, name))
    assert found["recipe"] == recipe_of(setting)
    assert (found["seed"], found["backwards"]) == (1, setting.backwards)
    everything = embedded_images("train")
    if setting.images is None:
        assert found["images"] is everything
    else:
        assert len(found["images"]) == setting.images
        logits = np.random.default_rng(2).normal(size=(len(everything), 10))
        chosen = select(everything.labels, setting.images, setting.selection, logits=logits)
        assert found["images"].indices.tolist() == chosen


@pytest.mark.parametrize(("kind", "recipe"), [(Kind.LOCAL, "local"), (Kind.PAPER, "paper"), (Kind.LOCAL_KD, "local+kd")])
def test_a_plain_recipe_gets_every_image_and_no_variation(
    kind: Kind, recipe: str, asked: Callable[[Task], dict[str, Any]]
) -> None:
    found = asked(Task(kind, "tiny"))
    assert found.pop("images") is embedded_images("train")
    assert found.pop("on_block") is not None
    plain = {"drop_bias": False, "backwards": False, "blocks": None, "shuffled": False}
    assert found == {"recipe": recipe, "seed": 0, **plain}


def test_the_first_experiment_and_the_controls_ask_for_what_they_are_called(asked: Callable[[Task], dict[str, Any]]) -> None:
    assert asked(Task(Kind.FIRST, "tiny"))["blocks"] == 1
    found = asked(Task(Kind.CONTROL, "small", setting="local"))
    assert found["shuffled"] is True
    assert found["recipe"] == control_recipe("local")
    assert len(found["images"]) == CONTROL_IMAGES
    assert set(np.bincount(found["images"].labels)) == {CONTROL_IMAGES // 10}


@pytest.mark.parametrize("name", RECIPES)
def test_a_control_is_its_recipe_but_for_its_size(name: str) -> None:
    small, own = control_recipe(name), RECIPES[name]
    assert (small.soft_labels, small.finetune, small.held_out_fraction) == (own.soft_labels, own.finetune, own.held_out_fraction)
    if own.local is not None:
        assert dataclasses.replace(small.local, images=own.local.images, steps=own.local.steps) == own.local
        assert small.local.images <= CONTROL_IMAGES * (1 - own.held_out_fraction)


def test_a_setting_that_changes_nothing_real_is_refused() -> None:
    with pytest.raises(TypeError):
        recipe_of(dataclasses.replace(SETTINGS["steps-none"], to={"momentum": 0.9}))


def test_the_table_is_corrected_by_holm_over_all_comparisons() -> None:
    right = np.ones(1000, bool)
    bad, fair = right.copy(), right.copy()
    bad[:12], fair[:2] = False, False
    varied = {("rate-quarter", 0): bad, ("steps-quarter", 0): fair, ("batch-half", 0): right, (CONTROL, 0): ~right}
    rows = {row.setting.factor: row for row in table({("local", 0): right}, varied)}
    raw = paired_drop(right, bad).mcnemar_p
    assert rows["learning rate"].p_holm == pytest.approx(3 * raw)  # three comparisons: the control is not one of them
    assert rows["batch"].p_holm == 1.0
    assert rows["learning rate"].drop_pp.value == pytest.approx(1.2)
    assert table({("paper", 0): right}, varied) == ()


def test_several_seeds_are_averaged_and_each_meets_its_own_base() -> None:
    right, worse = np.ones(1000, bool), np.ones(1000, bool)
    worse[:10] = False
    (row,) = table({("local", 0): right, ("local", 1): worse}, {("rate-quarter", 0): worse, ("rate-quarter", 1): right})
    assert [row.drops[seed].drop_pp.value for seed in (0, 1)] == pytest.approx([1.0, -1.0])
    assert row.drop_pp.value == pytest.approx(0.0)
    assert row.to_json()["seeds"] == [0, 1]


def test_a_learning_rate_of_zero_moves_no_weight_and_a_real_one_does() -> None:
    """The negative control of c13, and what would be wrong with it: the untouched recipe."""
    zero = dataclasses.replace(recipe_of(setting_of(CONTROL)), held_out_fraction=0.2)
    teacher = awkward_swin()
    naive = awkward_swin()
    geluless.replace_gelu(naive)
    still, moved = (distill(teacher, IMAGES, recipe=recipe).student.state_dict() for recipe in (zero, LOCAL))
    assert all(torch.equal(value, still[key]) for key, value in naive.state_dict().items())
    assert any(not torch.equal(value, moved[key]) for key, value in naive.state_dict().items())


# --------------------------------------------------------------------------------------------------------- the variants


def test_a_variant_without_variation_is_distill_itself() -> None:
    one = distill(awkward_swin(), IMAGES, recipe=PAPER, seed=3).student.state_dict()
    same = distill(awkward_swin(), IMAGES, recipe=PAPER, seed=3, drop_bias=False, backwards=False).student.state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)


def test_backwards_swaps_the_last_block_first() -> None:
    """And forwards, which the same check would have to refuse, does not."""
    result: Distillation = distill(awkward_swin(), IMAGES, recipe=PAPER, seed=0, backwards=True)
    names = [name for name, _ in named_blocks(result.student)]
    assert [record.block for record in result.records] == names[::-1] != names
    with pytest.raises(RecipeError, match="cannot walk backwards"):
        distill(awkward_swin(), IMAGES, recipe=LOCAL, seed=0, backwards=True)


def test_the_biases_are_gone_and_the_blocks_still_learn() -> None:
    result = distill(awkward_swin(), IMAGES, recipe=LOCAL, seed=0, drop_bias=True)
    assert all(block.mlp.fc1.bias is None for _, block in named_blocks(result.student))
    assert all(record.held_out <= record.held_out_before for record in result.records)


# ---------------------------------------------------------------------------------------------------- the failure signs


def test_chance_agreement_has_no_kappa_and_true_agreement_has() -> None:
    random = np.random.default_rng(1)
    one, other = random.integers(0, 10, 20_000), random.integers(0, 10, 20_000)
    chance, same = agreement(one, other), agreement(one, one)
    assert chance.low < 0 < chance.high
    assert (same.low, same.kappa, same.high) == pytest.approx((1.0, 1.0, 1.0))
    constant = np.zeros(100, np.uint8)
    assert agreement(constant, constant).kappa == 0.0  # a dead network that always says the same agrees by chance
    with pytest.raises(ValueError, match="one length"):
        agreement(one, other[:5])


def test_the_interval_of_kappa_covers_the_truth() -> None:
    """Two raters who copy with chance q and guess otherwise have kappa q."""
    random = np.random.default_rng(5)
    covered = []
    for _ in range(400):
        one, guess = random.integers(0, 10, (2, 500))
        found = agreement(one, np.where(random.random(500) < 0.8, one, guess))
        covered.append((found.low <= 0.8, found.high >= 0.8))
    assert np.mean(covered, axis=0) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("losses", "shape"),
    [
        ([1.0, 0.5, 0.3, 0.2, 0.2], "falls"),
        ([1.0, 1.01, 0.99, 1.0, 1.0], "flat"),
        ([1.0, 2.0, 8.0, 9.0, 9.0], "exploded"),
        ([1.0, None, 0.2, 0.1], "exploded"),
        ([1.0, math.inf], "exploded"),
        ([], "falls"),
    ],
)
def test_learning_curves_fall_stay_flat_or_explode(losses: list[float | None], shape: str) -> None:
    assert curve_shape(list(enumerate(losses))) == shape


def test_silenced_units_are_dead() -> None:
    model = awkward_swin(relu=True)
    before = dead_units(model, [awkward_images(8, seed=2)])
    silence(model, share=0.5)
    after = dead_units(model, [awkward_images(8, seed=2)])
    assert all(after[name] >= max(0.5, before[name]) for name in before)
    assert max(before.values()) < 0.5


def test_units_that_never_fire_are_counted_and_others_are_not() -> None:
    model = awkward_swin(relu=True)
    name, block = next(named_blocks(model))
    batches = [awkward_images(8, seed=2)]
    before = dead_units(model, batches)[name]
    with torch.no_grad():
        block.mlp.fc1.weight[:16] = 0
        block.mlp.fc1.bias[:16] = -1
    after = dead_units(model, batches)
    hidden = block.mlp.fc1.out_features
    assert 16 / hidden <= after[name] <= before + 16 / hidden
    assert set(after) == {name for name, _ in named_blocks(model)}


# ------------------------------------------------------------------------------------------------------ the layer errors


def test_layer_errors_are_small_and_grow_when_one_weight_is_wrong() -> None:
    model = awkward_swin(relu=True)
    artifact = quantize(model, [awkward_images(32, seed=0)])
    images = [awkward_images(8, seed=5)]
    right = {error.layer: error.relative_error for error in layer_errors(model, artifact, images)}
    assert [layer for layer in right if "blocks" in layer] == [name for name, _ in named_blocks(model)]
    assert all(0 < error < 0.2 for error in right.values()), right
    name, _ = list(named_blocks(model))[1]
    weight = artifact.tensors[f"{name}.mlp.fc2.weight"]
    broken = dataclasses.replace(artifact, tensors={**artifact.tensors, f"{name}.mlp.fc2.weight": -weight})
    wrong = {error.layer: error.relative_error for error in layer_errors(model, broken, images)}
    layers = list(right)
    for layer in layers[: layers.index(name)]:
        assert wrong[layer] == right[layer]
    assert wrong[name] > 2 * right[name]


# ------------------------------------------------------------------------------------------------------ the predictions


def test_predictions_come_back_as_they_were_and_stay_small() -> None:
    variants = {"fp32": wrong_at(1, 5), "int8, first images": wrong_at(3)[:50], "all wrong": (255 - LABELS).astype(np.uint8)}
    stored = json.loads(json.dumps(pack_predictions({"local:tiny": LABELS}, {"local:tiny": variants})))
    labels, found = read_predictions(stored)
    assert (labels["local:tiny"] == LABELS).all()
    assert all((found["local:tiny"][variant] == values).all() for variant, values in variants.items())
    many = np.tile(LABELS, 50)
    mistaken = np.where(np.random.default_rng(0).random(len(many)) < 0.09, (many + 3) % 10, many).astype(np.uint8)
    assert len(json.dumps(pack_predictions({"t": many}, {"t": {"variant": mistaken}})["tasks"])) < len(many) / 4


def test_changed_labels_are_found_out() -> None:
    stored = pack_predictions({"a": LABELS}, {"a": {"fp32": wrong_at(1)}})
    (digest,) = stored["labels"]
    forged = {**stored, "labels": {digest: pack_predictions({"a": wrong_at(7)}, {"a": {}})["labels"].popitem()[1]}}
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_predictions(forged)


# ------------------------------------------------------------------------------------------- statistics of several runs


def test_students_interval_is_scipys_and_one_value_says_nothing() -> None:
    values = np.array([0.03, 0.11, 0.06])
    interval = student(values)
    theirs = ttest_1samp(values, 0).confidence_interval(0.90)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    assert student(values[:1]).high == math.inf
    with pytest.raises(ValueError, match="non-empty"):
        student(values[:0])


def test_the_bounds_of_a_deviation_cover_and_its_order_is_right() -> None:
    random = np.random.default_rng(3)
    found = [deviation(random.normal(0, 2, 5)) for _ in range(2000)]
    assert all(one.low < one.value < one.high for one in found)
    assert np.mean([one.low <= 2 for one in found]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([one.high >= 2 for one in found]) == pytest.approx(0.95, abs=0.02)
    with pytest.raises(ValueError, match="at least two"):
        deviation(np.ones(1))


def test_a_mean_of_one_run_is_the_plain_drop() -> None:
    right, worse = np.ones((1, 1000), bool), np.ones((1, 1000), bool)
    worse[0, :10] = False
    assert mean_difference(right, worse).value == pytest.approx(0.01)
    with pytest.raises(ValueError, match="one shape"):
        mean_difference(right, worse[:, :10])


# --------------------------------------------------------------------------------------------------------- all together


def fake_results() -> dict[Task, TaskResult]:
    base, local, without = (Task(kind, "tiny") for kind in (Kind.BASE, Kind.LOCAL, Kind.NOBIAS))
    other, varied = Task(Kind.LOCAL, "tiny", 1), Task.parse("varied:tiny/rate-quarter")
    gelu = {"fp32-gelu": LABELS, "fp32-naive": wrong_at(*range(20)), "fp32-corrected": wrong_at(1, 2), "int8-gelu": LABELS}
    relu = {"fp32-relu": wrong_at(1), "int8-relu": wrong_at(1, 2)}
    errors = {"int8-relu": (LayerError("patch_embed", 0.01), LayerError("layers.0.blocks.0", 0.02))}
    draws = {"int8-relu": (wrong_at(1, 2), wrong_at(1)[:100], wrong_at(1, 2, 3)[:100])}
    dead = {"layers.0.blocks.0": 0.25}
    return {
        base: result(base, predictions=gelu),
        local: result(local, predictions=relu, draws=draws, layer_errors=errors, dead_units=dead),
        other: result(other, predictions={"fp32-relu": wrong_at(4)}),
        without: result(without, predictions={"fp32-relu": wrong_at(1, 9), "int8-relu": wrong_at(1, 2, 8)[:100]}),
        varied: result(varied, predictions={"fp32-relu": wrong_at(1, 2, 3)}),
    }


def test_the_report_data_hold_every_result_and_are_json() -> None:
    results = fake_results()
    found = json.loads(json.dumps(micro_network_data(results)))
    tiny = found["micro_networks"]["tiny"]
    assert [(row["factor"], row["seeds"]) for row in tiny["ablation"]] == [("learning rate", [0])]
    assert tiny["ablation"][0]["drop_pp"]["value"] == pytest.approx(1.0)
    assert [(row["draw"], row["n"]) for row in tiny["calibration_draws"]] == [(0, 200), (1, 100), (2, 100)]
    assert {(row["seed"], row["variant"]) for row in tiny["seeds"]} == {(0, "fp32-relu"), (0, "int8-relu"), (1, "fp32-relu")}
    assert tiny["quantization_error"][1] == {"layer": "layers.0.blocks.0", "relative_error": 0.02, "variant": "int8-relu"}
    assert tiny["without_bias"]["int8-relu"]["value"] == pytest.approx(1.0)
    assert tiny["top1"]["local fp32-relu"] == pytest.approx(99.5)  # of the first seed, not of the last that came
    _, predictions = read_predictions(found["predictions"])
    assert (predictions["local:tiny#1"]["fp32-relu"] == wrong_at(4)).all()
    assert len(predictions["local:tiny"]["int8-relu, draw 2"]) == 100


def test_parts_that_are_missing_leave_gaps_and_no_errors() -> None:
    local = Task(Kind.LOCAL, "tiny")
    alone = accuracy_report_data({local: fake_results()[local]}, "tiny")
    assert alone["ablation"] == alone["seeds"] == alone["calibration_draws"] == []
    assert alone["without_bias"] is None
    assert ablation_table({}, "tiny") == ()


def test_drops_over_draws_and_biases_pair_the_images_both_have_seen() -> None:
    results = fake_results()
    base, local, without = (results[Task(kind, "tiny")] for kind in (Kind.BASE, Kind.LOCAL, Kind.NOBIAS))
    assert [drop.n for drop in draw_drops(base, local, "int8-relu")] == [200, 100, 100]
    assert bias_drop(local, without, "int8-relu").counts.lost == 1
    mean, sd = spread(list(draw_drops(base, local, "int8-relu")), "draws")
    assert mean.low < mean.value < mean.high
    assert sd.low < sd.value < sd.high
    text = " ".join(failure_sign_details(base, local))
    assert "99.50 %" in text
    assert "90.00 %" in text
    assert "dead hidden units: 25.00 %" in text


@pytest.fixture(scope="module")
def quantized() -> tuple[Worker, Artifact]:
    """A worker of the base task on few images, and its INT8 GELU network."""
    worker = Worker(Task(Kind.BASE, "tiny"), images=24, report=lambda _: None)
    return worker, worker._calibrated(worker._teacher(), profile="per-channel", draw=0)


@requires_native
def test_the_timed_gelus_have_predictions_too(quantized: tuple[Worker, Artifact]) -> None:
    """Of the very artifact and engine that would be timed, once its tensors were verified."""
    worker, artifact = quantized
    found = worker._float_gelu(artifact)
    assert set(found) == {"int8-gelu-separate", "int8-gelu-fused"} == {f"int8-{variant}" for variant in FLOAT_GELUS}
    for variant in FLOAT_GELUS:
        expected = worker._run(Engine(artifact, variant=variant, threads=1), worker.indices).argmax(1)
        assert (found[f"int8-{variant}"] != expected).sum() <= 1, "a value on a tie may tip an image that lies on an edge"
        assert worker.seconds[f"INT8 {variant}"] > 0


@requires_native
def test_a_wrong_gelu_has_no_accuracy(quantized: tuple[Worker, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    worker, artifact = quantized
    right = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda self, images: right(self, images) + (self.variant == "gelu-fused"))
    with pytest.raises(RuntimeError, match="INT8 gelu-fused: WRONG"):
        worker._float_gelu(artifact)


def test_without_compiled_kernels_they_are_left_out(quantized: tuple[Worker, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    worker, artifact = quantized
    monkeypatch.setattr(worker, "_compiled", lambda _: None)
    assert worker._float_gelu(artifact) == {}


def test_an_artifact_bears_the_name_of_its_task(quantized: tuple[Worker, Artifact]) -> None:
    worker, artifact = quantized
    require_network(artifact, worker.task.model, activation="gelu")


@requires_native
def test_the_code_of_the_mlp_is_read_of_three_networks_and_left_out_where_it_cannot_be(
    quantized: tuple[Worker, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = quantized
    student = worker._teacher()
    geluless.replace_gelu(student)
    artifact = worker._calibrated(student, profile="per-channel", draw=0)
    seen: list[tuple[str, str | None]] = []

    def read(made: Artifact, *_: object, variant: str | None = None, **__: object) -> tuple[object, ...]:
        seen.append((made.plan.profile, variant))
        return ()

    def missing(*_: object, **__: object) -> None:
        raise MissingResource("objdump is missing")

    monkeypatch.setattr(worker_module, "cpu_mlp_code", missing)
    monkeypatch.setattr(worker_module, "gpu_mlp_code", read)
    assert set(worker._mlp_code(student, artifact)) == {"gpu relu", "gpu relu-float", "gpu two-stage"}
    plain = artifact.plan.profile
    assert seen == [(plain, None), (plain, "relu-float"), (TWO_STAGE.name, None)]


@pytest.mark.nightly
def test_the_controls_of_recovery_and_the_first_experiment_run_on_real_images() -> None:
    found = run_task(Task(Kind.CONTROL, "tiny", setting="local"), images=200, report=lambda _: None)
    shuffled, own, blank = (found.correct(name).mean() for name in ("fp32-shuffled", "fp32-own-targets", "int8-blank"))
    assert max(shuffled, blank) < 0.6 < 0.8 < own
    assert min(found.silenced_units.values()) >= SILENCED
    first = run_task(Task(Kind.FIRST, "tiny"), images=200, report=lambda _: None)
    assert all(first.correct(name).mean() > 0.8 for name in ("fp32-naive", "fp32-local", "fp32-paper"))


@pytest.mark.nightly
def test_the_control_of_the_ablation_recovers_nothing_on_real_images() -> None:
    found = run_task(Task(Kind.VARIED, "tiny", setting=CONTROL), images=64, report=lambda _: None)
    assert len(found.predictions["fp32-relu"]) == 64
    assert all(record["loss"] == record["loss_before"] for record in found.distillation["records"])
    assert all(0 <= share < 1 for share in found.dead_units.values())
