"""The rules of the game, each on a small claims folder of its own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.verdicts.test_registry import ROW

pytest_plugins = ("pytester",)

HEAD = """
import pytest
from geluless.verdicts import Control, Estimate, Evidence, Judgement, Resource, Verdict

def evidence(held=True):
    return Evidence(ran="a fair coin", tier="any CPU", seconds=1.0, control=Control("two heads", "seen", held),
                    artifacts={"coin": "ab" * 32})

def judgement(verdict, n_needed=None):
    return Judgement(verdict, "drop 0.1 pp", (Estimate("drop", 0.1, 0.0, 0.2, "pp", 100, 0.5),), n_needed)
"""

BODIES = {
    "reproduced": "claim.decide(judgement(Verdict.REPRODUCED), evidence())",
    "refuted": "claim.decide(judgement(Verdict.REFUTED), evidence())",
    "undecided": "claim.decide(judgement(Verdict.UNDECIDED, 12345), evidence())",
    "needs": "claim.needs(Resource.CHECK, would_run='all of it')",
    "silent": "pass",
    "skips": "pytest.skip('no time')",
    "xfails": "pytest.xfail('no hope')",
    "raises": "raise RuntimeError('worker died')",
    "fails": "assert 1 == 2",
    "twice": "claim.needs(Resource.CHECK, would_run='x'); claim.needs(Resource.CHECK, would_run='x')",
    "control": "claim.decide(judgement(Verdict.REPRODUCED), evidence(held=False))",
    "unclear": "claim.decide(judgement(Verdict.REPRODUCED), evidence(held=None))",
    "unclear refutation": "claim.decide(judgement(Verdict.REFUTED), evidence(held=None))",
    "written down": "claim.decide(judgement(Verdict.REPRODUCED), evidence(held=Control('a', 'b', 1 == 1).held))",
}


class Suite:
    """A claims folder with one row and one test file per given body."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.mkdir("claims")

    def run(self, *bodies: str, extra: str = "", kind: str = "stand-in", arguments: tuple[str, ...] = ()) -> pytest.RunResult:
        rows = ""
        for number, body in enumerate(bodies, start=1):
            rows += ROW.format(id=f"c{number:02}").replace("stand-in", kind) + extra
            test = f"{HEAD}\ndef test_it(claim):\n    {BODIES.get(body, body)}\n"
            (self.folder / f"test_c{number:02}_x.py").write_text(test, encoding="utf-8")
        (self.folder / "claims.toml").write_text(rows, encoding="utf-8")
        return self.again(*arguments)

    def again(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest("claims", "-p", "geluless.pytest_plugin", "-p", "no:cacheprovider", *arguments)

    def report(self, folder: str = "report") -> dict[str, Any]:
        document = json.loads((self.pytester.path / folder / "claims.json").read_text(encoding="utf-8"))
        assert isinstance(document, dict)
        return document

    def statuses(self, folder: str = "report") -> list[str]:
        return [record["status"] for row in self.report(folder)["claims"] for record in row["records"]]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)


@pytest.mark.parametrize(
    ("body", "status", "letter", "passes"),
    [
        ("reproduced", "REPRODUCED", "R", True),
        ("refuted", "REFUTED", "X", False),
        ("undecided", "UNDECIDED", "U", True),
        ("needs", "NEEDS_CHECK", "N", True),
        ("silent", "ERROR", "E", False),
        ("skips", "ERROR", "E", False),
        ("xfails", "ERROR", "E", False),
        ("raises", "ERROR", "E", False),
        ("fails", "ERROR", "E", False),
        ("twice", "ERROR", "E", False),
        ("control", "ERROR", "E", False),
        ("unclear", "UNDECIDED", "U", True),
        ("unclear refutation", "UNDECIDED", "U", True),
        ("written down", "ERROR", "E", False),
    ],
)
def test_each_outcome_has_its_letter_and_exit_status(suite: Suite, body: str, status: str, letter: str, passes: bool) -> None:
    result = suite.run(body)
    assert result.ret == (0 if passes else 1)
    result.stdout.fnmatch_lines([f"*test_c01_x.py {letter} *", f"*1 {status}*", "report: *claims.html*"])
    assert suite.statuses() == [status]
    assert not any("skipped" in line or "passed" in line for line in result.stdout.lines[-1:])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("silent", "returned without a verdict"),
        ("skips", "a claim is never skipped"),
        ("xfails", "a claim is never marked xfail"),
        ("raises", "RuntimeError: worker died"),
        ("twice", "a test delivers one verdict"),
        ("written down", "line 13: a control whose outcome is written down cannot fail"),
        ("control", "the control did not hold"),
    ],
)
def test_an_error_says_what_is_broken(suite: Suite, body: str, reason: str) -> None:
    suite.run(body).stdout.fnmatch_lines([f"*{reason}*"])
    assert reason in suite.report()["claims"][0]["records"][0]["sentence"]


