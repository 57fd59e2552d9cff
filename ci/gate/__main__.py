"""`python -m ci.gate --base REV`: both revisions built side by side, everything measured, one verdict.

Exit code 0: green, UNDECIDED included; 1: red; 2: the gate could not judge, or not time. With --warn only what needs no quiet
machine (machine code, weight, MISSING and WRONG) is red, and a machine that is too busy is no error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ci.gate import footprint, gpu_code, machine_code, record, thresholds
from ci.gate.fault_injection import inject
from ci.gate.judgement import Outcome
from ci.gate.latency import judge_latency
from ci.gate.noise import record_noise
from ci.gate.revisions import GateError, Revision, base_revision, build, head_revision, sole_user
from ci.gate.summary import Findings, history_plot, markdown
from ci.gate.thresholds import Thresholds
from ci.gate.timing import BLOCKS, PAIRS, Comparison
from geluless.bench.environment import cpu_model
from geluless.bench.intervals import FEWEST
from geluless.errors import GelulessError
from geluless.files import atomic_output

REPOSITORY = Path(__file__).parents[2]
THRESHOLDS = REPOSITORY / "ci" / "thresholds.toml"
HOME = REPOSITORY / ".build" / "gate"
REPORT = REPOSITORY / "report" / "gate"
FAULTS = ("slowdown", "spill", "float", "layout16")
RESULTS = ("gate.json", "gate.md", "history.svg")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    alone = [name for name in ("only", "benchmark", "fault", "warn", "base", "seed") if getattr(options, name)]
    if options.noise and alone:
        parser.error(f"--noise times everything and judges nothing: leave out --{alone[0]}")
    for name in RESULTS:  # what an earlier run has left must not pass for this one's
        (options.output / name).unlink(missing_ok=True)
    try:
        with sole_user(options.home):
            if options.noise:
                budget = {"runs": options.noise, "pairs": options.pairs, "blocks": options.blocks}
                record_noise(REPOSITORY, options.home, options.output, options.thresholds, announce=_say, **budget)
                return 0
            return _gate(options)
    except (GelulessError, OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        _say(str(error))
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "gate.md").write_text(f"## Gate: it could not judge\n\n{error}\n", encoding="utf-8")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gate", description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--base", metavar="REV", help="commit to compare the working tree with (HEAD)")
    parser.add_argument("--only", choices=("latency", "deterministic"), help="one half of the gate")
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME", help="time only this one; may be repeated")
    parser.add_argument("--warn", action="store_true", help="red latency, or none, exits 0: for machines shared with others")
    parser.add_argument("--pairs", type=_at_least(FEWEST), default=PAIRS, help=f"pairs of processes (default: {PAIRS})")
    parser.add_argument("--blocks", type=_at_least(1), default=BLOCKS, help=f"of each pair (default: {BLOCKS})")
    parser.add_argument("--seed", type=int, default=0, help="of the order of samples")
    runs = _at_least(thresholds.MIN_RUNS)
    parser.add_argument("--noise", type=runs, metavar="RUNS", help="time the tree against itself and write the thresholds")
    parser.add_argument("--fault", choices=FAULTS, help="build the head with a fault, to test the gate")
    parser.add_argument("--thresholds", type=Path, default=THRESHOLDS, metavar="FILE")
    parser.add_argument(
        "--output", type=Path, default=REPORT, metavar="DIR", help="gate.json, gate.md, history/ (default: report/gate)"
    )
    parser.add_argument("--home", type=Path, default=HOME, metavar="DIR", help="where the revisions are built")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return number


def _gate(options: argparse.Namespace) -> int:
    base = base_revision(REPOSITORY, options.base or "HEAD", options.home)
    head = head_revision(REPOSITORY, options.home)
    limits, notes = _limits(options, base)
    _say(f"base {base}, head {head}: building where needed")
    build(base)
    if options.fault:
        inject(head, options.fault)
    build(head)
    found = Findings(str(base), f"{head}{f', with the fault {options.fault}' if options.fault else ''}", notes=notes)
    if options.only != "latency":
        _deterministic(found, base, head, limits)
    timed: Comparison | None = None
    if options.only != "deterministic":
        budget = {"pairs": options.pairs, "blocks": options.blocks, "seed": options.seed}
        timed, found.latency = judge_latency(base, head, limits, names=options.benchmark, announce=_say, **budget)
        found.disturbed = timed.disturbed
        found.notes += [f"NOT JUDGED: {timed.disturbed}"] if timed.disturbed else []
        found.notes += [f"the instruction set is another: {timed.isa}"] if " -> " in timed.isa else []
        found.notes += [f"{timed.dropped} blocks were dropped: other processes were busy"] if timed.dropped else []
        found.notes += _foreign_thresholds(limits)
    return _write(options, found, base, head, timed)


def _limits(options: argparse.Namespace, base: Revision) -> tuple[Thresholds, list[str]]:
    """The base's thresholds, so that a change cannot raise its own; with a note where it tries."""
    mine = thresholds.read(options.thresholds)
    theirs = base.source / "ci" / THRESHOLDS.name
    if options.thresholds != THRESHOLDS or not theirs.exists():
        return mine, []
    try:
        limits = thresholds.read(theirs)
    except GateError as error:  # of another form, which the head may be about to change
        return mine, [f"the base's thresholds cannot be read here, the head's count: {error}"]
    changed = mine != limits
    return limits, ["the head has other thresholds than the base, whose count here"] if changed else []


