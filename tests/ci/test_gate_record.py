"""A run of the gate is a file of pytest-benchmark's, its history is made of such files, and its summary names what failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci.gate import record
from ci.gate.footprint import Weight
from ci.gate.gpu_code import KernelChange
from ci.gate.judgement import judge
from ci.gate.machine_code import Change, Counts
from ci.gate.record import Point
from ci.gate.revisions import Revision
from ci.gate.summary import Findings, history_plot, markdown
from ci.gate.thresholds import Thresholds
from ci.gate.timing import Comparison
from geluless.bench.paired import Samples

HEAD, BASE = (Revision(side, commit * 40, False, Path(side)) for side, commit in (("head", "a"), ("base", "b")))


def comparison(factor: float = 1.0) -> Comparison:
    seconds = np.linspace(1.0, 1.1, 12)
    return Comparison(Samples({"base gemm/a": seconds, "head gemm/a": factor * seconds}, {}, processes=(4, 4, 4)), "avx2")


def saved(folder: Path, **changes: Any) -> Path:
    found = comparison()
    return record.save(record.benchmark_json(HEAD, BASE, found, judge(found, Thresholds())) | changes, folder)


def test_pytest_benchmark_reads_what_the_gate_writes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=median,rounds"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gemm/a" in done.stdout


def test_the_history_holds_medians_and_a_run_its_ratios(tmp_path: Path) -> None:
    (run,) = json.loads(saved(tmp_path).read_text())["benchmarks"]
    assert run["extra_info"]["ratio"]["value"] == pytest.approx(1.0)
    assert run["extra_info"]["outcome"] == "PASS"
    (point,), refused = record.history(tmp_path)
    assert refused == []
    assert point.medians == {"gemm/a": pytest.approx(1.05)}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"benchmarks": [{}]}', '{"benchmarks": 3}', "\x00", '{"benchmarks": [], "datetime": 1}', 100_000 * "["],
    ids=range(8),
)
def test_a_file_of_something_else_is_named_and_left_out(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / "strange.json").write_text(text)
    points, refused = record.history(tmp_path)
    assert len(points) == 1
    assert len(refused) == 1
    assert refused[0].startswith("strange.json: no JSON of pytest-benchmark")


@pytest.mark.parametrize("median", [0, -1, "1", True, None, 1e300])
def test_a_time_that_is_none_is_refused(tmp_path: Path, median: object) -> None:
    path = saved(tmp_path)
    data = json.loads(path.read_text())
    data["benchmarks"][0]["stats"]["median"] = median
    path.write_text(json.dumps(data))
    points, refused = record.history(tmp_path)
    assert points == []
    assert len(refused) == 1


def point(when: int, median: float, machine: str = "cpu") -> Point:
    return Point(f"2026-01-0{when}T00:00:00", f"{when}" * 40, machine, {"gemm/a": median, "norm/b": 1.0})


def test_the_plot_of_the_history_is_one_picture_that_stands_alone() -> None:
    plot = history_plot([point(1, 1.0), point(2, 1.1), point(3, 1.2)])
    assert plot is not None
    assert plot.lstrip().startswith("<svg")
    assert "1111111" in plot
    assert "gemm" in plot
    assert history_plot([point(1, 1.0)]) is None
    assert history_plot([]) is None


def test_machines_are_never_compared_with_each_other() -> None:
    assert history_plot([point(1, 1.0, "one"), point(2, 9.0, "two")]) is None


def test_the_summary_names_everything_that_is_red() -> None:
    found = Findings("b", "a", latency=judge(comparison(1.2), Thresholds()))
    found.code = [Change("isa_x.cpp: f|g", Counts(10, 0, 0), Counts(10, 1, 0), ("1 more vector spills (0 -> 1)",))]
    found.gpu = [KernelChange("sm_89", "gemm relu", ("64 -> 65 registers",))]
    found.weights = [Weight("wheel", "bytes", 100.0, 200.0, "grew by more than 2 %")]
    text = markdown(found)
    assert text.startswith("## Gate: RED")
    for line in ("REGRESSED: gemm/a", "1 more vector spills", "64 -> 65 registers", "wheel grew by more than 2 %"):
        assert line in text
    assert "f\\|g" in text  # a bar inside a cell would end it


def test_a_summary_without_failures_is_green() -> None:
    found = Findings("b", "a", latency=judge(comparison(), Thresholds()), code=[], gpu=[], weights=[])
    assert markdown(found).startswith("## Gate: green")
    assert found.failures == []