def test_a_control_that_could_not_tell_says_so(suite: Suite) -> None:
    suite.run("unclear")
    sentence = suite.report()["claims"][0]["records"][0]["sentence"]
    assert sentence == "drop 0.1 pp; not called REPRODUCED, because its control could not tell: seen"


def test_verbose_words_are_the_verdicts(suite: Suite) -> None:
    result = suite.run("reproduced", "needs", arguments=("-v",))
    result.stdout.fnmatch_lines(
        ["*test_c01_x.py::test_it REPRODUCED (stand-in)*", "*test_c02_x.py::test_it NEEDS_CHECK (stand-in)*"]
    )


def test_a_marker_that_skips_is_an_error_too(suite: Suite) -> None:
    suite.run("needs")
    path = suite.folder / "test_c01_x.py"
    path.write_text(path.read_text(encoding="utf-8").replace("def test_it", "@pytest.mark.skip\ndef test_it"), encoding="utf-8")
    assert suite.again().ret == 1
    assert suite.statuses() == ["ERROR"]


def test_a_file_that_skips_itself_is_an_error(suite: Suite) -> None:
    suite.run("needs")
    (suite.folder / "test_c01_x.py").write_text("import pytest\npytest.skip('no', allow_module_level=True)\n", encoding="utf-8")
    result = suite.again()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*a claim's file is never skipped*"])


def test_a_broken_fixture_is_an_error_with_its_message(suite: Suite) -> None:
    suite.run("needs")
    path = suite.folder / "test_c01_x.py"
    fixture = "\n@pytest.fixture\ndef evil():\n    raise OSError('disk full')\n"
    path.write_text(HEAD + fixture + "\ndef test_it(claim, evil):\n    pass\n", encoding="utf-8")
    assert suite.again().ret == 1
    assert "disk full" in suite.report()["claims"][0]["records"][0]["sentence"]


def test_an_expected_refutation_passes_and_its_reproduction_fails(suite: Suite) -> None:
    expected = 'expected = "refuted: fused GELU is as fast"\n'
    assert suite.run("refuted", extra=expected).ret == 0
    assert suite.run("refuted", extra='expected_items = {it = "refuted: fused GELU is as fast"}\n').ret == 0
    assert suite.run("refuted", extra='expected_items = {another = "refuted: fused GELU is as fast"}\n').ret == 1
    result = suite.run("reproduced", extra=expected)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*REPRODUCED*"])


@pytest.mark.parametrize("body", ["undecided", "needs"])
def test_require_all_fails_what_is_not_decided(suite: Suite, body: str) -> None:
    assert suite.run(body).ret == 0
    assert suite.again("--require-all").ret == 1
    assert suite.run("reproduced", arguments=("--require-all",)).ret == 0


def test_claim_chooses_rows_and_never_replaces_a_full_report(suite: Suite) -> None:
    suite.run("reproduced", "needs", "undecided")
    full = (suite.pytester.path / "report" / "claims.json").read_bytes()
    result = suite.again("--claim", "c02", "--claim", "c03")
    result.stdout.fnmatch_lines(["PARTIAL RUN: only c02, c03 chosen by --claim"])
    assert (suite.pytester.path / "report" / "claims.json").read_bytes() == full
    partial = suite.report("report/partial")
    assert partial["claims_run"] == ["c02", "c03"]
    assert partial["partial"]
    assert suite.report()["partial"] == []


