"""A checkpoint and a folder as people have them, through the command line: what is taken, said, and refused in one line."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from geluless import cli, create_model, load_artifact
from geluless.data.embedded import embedded_images
from geluless.data.manifest import teacher_path
from tests.commands.test_cli import one_line_error, run_json
from tests.support.checkpoints import transformers_names

NAME, PHOTO_NAME = "swin_micro_tiny", "swin_tiny_patch4_window7_224"
SMALL = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    return create_model(NAME, teacher_path(NAME))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "a.int8.safetensors"
    assert cli.main(["quantize", "--model", NAME, "--embedded", "--calibration-images", "64", "-o", str(path)]) == 0
    return path


def quantize(checkpoint: Path, output: Path, *more: str) -> list[str]:
    line = ["quantize", "--model", NAME, "--checkpoint", str(checkpoint), "--embedded", "--calibration-images", "32"]
    return [*line, "-o", str(output), *more]


def dataset(root: Path, suffix_of: Callable[[int, int], str], *, names: Callable[[int], str] = "c{}".format) -> Path:
    """Twenty test images of each class, the n-th of a class written with `suffix_of(class, n)`."""
    source = embedded_images("test")
    for label in range(10):
        (root / names(label)).mkdir(parents=True)
        for n, index in enumerate(np.flatnonzero(source.labels == label)[:20]):
            Image.fromarray(source.pixels[index]).save(root / names(label) / f"{index}{suffix_of(label, n)}")
    return root


# ------------------------------------------------------------------------------------------------ checkpoints


def test_every_wrapper_gives_the_artifact_of_the_bare_weights(
    teacher: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = teacher.state_dict()
    files: dict[str, tuple[Any, str]] = {
        "bare": (state, ""),
        "timm": (
            {"arch": NAME, "version": 2, "state_dict": state, "args": argparse.Namespace(model=NAME, lr=1e-3)},
            "found at state_dict",
        ),
        "compiled": ({"model": {f"module._orig_mod.{n}": v for n, v in state.items()}}, "found at model / module._orig_mod"),
        "transformers": (transformers_names(state), "transformers' names became timm's"),
    }
    hashes = set()
    for name, (content, said) in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        output = tmp_path / f"{name}.int8.safetensors"
        assert cli.main(quantize(tmp_path / f"{name}.pth", output)) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geluless: note: ")]
        assert sum(said in line for line in notes) == 1 if said else not notes
        hashes.add(load_artifact(output).content_hash)
    assert len(hashes) == 1


def test_a_pickled_module_is_one_line_that_says_what_to_save(
    teacher: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(teacher, tmp_path / "whole.pth")
    code, message = one_line_error(capsys, *quantize(tmp_path / "whole.pth", tmp_path / "a.int8.safetensors"))
    assert code == 1
    assert "is a pickled timm.models.swin_transformer.SwinTransformer" in message
    assert message.endswith("torch.save(model.state_dict(), FILE)")


def test_the_moving_average_is_an_option(teacher: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = teacher.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": {n: 1.01 * v for n, v in state.items()}}, tmp_path / "w.pth")
    code, plain = run_json(capsys, *quantize(tmp_path / "w.pth", tmp_path / "a.int8.safetensors"))
    assert code == 0
    assert any("--use-ema takes it" in line for line in plain["notes"])
    code, average = run_json(capsys, *quantize(tmp_path / "w.pth", tmp_path / "b.int8.safetensors", "--use-ema"))
    assert code == 0
    assert average["content_hash"] != plain["content_hash"]
    line = ["quantize", "--model", NAME, "--pretrained", "--use-ema", "--embedded", "-o", str(tmp_path / "c.int8.safetensors")]
    assert one_line_error(capsys, *line)[0] != 0


@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_a_hugging_face_folder_brings_classes_size_and_normalisation(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Black and white images calibrate to the range that the folder's own normalisation gives, not ImageNet's."""
    torch.manual_seed(0)
    folder = tmp_path / layout
    folder.mkdir()
    if layout == "timm":
        name, size = PHOTO_NAME, [3, 56, 56]
        own = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bilinear", "input_size": size}
        config: dict[str, Any] = {"architecture": name, "num_classes": 2, "pretrained_cfg": own}
        config |= {"label_names": ["white", "black"], "model_args": SMALL}
        save_file(timm.create_model(name, num_classes=2, img_size=56, **SMALL).state_dict(), folder / "model.safetensors")
    else:
        name, size = NAME, [1, 28, 28]
        config = {"model_type": "swin", "image_size": 28, "id2label": {"0": "white", "1": "black"}}
        processor = {"size": 28, "resample": 2, "image_mean": [0.5], "image_std": [0.5], "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        state = transformers_names(create_model(name, num_classes=2).state_dict())
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for colour, value in (("black", 0), ("white", 255)):
        (tmp_path / "images" / colour).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (60, 60), (value, value, value)).save(tmp_path / "images" / colour / f"{index}.png")
    line = ["quantize", "--model", name, "--checkpoint", str(folder), "--data-dir", str(tmp_path / "images")]
    code, data = run_json(capsys, *line, "--calibration-images", "8", "-o", str(tmp_path / "a.int8.safetensors"))
    assert code == 0
    assert data["interface"]["input_size"] == size
    assert data["interface"]["class_names"] == ["white", "black"]
    assert any("in the order of the network's own class names" in note for note in data["notes"])
    plan = load_artifact(tmp_path / "a.int8.safetensors").plan
    low, high = ((level - plan.stem.input_zero_point) * plan.stem.input_scale for level in (0, 255))
    assert (low, high) == (pytest.approx(-1, abs=0.01), pytest.approx(1, abs=0.01))
    code, message = one_line_error(capsys, *line, "--num-classes", "10", "-o", str(tmp_path / "b.int8.safetensors"))
    assert (code, "has 2 classes, not 10" in message) == (1, True)


