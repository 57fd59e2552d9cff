"""The report is complete, escaped, self-contained, and can be drawn again from its record."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from geluless.bench.environment import environment_record, git_state
from geluless.report import ReportError, render_folder, write_report
from geluless.report.document import headline, headline_text
from geluless.report.markdown import escape
from geluless.report.plots import agreement_plot, curves_plot, finite_points
from geluless.report.terminal import grouped
from geluless.sources import timing_sources
from geluless.verdicts import Claim, Control, Estimate, Evidence, Record

NASTY = "<script>alert('x')</script> & | `tick` [link](http://evil.example) \"quote\""


def claim(identifier: str = "c01", **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "id": identifier, "title": "A title", "claim": "A sentence.", "source": "abstract", "statistic": "s", "margin": 0.5,
        "unit": "pp", "direction": "below", "paper_numbers": ("0.5 %",), "needs": (), "fallback": "f",
        "modules": ("geluless.errors",),
        "negative_control": "n", "covers": ("key result",),
    }  # fmt: skip
    return Claim(**{**values, **changes})


def record(status: str = "REPRODUCED", **changes: Any) -> Record:
    measured = not status.startswith("NEEDS_")
    control = Control("something wrong", "was caught", True)
    evidence = Evidence("ran it", "embedded", 12.0, control, artifacts={"INT8": "ab" * 32})
    values: dict[str, Any] = {
        "claim": "c01", "item": "it[tiny]", "node": "claims/test_c01.py::test_it[tiny]", "status": status,
        "sentence": "It holds.",
        "missing": "" if measured else "a GPU", "would_run": "" if measured else "a kernel",
        "numbers": (Estimate("drop", 0.12, -0.05, 0.29, "pp", 10_000, 0.5),) if measured else (),
        "evidence": evidence if measured else None, "seconds": 12.0,
    }  # fmt: skip
    return Record(**{**values, **changes})


REPORT_DATA: dict[str, Any] = {
    "micro_networks": {
        size: {
            "drops": [
                {"variant": "naive swap, FP32", "value": 1.1, "low": 0.9, "high": 1.3, "n": 10_000},
                {"variant": "ReLU distilled, INT8", "value": 0.1, "low": -0.1, "high": 0.3, "n": 10_000},
            ],
            "distillation": {
                "local": {
                    "records": [
                        {"block": "layers.0.blocks.0", "agreement": 0.97, "curve": [[0, 1.0], [100, 0.2]]},
                        {"block": "layers.0.blocks.1", "agreement": 0.98, "curve": [[0, 2.0], [100, 0.1]]},
                    ],
                    "warnings": [f"not converged {NASTY}"],
                }
            },
            "blocks": [
                {
                    "block": "layers.0.blocks.0",
                    "pre_mean": -0.4,
                    "pre_std": 0.9,
                    "mlp_to_residual": 0.5,
                    "swap_error": 0.2,
                }
            ],
        }
        for size in ("tiny", "small")
    },
    "data": ["fashion-mnist-test, 10,000 images"],
    "seed": 0,
}


def write(folder: Path, *records: Record, claims: tuple[Claim, ...] = (claim(),), **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"report_data": REPORT_DATA, "partial": (), "started": 0.0, **changes}
    write_report(records, folder, claims=claims, **settings)
    document = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


class Page(HTMLParser):
    """Tags, ids and outgoing references of a page; raises on unbalanced tags."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write(tmp_path, record(), record("NEEDS_GPU", item="gpu"))
    return Page((tmp_path / "claims.html").read_text(encoding="utf-8"))


def test_the_page_requests_nothing_and_runs_nothing(page: Page) -> None:
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)


def test_every_reference_of_the_page_has_one_target(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)