@pytest.mark.parametrize("arguments", [("-k", "c01"), ("claims/test_c01_x.py",)])
def test_any_other_selection_is_partial_as_well(suite: Suite, arguments: tuple[str, ...]) -> None:
    suite.run("reproduced", "needs")
    full = (suite.pytester.path / "report" / "claims.json").read_bytes()
    if arguments[0] == "-k":
        suite.again(*arguments)
    else:
        suite.pytester.runpytest(*arguments, "-p", "geluless.pytest_plugin", "-p", "no:cacheprovider")
    assert (suite.pytester.path / "report" / "claims.json").read_bytes() == full
    assert suite.report("report/partial")["claims_run"] == ["c01"]


def test_an_unknown_claim_is_a_usage_error(suite: Suite) -> None:
    result = suite.run("reproduced", arguments=("--claim", "c77"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--claim c77*c01*"])


def test_a_file_without_row_is_a_usage_error(suite: Suite) -> None:
    suite.run("reproduced")
    (suite.folder / "test_c55_x.py").write_text("def test_it(): pass\n", encoding="utf-8")
    assert suite.again().ret == pytest.ExitCode.USAGE_ERROR


def test_ordinary_tests_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('fine here')\n")
    pytester.runpytest("-p", "geluless.pytest_plugin").assert_outcomes(passed=1, skipped=1)
    assert not (pytester.path / "report").exists()


def test_junit_carries_the_verdict(suite: Suite) -> None:
    suite.run("refuted", "needs", arguments=("--junitxml", "junit.xml"))
    cases = ElementTree.parse(suite.pytester.path / "junit.xml").findall(".//testcase")
    verdicts = [prop.get("value") for case in cases for prop in case.iter("property") if prop.get("name") == "verdict"]
    assert verdicts == ["REFUTED", "NEEDS_CHECK"]
    kinds = [prop.get("value") for case in cases for prop in case.iter("property") if prop.get("name") == "kind"]
    assert kinds == ["stand-in", "stand-in"]
    of_the_run = ElementTree.parse(suite.pytester.path / "junit.xml").findall("./testsuite/properties/property")
    counts = {prop.get("name"): prop.get("value") or "" for prop in of_the_run}
    assert counts.keys() == {"paper", "here"}
    assert "of 2 claims that the paper states, judged: 0, not judged: 2 (2 NEEDS_CHECK)" in counts["paper"]
    assert "stand-in: 1 NEEDS_CHECK, 1 REFUTED" in counts["here"]
    assert [len(case.findall("failure")) for case in cases] == [1, 0]
    assert not ElementTree.parse(suite.pytester.path / "junit.xml").findall(".//skipped")


def test_the_record_keeps_numbers_hashes_and_the_control(suite: Suite) -> None:
    suite.run("undecided")
    (record,) = suite.report()["claims"][0]["records"]
    assert record["numbers"][0] == {
        "name": "drop", "value": 0.1, "low": 0.0, "high": 0.2, "unit": "pp", "n": 100, "margin": 0.5,
    }  # fmt: skip
    assert record["n_needed"] == 12345
    assert record["evidence"]["artifacts"] == {"coin": "ab" * 32}
    assert record["evidence"]["control"] == {"what": "two heads", "observed": "seen", "held": True}


def test_needs_probes_and_is_honest_when_only_the_check_is_missing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GELULESS_IMAGENET", raising=False)
    body = "claim.needs(Resource.IMAGENET, would_run='judge it')"
    suite.run(body)
    assert suite.statuses() == ["NEEDS_IMAGENET"]
    root = suite.pytester.path / "imagenet"
    for index in range(1000):
        (root / "val" / f"n{index:08}").mkdir(parents=True)
    monkeypatch.setenv("GELULESS_IMAGENET", str(root))
    suite.again()
    assert suite.statuses() == ["NEEDS_CHECK"]
    (root / "val" / "n00000000").rmdir()
    suite.again()
    assert "999 class folders" in suite.report()["claims"][0]["records"][0]["missing"]


def test_progress_is_visible_although_output_is_captured(suite: Suite) -> None:
    suite.run("needs")
    path = suite.folder / "test_c01_x.py"
    body = "def test_it(claim, announce):\n    announce('half of it is done')\n    claim.needs(Resource.CHECK, would_run='x')\n"
    path.write_text(f"{HEAD}\n{body}", encoding="utf-8")
    suite.again().stdout.fnmatch_lines(["half of it is done"])


def test_nothing_is_written_by_a_mere_collection(suite: Suite) -> None:
    suite.run("needs", arguments=("--collect-only",))
    assert not Path(suite.pytester.path / "report").exists()


def test_a_check_without_a_kind_is_a_usage_error_that_says_what_to_write(suite: Suite) -> None:
    suite.run("reproduced")
    path = suite.folder / "test_c01_x.py"
    path.write_text(f"{path.read_text(encoding='utf-8')}\ndef test_another(claim):\n    pass\n", encoding="utf-8")
    result = suite.again()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['*c01: the check another has no kind: add another = "KIND" to its row\'s kinds*stand-in: *'])


def test_a_registry_without_kinds_is_a_usage_error(suite: Suite) -> None:
    suite.run("reproduced")
    registry = suite.folder / "claims.toml"
    registry.write_text(registry.read_text(encoding="utf-8").replace('kinds = { it = "stand-in" }', ""), encoding="utf-8")
    result = suite.again()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'kinds' is missing*"])


def test_the_papers_own_statement_is_not_judged_on_another_tier(suite: Suite) -> None:
    assert suite.run("reproduced", kind="paper").ret == 1
    assert suite.statuses() == ["ERROR"]
    assert "judged on 'any CPU'" in suite.report()["claims"][0]["records"][0]["sentence"]
    for tier in ("imagenet", "NVIDIA GeForce RTX 4090"):
        body = f"claim.decide(judgement(Verdict.REPRODUCED), __import__('dataclasses').replace(evidence(), tier={tier!r}))"
        assert suite.run(body, kind="paper").ret == 0
        assert suite.statuses() == ["REPRODUCED"]


def test_what_is_no_verdict_on_the_papers_statement_is_counted_apart(suite: Suite) -> None:
    result = suite.run("reproduced", "reproduced")
    result.stdout.fnmatch_lines(
        [
            "The paper's own statement: of 2 claims that the paper states, judged: 0, not judged: 2 (2 NEEDS_CHECK)*",
            "What was judged here, in checks: stand-in: 2 REPRODUCED.",
            "*2 stand-in reproduced*",
        ]
    )


def test_a_transfer_that_does_not_hold_here_refutes_nothing(suite: Suite) -> None:
    """The paper's own check lies beside it and needs a GPU: the claim is not judged, whatever the transfer says."""
    suite.run("refuted", kind="transfer")
    registry, path = suite.folder / "claims.toml", suite.folder / "test_c01_x.py"
    kinds = 'kinds = { it = "transfer", on = "paper" }\nexpected_items = { it = "open: another machine" }'
    text = registry.read_text(encoding="utf-8").replace('kinds = { it = "transfer" }', kinds)
    registry.write_text(text, encoding="utf-8")
    check = "def test_on_a_card(claim):\n    claim.needs(Resource.RUNNER_RECORDS, would_run='all')\n"
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{check}", encoding="utf-8")
    result = suite.again("-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_it NOT HERE (transfer)*", "*NEEDS_GPU (paper)*", "*not judged: 1 (1 NEEDS_GPU)*"])
    headline = suite.report()["claims"][0]["headline"]
    assert headline["paper"]["status"] == "NEEDS"
    assert headline["here"]["transfer"]["status"] == "REFUTED"
    assert {record["kind"] for record in suite.report()["claims"][0]["records"]} == {"transfer", "paper"}


@pytest.mark.parametrize("body", ["raises", "skips", "silent"])
def test_a_broken_check_has_its_kind(suite: Suite, body: str) -> None:
    suite.run(body, kind="arithmetic")
    assert suite.report()["claims"][0]["records"][0]["kind"] == "arithmetic"
    assert suite.report()["totals"]["here"] == {"arithmetic": {"ERROR": 1}}
