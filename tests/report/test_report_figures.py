"""Every figure of the report: data in, marks out; nothing drawn from nothing; hostile names and missing numbers do no harm."""

from __future__ import annotations

import re
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from geluless.report.baselines import Found
from geluless.report.document import build_document
from geluless.report.figures import FIGURES, Sources, draw_figures
from geluless.report.html import render_html
from geluless.report.interval_plot import interval_lines, scale_of
from geluless.report.latency import STEPS, drawable, forest_plot, latency_table, variant_ratios, waterfall_plot
from geluless.report.pareto import Point, baseline_rows, pareto_front, pareto_plot, points
from geluless.report.plots import svg
from geluless.report.provenance import provenance_lines
from geluless.report.quantization import errors_of, quantization_plot, quantization_tables
from geluless.report.summary import render_summary
from geluless.verdicts import Estimate
from tests.report.test_report import NASTY, REPORT_DATA, Page, claim, record, write

SIZES = ("tiny", "small", "base", "large")
TIMES = {
    "relu": 1.0, "relu again": 1.0, "relu-float": 1.02, "relu-separate": 1.03, "relu-nobias without bias": 0.99,
    "gelu-separate": 1.15, "gelu-fused": 1.12, "gelu-lut": 1.01, "gelu-poly": 1.05,
}  # fmt: skip
BASELINE_TIME = {"value": 33.0, "low": 32.5, "high": 33.5}
HARNESS = {
    "pairs": 40,
    "false_positives": 1,
    "planted": [{"percent": 1.0, "pairs": 40, "found": 33}],
    "created": "2026-11-26T00:00:00",
    "cpu": NASTY,
}


def study(scale: float = 1.0, *, processes: int = 4, blocks: int = 3) -> dict[str, Any]:
    """Times of every variant: known medians, with a little noise that is the same at every call."""
    noise = list(islice(cycle((0.0, 0.01, -0.01, 0.02, -0.02)), processes * blocks))
    return {
        "rows": [
            {
                "name": variant,
                "variant": variant,
                "batch": 1,
                "model": "swin",
                "artifact": "ab" * 32,
                "input": "cd" * 32,
                "memory_bytes": 4e7,
            }
            for variant in TIMES
        ],
        "samples": {
            variant: [0.02 * scale * time * (1 + e * (index + 1) / 9) for e in noise]
            for index, (variant, time) in enumerate(TIMES.items())
        },
        "processes": [blocks] * processes,
        "dropped": 2,
        "peak_spread": 0.012,
        "seconds": 3.0,
    }


def latency() -> dict[str, Any]:
    return {size: study(2.0**index) for index, size in enumerate(SIZES)}


def networks() -> dict[str, Any]:
    """REPORT_DATA's networks with all that the other figures are drawn from."""
    layers = [f"layers.0.blocks.{block}.mlp.fc{number}" for block in range(2) for number in (1, 2)]
    errors = [
        {"layer": layer, "relative_error": 0.01 * (place + 1), "variant": variant}
        for variant in ("int8-relu", "int8-gelu")
        for place, layer in enumerate(layers)
    ]
    return {
        size: {
            **REPORT_DATA["micro_networks"]["tiny"],
            "top1": {"base int8-gelu": 89.0 + index, "local int8-relu": 88.9 + index, "base int8-naive": 86.0},
            "quantization_error": errors,
            "images": 10_000,
            "artifacts": {"local int8-relu": "12" * 32},
            "teacher_sha256": "34" * 32,
        }
        for index, size in enumerate(SIZES)
    }


def baselines(*, test: bool = False) -> dict[str, Any]:
    """A record's summary, as far as the Pareto plot reads it."""
    row = {"baseline": "openvino", "activation": "gelu", "threads": 1, "latency_ms": BASELINE_TIME}
    other = {**row, "threads": 2}
    failed = {**row, "baseline": "absent", "latency_ms": None}
    return {
        "model": "swin_tiny_patch4_window7_224",
        "batch": 1,
        "rows": [{**row, **({"test": {"top1": 88.5}} if test else {})}, other, failed],
    }


