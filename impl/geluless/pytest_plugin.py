"""Claims as tests, with their own outcomes: R reproduced, X refuted, U undecided, N needs something, E the check is broken.

Loaded by claims/conftest.py. A test in a file test_cNN_*.py beside a claims.toml takes the `claim` fixture and delivers
exactly one verdict. A skip, an xfail, a silent return and any exception are errors of the check, not findings. REFUTED
fails the run unless the row expects it (then REPRODUCED fails); UNDECIDED and NEEDS fail with --require-all only.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geluless.verdicts.claim_fixture import ClaimFixture, ClaimProtocolError
from geluless.verdicts.constant_controls import constant_controls
from geluless.verdicts.registry import Claim, RegistryError, claim_of_file, load_registry
from geluless.verdicts.resources import CARD
from geluless.verdicts.verdict import Record

LETTERS = {"REPRODUCED": "R", "REFUTED": "X", "UNDECIDED": "U", "ERROR": "E"}  # and N for every NEEDS_x
COLOURS = {"reproduced": "green", "refuted": "red", "undecided": "yellow", "error": "red", "needs": "cyan"}
PAPER_TIERS = ("imagenet", CARD)  # where the paper's own statements are judged


class ClaimRun:
    """Everything one pytest run learns about claims; `report_data` is what plots and tables are drawn from."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = time.time()
        self.registries: dict[Path, dict[str, Claim]] = {}
        self.records: dict[str, Record] = {}  # by node id
        self.report_data: dict[str, Any] = {}
        self.deselected = 0
        self.interrupted = False
        self.written: Path | None = None

    def row_of(self, item: pytest.Item) -> Claim | None:
        """The registry row an item belongs to; None for ordinary tests."""
        identifier, folder = claim_of_file(item.path), item.path.parent
        if identifier is None or not (folder / "claims.toml").is_file():
            return None
        if folder not in self.registries:
            self.registries[folder] = {row.id: row for row in load_registry(folder / "claims.toml")}
        if identifier not in self.registries[folder]:
            raise pytest.UsageError(f"{item.path.name} has no row {identifier} in {folder / 'claims.toml'}")
        return self.registries[folder][identifier]

    @property
    def rows(self) -> tuple[Claim, ...]:
        return tuple(row for rows in self.registries.values() for row in rows.values())

    @property
    def totals(self) -> dict[str, Any]:
        from geluless.report.board import totals

        return totals(self.rows, tuple(self.records.values()))

    def why_partial(self) -> tuple[str, ...]:
        """Reasons why this run does not speak for the whole registry; empty when it does."""
        reasons = []
        if chosen := self.config.getoption("claim"):
            reasons.append(f"only {', '.join(sorted(set(chosen)))} chosen by --claim")
        elif self.deselected:
            reasons.append(f"{self.deselected} claim tests deselected")
        judged = {record.claim for record in self.records.values()}
        absent = [row.id for row in self.rows if row.id not in judged]
        if absent and not reasons:
            reasons.append(f"not run: {', '.join(absent)}")
        if self.interrupted:
            reasons.append("interrupted")
        if reduced := self.report_data.get("reduced"):
            reasons.append(f"reduced for testing: {reduced}")
        return tuple(reasons)


