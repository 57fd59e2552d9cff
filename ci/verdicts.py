"""Judges what the RTX 4090 runner has measured: `python -m ci.verdicts [FOLDER]`, on another machine than the one that measured.

Reads the folder that `nox -s preflight` and `nox -s gpu` leave (preflight.json, watchdog.*, *.bench.json), writes verdicts.md
and verdicts.json beside them. A record that is not valid gets no verdict, and one that is missing is not valid. Exit code 1 where
there is such a one: what a valid record says, REFUTED included, is a result and no failure.

The paper's bound is judged for every size and batch as the engine is meant to run: as a CUDA graph, with warm caches. A record is
of one process, and its interval of that process's blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ci.runner.preflight import DEVICE, HARMLESS, bits
from geluless.bench.intervals import Interval, ratio
from geluless.bench.networks import RANDOM, SIZES
from geluless.bench.record import Record, read_record
from geluless.errors import GelulessError
from geluless.files import atomic_output, read_json
from geluless.verdicts.latency import PAPER_RATIO

FOLDER = Path(__file__).parents[1] / "report" / "gpu"
CLOCKS = ("clocks.sm", "clocks.mem")
CLOCK_SPREAD = 0.01  # of a clock, from the least to the most while something was timed
CHECKED = ("device", "clocks.sm", "clocks.mem", "not throttled")  # how the preflight's checks begin that must be there
UNWATCHED = timedelta(seconds=150)  # the watchdog writes once a minute
BASELINE = "gelu-separate"  # FasterTransformer's structure in our engine, which the bound is about
MODELS = tuple(SIZES.values())
BATCHES = (1, 8, 16, 32, 64)
MEANT = "graph, hot"  # how the engine is meant to run


@dataclass(frozen=True)
class Row:
    """verdict: REPRODUCED, REFUTED or UNDECIDED against the paper's bound; "" for a rival that the paper says nothing about;
    INVALID with the reasons."""

    name: str
    model: str
    batch: int
    variants: str
    mode: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    when: datetime
    foreign: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """What vouches for the records: when the preflight was, what it found wrong, and what the watchdog saw since."""

    since: datetime | None
    wrong: tuple[str, ...]
    looks: tuple[Look, ...]


def judge(folder: Path) -> list[Row]:
    """One row per record, and one per record of the paper's comparison that is missing. Raises GelulessError without records."""
    paths = sorted(folder.glob("*.bench.json"))
    if not paths:
        raise GelulessError(f"{folder} holds no *.bench.json: nothing was measured")
    machine = _machine(folder)
    rows = [_row(path, machine) for path in paths]
    there = {(row.model, row.batch) for row in rows if row.variants == f"relu / {BASELINE}" and row.mode == MEANT}
    missing = [(model, batch) for model in MODELS for batch in BATCHES if (model, batch) not in there]
    return rows + [
        Row("", model, batch, f"relu / {BASELINE}", MEANT, None, None, None, "INVALID", ("was not measured",))
        for model, batch in missing
    ]