def sources() -> Sources:
    return Sources(networks(), latency(), (baselines(),))


def full_report_data() -> dict[str, Any]:
    durations = {"local:tiny": {"distilled by local": 90.0, "INT8 ReLU": 12.5}}
    return {**REPORT_DATA, "micro_networks": networks(), "latency": latency(), "harness": HARNESS, "durations": durations}


# ------------------------------------------------------------------------------------------------------------- all figures


def test_every_figure_is_drawn_once_with_a_label_and_a_caption() -> None:
    drawn = draw_figures(sources())
    assert [d.figure.anchor for d in drawn] == [figure.anchor for figure in FIGURES]
    for figure in drawn:
        text = "\n".join(figure.lines)
        assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', text), figure.figure.anchor
        assert re.search(r"<figcaption class=\"soft\">.{60,}</figcaption>", text), figure.figure.anchor
        assert not re.search(r"#0102|mathdefault|nan", text), figure.figure.anchor
        Page(text)


def test_the_text_alternative_of_a_plot_is_escaped() -> None:
    drawn = svg(lambda figure: None, height=1.0, salt="empty", label=NASTY)
    assert "<script" not in drawn
    Page(drawn)


def test_nothing_is_drawn_from_nothing() -> None:
    assert draw_figures(Sources({}, {})) == []
    assert draw_figures(Sources({"tiny": {}}, {"tiny": study(processes=2)})) == []
    assert latency_table({}) == quantization_tables({"tiny": {}}) == []


def test_figures_lie_in_the_card_they_serve_best_and_are_linked_from_others(tmp_path: Path) -> None:
    rows = (claim("c02"), claim("c03"), claim("c06"), claim("c07"))
    write(tmp_path, record(claim="c02"), claims=rows, report_data=full_report_data())
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    cards = {row.id: text[text.index(f'id="{row.id}"') :].partition("</section>")[0] for row in rows}
    assert [identifier for identifier, card in cards.items() if 'id="fig-curves"' in card] == ["c02"]
    assert [identifier for identifier, card in cards.items() if 'id="fig-forest"' in card] == ["c06"]
    assert 'href="#fig-forest"' in cards["c07"]
    assert 'href="#fig-accuracy"' in cards["c02"]
    assert text.index('id="fig-waterfall"') < text.index('id="claims"')  # its claim, c09, is not on this page
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)


def test_names_in_the_report_data_are_escaped(tmp_path: Path) -> None:
    report_data = full_report_data()
    nasty = {**networks()["tiny"], "quantization_error": [{"layer": NASTY, "relative_error": 0.1, "variant": NASTY + "$\\frac{"}]}
    report_data |= {"micro_networks": {NASTY: nasty}, "latency": {NASTY: study()}, "durations": {NASTY: {NASTY: 1.0}}}
    report_data["latency"][NASTY]["rows"][0] |= {"model": NASTY, "artifact": NASTY}
    write(tmp_path, record(), report_data=report_data)
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert NASTY in Page(text).text


def test_numbers_that_are_not_finite_are_left_out_and_harm_nothing(tmp_path: Path) -> None:
    nan = float("nan")
    report_data = full_report_data()
    report_data["latency"]["tiny"]["samples"]["relu"][0] = nan
    report_data["latency"]["small"] |= {"peak_spread": nan, "seconds": nan}
    tiny = report_data["micro_networks"]["tiny"]
    tiny["quantization_error"] = [{"layer": "l", "relative_error": bad, "variant": "int8-relu"} for bad in (nan, 0.0)]
    tiny["drops"] = [{"variant": "ReLU", "value": nan, "low": nan, "high": nan, "n": 0}]
    tiny["top1"] = {"local int8-relu": nan}
    tiny["blocks"] = [{"block": "b", "pre_mean": nan, "pre_std": nan, "mlp_to_residual": nan, "swap_error": nan}]
    report_data["durations"] = {"task": {"step": nan}}
    odd = (Estimate("endless", 1.0, float("-inf"), float("inf"), "", 3, 2.0), Estimate("none", nan, nan, nan, "pp", 0))
    write(tmp_path, record(numbers=odd), report_data=report_data)
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "tiny: left out, too few processes or samples that are no times" in page.text
    assert text.count('<div class="interval ') == 1