RUN = pytest.StashKey[ClaimRun]()
FIXTURE = pytest.StashKey[ClaimFixture]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("claims", "verdicts on the paper's claims")
    group.addoption("--claim", action="append", default=[], metavar="cNN", help="run only this claim (repeatable)")
    group.addoption("--full", action="store_true", help="every recipe at every size, whatever it takes")
    group.addoption("--require-all", action="store_true", help="UNDECIDED and NEEDS_x fail the run as well")
    group.addoption("--report-dir", default="report", metavar="DIR", help="where claims.{md,json,html} go (default: report)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = ClaimRun(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run = config.stash[RUN]
    rows: dict[str, Claim | None] = {}
    try:
        for item in items:
            row = rows[item.nodeid] = run.row_of(item)
            if row is not None:
                row.kind_of(_name(item))
    except RegistryError as error:
        raise pytest.UsageError(str(error)) from error
    chosen = set(config.getoption("claim"))
    if not chosen:
        return
    known = {row.id for row in run.rows}
    if unknown := sorted(chosen - known):
        raise pytest.UsageError(f"--claim {unknown[0]}: the registry has {', '.join(sorted(known)) or 'no rows here'}")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        row = rows[item.nodeid]
        (kept if row is not None and row.id in chosen else dropped).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        run = item.config.stash[RUN]
        run.deselected += run.row_of(item) is not None


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> ClaimFixture:
    """The row of claims.toml that the test file's name carries, ready to take one verdict."""
    row = request.config.stash[RUN].row_of(request.node)
    if row is None:
        raise ClaimProtocolError(f"{request.node.path.name}: the claim fixture works in test_cNN_*.py beside a claims.toml")
    if lines := constant_controls(request.node.path):
        where = f"{request.node.path.name}, line {', '.join(map(str, lines))}"
        raise ClaimProtocolError(f"{where}: a control whose outcome is written down cannot fail: let it be found")
    fixture = ClaimFixture(row, item=_name(request.node), node=request.node.nodeid, full=request.config.getoption("full"))
    request.node.stash[FIXTURE] = fixture
    return fixture


@pytest.fixture(scope="session")
def report_data(pytestconfig: pytest.Config) -> dict[str, Any]:
    """What the report draws its plots and tables from; JSON values only."""
    return pytestconfig.stash[RUN].report_data


@pytest.fixture(scope="session")
def announce(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Print one line on the terminal now, whatever pytest captures: a run of minutes must not look dead."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def line(text: str) -> None:
        if reporter is None:
            return
        if capture is None:
            reporter.ensure_newline()
            reporter.write_line(text)
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(text, flush=True)

    return line


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    run = item.config.stash[RUN]
    row = run.row_of(item)
    if row is None or (report.when != "call" and report.outcome == "passed"):
        return report
    record = _record(item, row, call, report)
    run.records[item.nodeid] = record
    report.claim_status, report.claim_kind = record.status, record.kind  # type: ignore[attr-defined]
    properties = {"claim": row.id, "kind": record.kind, "verdict": record.status, "finding": record.sentence}
    item.user_properties += properties.items()
    report.user_properties = list(item.user_properties)
    if reason := _why_it_fails(record, row, require_all=item.config.getoption("require_all")):
        report.outcome = "failed"
        if record.status != "ERROR" or not report.longrepr or isinstance(report.longrepr, tuple):
            report.longrepr = f"{row.id} {record.item}: {reason}"
    else:
        report.outcome = "passed"
        report.longrepr = None
    return report


def _record(item: pytest.Item, row: Claim, call: pytest.CallInfo[None], report: pytest.TestReport) -> Record:
    fixture = item.stash.get(FIXTURE, None)
    name = _name(item)
    broken = Record(row.id, name, item.nodeid, "ERROR", "", kind=row.kind_of(name), seconds=call.duration)
    if hasattr(report, "wasxfail"):
        del report.wasxfail
        return replace(broken, sentence='a claim is never marked xfail: say expected = "refuted: why" in its row')
    if call.excinfo is not None:
        if report.outcome == "skipped":
            return replace(broken, sentence=f"a claim is never skipped ({call.excinfo.value}): call claim.needs(...)")
        text = str(call.excinfo.value).strip() or call.excinfo.typename
        return replace(broken, sentence=f"{report.when}: {call.excinfo.typename}: {text.splitlines()[0]}")
    if fixture is None or fixture.record is None:
        return replace(broken, sentence="the test returned without a verdict")
    evidence = fixture.record.evidence
    if fixture.record.kind == "paper" and evidence is not None and evidence.tier not in PAPER_TIERS:
        where = f"judged on {evidence.tier!r}: the paper's own statement is judged on {' or '.join(PAPER_TIERS)}"
        return replace(broken, sentence=f'{where}; its kind in the registry is not "paper"')
    return replace(fixture.record, seconds=fixture.record.seconds or call.duration)


def _name(item: pytest.Item) -> str:
    """What the registry calls a check: its test's name, without test_."""
    return item.name.removeprefix("test_")


def _why_it_fails(record: Record, row: Claim, *, require_all: bool) -> str:
    """Empty when the outcome does not fail the run."""
    if record.status == "ERROR":
        return f"ERROR, the check is broken: {record.sentence}"
    expected = row.expectation(record.item)
    if record.status == "REFUTED" and not expected:
        return f"REFUTED ({record.kind}): {record.sentence}"
    if record.status == "REPRODUCED" and expected.startswith("refuted"):
        return f"REPRODUCED although the registry says {expected!r}: {record.sentence}"
    if require_all and (record.status == "UNDECIDED" or record.status.startswith("NEEDS_")):
        return f"{record.status}, and --require-all was given: {record.sentence}"
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    folder = collector.path.parent
    if report.outcome == "skipped" and claim_of_file(collector.path) and (folder / "claims.toml").is_file():
        report.outcome = "failed"
        report.longrepr = f"{collector.path.name}: a claim's file is never skipped; its tests call claim.needs(...)"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, Any] | None:
    status, kind = getattr(report, "claim_status", None), getattr(report, "claim_kind", "")
    if status is None:
        return None
    from geluless.report.board import shown, tone

    letter = LETTERS.get(status, "N")
    # pytest counts by category: what is no verdict on the paper's own statement is not counted with those that are.
    category = {"N": "needs", "E": "error"}.get(letter, f"{kind} {shown(status, kind).lower()}")
    colour = COLOURS.get(tone(status, kind))
    return category, letter, (f"{shown(status, kind)} ({kind})", {colour: True} if colour else {})


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    run = session.config.stash[RUN]
    if not run.records or session.config.getoption("collectonly"):
        return
    from geluless.report import write_report
    from geluless.report.board import totals_lines

    run.interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or bool(session.shouldstop or session.shouldfail)
    for paper_or_here, text in zip(("paper", "here"), totals_lines(run.totals), strict=True):
        for junit in session.config.pluginmanager.get_plugins():
            if hasattr(junit, "add_global_property"):  # pytest's writer of --junitxml, which has no public name
                junit.add_global_property(paper_or_here, text)
    folder = session.config.rootpath / session.config.getoption("report_dir")
    partial = run.why_partial()
    # A partial run has its own place: it must not replace the report of a full one.
    run.written = write_report(
        tuple(run.records.values()),
        folder / "partial" if partial else folder,
        claims=run.rows,
        report_data=run.report_data,
        partial=partial,
        started=run.started,
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if not run.records:
        return
    from geluless.report.board import totals_lines
    from geluless.report.terminal import claims_table

    writer = config.get_terminal_writer()
    terminalreporter.section("claims")
    stream = io.StringIO()
    claims_table(tuple(run.records.values()), run.rows, stream, width=writer.fullwidth, colour=writer.hasmarkup)
    terminalreporter.write(stream.getvalue())
    for text in totals_lines(run.totals):
        terminalreporter.write_line(text)
    for reason in run.why_partial():
        terminalreporter.write_line(f"PARTIAL RUN: {reason}")
    if run.written is not None:
        terminalreporter.write_line(f"report: {run.written / 'claims.html'} (also .md, .json)")
