"""`geluless baselines`: contradictions are refused before any work; one real run, small, from weights to the files it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geluless.baselines import preparation
from geluless.baselines.record import read_record
from geluless.baselines.subject_network import INPUTS, WEIGHTS, make_subject, random_patterns
from geluless.commands import baselines as command
from geluless.commands.result import OptionError
from geluless.models import create_model, replace_gelu


def parsed(*line: object) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["baselines", *map(str, line)])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--model", "swin_micro_tiny", "--baselines", "geluless,tvm"], "no baseline is called 'tvm'"),
        (["--model", "swin_micro_tiny", "--seconds", "nan"], "--seconds"),
        (["--model", "swin_tiny_patch4_window7_224", "--embedded"], "for the micro models"),
        (["--model", "swin_micro_tiny", "--activation", "relu"], "give the ReLU network of `geluless distill` as --checkpoint"),
        (["--model", "swin_micro_tiny", "--output", "x.json"], ".baselines.json"),
    ],
)
def test_bad_lines_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, line: list[str], words: str):
    monkeypatch.setattr(command, "_subjects", lambda *_: pytest.fail("a network was made"))
    with pytest.raises(OptionError) as caught:
        command.run(parsed(*line))
    assert words in str(caught.value)


@pytest.mark.parametrize("line", [["--threads", "0"], ["--threads", "1,x"], ["--batch", "-1"]])
def test_counts_are_above_zero(line: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed("--model", "swin_micro_tiny", *line)
    assert line[0] in capsys.readouterr().err


def test_threads_are_a_list_without_repetition():
    assert parsed("--model", "x", "--threads", "2,1,2").threads == (1, 2)
    assert parsed("--model", "x").threads == (1, 2)


@pytest.fixture(scope="module")
def relu_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    model = create_model("swin_micro_tiny")
    path = tmp_path_factory.mktemp("checkpoint") / "relu.safetensors"
    save_file(model.state_dict(), path, metadata={"activation": "relu"})
    return path


def networks(folder: Path, *line: object) -> tuple[dict[str, str], list[str]]:
    notes: list[str] = []
    options = parsed("--model", "swin_micro_tiny", "--throughput-batch", 2, *line)
    command._check(options)
    return {s.activation: s.weights for s in command._subjects(options, folder, notes)}, notes


def test_a_micro_network_is_the_shipped_teacher_and_a_checkpoint_adds_relu(tmp_path: Path, relu_checkpoint: Path):
    (tmp_path / "a").mkdir()
    weights, notes = networks(tmp_path / "a")
    assert weights == {"gelu": "the shipped teacher"}
    assert "--checkpoint FILE" in notes[0]
    (tmp_path / "b").mkdir()
    assert networks(tmp_path / "b", "--checkpoint", relu_checkpoint) == (
        {"gelu": "the shipped teacher", "relu": str(relu_checkpoint)},
        [],
    )
    (tmp_path / "c").mkdir()
    assert networks(tmp_path / "c", "--checkpoint", relu_checkpoint, "--activation", "relu")[0] == {"relu": str(relu_checkpoint)}
    (tmp_path / "d").mkdir()
    with pytest.raises(OptionError, match="is a relu network"):
        networks(tmp_path / "d", "--checkpoint", relu_checkpoint, "--activation", "gelu")


def test_a_subject_is_read_without_torch_and_its_logits_are_the_networks(tmp_path: Path):
    import torch

    model = create_model("swin_micro_tiny")
    replace_gelu(model)
    subject = make_subject(tmp_path, model, name="swin_micro_tiny", weights="random", batch=2, test_images=20, seed=0)
    assert (subject.activation, subject.linears, subject.input_size) == ("relu", 48, (1, 28, 28))
    assert subject.array("calibration").shape == (256, 1, 28, 28)
    assert subject.array("inputs").shape == (INPUTS, 1, 28, 28)
    assert np.bincount(subject.array("labels")).tolist() == [2] * 10
    assert (tmp_path / WEIGHTS).is_file()
    with torch.inference_mode():
        again = subject.network()(torch.from_numpy(subject.array("inputs"))).numpy()
    assert np.array_equal(again, subject.array("logits"))
    replace = create_model("swin_micro_tiny")  # other weights, and GELU
    (tmp_path / "other").mkdir()
    other = make_subject(tmp_path / "other", replace, name="swin_micro_tiny", weights="x", batch=2, test_images=0, seed=0)
    assert other.digest != subject.digest
    assert not other.has_test


def test_random_images_have_structure_and_are_the_same_for_a_seed():
    images = random_patterns(np.random.default_rng(3), 4, (3, 20, 30))
    assert images.shape == (4, 3, 20, 30)
    assert images.dtype == np.float32
    assert np.array_equal(images, random_patterns(np.random.default_rng(3), 4, (3, 20, 30)))
    neighbours = np.corrcoef(images[..., 1:].ravel(), images[..., :-1].ravel())[0, 1]
    assert neighbours > 0.5


@pytest.mark.slow
def test_a_real_run_verifies_times_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("onnxruntime")
    from rich.console import Console

    monkeypatch.setattr(preparation, "isa_flags", list)
    output = tmp_path / "tiny.baselines.json"
    line = ["--model", "swin_micro_tiny", "--baselines", "geluless,onnxruntime-dynamic,fastertransformer", "--threads", 1]
    more = [
        "--seconds",
        0.2,
        "--throughput-batch",
        2,
        "--embedded",
        "--images",
        40,
        "--cache",
        tmp_path / "cache",
        "--output",
        output,
    ]
    result = command.run(parsed(*line, *more))
    assert json.loads(json.dumps(result.data)) == result.data
    rows = {row["baseline"]: row for row in result.data["rows"]}
    assert [row["status"] for row in rows.values()] == ["measured", "measured", "needs a GPU"]
    ours, ort = rows["geluless"], rows["onnxruntime-dynamic"]
    assert ours["correctness"] == "equal to the reference"
    assert ours["executed"]["int8"] == 76
    assert ort["executed"]["int8"] == 52
    assert ort["closeness"]["1"]["distance"] < 0.1
    assert ort["test"]["agreement"] > 90
    assert ort["ratio_to_geluless"]["value"] > 1
    assert result.data["comparisons"][0]["peak_spread"] > 0
    record = read_record(output)
    assert len(record.comparisons[0]["latency"]["seconds"]["geluless"]) == record.comparisons[0]["latency"]["blocks"]
    assert "onnxruntime-dynamic" in (tmp_path / "tiny.baselines.md").read_text()
    assert (tmp_path / "tiny.baselines.svg").read_text().startswith("<svg")
    result.show(Console(markup=False, highlight=False))
    shown = capsys.readouterr().out
    for words in ("needs a GPU", "52 of 77", "top-1 %", "No RELU network", str(output)):
        assert words in shown, words
    with pytest.raises(OptionError, match="--force"):
        command.run(parsed(*line, "--output", output))


@pytest.mark.slow
def test_every_int8_baseline_runs_in_int8_on_a_micro_network(tmp_path: Path):
    """Quantizers and compilers change with every release: each must still give the network's logits, by int8 kernels."""
    for package in ("openvino", "nncf", "onnxruntime", "torchao"):
        pytest.importorskip(package)
    names = "geluless,geluless-gelu-separate,openvino,openvino-smoothquant,onnxruntime,onnxruntime-dynamic,inductor"
    line = ["--model", "swin_micro_tiny", "--baselines", names, "--threads", 1, "--throughput-batch", 1, "--seconds", 0.2]
    data = command.run(parsed(*line, "--cache", tmp_path / "cache")).data
    rows = {row["baseline"]: row for row in data["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(names.split(","), "measured"), data["rows"]
    for row in rows.values():
        assert row["executed"]["int8"] >= 48
        assert row["closeness"]["1"]["distance"] < 0.2
    assert set(rows["openvino"]["pilot"]) == {"f32", "bf16"}
