"""The report is complete, escaped, self-contained, and can be drawn again from its record."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from geluless.bench.environment import environment_record, git_state
from geluless.errors import OutputError
from geluless.report import ReportError, render_folder, write_report
from geluless.report.board import here_cells, here_text, here_totals, paper_cell, paper_text, paper_totals, tone, totals
from geluless.report.markdown import MARKS, escape
from geluless.report.plots import agreement_plot, curves_plot, finite_points
from geluless.report.terminal import claims_table, grouped
from geluless.sources import timing_sources
from geluless.verdicts import Claim, Control, Estimate, Evidence, Record

NASTY = "<script>alert('x')</script> & | `tick` [link](http://evil.example) \"quote\""


def claim(identifier: str = "c01", **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "id": identifier, "title": "A title", "claim": "A sentence.", "source": "abstract", "statistic": "s", "margin": 0.5,
        "unit": "pp", "direction": "below", "paper": "stated: of ImageNet", "paper_numbers": ("0.5 %",), "fallback": "f",
        "kinds": (("it", "stand-in"), ("paper", "paper")), "modules": ("geluless.errors",),
        "negative_control": "n", "covers": ("key result",),
    }  # fmt: skip
    return Claim(**{**values, **changes})


def record(status: str = "REPRODUCED", **changes: Any) -> Record:
    measured = not status.startswith("NEEDS_")
    control = Control("something wrong", "was caught", True)
    evidence = Evidence("ran it", "embedded", 12.0, control, artifacts={"INT8": "ab" * 32})
    values: dict[str, Any] = {
        "claim": "c01", "item": "it[tiny]", "node": "claims/test_c01.py::test_it[tiny]", "status": status,
        "sentence": "It holds.", "kind": "stand-in",
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
        "The paper's own statement: NOT RUN",
        "What was judged here: stand-in: REPRODUCED, embedded + NEEDS_GPU",
        "of 1 claims that the paper states, judged: 0, not judged: 1 (1 NOT RUN)",
        "stand-in: 1 NEEDS_GPU, 1 REPRODUCED",
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
    row = claim(
        title=NASTY, claim=NASTY, source=NASTY, statistic=NASTY, negative_control=NASTY, break_condition=NASTY,
        paper=f"stated: {NASTY}",
    )  # fmt: skip
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
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}


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
    with pytest.raises(OutputError, match="disk full"):
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
    "content",
    [None, "{", "[]", '{"schema": 2}', '{"schema": "other/9"}', '{"schema": "geluless.claims/2"}', 100_000 * "["],
    ids=range(7),
)
def test_a_damaged_record_is_refused_with_the_remedy(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "claims.json").write_text(content, encoding="utf-8")
    with pytest.raises(ReportError, match="nox -s claims"):
        render_folder(tmp_path)


def test_a_record_of_an_older_version_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text('{"schema": "geluless.claims/1", "claims": []}', encoding="utf-8")
    with pytest.raises(ReportError, match=r"of schema geluless\.claims/1, and this version reads geluless\.claims/2"):
        render_folder(tmp_path)


def test_a_report_without_networks_or_numbers_is_still_a_report(tmp_path: Path) -> None:
    document = write(tmp_path, record("NEEDS_GPU"), claims=(claim(), claim("c02")), report_data={})
    assert [row["headline"]["paper"]["status"] for row in document["claims"]] == ["NOT RUN", "NOT RUN"]
    assert [here_text(row["headline"]["here"]) for row in document["claims"]] == ["stand-in: NEEDS_GPU", "nothing"]
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


# ------------------------------------------------------------------------------------------------------------ both cells


PAPER = {"kind": "paper", "evidence": Evidence("ran it", "imagenet", 1.0, Control("wrong", "caught", True))}


def on_paper(status: str) -> Record:
    return record(status, **(PAPER if not status.startswith("NEEDS") else {"kind": "paper"}))


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        (["REPRODUCED", "REPRODUCED"], "REPRODUCED (imagenet)"),
        (["REPRODUCED", "REFUTED", "UNDECIDED"], "REFUTED (imagenet)"),
        (["REPRODUCED", "UNDECIDED"], "UNDECIDED (imagenet)"),
        (["REFUTED", "NEEDS_GPU"], "REFUTED (imagenet) + NEEDS_GPU"),
        (["REPRODUCED", "REPRODUCED", "NEEDS_GPU"], "NEEDS_GPU (of 3 checks 2 REPRODUCED)"),
        (["NEEDS_GPU", "NEEDS_IMAGENET"], "NEEDS_GPU, NEEDS_IMAGENET"),
        ([], "NOT RUN"),
    ],
)
def test_the_papers_statement_takes_all_of_its_checks_and_one_refutation_refutes(statuses: list[str], text: str) -> None:
    assert paper_text(paper_cell(claim(), [on_paper(status) for status in statuses])) == text


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        (["REPRODUCED", "REPRODUCED"], "stand-in: REPRODUCED, embedded"),
        (["REPRODUCED", "REFUTED", "UNDECIDED"], "stand-in: REFUTED, embedded"),
        (["REPRODUCED", "NEEDS_GPU"], "stand-in: REPRODUCED, embedded + NEEDS_GPU"),
        (["NEEDS_GPU", "NEEDS_IMAGENET"], "stand-in: NEEDS_GPU, NEEDS_IMAGENET"),
        ([], "nothing"),
    ],
)
def test_what_is_missing_is_never_hidden(statuses: list[str], text: str) -> None:
    assert here_text(here_cells([record(status) for status in statuses])) == text


def test_a_broken_check_outranks_every_verdict_in_both_cells() -> None:
    broken = [record("ERROR", evidence=None), record("REFUTED")]
    assert here_cells(broken)["stand-in"]["status"] == "ERROR"
    assert paper_cell(claim(), [on_paper("REFUTED"), record("ERROR", kind="paper", evidence=None)])["status"] == "ERROR"


BESIDE = ("arithmetic", "stand-in", "transfer", "ours")


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("status", ["REPRODUCED", "REFUTED", "UNDECIDED", "ERROR", "NEEDS_GPU"])
def test_nothing_but_its_own_check_fills_the_papers_cell(kind: str, status: str, tmp_path: Path) -> None:
    """Stand-ins only, transfers that are refuted: the cell, its mark and its colour are those of what the paper's check needs."""
    records = (record(status, kind=kind), record("NEEDS_IMAGENET", kind="paper", item="paper"))
    document = write(tmp_path, *records)
    (row,) = document["claims"]
    assert paper_text(row["headline"]["paper"]) == "NEEDS_IMAGENET"
    assert document["totals"]["paper"] == {"NEEDS_IMAGENET": 1}
    assert document["totals"]["here"] == {kind: {status: 1}}
    page = (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert '<section class="claim needs" id="c01">' in page
    assert '<li class="needs">' in page
    assert tone("REPRODUCED", kind) == "held"
    assert 'class="finding reproduced"' not in page
    for name in ("claims.md", "claims.summary.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        (line,) = (line for line in text.splitlines() if line.startswith("| ") and "c01 A title" in line)
        assert line.startswith(f"| {MARKS['NEEDS']} | ")
        assert MARKS["REPRODUCED"] not in text
        assert MARKS["REFUTED"] not in text


def test_a_transfer_that_is_refuted_refutes_nothing_in_the_paper(tmp_path: Path) -> None:
    transfer = record("REFUTED", kind="transfer")
    write(tmp_path, transfer, record("NEEDS_GPU", kind="paper", item="paper"))
    assert here_text(here_cells([transfer])) == "transfer: NOT HERE, embedded"
    assert here_totals(totals([claim()], [transfer])) == "transfer: 1 NOT HERE"
    page = (tmp_path / "claims.html").read_text(encoding="utf-8")
    for text in (page, *((tmp_path / name).read_text(encoding="utf-8") for name in ("claims.md", "claims.summary.md"))):
        assert "NOT HERE" in text
        assert "REFUTED" not in text
    assert 'class="finding undecided"' in page
    # Where the paper's own check is refuted, it is: the same records, of the other kind.
    assert paper_cell(claim(), [on_paper("REFUTED")])["status"] == "REFUTED"


def test_a_statement_without_a_check_of_its_own_needs_one() -> None:
    row = claim(kinds=(("it", "arithmetic"),))
    assert paper_text(paper_cell(row, [record(kind="arithmetic")])) == "NEEDS_CHECK"
    assert paper_text(paper_cell(row, [])) == "NOT RUN"


@pytest.mark.parametrize(
    ("paper", "text"), [("asked: open question 2", "asked, not stated"), ("ours: a table", "not in the paper")]
)
def test_what_the_paper_does_not_state_is_not_judged_as_its_statement(paper: str, text: str, tmp_path: Path) -> None:
    row = claim(paper=paper, kinds=(("it", "ours"),))
    assert paper_text(paper_cell(row, [record(kind="ours")])) == text
    assert paper_text(paper_cell(row, [])) == text
    write(tmp_path, record("REFUTED", kind="ours"), claims=(row,))
    assert '<section class="claim notrun" id="c01">' in (tmp_path / "claims.html").read_text(encoding="utf-8")


def test_counts_of_both_are_apart() -> None:
    rows = (
        claim("c01"),
        claim("c02"),
        claim("c03", kinds=(("it", "arithmetic"),)),
        claim("c04", paper="asked: a", kinds=(("it", "ours"),)),
        claim("c05", paper="ours: b", kinds=(("it", "ours"),)),
    )
    found = totals(
        rows,
        [
            record("REPRODUCED"),
            record("NEEDS_IMAGENET", kind="paper"),
            *(record(status, claim="c02", kind="transfer") for status in ("REPRODUCED", "REPRODUCED", "REFUTED")),
            record("REPRODUCED", claim="c02", **PAPER),
            record("REPRODUCED", claim="c03", kind="arithmetic"),
            record("REFUTED", claim="c04", kind="ours"),
        ],
    )
    assert paper_totals(found) == (
        "of 3 claims that the paper states, judged: 1 (1 REPRODUCED), not judged: 2 (1 NEEDS_CHECK, 1 NEEDS_IMAGENET); "
        "others: 1 asked, 1 ours"
    )
    assert here_totals(found) == (
        "arithmetic: 1 REPRODUCED; stand-in: 1 REPRODUCED; transfer: 1 NOT HERE, 2 REPRODUCED; ours: 1 REFUTED"
    )


def test_a_record_of_no_known_kind_is_not_left_out_in_silence() -> None:
    with pytest.raises(ValueError, match="guess"):
        here_cells([record(kind="guess")])


def test_the_terminal_shows_both_cells_and_the_kind_of_every_finding() -> None:
    stream = io.StringIO()
    records = [record("REFUTED", kind="transfer"), record("NEEDS_GPU", kind="paper", item="paper"), record()]
    claims_table(records, (claim(), claim("c02")), stream, width=120, colour=True)
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    words = " ".join(re.sub("[│┃]", " ", text).split())
    for part in (
        "paper: NEEDS_GPU",
        "NOT HERE (transfer) it [tiny]: It holds.",
        "REPRODUCED (stand-in)",
        "NEEDS_GPU (paper) paper",
    ):
        assert part in words, part
    assert "c02" not in text
    green = re.findall(r"\x1b\[32m([^\x1b]*)", stream.getvalue())
    assert green == [], "nothing but the paper's own statement is green"


def test_parameters_of_one_test_share_a_line() -> None:
    assert grouped(["on_a_gpu[tiny]", "on_a_gpu[small]", "alone"]) == "on a gpu [tiny, small]; alone"


def test_the_environment_names_processor_versions_and_revision(tmp_path: Path) -> None:
    environment = environment_record()
    assert environment["cpu"]
    assert environment["packages"]["torch"]
    assert set(environment["git"]) == {"revision", "dirty"}
    assert git_state(tmp_path) == {"revision": None, "dirty": None}
