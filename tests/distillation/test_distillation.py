"""Distillation: it recovers the teacher, names its failures, and reads every hyper-parameter from one strict file."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
import torch

import geluless
from geluless.data.balance import balanced_indices
from geluless.distillation import RECIPES, BlockRecord, RecipeError, SoftLabelSettings, Status, distill, format_record
from geluless.distillation.local import refit_fc2, relative_error
from geluless.distillation.networks import others
from geluless.distillation.recipes import LocalSettings, Recipe, parse_recipes
from geluless.distillation.soft_labels import SoftLabels, divergence
from geluless.errors import DataError, ModelError
from geluless.models import activation_of, named_blocks
from tests.support.networks import MemoryImages, awkward_images, awkward_swin

LOCAL = Recipe("quick", 0.2, local=LocalSettings(96, 1e-3, 40, 512, 2e-3, 0.95))
SOFT = SoftLabelSettings(epochs=2, batch_size=16, learning_rate=3e-4, weight_decay=0.0, temperature=3.0, max_gradient_norm=1.0)
PAPER = Recipe("quick paper", 0.2, soft_labels=SOFT)
IMAGES = MemoryImages(120)


@torch.inference_mode()
def logit_error(student: torch.nn.Module, teacher: torch.nn.Module) -> float:
    fresh = awkward_images(64, seed=9)
    return float((student(fresh) - teacher(fresh)).square().mean())


def swapped(teacher: torch.nn.Module) -> torch.nn.Module:
    naive = copy.deepcopy(teacher)
    geluless.replace_gelu(naive)
    return naive


@pytest.mark.parametrize(
    "recipe", [LOCAL, PAPER, dataclasses.replace(LOCAL, name="quick+kd", finetune=SOFT)], ids=lambda r: r.name
)
def test_distillation_recovers_part_of_what_the_swap_loses(recipe):
    teacher = awkward_swin()
    result = distill(teacher, IMAGES, recipe=recipe)
    assert activation_of(result.student) == "relu"
    assert logit_error(result.student, teacher) < 0.8 * logit_error(swapped(teacher), teacher)
    assert len(result.records) == 4 + (recipe.finetune is not None)


def test_the_teacher_is_left_as_it_was():
    teacher = awkward_swin()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    distill(teacher, IMAGES, recipe=LOCAL)
    assert activation_of(teacher) == "gelu"
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


def test_equal_seeds_give_equal_students_and_other_seeds_others():
    first, again, other = (distill(awkward_swin(), IMAGES, recipe=LOCAL, seed=seed).student.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_local_reconstruction_never_makes_a_block_worse_on_held_out_tokens():
    for record in distill(awkward_swin(), IMAGES, recipe=LOCAL).records:
        assert record.held_out <= record.held_out_before


def test_closed_form_refit_is_optimal_without_ridge():
    """At the least-squares optimum the residual is orthogonal to every feature."""
    model = awkward_swin(relu=True).double()
    mlp = next(named_blocks(model))[1].mlp.requires_grad_(False)
    x, y = torch.randn(500, 16, dtype=torch.float64), torch.randn(500, 16, dtype=torch.float64)
    before = relative_error(mlp, x, y)
    refit_fc2(mlp, x, y, ridge=0.0)
    features = mlp.act(mlp.fc1(x))
    residual = y - mlp(x)
    assert torch.allclose(features.T @ residual, torch.zeros(64, 16, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(residual.mean(0), torch.zeros(16, dtype=torch.float64), atol=1e-9)
    assert relative_error(mlp, x, y) < before


def test_divergence_is_zero_only_for_equal_distributions():
    logits = torch.randn(8, 7)
    assert divergence(logits, logits + 3.0, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert divergence(logits, logits.flip(1), 3.0).item() > 0.1


def test_soft_labels_belong_to_their_images():
    teacher, images = awkward_swin(), awkward_images(6)
    labels = SoftLabels.of(teacher, images)
    with torch.inference_mode():
        assert torch.allclose(labels.logits[0], teacher(images), atol=1e-5)
        assert torch.allclose(labels.logits[1], teacher(images.flip(3)), atol=1e-5)


def test_divergence_of_the_training_is_named_and_undone():
    recipe = Recipe("divergent", 0.2, soft_labels=dataclasses.replace(SOFT, learning_rate=1e6, max_gradient_norm=1e9))
    result = distill(awkward_swin(), IMAGES, recipe=recipe)
    assert Status.NOT_CONVERGED in {record.status for record in result.records}
    assert any("not converged" in warning for warning in result.warnings)
    assert all(torch.isfinite(v).all() for v in result.student.state_dict().values())


@pytest.mark.parametrize("rate", [0.1, 1e3])
def test_local_steps_that_run_away_are_named_and_undone_even_when_finite(rate):
    """The closed form has already lowered the error then: the block as a whole looks well."""
    recipe = dataclasses.replace(LOCAL, local=dataclasses.replace(LOCAL.local, learning_rate=rate))
    for record in distill(awkward_swin(), IMAGES, recipe=recipe).records:
        assert record.status is Status.NOT_CONVERGED
        assert record.held_out <= record.held_out_before


def test_soft_labels_that_run_away_leave_the_plain_swap():
    teacher = awkward_swin()
    recipe = dataclasses.replace(PAPER, soft_labels=dataclasses.replace(SOFT, learning_rate=1.0))
    result = distill(teacher, IMAGES, recipe=recipe)
    assert {record.status for record in result.records} == {Status.NOT_CONVERGED}
    expected = swapped(teacher).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in result.student.state_dict().items())


def test_records_survive_strict_json_even_after_divergence():
    recipe = Recipe("divergent", 0.2, soft_labels=dataclasses.replace(SOFT, learning_rate=1e6, max_gradient_norm=1e9))
    record = distill(awkward_swin(), IMAGES, recipe=recipe).records[0]
    assert not math.isfinite(record.curve[-1][1])
    value = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert BlockRecord.from_json(value).to_json() == record.to_json()


class _Altered(MemoryImages):
    """The same images but for those of the given indices, which are noise."""

    def __init__(self, count, *, altered):
        super().__init__(count)
        self.altered = set(altered)

    def batches(self, batch_size, *, indices=None):
        chosen = list(range(len(self)) if indices is None else indices)
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            batch = torch.cat(list(super().batches(len(part), indices=part))).clone()
            for row, index in enumerate(part):
                if index in self.altered:
                    batch[row] = torch.randn(batch[row].shape, generator=torch.Generator().manual_seed(index))
            yield batch


def test_held_out_images_judge_and_do_not_teach():
    held_out = balanced_indices(IMAGES.labels, 24)
    altered = distill(awkward_swin(), _Altered(120, altered=held_out), recipe=PAPER)
    plain = distill(awkward_swin(), IMAGES, recipe=PAPER)
    assert [r.held_out for r in altered.records] != [r.held_out for r in plain.records]
    assert all(torch.equal(v, plain.student.state_dict()[k]) for k, v in altered.student.state_dict().items())


def test_a_run_prints_nothing_where_there_is_no_terminal(capfd):
    distill(awkward_swin(), IMAGES, recipe=LOCAL)
    assert capfd.readouterr() == ("", "")


def test_overfitting_is_named():
    recipe = Recipe("starved", 0.4, local=LocalSettings(2, 0.0, 400, 4096, 1e-2, 0.95))
    result = distill(awkward_swin(), MemoryImages(5), recipe=recipe)
    assert Status.OVERFIT in {record.status for record in result.records}


def test_a_student_cannot_be_a_teacher():
    with pytest.raises(ModelError, match="pass the original network"):
        distill(awkward_swin(relu=True), IMAGES, recipe=LOCAL)


def test_too_few_images_say_how_many_are_needed():
    with pytest.raises(DataError, match="needs 96 training images"):
        distill(awkward_swin(), MemoryImages(50), recipe=LOCAL)


def test_shipped_recipes_are_the_three_documented_ones():
    assert sorted(RECIPES) == ["local", "local+kd", "paper"]
    assert RECIPES["paper"].soft_labels is not None
    assert RECIPES["local"].finetune is None
    assert RECIPES["local+kd"].finetune is not None


PHASE = "[x.local]\nridge=0\nsteps=1\ntokens_per_step=1\nconverged_below=1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x]\nheld_out_fraction = 0.1", "exactly one of"),
        ("[x]\nheld_out_fraction = 0.1\nspeed = 3", "unknown setting 'speed'"),
        ("[x]\nheld_out_fraction = 0.1\n[x.local]\nimages = 3", "lacks"),
        (f"[x]\nheld_out_fraction = 2\n{PHASE}images=1\nlearning_rate=1", "between 0 and 1"),
        (f"[x]\nheld_out_fraction = 0.1\n{PHASE}images=1.5\nlearning_rate=1", "not of type int"),
        (f"[x]\nheld_out_fraction = 0.1\n{PHASE}images=1\nlearning_rate=-1", "must be positive"),
    ],
)
def test_ill_formed_recipes_raise(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipes(text)


def test_unknown_recipes_raise_and_name_the_known():
    with pytest.raises(RecipeError, match="paper, local"):
        distill(awkward_swin(), IMAGES, recipe="magic")


def test_a_record_formats_as_one_line_that_names_a_failure():
    record = distill(awkward_swin(), IMAGES, recipe=LOCAL).records[0]
    line = format_record(dataclasses.replace(record, status=Status.OVERFIT))
    assert "\n" not in line
    assert "[overfit]" in line
    assert "layers.0.blocks.0" in line


@pytest.mark.parametrize("recipe", [LOCAL, PAPER], ids=lambda r: r.name)
def test_the_first_block_alone_is_the_first_step_of_the_whole_run(recipe):
    teacher = awkward_swin()
    first, whole = distill(teacher, IMAGES, recipe=recipe, blocks=1), distill(teacher, IMAGES, recipe=recipe)
    assert [dataclasses.replace(r, seconds=0) for r in first.records] == [dataclasses.replace(whole.records[0], seconds=0)]
    kinds = [type(block.mlp.act).__name__ for _, block in named_blocks(first.student)]
    assert kinds == ["ReLU"] + 3 * [type(next(named_blocks(teacher))[1].mlp.act).__name__]
    if recipe is LOCAL:  # no later step of it touches an earlier block
        weights, others_own = first.student.state_dict(), whole.student.state_dict()
        assert all(torch.equal(weights[k], others_own[k]) for k in weights if k.startswith("layers.0.blocks.0."))
        assert all(torch.equal(weights[k], v) for k, v in teacher.state_dict().items() if not k.startswith("layers.0.blocks.0."))


def test_every_block_is_what_all_blocks_are_and_no_other_number_is_taken():
    named, all_of_them = (distill(awkward_swin(), IMAGES, recipe=LOCAL, blocks=count).student for count in (4, None))
    assert all(torch.equal(v, all_of_them.state_dict()[k]) for k, v in named.state_dict().items())
    for count in (0, 5):
        with pytest.raises(ModelError, match=f"{count} blocks asked for, the network has 4"):
            distill(awkward_swin(), IMAGES, recipe=LOCAL, blocks=count)


def test_backwards_the_first_block_is_the_last():
    result = distill(awkward_swin(), IMAGES, recipe=PAPER, blocks=1, backwards=True)
    names = [name for name, _ in named_blocks(result.student)]
    relu = [name for name, block in named_blocks(result.student) if isinstance(block.mlp.act, torch.nn.ReLU)]
    assert relu == names[-1:] == [record.block for record in result.records]


@pytest.mark.parametrize("recipe", [LOCAL, PAPER], ids=lambda r: r.name)
def test_targets_of_other_images_teach_nothing(recipe):
    """The negative control of recovery: it must do harm, and the same run with its own targets must not."""
    teacher = awkward_swin()
    naive, own, shuffled = (
        logit_error(network, teacher)
        for network in (
            swapped(teacher),
            distill(teacher, IMAGES, recipe=recipe).student,
            distill(teacher, IMAGES, recipe=recipe, shuffled=True).student,
        )
    )
    assert own < naive < shuffled


@pytest.mark.parametrize("count", [2, 3, 64, 1000])
def test_no_image_is_its_own_other_and_each_is_one_others(count):
    order = others(count)
    assert sorted(order.tolist()) == list(range(count))
    assert not (order == torch.arange(count)).any()
    assert torch.equal(order, others(count))