# ---------------------------------------------------------------------------------------------------------------- latency


def test_the_forest_has_a_row_per_variant_and_a_mark_per_size() -> None:
    studies = latency()
    drawn = forest_plot(studies) or ""
    for name in (*(variant for variant in TIMES if variant != "relu"), *(f"Swin-{size}" for size in SIZES)):
        assert f">{name}</text>" in drawn, name
    assert variant_ratios(studies["tiny"])["gelu-separate"].value == pytest.approx(1.15, rel=0.01)


def test_a_variant_that_one_size_lacks_is_drawn_for_the_others() -> None:
    studies = latency()
    del studies["large"]["samples"]["gelu-poly"]
    assert ">gelu-poly</text>" in (forest_plot(studies) or "")


def test_the_waterfall_names_each_change() -> None:
    drawn = waterfall_plot(latency()) or ""
    for label, _ in STEPS:
        assert f">{label}</text>" in drawn.replace("&#x27;", "'"), label
    assert drawn.count(" ms</text>") == len(SIZES)
    assert drawn.count(" %</text>") == len(SIZES) * (len(STEPS) - 1)


def test_a_study_of_two_processes_is_named_and_left_out() -> None:
    torn = {**study(), "processes": [3, 3, 3]}
    assert drawable(
        {"few": study(processes=2), "enough": study(), "torn": torn, "empty": {"samples": {}, "processes": []}}
    ).keys() == {"enough"}
    assert "few: left out" in "\n".join(latency_table({"few": study(processes=2)}))


# ----------------------------------------------------------------------------------------------------------------- Pareto


def test_the_front_holds_what_no_other_point_beats() -> None:
    fast, slow, worse, equal = (
        Point("a", "tiny", 1.0, 80.0),
        Point("b", "tiny", 2.0, 90.0),
        Point("c", "tiny", 1.5, 79.0),
        Point("d", "tiny", 3.0, 90.0),
    )
    assert pareto_front([equal, worse, slow, fast]) == [fast, slow]
    assert pareto_front([]) == []


def test_a_variant_gets_the_accuracy_of_the_network_it_runs() -> None:
    found = {(p.variant, p.size): p.top1 for p in points(latency(), networks())}
    assert found["ReLU fused, distilled, INT8", "small"] == pytest.approx(89.9)
    assert found["GELU separate, INT8", "small"] == found["GELU as a table, INT8", "small"] == 90.0
    assert not any("poly" in variant for variant, _ in found)


def test_other_engines_stand_below_the_front_unless_their_accuracy_is_known() -> None:
    without, known = (pareto_plot(latency(), networks(), [baselines(test=test)]) or "" for test in (False, True))
    assert ">openvino</text>" in without
    assert ">absent</text>" not in without
    assert ">other engines, their own test</text>" not in without
    assert ">other engines, their own test</text>" in known
    assert baseline_rows([{**baselines(), "model": "swin_micro_tiny"}]) == []


@pytest.mark.parametrize("lacking", ["latency", "top1"])
def test_without_latency_or_accuracy_there_is_no_pareto_plot(lacking: str) -> None:
    if lacking == "latency":
        assert pareto_plot({}, networks(), [baselines()]) is None
    else:
        assert pareto_plot(latency(), {"tiny": {"drops": []}}, [baselines()]) is None


