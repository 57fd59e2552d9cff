"""The checks on ImageNet run from folders to verdict: here with the smallest micro network and some of its images in ImageNet's
place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geluless.data import embedded_images, teacher_path
from geluless.distillation.recipes import LocalSettings, Recipe
from geluless.engine import engine
from geluless.errors import DataError
from geluless.models.swin import create_model
from geluless.verdicts import imagenet
from geluless.verdicts.imagenet import ImageNet, ImageNetResult, four_readings, imagenet_evidence, recovery
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.verdict import Verdict

MODEL = "swin_micro_tiny"
QUICK = Recipe("quick", 0.2, local=LocalSettings(96, 1e-3, 10, 512, 2e-3, 0.95))


def write_images(folder: Path, split: str, count: int) -> None:
    """`count` images of the embedded tier as PNG files, by class."""
    images = embedded_images(split)
    for index in range(count):
        path = folder / str(images.labels[index]) / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[index]).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    write_images(folder / "train", "train", 240)
    write_images(folder / "val", "test", 240)
    return folder


@pytest.fixture
def tier(root: Path, monkeypatch: pytest.MonkeyPatch) -> ImageNet:
    monkeypatch.setenv("GELULESS_IMAGENET", str(root))
    monkeypatch.setenv("GELULESS_CHECKPOINTS", str(teacher_path(MODEL).parent))
    return ImageNet(announce=lambda line: None, models={"tiny": MODEL}, recipe=QUICK, training_images=160)


def test_a_size_is_made_once_and_its_five_arms_are_judged(tier: ImageNet, root: Path) -> None:
    result = tier.result("tiny")
    assert tier.result("tiny") is result
    assert set(result.predictions) == {"fp32-gelu", "fp32-naive", "fp32-relu", "int8-gelu", "int8-relu"}
    assert result.tier == "folder", "240 images of ten classes are not ImageNet"
    assert len(result.labels) == 240
    images = embedded_images("test")
    teacher = create_model(MODEL, teacher_path(MODEL))
    order = [int(path.stem) for label in range(10) for path in sorted((root / "val" / str(label)).iterdir())]
    with torch.inference_mode():
        (logits,) = [teacher(batch) for batch in images.batches(240, indices=order)]
    assert (result.predictions["fp32-gelu"] == logits.argmax(1).numpy()).mean() > 0.99, "the images are those, in that order"
    right = {variant: result.correct(variant).mean() for variant in result.predictions}
    assert right["fp32-relu"] > right["fp32-naive"]
    for judge in (recovery, four_readings):
        judgement, control = judge(result)
        assert control.held is True
        evidence = imagenet_evidence(result, "ran", control)
        assert evidence.artifacts["int8-relu"] == result.artifacts["int8-relu"]
        assert len(judgement.estimates) >= 3


def test_an_engine_that_gives_other_bits_has_no_say(tier: ImageNet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(engine.Engine):
        def __call__(self, images: object) -> np.ndarray:
            return super().__call__(images) + (self.backend != "reference")

    monkeypatch.setattr(engine, "Engine", Wrong)
    with pytest.raises(RuntimeError, match="logits are not the reference's"):
        tier.result("tiny")


def result_of(**correct: float) -> ImageNetResult:
    """A result whose variants are right on that share of 50,000 images, always on the first ones."""
    labels = np.zeros(50_000, np.int64)
    variants = {name.replace("_", "-"): (np.arange(50_000) >= share * 50_000).astype(np.int64) for name, share in correct.items()}
    return ImageNetResult("val", "imagenet", "ab", labels, variants, {"int8-relu": "cd"}, "cpu", (), 1.0)


GOOD = {"fp32_gelu": 0.81, "fp32_naive": 0.4, "fp32_relu": 0.809, "int8_gelu": 0.808, "int8_relu": 0.807}


@pytest.mark.parametrize(
    ("changes", "c02", "c03"),
    [
        ({}, Verdict.REPRODUCED, Verdict.REPRODUCED),
        ({"int8_relu": 0.80}, Verdict.REPRODUCED, Verdict.REFUTED),
        ({"fp32_relu": 0.80}, Verdict.REFUTED, Verdict.REPRODUCED),
        ({"int8_gelu": 0.8125}, Verdict.REPRODUCED, Verdict.REFUTED),  # one of four readings is enough
    ],
)
def test_verdicts(changes: dict[str, float], c02: Verdict, c03: Verdict) -> None:
    result = result_of(**{**GOOD, **changes})
    assert [judge(result)[0].verdict for judge in (recovery, four_readings)] == [c02, c03]


def test_images_of_which_the_swap_loses_nothing_prove_nothing() -> None:
    """As where labels and classes do not belong together: everything is wrong, and nothing is lost."""
    result = result_of(**dict.fromkeys(GOOD, 0.001))
    for judge in (recovery, four_readings):
        assert judge(result)[1].held is False


def test_weights_are_looked_for_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GELULESS_CHECKPOINTS", raising=False)
    assert "set GELULESS_CHECKPOINTS" in str(missing(Resource.CHECKPOINTS))
    monkeypatch.setenv("GELULESS_CHECKPOINTS", str(tmp_path))
    assert "swin_tiny_patch4_window7_224 is not there" in str(missing(Resource.CHECKPOINTS))
    for size in ("tiny", "small", "base"):
        (tmp_path / f"swin_{size}_patch4_window7_224.safetensors").touch()
    (tmp_path / "swin_large_patch4_window7_224").mkdir()  # Hugging Face's layout
    assert missing(Resource.CHECKPOINTS) is None


def test_too_few_training_images_are_told(tier: ImageNet) -> None:
    few = ImageNet(announce=lambda line: None, models={"tiny": MODEL}, recipe=QUICK, training_images=500)
    with pytest.raises(DataError, match="500 images asked for, 240 are there"):
        few.result("tiny")


def test_the_parts_of_evidence_are_of_one_part() -> None:
    result = result_of(**GOOD)
    evidence = imagenet_evidence(result, "ran", recovery(result)[1])
    assert evidence.tier == "imagenet"
    assert [number.name for number in evidence.numbers] == [
        f"drop to {variant}" for variant in result.predictions if variant != "fp32-gelu"
    ]
    assert dataclasses.replace(result, tier="folder").tier == "folder"
    assert imagenet.CHECKED_IMAGES > 0
