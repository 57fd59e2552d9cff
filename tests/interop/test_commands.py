"""geluless export, import and compare: what they write, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from geluless.cli import main
from geluless.integer.artifact import load_artifact
from tests.support.networks import awkward_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return awkward_artifact().save(tmp_path_factory.mktemp("artifact") / "a.int8.safetensors")


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code = main([*map(str, arguments), "--json"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, printed


def test_an_artifact_comes_back_byte_for_byte(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "export", "--artifact", artifact, "--to", "onnx", "-o", tmp_path / "a.onnx")
    assert code == 0
    assert said["dialect"] == "exact"
    assert said["operators"]["QuantizeLinear"] > 0
    code, said = run(capsys, "import", tmp_path / "a.onnx", "-o", tmp_path / "b.int8.safetensors")
    assert code == 0
    assert said["content_hash"] == load_artifact(artifact).content_hash
    assert (tmp_path / "b.int8.safetensors").read_bytes() == artifact.read_bytes()


def test_compare_says_that_an_exact_file_is_exact(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", "--artifact", artifact, "--to", "onnx", "-o", tmp_path / "a.onnx")
    code, said = run(capsys, "compare", tmp_path / "a.onnx", "--images", "2")
    assert (code, said["first"], said["largest_logit_error"]) == (0, None, 0.0)


def test_compare_names_the_first_layer_that_differs(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", "--artifact", artifact, "--to", "onnx", "--dialect", "fused", "-o", tmp_path / "a.onnx")
    code, said = run(capsys, "compare", tmp_path / "a.onnx", "--images", "2", "--runtime", "openvino")
    assert code == 0  # a fused file promises no bits
    assert said["first"] == "patch_embed"


def test_openvino_and_tensorrt_files_say_what_was_fused(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, "export", "--artifact", artifact, "--to", "openvino", "-o", tmp_path / "a.xml")
    assert (code, said["dialect"]) == (0, "fused")
    assert (tmp_path / "a.bin").exists()
    engine = tmp_path / "a.engine"
    code, more = run(capsys, "export", "--artifact", artifact, "--to", "tensorrt", "--arch", "sm_89", "-o", engine, "--trtexec")
    assert (code, more["dialect"]) == (0, "tensorrt")
    assert len(said["fusion"]["gemms"]) == len(more["fusion"]["gemms"]) > 10
    assert "--onnx=" in more["trtexec"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onnx", "-o", "a.engine"), "must end in .onnx"),
        (("--to", "onnx", "--variant", "gelu-lut", "-o", "a.onnx"), "does not fit"),
        (("--to", "onnx", "--arch", "sm_89", "-o", "a.onnx"), "need --to tensorrt"),
        (("--to", "tensorrt", "--dialect", "exact", "-o", "a.engine"), "leave out --dialect"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, "export", "--artifact", artifact, *arguments)
    assert code in (1, 2)
    assert message in said["error"]["message"]
    assert not list(tmp_path.iterdir())


def test_an_edited_file_is_not_imported(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", "--artifact", artifact, "--to", "onnx", "--dialect", "fused", "-o", tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    (scale,) = (t for t in model.graph.initializer if t.name == "pixels/scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(1), scale.name))
    onnx.save(model, tmp_path / "a.onnx")
    code, said = run(capsys, "import", tmp_path / "a.onnx", "-o", tmp_path / "b.int8.safetensors")
    assert code == 1
    assert "pixels/scale" in said["error"]["message"]
    assert not (tmp_path / "b.int8.safetensors").exists()