def _row(path: Path, machine: Machine) -> Row:
    name = path.name.removesuffix(".bench.json")
    try:
        record = read_record(path)
        first, other = record.candidates
        found = ratio(record.timed(), str(first["name"]), str(other["name"]))  # from the samples, whatever else it says
        gpu = record.environment.get("gpu")
        reasons = [*machine.wrong, *_device(gpu), *_watched(record, machine)]
        reasons += [f"{row['name']} is not verified" for row in (first, other) if row["verified"] is not True]
        variants = f"{first['variant']} / {other['variant']}"
        mode = _mode(gpu)
        if not all(math.isfinite(bound) and bound > 0 for bound in (found.low, found.high)):
            raise ValueError("its samples are no times")
    except (GelulessError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Row(name, "", 0, "", "", None, None, None, "INVALID", (f"no record of a comparison: {error}",))
    judged = variants == f"relu / {BASELINE}" and mode == MEANT
    verdict = "INVALID" if reasons else _verdict(found) if judged else ""
    values = (found.value, found.low, found.high)
    return Row(name, str(record.model).removesuffix(RANDOM), record.batch, variants, mode, *values, verdict, tuple(reasons))


def _verdict(found: Interval) -> str:
    return "REPRODUCED" if found.high <= PAPER_RATIO else "REFUTED" if found.low > PAPER_RATIO else "UNDECIDED"


def _mode(gpu: Any) -> str:
    if not isinstance(gpu, dict):
        return "unknown"
    return f"{'graph' if gpu.get('graph') is True else 'eager'}, {'hot' if gpu.get('cold_l2') is False else 'cold'}"


def _machine(folder: Path) -> Machine:
    looks = tuple(sorted((look for path in folder.glob("watchdog.*") for look in _looks(path)), key=lambda look: look.when))
    try:
        data = _json(folder / "preflight.json")
        since = _moment(data["time"])
        checks = {str(check["name"]): check for check in data["checks"]}
        wrong = [f"preflight: {name}: {check['found']}" for name, check in checks.items() if check["good"] is False]
        for begin in CHECKED:
            if not any(name.startswith(begin) and check["good"] is True for name, check in checks.items()):
                wrong.append(f"preflight: nothing vouches for {begin}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Machine(None, (f"no preflight: {error}",), looks)
    return Machine(since, tuple(wrong), looks)


def _device(gpu: Any) -> Iterator[str]:
    """Why the device's own account speaks against a record."""
    if not isinstance(gpu, dict) or not gpu.get("looks"):
        yield f"nothing is known of the device: {gpu.get('missing', '') if isinstance(gpu, dict) else 'no GPU was timed'}"
        return
    if gpu.get("missing"):
        yield f"the device did not answer all the time: {gpu['missing']}"
    if DEVICE not in str(gpu.get("name")):
        yield f"measured on {gpu.get('name')}, not on an {DEVICE}"
    if held := [reason for reason in gpu["throttle_reasons"] if bits(reason) & ~HARMLESS]:
        yield f"clocks were held down: {', '.join(held)}"
    for name in CLOCKS:
        clocks = gpu["ranges"].get(name)
        if not clocks:
            yield f"{name} is not known"
        elif not clocks[1] <= clocks[0] * (1 + CLOCK_SPREAD):
            yield f"{name} moved from {clocks[0]:g} to {clocks[1]:g} MHz"


def _watched(record: Record, machine: Machine) -> Iterator[str]:
    """Whether somebody looked all the time from the preflight on, and what was seen until the record was made."""
    end = _moment(record.made)
    if machine.since is None:
        return  # said already
    if end < machine.since:
        yield "it is older than the preflight"
        return
    before = [look for look in machine.looks if look.when <= machine.since][-1:]
    during = [look for look in machine.looks if machine.since < look.when <= end]
    times = [look.when for look in (*before, *during)]
    if not before or any(b - a > UNWATCHED for a, b in zip(times, [*times[1:], end], strict=True)):
        yield "nobody watched for foreign processes"
    if names := sorted({name for look in (*before, *during) for name in look.foreign}):
        yield f"other processes used the device: {', '.join(names)}"


def _looks(path: Path) -> Iterator[Look]:
    """Lines that are none are left out: a log that ends in the middle of one is still a log, and a gap is noticed."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            yield Look(_moment(event["time"]), tuple(str(process["name"]) for process in event["foreign"]))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue


def _moment(text: Any) -> datetime:
    """Raises ValueError for a time that does not say in which zone it is."""
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


def _json(path: Path) -> Mapping[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} is no object")
    return data


def markdown(rows: Sequence[Row]) -> str:
    paper = [row for row in rows if row.variants == f"relu / {BASELINE}" and row.mode == MEANT]
    invalid = sum(row.verdict == "INVALID" for row in rows)
    about = f"`relu` against `{BASELINE}`, FasterTransformer's structure in our engine; the bound is the paper's {PAPER_RATIO:g}."
    lines = [
        f"## RTX 4090: {_all(paper)}; {invalid} of {len(rows)} records are not valid",
        "",
        f"{about} Intervals are of one process's blocks.",
        "",
        "| model | batch | variants | mode | ratio | verdict | |",
        "|---|---:|---|---|---:|---|---|",
    ]
    for row in rows:
        figure = "–" if row.ratio is None else f"{row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]"
        cells = (row.model or row.name, str(row.batch), row.variants, row.mode, figure, row.verdict, "; ".join(row.reasons))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _all(paper: Sequence[Row]) -> str:
    """The claim is about every size: one configuration that misses it refutes it, one that is open or missing leaves it open."""
    verdicts = {row.verdict if row.verdict != "INVALID" else "UNDECIDED" for row in paper}
    return next((verdict for verdict in ("REFUTED", "UNDECIDED", "REPRODUCED") if verdict in verdicts), "nothing judged")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verdicts", description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    try:
        rows = judge(folder)
    except GelulessError as error:
        print(f"verdicts: {error}", file=sys.stderr)
        return 1
    for name, text in (("verdicts.md", markdown(rows)), ("verdicts.json", json.dumps([asdict(row) for row in rows], indent=1))):
        with atomic_output(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    print(markdown(rows))
    return int(any(row.verdict == "INVALID" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