def test_a_student_carries_its_teacher_s_interface(
    teacher: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student is one file without config.json beside it: quantized, it would get the name's normalisation in silence."""
    from geluless import distillation

    folder = tmp_path / "teacher"
    folder.mkdir()
    save_file(teacher.state_dict(), folder / "model.safetensors")
    images = {"mean": [0.25], "std": [0.5], "interpolation": "bilinear"}
    (folder / "config.json").write_text(json.dumps({"architecture": NAME, "num_classes": 10, "pretrained_cfg": images}))

    class Done:
        student, warnings = teacher, ()

        @staticmethod
        def to_json() -> dict[str, Any]:
            return {}

    monkeypatch.setattr(distillation, "distill", lambda *_, **__: Done)
    output = tmp_path / "student.safetensors"
    line = ["distill", "--model", NAME, "--checkpoint", str(folder), "--embedded", "-o", str(output)]
    assert run_json(capsys, *line)[1]["interface"]["mean"] == [0.25]
    with safe_open(output, framework="np") as stream:
        assert json.loads(stream.metadata()["interface"])["std"] == [0.5]
    code, data = run_json(capsys, *quantize(output, tmp_path / "a.int8.safetensors"))
    assert code == 0
    assert data["activation"] == "relu"
    assert (data["interface"]["mean"], data["interface"]["interpolation"]) == ([0.25], "bilinear")


# ------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize(
    "suffix_of",
    [
        lambda label, n: ".tif",
        lambda label, n: ".webp" if label == 3 else ".png",
        lambda label, n: ".webp" if n % 2 else ".jpg",
        lambda label, n: (".bmp", ".GIF", ".ppm", ".jfif")[n % 4],
    ],
    ids=["tif", "one class of webp", "half webp, half jpg", "four others"],
)
def test_every_image_is_judged_whatever_its_suffix(
    suffix_of: Callable[[int, int], str], artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, data = run_json(capsys, "validate", "--artifact", str(artifact), "--data-dir", str(dataset(tmp_path / "d", suffix_of)))
    assert (code, data["n"], data["notes"]) == (0, 200, [])
    assert data["top1"] > 80


def test_what_is_left_out_is_counted_in_json_and_said_once(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset(tmp_path / "d", lambda label, n: ".heic.png" if n % 2 else ".png")
    for path in root.rglob("*.heic.png"):
        path.rename(path.with_name(path.name.removesuffix(".png")))
    assert cli.main(["validate", "--artifact", str(artifact), "--data-dir", str(root)]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out.partition("--result\n")[2])
    assert data["n"] == 100
    assert captured.err.count("100 files left out, which are no images to Pillow by their names (100 .heic)") == 1
    assert any("100 .heic" in note for note in data["notes"])


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("control", "test"), ("training", "validation")])
def test_classes_named_like_splits_calibrate(names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in names:
        (tmp_path / "d" / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(np.random.default_rng(index).integers(0, 256, (28, 28), dtype=np.uint8)).save(
                tmp_path / "d" / name / f"{index}.png"
            )
    line = ["quantize", "--model", NAME, "--data-dir", str(tmp_path / "d"), "--calibration-images", "24"]
    assert cli.main([*line, "-o", str(tmp_path / "a.int8.safetensors")]) == 0
    code, message = one_line_error(capsys, *line, "--split", "train", "-o", str(tmp_path / "b.int8.safetensors"))
    assert code == 1
    assert "leave the split out to read" in message


def test_the_order_of_classes_is_an_option_and_a_wrong_one_shows(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders 0, 10, 20, …, 90, 100 less one: natural and plain order differ from the third class on."""
    numbers = ["0", "20", "100", "120", "200", "300", "1000", "1001", "1002", "2000"]
    root = dataset(tmp_path / "d", lambda label, n: ".png", names=lambda label: numbers[label])
    line = ["validate", "--artifact", str(artifact), "--data-dir", str(root)]
    natural = run_json(capsys, *line)[1]
    assert natural["top1"] > 80
    assert any("in natural order, timm's" in note for note in natural["notes"])
    plain = run_json(capsys, *line, "--class-order", "plain")[1]
    assert plain["top1"] < natural["top1"] / 2
    (tmp_path / "order.txt").write_text("\n".join(numbers) + "\n")
    assert run_json(capsys, *line, "--class-order", str(tmp_path / "order.txt"))[1]["top1"] == natural["top1"]
    (tmp_path / "order.txt").write_text("\n".join(numbers[1:] + numbers[:1]))
    shifted = run_json(capsys, *line, "--class-order", str(tmp_path / "order.txt"))[1]
    assert any("top-1 is not above chance" in note for note in shifted["notes"])
    for wrong, code, reason in (("nowhere.txt", 2, "neither natural nor plain"), (__file__, 1, "differ in")):
        got, message = one_line_error(capsys, *line, "--class-order", wrong)
        assert (got, reason in message) == (code, True)
    got, message = one_line_error(capsys, "validate", "--artifact", str(artifact), "--embedded", "--class-order", "plain")
    assert (got, "needs --data-dir" in message) == (2, True)


def test_names_that_are_no_utf_8_pass_through_a_whole_process(tmp_path: Path) -> None:
    """Files, a class, and the artifact; in a locale that can print none of them."""
    root = os.fsencode(tmp_path)
    for name in (b"d/a/caf\xe9", b"d/b\xe9/x", "d/ç/é".encode()):
        folder = Path(os.fsdecode(os.path.join(root, name))).parent
        folder.mkdir(parents=True)
        for index in range(8):
            Image.new("L", (28, 28), 20 * index).save(os.fsdecode(os.path.join(root, name + b"%d.png" % index)))
    output = os.path.join(root, b"caf\xe9.int8.safetensors")
    line = ["quantize", "--model", NAME, "--data-dir", os.fsdecode(os.path.join(root, b"d")), "--calibration-images", "24"]
    command = [sys.executable, "-m", "geluless.cli", *line, "-o", os.fsdecode(output)]
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*command, "--force"], capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert rb"caf\udce9.int8.safetensors" in done.stdout
    assert load_artifact(os.fsdecode(output)).activation == "gelu"
