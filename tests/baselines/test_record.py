"""A record of baselines comes back as it was; one of another schema or other code is refused, and the report says so."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geluless.baselines import record as records
from geluless.baselines.baseline import Setting
from geluless.baselines.comparison import Comparison, Timing
from geluless.baselines.record import BaselinesRecord, make_record, read_record, timed
from geluless.bench.paired import Samples
from geluless.errors import GelulessError
from geluless.report.baselines import figures, find_records, needs, reference_line
from geluless.report.baselines_plot import baselines_plot, standalone
from geluless.report.folder import _draw
from geluless.report.render_baselines import html_lines, markdown_lines, markdown_page
from tests.report.test_report import Page, record, write
from tests.support.fake_baselines import FakeBaseline, fake_subject

NASTY = "<script>alert('x')</script> & | `tick` [link](http://evil.example)"
BASELINES = [FakeBaseline("geluless"), FakeBaseline("openvino"), FakeBaseline("broken", settings=(Setting(NASTY, NASTY),))]


def row(name: str, threads: int, milliseconds: float, *, status: str = "measured", reason: str = "", large: bool = False) -> dict:
    made: dict[str, Any] = {
        "baseline": name, "precision": "int8", "activation": "gelu", "threads": threads, "status": status, "reason": reason,
        "latency_ms": None, "ratio_to_geluless": None, "images_per_second": None,
    }  # fmt: skip
    if status != "measured":
        return made
    around = lambda value: {"value": value, "low": 0.95 * value, "high": 1.05 * value}  # noqa: E731
    made |= {
        "latency_ms": around(milliseconds), "ratio_to_geluless": around(milliseconds / 12.0),
        "images_per_second": around(8000 / milliseconds) if large else None,
        "closeness": {"1": {"distance": 0.03, "agreement": 0.9375}}, "executed": {"int8": 53, "floating": 24, "how": "profile"},
        "memory": {"imports": 60_000_000, "peak": 160_000_000, "above_imports": 100_000_000, "running": 90_000_000},
        "start_up": {"to_first_logits": 1.25, "load": 0.5},
        "pilot": {"f32": 0.021, "bf16": 0.0201} if name == "openvino" else {}, "configuration": "bf16",
        "disk": 29_000_000, "correctness": "equal to the reference",
    }  # fmt: skip
    return made


def made(folder: Path, *, model: str = "swin_tiny_patch4_window7_224") -> BaselinesRecord:
    subject = dataclasses.replace(fake_subject(folder / "subject"), model=model)
    comparisons = []
    for threads in (1, 2):
        comparison = Comparison("gelu", Timing(1, 8 if threads == 2 else None, threads, 1.0, 0))
        comparison.latency = Samples({"geluless": np.full(8, 0.012), "openvino": np.full(8, 0.02)}, {}, np.tile([0, 1], (8, 1)))
        comparison.rows = [
            row("geluless", threads, 12.0 / threads, large=threads == 2),
            row("openvino", threads, 20.0 / threads, large=threads == 2),
            row("broken", threads, 0.0, status="wrong", reason=NASTY),
        ]
        comparisons.append(comparison)
    notes = [f"A note {NASTY}"]
    return make_record(comparisons, [subject], BASELINES, batch=1, throughput_batch=8, seconds=432.1, notes=notes)


def saved(folder: Path, name: str = "x", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.baselines.json"
    path.write_text(dataclasses.replace(made(folder.parent / "made"), **changes).to_json(), encoding="utf-8")
    return path


def test_a_record_comes_back_with_all_its_samples(tmp_path: Path):
    original = made(tmp_path)
    path = tmp_path / "x.baselines.json"
    path.write_text(original.to_json())
    assert read_record(path) == original
    samples = timed(original.comparisons[0]["latency"])
    assert samples is not None
    assert samples.seconds["openvino"].tolist() == [0.02] * 8
    assert samples.order.shape == (8, 2)
    assert timed(original.comparisons[0]["throughput"]) is None
    assert "latency" not in original.summary()["comparisons"][0]
    assert original.baselines["openvino"]["settings"] == [{"text": "none", "source": "this file"}]
    assert original.environment["cpu"]


def test_fastertransformers_published_figures_are_beside_the_networks_they_are_of(tmp_path: Path):
    known = made(tmp_path)
    assert known.published["milliseconds"]["A10"]["1"] == 1.01
    assert "A10 1.01 ms" in reference_line(known.summary())
    assert "not comparable" in reference_line(known.summary())
    other = made(tmp_path, model="swin_micro_tiny")
    assert other.published == {}
    assert reference_line(other.summary()) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"schema": "geluless.baselines/0"}, "not of schema"), ({"code": "0" * 64}, "or with other packages (000000000000, now ")],
)
def test_a_record_of_another_schema_or_other_code_is_refused_with_the_remedy(tmp_path: Path, changes: dict, words: str):
    path = saved(tmp_path / "baselines", **changes)
    with pytest.raises(GelulessError, match="nox -s baselines") as caught:
        read_record(path)
    assert words in str(caught.value)
    found = find_records(tmp_path / "baselines")
    assert found.records == ()
    assert words in " ".join(markdown_lines(found)).replace("\\", "")
    assert words in " ".join(html_lines(found))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "geluless.baselines/1"}', 100_000 * "["], ids=range(5))
def test_a_damaged_record_is_refused(tmp_path: Path, content: str):
    (tmp_path / "x.baselines.json").write_text(content)
    with pytest.raises(GelulessError, match="is no record"):
        read_record(tmp_path / "x.baselines.json")
    with pytest.raises(GelulessError, match="cannot read"):
        read_record(tmp_path / "absent.baselines.json")


def test_samples_that_contradict_each_other_are_refused(tmp_path: Path):
    content = json.loads(saved(tmp_path).read_text())
    content["comparisons"][0]["latency"]["seconds"]["geluless"].pop()
    (tmp_path / "x.baselines.json").write_text(json.dumps(content))
    with pytest.raises(GelulessError, match="same number of samples"):
        read_record(tmp_path / "x.baselines.json")


def test_tables_hold_every_baseline_and_say_what_was_not_measured(tmp_path: Path):
    data = made(tmp_path).summary()
    _, columns, rows = figures(data, "gelu")
    assert columns == ["engine", "runs in", "ms, 1 thread", "× geluless", "ms, 2 threads", "× geluless", "images/s, batch 8"]
    assert rows[0] == [
        "geluless",
        "int8",
        "12.00 [11.40, 12.60]",
        "1.00 [0.95, 1.05]",
        "6.00 [5.70, 6.30]",
        "0.50 [0.47, 0.53]",
        rows[0][6],
    ]
    assert rows[0][6] == "1333 [1267, 1400]"
    assert rows[1][:2] == ["openvino", "int8 + bf16"]
    assert rows[2] == ["broken", "int8", "wrong", "–", "wrong", "–", "–"]
    _, columns, rows = needs(data, "gelu")
    assert [cells[0] for cells in rows] == ["geluless", "openvino"]
    assert rows[1] == ["openvino", "0.03", "94 %", "53 of 77", "100 (160)", "1.2 (0.50)", "29.0"]
    assert len(columns) == len(rows[0])


def test_the_section_enters_both_forms_of_the_report_and_is_escaped(tmp_path: Path):
    document = write(tmp_path, record())
    before = (tmp_path / "claims.html").read_text()
    assert "Beside other engines" not in before
    saved(tmp_path / "baselines")
    saved(tmp_path / "baselines", "older", made="2020-01-01T00:00:00+00:00", notes=["an old note"])
    saved(tmp_path / "baselines", "stale", code="0" * 64)
    _draw(document, tmp_path)
    text = (tmp_path / "claims.html").read_text()
    page = Page(text)
    for words in (
        "Beside other engines",
        "not judged in this run",
        "Measured 20",
        "openvino",
        "A10 1.01 ms",
        "made by other code",
        NASTY,
    ):
        assert words in page.text, words
    assert "an old note" not in page.text
    assert "<script" not in text
    assert page.tags.count("figure") == 4
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") for reference in page.references)
    markdown = (tmp_path / "claims.md").read_text()
    assert "## Beside other engines" in markdown
    assert "not judged in this run" in markdown
    assert not re.search(r"(?<!\\)<script", markdown)


def test_a_record_has_a_page_and_a_plot_of_its_own(tmp_path: Path):
    original = made(tmp_path)
    page = markdown_page(original, "x.baselines.svg")
    assert page.startswith("# Beside other engines: swin\\_tiny")
    assert "![latency](x.baselines.svg)" in page
    assert "| geluless | int8 | 12.00" in page
    assert "openvino (gelu, 2 threads): a pilot took f32 21.00 ms, bf16 20.10 ms; bf16 was timed" in page
    inline = baselines_plot(original.summary(), salt="baselines")
    assert inline is not None
    assert "var(--series-1)" in inline
    alone = standalone(inline)
    assert "var(" not in alone
    assert "currentColor" not in alone
    assert 'xmlns="http://www.w3.org/2000/svg"' in alone
    nothing = dataclasses.replace(original, rows=[row("broken", 1, 0.0, status="failed")])
    assert baselines_plot(nothing.summary(), salt="baselines") is None


def test_records_lie_where_the_report_looks_for_them():
    assert records.SUFFIX == ".baselines.json"
    assert find_records(Path("no/such/folder")).records == ()
