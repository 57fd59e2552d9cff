"""The README's figures come from whole runs of this code, between two marks, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geluless.report.baselines import Found
from geluless.report.readme import BEGIN, END, ReadmeError, figures, update_readme


def number(name: str, value: float, unit: str = "ratio") -> dict[str, Any]:
    return {"name": name, "value": value, "low": value - 0.01, "high": value + 0.01, "unit": unit, "n": 80, "margin": 0.89}


def record(item: str, *numbers: dict[str, Any]) -> dict[str, Any]:
    return {"item": item, "status": "REPRODUCED", "numbers": list(numbers)}


def document(**changes: Any) -> dict[str, Any]:
    lost = [
        record("int8_relu_keeps_the_accuracy[tiny-fp32-gelu-relative]", number("relative", 9.0)),
        record("int8_relu_keeps_the_accuracy[tiny-int8-gelu-absolute]", number("against int8", 8.0)),
        record("int8_relu_keeps_the_accuracy[tiny-fp32-gelu-absolute]", number("drop", 0.125, "pp")),
    ]
    time = record("transfer_to_this_cpu[tiny]", number("ft", 0.868), number("fused", 0.891), number("table", 0.992))
    engines = record("other_engines_on_this_cpu", number("time of openvino relu over openvino gelu", 0.95))
    made = {
        "partial": [],
        "created": "2026-11-26T10:00:00+00:00",
        "seconds": 1500.0,
        "totals": {"REPRODUCED": 5, "NEEDS_GPU": 2},
        "environment": {"cpu": "Zen", "cores": 2, "git": {"revision": "0123456789abcdef", "dirty": False}},
        "claims": [{"id": "c03", "records": lost}, {"id": "c06", "records": [time]}, {"id": "c10", "records": [engines]}],
    }
    return made | changes


BASELINES = Found(
    (
        {
            "model": "swin_tiny",
            "batch": 1,
            "rows": [
                {"baseline": "geluless", "activation": "relu", "threads": 1, "precision": "int8", "latency_ms": {"value": 21.84},
                 "ratio_to_geluless": {"value": 1.0}},
                {"baseline": "openvino", "activation": "relu", "threads": 1, "precision": "int8", "latency_ms": {"value": 33.3},
                 "ratio_to_geluless": {"value": 1.52}},
                {"baseline": "openvino", "activation": "relu", "threads": 2, "precision": "int8", "latency_ms": {"value": 18.2},
                 "ratio_to_geluless": {"value": 1.61}},
                {"baseline": "wrong", "activation": "relu", "threads": 1, "precision": "int8", "latency_ms": None,
                 "ratio_to_geluless": None},
            ],
        },
    )
)  # fmt: skip
HARNESS = {
    "created": "2026-11-26T11:00:00+00:00",
    "pairs": 100,
    "false_positives": 2,
    "planted": [{"percent": 3.0, "pairs": 50, "found": 50}],
}


def test_every_figure_is_the_records() -> None:
    lines = figures(document(), BASELINES, HARNESS)
    assert "| T | 0.125 [0.115, 0.135] | 0.868 [0.858, 0.878] | 0.891 [0.881, 0.901] | 0.992 [0.982, 1.002] |" in lines
    assert "| L | – | – | – | – |" in lines
    assert "| openvino | int8 | 33.3 (1.52) |" in lines
    assert not any("wrong" in line for line in lines)
    text = "\n".join(lines)
    assert "Zen, 2 cores, 2026-11-26, revision 0123456789, 25 minutes: 2 NEEDS_GPU, 5 REPRODUCED." in text
    assert "openvino relu over openvino gelu 0.950 [0.940, 0.960]" in text
    assert "2 of 100 pairs of equal engines were called different; planted slowdowns were claimed: 3 % in 50 of 50" in text


def test_what_was_not_measured_is_not_there() -> None:
    text = "\n".join(figures(document(claims=[]), Found(), None))
    assert "each engine" not in text
    assert "timing harness" not in text
    assert "one thread, ms" not in text


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Before\n\n{BEGIN}\nold figures\n{END}\n\nAfter.\n")
    update_readme(path, document(), BASELINES, HARNESS)
    once = path.read_text()
    assert once.startswith(f"# Before\n\n{BEGIN}\n")
    assert once.endswith(f"\n{END}\n\nAfter.\n")
    assert "old figures" not in once
    update_readme(path, document(), BASELINES, HARNESS)
    assert path.read_text() == once


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN} only", f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_file_without_its_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ReadmeError, match="needs the two marks once each"):
        update_readme(path, document(), BASELINES, None)
    assert path.read_text() == text


def test_a_partial_run_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(ReadmeError, match=r"whole runs only.*only c06"):
        update_readme(path, document(partial=["only c06"]), BASELINES, None)
