"""Curved teachers compute what the shipped ones do, and a bias no longer makes up for what the swap takes away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from geluless.data import embedded_images
from geluless.distillation import correct_biases
from geluless.errors import DataError
from geluless.models import activation_of, named_blocks, replace_gelu, weights_digest
from geluless.models.description import describe_blocks
from geluless.verdicts.curved_teacher import POSITIVE, RMS, curved_teacher
from geluless.verdicts.micro_networks import CURVED_IMAGES, CURVED_SIZES, SIZES, Kind, Task
from geluless.verdicts.worker import run_task
from tests.support.networks import MemoryImages, awkward_images, awkward_swin

IMAGES, FRESH = MemoryImages(240), awkward_images(64, seed=9)


def curved() -> SwinTransformer:
    return curved_teacher(awkward_swin(), IMAGES, count=len(IMAGES))


@torch.inference_mode()
def correlation(model: SwinTransformer, other: SwinTransformer) -> float:
    return torch.corrcoef(torch.stack([m(FRESH).flatten() for m in (model, other)]))[0, 1].item()


def corrected(teacher: SwinTransformer, student: SwinTransformer) -> SwinTransformer:
    replace_gelu(student)
    correct_biases(teacher, student, IMAGES.batches(64))
    return student


def test_the_function_is_nearly_kept_and_the_corrected_swap_loses_more_of_it() -> None:
    teacher = curved()
    assert activation_of(teacher) == "gelu"
    assert correlation(teacher, awkward_swin()) > 0.98
    tame = 1 - correlation(corrected(awkward_swin(), awkward_swin()), awkward_swin())
    assert 1 - correlation(corrected(teacher, curved()), teacher) > 3 * tame


def test_inputs_of_gelu_are_as_stated_in_every_block() -> None:
    for block in describe_blocks(curved(), IMAGES.batches(64)):
        assert 1 - block.pre_negative == pytest.approx(POSITIVE, abs=0.01)
        assert (block.pre_mean**2 + block.pre_std**2) ** 0.5 == pytest.approx(RMS, abs=0.01)


def test_the_shipped_teacher_is_left_as_it_was_and_the_curved_one_is_the_same_every_time() -> None:
    teacher = awkward_swin()
    first, second = curved_teacher(teacher, IMAGES, count=len(IMAGES)), curved()
    assert weights_digest(teacher) == weights_digest(awkward_swin()) != weights_digest(first) == weights_digest(second)
    mlps = {f"{name}.mlp.{layer}" for name, _ in named_blocks(teacher) for layer in ("fc1", "fc2")}
    changed = {key for key, value in teacher.state_dict().items() if not torch.equal(value, first.state_dict()[key])}
    assert {key.rpartition(".")[0] for key in changed} == mlps


def test_too_few_images_raise() -> None:
    with pytest.raises(DataError, match="2048 images asked for"):
        curved_teacher(awkward_swin(), IMAGES)


def test_a_task_names_the_network_that_its_curved_one_is_made_from() -> None:
    assert [Task(Kind.BASE, size).model for size in CURVED_SIZES] == [Task(Kind.BASE, size).model for size in SIZES]
    task = Task.parse("local:tiny-curved#1")
    assert (str(task), task.curved, Task(Kind.LOCAL, "tiny").curved) == ("local:tiny-curved#1", True, False)
    with pytest.raises(ValueError, match="no micro network is called 'curved'"):
        Task(Kind.BASE, "curved")


@pytest.mark.slow
def test_curved_networks_are_judged_on_images_that_chose_nothing() -> None:
    found = run_task(Task(Kind.BASE, "tiny-curved"), images=500, report=lambda _: None)
    test = embedded_images("test")
    assert np.array_equal(found.labels, test.labels[-CURVED_IMAGES:][:500])
    assert "500 images from number 5,000 on" in found.images
    assert set(found.predictions) == {"fp32-gelu", "fp32-naive", "fp32-corrected"}
    right = {variant: found.correct(variant).mean() for variant in found.predictions}
    assert right["fp32-gelu"] > 0.85 > right["fp32-naive"]
    assert found.seconds["biases corrected"] > 0
