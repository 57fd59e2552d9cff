"""Records come back from their file as they were, and nothing unverified or foreign passes for one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from geluless.bench.harness import Findings, Row
from geluless.bench.paired import Samples
from geluless.bench.record import Record, make_record, read_record
from geluless.errors import GelulessError


def row(name: str, **changes: object) -> Row:
    made = Row(name, name, "swin", "f" * 64, "equal to the reference", "avx2", threads=2, batch=4, verified=True)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def record(**changes: object) -> Record:
    rng = np.random.default_rng(0)
    seconds = {name: 0.01 * np.exp(0.01 * rng.standard_normal(8)) for name in ("relu", "gelu-lut", "relu (again)")}
    peak = {name: np.full(8, 4e9) for name in seconds}
    samples = Samples(seconds, peak, np.stack([rng.permutation(3) for _ in range(8)]), (5, 3))
    rows = (row("relu"), row("gelu-lut", **changes), row("relu (again)", variant="relu"))
    return make_record(Findings(samples, 1, rows, 1.0, environment={"cpu": "a processor"}), operations=30_000_000)


def test_a_record_comes_back_from_its_file(tmp_path: Path):
    made, path = record(), tmp_path / "x.bench.json"
    path.write_text(made.to_json())
    assert read_record(path) == made
    samples = read_record(path).timed()
    assert samples.processes == (5, 3)
    assert samples.seconds["relu"].tolist() == made.samples["relu"]
    assert samples.order.shape == (8, 3)


def test_a_record_says_what_its_numbers_are():
    made = record()
    assert (made.unit, made.blocks, made.batch, made.threads) == ("seconds", 8, 4, 2)
    row = made.candidates[2]
    assert (row["name"], row["variant"], row["isa"], row["backend"]) == ("relu (again)", "relu", "avx2", "cpu")
    assert row["milliseconds"]["low"] <= row["milliseconds"]["value"] <= row["milliseconds"]["high"]
    assert row["share_of_peak"]["value"] == pytest.approx(30e6 / 0.01 / (2 * 4e9), rel=0.02)
    assert [(ratio["of"], ratio["to"]) for ratio in made.ratios] == [("relu", "gelu-lut"), ("relu", "relu (again)")]
    assert made.dropped == 1
    assert "samples" not in made.summary()


def test_unverified_times_are_not_kept():
    made = record(verified=False, correctness="not verified")
    with pytest.raises(ValueError, match="gelu-lut is not kept: not verified"):
        made.to_json()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: 100_000 * "[",
        lambda content: json.dumps(content | {"format": 2}),
        lambda content: json.dumps(content | {"remark": "faster than it looks"}),
        lambda content: json.dumps({key: value for key, value in content.items() if key != "environment"}),
        lambda content: json.dumps(content | {"blocks": 9}),
        lambda content: json.dumps(content | {"processes": [4, 3]}),
        lambda content: json.dumps(content | {"samples": content["samples"] | {"relu": [1.0]}}),
        lambda content: json.dumps(content | {"samples": content["samples"] | {"relu": ["fast"] * 8}}),
        lambda content: json.dumps(content | {"samples": {}, "peak": {}}),
        lambda content: json.dumps(content | {"samples": [1.0]}),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, damage):
    path = tmp_path / "x.bench.json"
    path.write_text(damage(json.loads(record().to_json())))
    with pytest.raises(GelulessError, match="is no record"):
        read_record(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(GelulessError, match=r"cannot read .*absent"):
        read_record(tmp_path / "absent.bench.json")
