"""The README's figures come from whole runs of this code, between two marks, and from nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from geluless import sources
from geluless.report import outdated, quote
from geluless.report import record as record_folder
from geluless.report.baselines import Found
from geluless.report.history import HistoryError, PastRun, read_history, record_run, run_of, spread, with_this
from geluless.report.outdated import changed_files, decides_verdicts, mark_outdated, problem
from geluless.report.readme import BEGIN, END, ReadmeError, figures, update_readme
from geluless.sources import code_sources
from tests.report.test_report import NASTY, claim, write
from tests.report.test_report import record as claim_record

ROOT = Path(__file__).parents[2]


OVER = {"gelu-lut": 0.992, "gelu-separate": 0.868, "gelu-fused": 0.891}  # by name, whatever their order


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
    time = record("transfer_to_this_cpu[tiny]", *(number(f"time of relu over {name}", value) for name, value in OVER.items()))
    engines = record("other_engines_on_this_cpu", number("time of openvino relu over openvino gelu", 0.95))
    made = {
        "partial": [],
        "created": "2026-11-26T10:00:00+00:00",
        "seconds": 1500.0,
        "code": "abcdef012345" + "0" * 52,
        "totals": {"paper": {"NEEDS_GPU": 3, "OURS": 1}, "here": {"transfer": {"REPRODUCED": 5, "REFUTED": 2}}},
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
    assert "Zen, 2 cores, 2026-11-26, revision 0123456789, code abcdef012345, 25 minutes." in lines
    assert "The paper's own statement: of 3 claims that the paper states, judged: 0, not judged: 3 (3 NEEDS_GPU); " in text
    assert "What was judged here, in checks: transfer: 2 NOT HERE, 5 REPRODUCED." in lines
    assert "Behind a semicolon" not in text
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


# --------------------------------------------------------------------------------- figures of other code than this one say so

HEAD = "Zen, 2 cores, 2026-11-26, revision 0123456789, code abcdef012345, 25 minutes."
OLD_HEAD = "Zen, 2 cores, 2026-11-26, revision 0123456789, 28 minutes: 4 NEEDS_CHECK, 72 REPRODUCED."  # without a digest
NOTICE = "> **Figures of revision 0123456789** (another code than this one; 5 files ...); run `nox -s claims` again."


def readme(*lines: str) -> str:
    return "\n".join(["# Title", BEGIN, "", *lines, "", END, "After."])


def test_the_figures_of_the_readme_are_of_this_code_or_say_that_they_are_not() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert problem(text, this=code_sources()[:12]) == ""


@pytest.mark.parametrize(
    ("text", "this", "words"),
    [
        (readme(HEAD), "abcdef012345", ""),
        (readme(NOTICE, "", HEAD), "000000000000", ""),
        (readme(NOTICE, "", OLD_HEAD), "000000000000", ""),
        (readme(HEAD), "000000000000", "another code than this one (abcdef012345, now 000000000000)"),
        (readme(OLD_HEAD), "000000000000", "another code than this one (no digest"),
        (readme(NOTICE, "", HEAD), "abcdef012345", "the notice says they are not"),
        (readme(NOTICE.replace("0123", "9999"), "", HEAD), "000000000000", "--outdated"),
        (readme(NOTICE, NOTICE, HEAD), "000000000000", "--outdated"),
        (readme("> Figures of another revision.", HEAD), "000000000000", "--outdated"),
        (readme("No revision."), "abcdef012345", "one line that says which revision"),
        (readme(HEAD, HEAD), "abcdef012345", "one line that says which revision"),
        ("no marks", "abcdef012345", "two marks once each"),
    ],
)
def test_what_is_wrong_with_figures_is_told_with_its_remedy(text: str, this: str, words: str) -> None:
    found = problem(text, this=this)
    assert (found == "") == (words == "")
    assert words in found


def test_the_notice_is_put_there_once_and_only_where_it_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "README.md"
    path.write_text(readme(OLD_HEAD, "", "| T |"))
    monkeypatch.setattr(outdated, "changed_files", lambda repository, revision: 7)
    mark_outdated(path)
    once = path.read_text()
    assert "> **Figures of revision 0123456789** (another code than this one; 7 files that decide verdicts had changed" in once
    assert f"\n\n{OLD_HEAD}\n\n| T |\n\n{END}\nAfter." in once
    assert problem(once, this=outdated.code()) == ""
    mark_outdated(path)
    assert path.read_text() == once
    update_readme(path, document(code=code_sources()), BASELINES, HARNESS)
    assert "another code" not in path.read_text()
    assert problem(path.read_text(), this=outdated.code()) == ""
    with pytest.raises(ReadmeError, match="of this very code"):
        mark_outdated(path)


def test_a_processor_with_a_hostile_name_is_no_markup_and_no_other_head() -> None:
    cpu = f"{NASTY}\n, 2 cores, 2020-01-01, revision 99999999, code 999999999999, 1 minutes.\n{NOTICE}"
    made = document()
    lines = figures(made | {"environment": made["environment"] | {"cpu": cpu}}, BASELINES, HARNESS)
    text = readme(*lines)
    assert problem(text, this="abcdef012345") == ""
    assert "revision 0123456789, another code" in problem(text, this="999999999999")
    assert "<script" not in text.replace("\\<script", "")


@pytest.mark.parametrize("head", ["no revision", OLD_HEAD.replace("revision", "version")])
def test_figures_of_nothing_cannot_be_marked(head: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(readme(head))
    with pytest.raises(ReadmeError, match="which revision"):
        mark_outdated(tmp_path / "README.md")


@pytest.mark.parametrize("head", [OLD_HEAD, OLD_HEAD.replace("6789,", "6789 with local changes,")])
def test_without_a_count_the_notice_has_none(head: str, tmp_path: Path) -> None:
    """Outside of git, of a revision that git does not know, and of figures of local changes."""
    (tmp_path / "README.md").write_text(readme(head))
    mark_outdated(tmp_path / "README.md")
    assert "(another code than this one); run" in (tmp_path / "README.md").read_text()


def test_changed_files_are_those_that_decide_verdicts(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        named = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(("git", *named, *words), cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    files = ("impl/geluless/ptq/a.py", "impl/geluless/report/b.py", "claims/claims.toml", "claims/history.json", "README.md")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    revision = git("rev-parse", "HEAD")
    assert changed_files(tmp_path, revision) == 0
    for name in files:
        (tmp_path / name).write_text("two")
    assert changed_files(tmp_path, revision) == 2
    assert changed_files(tmp_path, "0" * 40) is None


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("impl/geluless/ptq/fold.py", True),
        ("impl/geluless/engine/cpu/gemm.h", True),
        ("claims/test_c01_x.py", True),
        ("impl/geluless/report/html.py", False),
        ("impl/geluless/cli.py", False),
        ("claims/history.json", False),
        ("fixtures/MANIFEST.toml", True),
        ("fixtures/make_data.py", False),
        ("tests/test_map.py", False),
        ("", False),
    ],
)
def test_a_path_counts_as_in_the_digest(name: str, counts: bool) -> None:
    assert decides_verdicts(name) == counts


def test_the_digest_and_the_count_choose_the_same_files() -> None:
    inside = {path for path in sources._files(sources.PACKAGE) if decides_verdicts(path.relative_to(ROOT).as_posix())}
    names = (path.name for path in sources.PACKAGE.iterdir() if path.name not in sources.ONLY_SHOW)
    assert inside == {path for name in names for path in sources._files(sources.PACKAGE / name)}


# -------------------------------------------------------------------------------------------------------------- past runs


RATIO = "c06 transfer_to_this_cpu[tiny]: time of relu over gelu-separate"


def past(value: float, name: str = "time of relu over gelu-separate", **changes: Any) -> PastRun:
    ratios = {f"c06 transfer_to_this_cpu[tiny]: {name}": (value, value - 0.01, value + 0.01)}
    values: dict[str, Any] = {
        "created": None, "cpu": "Zen 4", "revision": None, "code": None, "source": "a letter", "ratios": ratios,
    }  # fmt: skip
    return PastRun(**{**values, **changes})


def test_the_range_over_runs_stands_beside_the_interval_of_one() -> None:
    runs = with_this([past(0.9), past(0.85, cpu=NASTY), past(0.7, "another ratio")], document())
    lines = figures(document(), BASELINES, HARNESS, runs)
    cells = next(line for line in lines if line.startswith("| T |"))
    assert cells == (
        "| T | 0.125 [0.115, 0.135] | 0.868 [0.858, 0.878]; 3 runs 0.850 to 0.900 | 0.891 [0.881, 0.901] | 0.992 [0.982, 1.002] |"
    )
    (legend,) = (line for line in lines if line.startswith("Behind a semicolon"))
    assert "There are 4 in `claims/history.json`, of 3 processors" in legend
    assert "0 of them of this very code" in legend
    assert "<script" not in legend.replace("\\<script", "")


def test_one_run_has_no_range_and_a_run_is_counted_once() -> None:
    assert spread([past(0.9)], RATIO) is None
    own = run_of(document())
    assert with_this([own, past(0.9)], document()) == (past(0.9), own)
    assert spread([past(0.9), past(0.8)], RATIO) == (2, 0.8, 0.9)


def test_a_whole_run_of_this_code_is_recorded_once(tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    record_run(document(created="2026-11-26T09:00:00+00:00"), history)
    record_run(document(), history)
    record_run(document(), history)
    assert [run.created for run in read_history(history)] == ["2026-11-26T09:00:00+00:00", "2026-11-26T10:00:00+00:00"]
    assert len(history.read_text().splitlines()) == 4, "a line for each run, and the brackets"
    (run, _) = read_history(history)
    assert run.ratios[RATIO] == (0.868, 0.858, 0.878)
    assert list(run.ratios) == [f"c06 transfer_to_this_cpu[tiny]: time of relu over {name}" for name in OVER]
    assert (run.cpu, run.revision, run.code) == ("Zen", "0123456789ab", "abcdef012345" + "0" * 52)
    with pytest.raises(HistoryError, match=r"whole runs.*only c06"):
        record_run(document(partial=["only c06"]), history)
    with pytest.raises(HistoryError, match="nothing to record"):
        record_run(document(claims=[]), history)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no readable JSON"),
        ("{}", "no list of runs"),
        ("[1]", "run 1: a run has created, cpu"),
        ([{}], "a run has created, cpu"),
        ([{"created": 3}], "'created' is a text, or null"),
        ([{"cpu": None}], "names its processor"),
        ([{"source": ""}], "where its line is from"),
        ([{"ratios": {}}], "'ratios' maps"),
        ([{"ratios": {"a": [0.9, 0.8]}}], "'ratios' maps"),
        ([{"ratios": {"a": [0.9, 0.95, 1.0]}}], "'ratios' maps"),
        ([{"ratios": {"a": ["0.9", 0.8, 1.0]}}], "'ratios' maps"),
        ([{"ratios": {"a": [True, True, True]}}], "'ratios' maps"),
        ('[{"created": null, "cpu": "", "revision": null, "code": null, "source": "s", "ratios": {"a": [1, 1, Infinity]}}]',
         "'ratios' maps"),
    ],
)  # fmt: skip
def test_a_damaged_history_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    whole = {"created": None, "cpu": "Zen", "revision": None, "code": None, "source": "s", "ratios": {"a": [0.9, 0.8, 1.0]}}
    if not isinstance(content, str):
        content = json.dumps([entry and {**whole, **entry} for entry in content])
    path = tmp_path / "history.json"
    path.write_text(content)
    with pytest.raises(HistoryError, match=words):
        read_history(path)


def test_the_committed_history_can_be_read_and_each_line_says_where_it_is_from() -> None:
    runs = read_history(ROOT / "claims" / "history.json")
    assert len(runs) >= 3
    for run in runs:
        assert all(name[:3] in ("c06", "c07", "c09") for name in run.ratios)
    assert read_history(ROOT / "claims" / "no_such_file.json") == ()


def test_quoting_and_recording_a_folder(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    made = write(tmp_path / "report", claim_record(claim="c06"), claims=(claim("c06"),))
    path = tmp_path / "README.md"
    path.write_text(readme(HEAD))
    quote(tmp_path / "report", path)
    text = path.read_text()
    assert f"code {code_sources()[:12]}" in text
    assert problem(text, this=outdated.code()) == ""
    assert made["totals"]["here"] == {"stand-in": {"REPRODUCED": 1}}
    assert "stand-in: 1 REPRODUCED" in text
    with pytest.raises(HistoryError, match="nothing to record"):
        record_folder(tmp_path / "report", tmp_path / "claims" / "history.json")