def _deterministic(found: Findings, base: Revision, head: Revision, limits: Thresholds) -> None:
    growth = limits.code.get("instructions", machine_code.GROWTH)
    _say("counting instructions, spills and floats")
    before, after = (machine_code.disassembled(side.objects) for side in (base, head))
    found.code = machine_code.compare(before, after, growth=growth)
    try:
        earlier = gpu_code.records(base)
    except GateError as error:  # of another form, which the head may be about to change
        earlier = {}
        found.notes.append(f"GPU machine code NOT COMPARED: {error}")
    found.gpu, notes = gpu_code.compare(earlier, gpu_code.records(head), growth=growth)
    found.notes += notes
    _say("weighing wheel, artifact and imports")
    found.weights = footprint.weigh(base, head, limits.footprint)


def _foreign_thresholds(limits: Thresholds) -> list[str]:
    """A note where the thresholds are of another processor."""
    made_on = str(limits.noise.get("cpu", "an unknown processor"))
    return [] if made_on == cpu_model() else [f"the thresholds come from the noise of {made_on}; this is {cpu_model()}"]


def _write(options: argparse.Namespace, found: Findings, base: Revision, head: Revision, timed: Comparison | None) -> int:
    failures = found.failures
    options.output.mkdir(parents=True, exist_ok=True)
    if timed is not None and timed.samples is not None and found.latency is not None and _for_the_history(options):
        _say(f"record: {record.save(record.benchmark_json(head, base, timed, found.latency), options.output / 'history')}")
    files = {"gate.json": json.dumps(_json(found), indent=1) + "\n", "gate.md": markdown(found)}
    points, refused = record.history(options.output / "history")
    if plot := history_plot(points):
        files["history.svg"] = plot
    for name, text in files.items():
        with atomic_output(options.output / name) as partial:
            partial.write_text(text, encoding="utf-8")
    for line in refused:
        _say(f"not in the history: {line}")
    print(files["gate.md"])
    _say(f"{found.verdict}; {options.output / 'gate.md'}")
    if options.warn:
        return int(any(not line.startswith(f"{Outcome.REGRESSED}:") for line in failures))
    return 1 if failures else 2 if found.disturbed else 0


def _for_the_history(options: argparse.Namespace) -> bool:
    """Only whole runs of real revisions."""
    return not (options.fault or options.benchmark)


def _json(found: Findings) -> dict[str, Any]:
    latency = None if found.latency is None else [asdict(judgement) for judgement in found.latency.values()]
    return {
        "base": found.base,
        "head": found.head,
        "red": bool(found.failures),
        "disturbed": found.disturbed,
        "failures": found.failures,
        "latency": latency,
        "code": None if found.code is None else [asdict(change) for change in found.code],
        "gpu": None if found.gpu is None else [asdict(change) for change in found.gpu],
        "weights": None if found.weights is None else [asdict(weight) for weight in found.weights],
        "notes": found.notes,
    }


def _say(line: str) -> None:
    print(f"gate: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