def test_the_page_has_plots_board_findings_and_the_command(page: Page) -> None:
    assert page.tags.count("figure") == 3
    assert page.tags.count("svg") == 4  # one more: the interval of the number
    for words in (
        "REPRODUCED (embedded) + NEEDS_GPU",
        "drop 0.120 pp [-0.050, 0.290], n = 10,000, bound 0.5 pp",
        "nox -s claims -- --claim c01",
        "something wrong: was caught",
        "ran it (embedded, 12 s)",
        "abababababababab",
        "a kernel",
        "layers.0.blocks.0",
        "fashion-mnist-test, 10,000 images",
    ):
        assert words in page.text, words


def test_the_page_follows_light_and_dark_and_fits_a_phone(tmp_path: Path) -> None:
    write(tmp_path, record())
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    drawn = text[text.index("<svg") :]
    # Only the page's own colours: none that matplotlib chose for itself would survive on a dark ground.
    assert not re.search(r"#0102|#000000|#ffffff|#1f77b4", drawn)
    assert "currentColor" in drawn
    assert "var(--series-1)" in drawn


@pytest.mark.parametrize("blocks", [2, 12, 24])
def test_every_depth_can_be_drawn(blocks: int) -> None:
    records = [{"block": str(i), "agreement": 0.9, "curve": [[0, 1.0], [5, 0.5]]} for i in range(blocks)]
    networks = {size: {"distillation": {"local": {"records": records}}} for size in ("tiny", "small", "base")}
    assert "<svg" in (curves_plot(networks) or "")
    assert "<svg" in (agreement_plot(networks) or "")


def test_a_diverged_curve_is_drawn_as_far_as_it_went() -> None:
    assert finite_points([[0, 2.0], [5, None], [10, 1.0]]) == [(0, 2.0), (10, 1.0)]
    assert finite_points([[0, 0.0], [5, 1.0]]) == finite_points(None) == []


def test_texts_of_the_record_are_escaped_everywhere(tmp_path: Path) -> None:
    evidence = Evidence(NASTY, NASTY, 1.0, Control(NASTY, NASTY, True), artifacts={NASTY: NASTY}, details=(NASTY,))
    nasty = record(sentence=NASTY, item=NASTY, evidence=evidence, numbers=(Estimate(NASTY, 1, 0, 2, NASTY, 5, 0.5),))
    row = claim(title=NASTY, claim=NASTY, source=NASTY, statistic=NASTY, negative_control=NASTY, break_condition=NASTY)
    write(tmp_path, nasty, record("NEEDS_GPU", missing=NASTY, would_run=NASTY), claims=(row,), partial=(NASTY,))
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert "<script" not in text
    parsed = Page(text)
    assert NASTY in parsed.text
    assert all(reference.startswith("#") for reference in parsed.references)
    markdown = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<script", markdown)
    summary = (tmp_path / "claims.summary.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<script", summary)
    table = [line for line in (*markdown.splitlines(), *summary.splitlines()) if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}


@pytest.mark.parametrize("text", ["a|b", "<b>", "*x*", "`c`", "[a](b)", "line\nbreak"])
def test_markdown_escaping_leaves_no_live_markup(text: str) -> None:
    assert not re.search(r"(?<!\\)[|<>*`\[\]]|\n", escape(text))


def test_rendering_again_gives_the_same_files(tmp_path: Path) -> None:
    write(tmp_path, record(), record("NEEDS_GPU", item="gpu"))
    names = ("claims.md", "claims.html", "claims.summary.md", "claims.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    (tmp_path / "claims.md").unlink()
    (tmp_path / "claims.html").write_text("stale", encoding="utf-8")
    assert render_folder(tmp_path) == (tmp_path / "claims.md", tmp_path / "claims.html")
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_no_temporary_file_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path, record())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims.html", "claims.json", "claims.md", "claims.summary.md"]