# ----------------------------------------------------------------------------------------------------- quantization error


def test_quantization_errors_are_drawn_and_tabled_per_size_and_variant() -> None:
    drawn = quantization_plot(networks()) or ""
    assert all(f">{name}</text>" in drawn for name in (*SIZES, "int8-relu", "int8-gelu"))
    page = Page("\n".join(quantization_tables(networks())))
    assert page.tags.count("tr") == len(SIZES) * (1 + 4)
    assert "layers.0.blocks.1.mlp.fc2" in page.text


def test_errors_keep_the_order_of_the_network() -> None:
    rows = [{"layer": layer, "relative_error": 0.1, "variant": "int8-relu"} for layer in ("z", "a", "m")]
    assert list(errors_of({"quantization_error": rows})["int8-relu"]) == ["z", "a", "m"]
    assert errors_of({}) == errors_of({"quantization_error": None}) == {}


# ------------------------------------------------------------------------------------------------------------- intervals


def test_a_line_shows_value_interval_and_bound_on_the_scale_of_its_unit() -> None:
    numbers = [Estimate("a", 1.0, 0.5, 1.5, "pp", 9, 2.0), Estimate("b", 90.0, 80.0, 100.0, "%", 9)]
    text = "\n".join(interval_lines([record(numbers=tuple(numbers)).to_json()]))
    page = Page(text)
    assert page.tags.count("svg") == 2
    assert page.text.count("dashed: what the claim is judged by (2)") == 1
    scale = scale_of([vars(numbers[0])])
    middle, low, high, margin = (scale.at(value) for value in (1.0, 0.5, 1.5, 2.0))
    assert f'<circle cx="{middle}"' in text
    assert f'x1="{low}" x2="{high}"' in text
    assert f'x1="{margin}" x2="{margin}"' in text


def test_a_lone_exact_number_has_a_scale() -> None:
    for value in (0.0, 3.0):
        scale = scale_of([vars(Estimate("exact", value, value, value, "", 1))])
        assert scale.low < value < scale.high
        assert scale.at(value) == "50.00%"


# ---------------------------------------------------------------------------------- environment, timing harness, summary


def document(**report_data: Any) -> dict[str, Any]:
    return build_document([record()], claims=(claim(),), report_data=report_data, partial=(), started=0.0)


def test_the_environment_names_digests_durations_and_the_clock() -> None:
    page = Page("\n".join(provenance_lines(document(**full_report_data()))))
    for words in ("ab" * 32, "cd" * 32, "12" * 32, "34" * 32, "local:tiny", "spread by 1.2 to 1.2 %", "10,000 images"):
        assert words in page.text, words


def test_the_timing_harness_shows_false_positives_and_power_with_intervals() -> None:
    page = Page("\n".join(provenance_lines(document(harness=HARNESS))))
    for words in ("1 of 40", "2.5", "33 of 40", "82.5", "slowed down by 1 %: found", NASTY):
        assert words in page.text, words
    assert "timing harness" not in Page("\n".join(provenance_lines(document()))).text


def test_the_summary_fits_a_page() -> None:
    rows = tuple(claim(f"c{number:02}") for number in range(1, 15))
    long = record(sentence="word " * 200, numbers=())
    made = build_document([long], claims=rows, report_data=full_report_data(), partial=("only c01",), started=0.0)
    text = render_summary(made)
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) < 400
    for words in ("only c01", "c14", "nox -s claims", "1 of 40 equal pairs"):
        assert words in text, words


def test_other_engines_have_a_section_that_claims_link_to() -> None:
    made = build_document([], claims=(claim("c10"),), report_data={}, partial=(), started=0.0)
    page = Page(render_html(made, Found(refused=("old.baselines.json was made by other code",))))
    assert "#baselines" in page.references
    assert "old.baselines.json" in page.text
    assert "#baselines" not in Page(render_html(made)).references
