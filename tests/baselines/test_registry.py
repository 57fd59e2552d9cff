"""Every baseline says what its settings are and where they are documented; what is not installed is a row."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from geluless.baselines.baseline import Baseline, Shape
from geluless.baselines.comparison import Timing, compare, cores_for
from geluless.baselines.fastertransformer import EXAMPLE, VARIABLE, FasterTransformer, ask_example
from geluless.baselines.openvino import OpenVino
from geluless.baselines.preparation import Prepared
from geluless.baselines.registry import BASELINES, OURS, chosen_baselines
from geluless.baselines.verification import LIMITS
from geluless.bench.process import CandidateFailure, Status
from geluless.errors import GelulessError
from tests.support.fake_baselines import fake_subject


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_every_baseline_has_written_settings_with_their_sources(baseline: Baseline):
    assert len(baseline.settings) >= 2
    for setting in baseline.settings:
        assert len(setting.text) > 10
        assert "." in setting.source or "measured" in setting.source or "geluless" in setting.source
    assert baseline.configurations
    assert baseline.precision in LIMITS
    assert baseline.activation in (None, "gelu", "relu")


def test_every_baseline_travels_to_its_process():
    assert pickle.loads(pickle.dumps(BASELINES)) == BASELINES
    names = [baseline.name for baseline in BASELINES]
    assert len(set(names)) == len(names)
    assert names[0] == OURS


def test_baselines_are_chosen_by_name_in_the_order_of_the_registry():
    assert [baseline.name for baseline in chosen_baselines(["torch-eager", "geluless"])] == ["geluless", "torch-eager"]
    assert chosen_baselines([]) == BASELINES
    with pytest.raises(GelulessError, match="no baseline is called 'tvm'; there are geluless, "):
        chosen_baselines(["geluless", "tvm"])


def test_a_runtime_that_is_not_installed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    baseline, subject = OpenVino("openvino", scheme="int8"), fake_subject(tmp_path / "subject")
    prepared: dict[tuple[str, str], Prepared | CandidateFailure] = {("gelu", "openvino"): Prepared(tmp_path, 1.0, False)}
    timing = Timing(batch=1, throughput_batch=None, threads=1, seconds=0.01, seed=0)
    (row,) = compare(subject, [baseline], prepared, timing, cores=cores_for(1), scratch=tmp_path).rows
    assert (row["status"], row["reason"]) == ("missing", "ModuleNotFoundError: No module named 'openvino'")


# -------------------------------------------------------------------------------------------------- FasterTransformer


def build(folder: Path, script: str) -> Path:
    program = folder / EXAMPLE
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


def test_fastertransformer_needs_a_gpu_and_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(CandidateFailure, match="needs a GPU and its build") as caught:
        FasterTransformer().imports()
    assert caught.value.status is Status.NEEDS_GPU
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    FasterTransformer().imports()
    subject = dataclasses.replace(fake_subject(tmp_path / "subject"), model="swin_small_patch4_window7_224")
    with pytest.raises(CandidateFailure, match="does not exist: build FasterTransformer"):
        FasterTransformer().load(subject, tmp_path, Shape(1, 1), "int8_mode 1")


def test_what_its_example_reports_is_quoted_and_never_measured(tmp_path: Path):
    script = 'echo "Device NVIDIA A10"; echo "[FT][INFO] batch_size $2 model_type:$1 FT-CPP-time 7.40 ms (100 iterations) "'
    status, reason = ask_example(build(tmp_path, script), "swin_base_patch4_window7_224", 32)
    assert status is Status.UNVERIFIED
    assert reason.startswith("it reports 7.40 ms at batch 32 on NVIDIA A10: a mean over 100 calls on uninitialised weights")


@pytest.mark.parametrize(
    ("script", "model", "status", "words"),
    [
        ("echo 'CUDA runtime error: no device' >&2; exit 1", "swin_tiny_patch4_window7_224", Status.NEEDS_GPU, "no device"),
        ("exit 0", "swin_tiny_patch4_window7_224", Status.NEEDS_GPU, "no message"),
        ("exit 0", "swin_micro_tiny", Status.MISSING, "not swin_micro_tiny"),
    ],
)
def test_an_example_that_does_not_run_says_why(tmp_path: Path, script: str, model: str, status: Status, words: str):
    found, reason = ask_example(build(tmp_path, script), model, 1)
    assert found is status
    assert words in reason