def test_a_failing_write_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record())
    before = (tmp_path / "claims.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, record("REFUTED"))
    assert (tmp_path / "claims.json").read_bytes() == before
    assert not list(tmp_path.glob(".claims*"))


def test_a_record_of_other_code_is_refused(tmp_path: Path) -> None:
    write(tmp_path, record())
    source = tmp_path / "claims.json"
    document = json.loads(source.read_text(encoding="utf-8"))
    source.write_text(json.dumps(document | {"sources": "0" * 64}), encoding="utf-8")
    with pytest.raises(ReportError, match="made by other code than this"):
        render_folder(tmp_path)


def test_the_self_test_of_the_timing_harness_is_shown_where_it_is_of_this_code_and_machine(tmp_path: Path) -> None:
    cpu = write(tmp_path, record())["environment"]["cpu"]
    trial = {"created": "2026", "cpu": cpu, "pairs": 10, "false_positives": 1, "planted": [], "sources": timing_sources()}
    for change, shown in (({}, True), ({"sources": "other"}, False), ({"cpu": "another"}, False), ({"pairs": None}, None)):
        kept = {key: value for key, value in (trial | change).items() if value is not None}
        (tmp_path / "harness.json").write_text(json.dumps(kept), encoding="utf-8")
        render_folder(tmp_path)
        assert ('id="harness"' in (tmp_path / "claims.html").read_text(encoding="utf-8")) is bool(shown)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"schema": "other/9"}', '{"schema": "geluless.claims/1"}', 100_000 * "["], ids=range(6)
)
def test_a_damaged_record_is_refused_with_the_remedy(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "claims.json").write_text(content, encoding="utf-8")
    with pytest.raises(ReportError, match="nox -s claims"):
        render_folder(tmp_path)


def test_a_report_without_networks_or_numbers_is_still_a_report(tmp_path: Path) -> None:
    document = write(tmp_path, record("NEEDS_GPU"), claims=(claim(), claim("c02")), report_data={})
    assert [row["headline"]["status"] for row in document["claims"]] == ["NEEDS", "NOT RUN"]
    parsed = Page((tmp_path / "claims.html").read_text(encoding="utf-8"))
    assert "svg" not in parsed.tags


def test_numbers_that_json_cannot_say_become_null(tmp_path: Path) -> None:
    odd = Estimate("relative drop", float("nan"), float("-inf"), 1.0, "%", 0, 0.5)
    document = write(tmp_path, record("UNDECIDED", numbers=(odd,)))
    number = document["claims"][0]["records"][0]["numbers"][0]
    assert (number["value"], number["low"]) == (None, None)


def test_a_partial_run_says_so_in_every_form(tmp_path: Path) -> None:
    document = write(tmp_path, record(), claims=(claim(), claim("c02")), partial=("only c01 chosen by --claim",))
    assert document["claims_run"] == ["c01"]
    for name in ("claims.md", "claims.html", "claims.summary.md"):
        assert "only c01 chosen by --claim" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        (["REPRODUCED", "REPRODUCED"], "REPRODUCED (embedded)"),
        (["REPRODUCED", "REFUTED", "UNDECIDED"], "REFUTED (embedded)"),
        (["REPRODUCED", "UNDECIDED"], "UNDECIDED (embedded)"),
        (["REPRODUCED", "NEEDS_GPU"], "REPRODUCED (embedded) + NEEDS_GPU"),
        (["NEEDS_GPU", "NEEDS_IMAGENET"], "NEEDS_GPU, NEEDS_IMAGENET"),
        ([], "NOT RUN"),
    ],
)
def test_one_refutation_refutes_and_what_is_missing_is_never_hidden(statuses: list[str], text: str) -> None:
    assert headline_text(headline([record(status) for status in statuses])) == text


def test_a_broken_check_outranks_every_verdict() -> None:
    assert headline([record("ERROR", evidence=None), record("REFUTED")])["status"] == "ERROR"


def test_parameters_of_one_test_share_a_line() -> None:
    assert grouped(["on_a_gpu[tiny]", "on_a_gpu[small]", "alone"]) == "on a gpu [tiny, small]; alone"


def test_the_environment_names_processor_versions_and_revision(tmp_path: Path) -> None:
    environment = environment_record()
    assert environment["cpu"]
    assert environment["packages"]["torch"]
    assert set(environment["git"]) == {"revision", "dirty"}
    assert git_state(tmp_path) == {"revision": None, "dirty": None}
