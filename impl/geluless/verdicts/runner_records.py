"""What the RTX 4090 runner has measured, as evidence of c06: judged on another machine than the one that measured.

Reads the folder that `nox -s preflight` and `nox -s gpu` leave: preflight.json, watchdog.*, and a *.bench.json for each
comparison of `geluless bench`. Of each size `relu` against `gelu-separate`, FasterTransformer's structure in our engine, and
against itself must be there at every batch, as the engine is meant to run: as a CUDA graph, with warm caches. FasterTransformer
itself does not run: whatever comes out is a transfer of the paper's claim and says so.

A record counts where the machine, its clocks and the watchdog vouch for it, where it is of FEWEST processes at least, over which
its interval is taken, and where both sides ran with tiles that were measured; one that does not, or that is missing, is an error
and no verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from geluless.bench.harness import Findings, Row
from geluless.bench.identity import RANDOM, problem_of
from geluless.bench.intervals import FEWEST
from geluless.bench.networks import SIZES
from geluless.bench.record import Record, read_record
from geluless.bench.telemetry import HARMLESS
from geluless.errors import GelulessError
from geluless.files import read_json
from geluless.sources import timing_sources
from geluless.verdicts.latency import at_every, eleven_percent_faster, ratio_estimate
from geluless.verdicts.planted import planted
from geluless.verdicts.resources import CARD
from geluless.verdicts.verdict import Evidence, Judgement

CLOCKS = ("clocks.sm", "clocks.mem")
CLOCK_SPREAD = 0.01  # of a clock, from the least to the most while something was timed
CHECKED = ("device", "clocks.sm", "clocks.mem", "not throttled")  # how the preflight's checks begin that must be there
UNWATCHED = timedelta(seconds=150)  # the watchdog writes once a minute
OURS, AGAIN, RIVAL = "relu", "relu (again)", "gelu-separate"
BATCHES = (1, 8, 16, 32, 64)
MEANT = "graph, hot"  # how the engine is meant to run


@dataclass(frozen=True)
class Comparison:
    """One record. `found`: its samples, None where it holds none; `reasons`: why it does not count."""

    name: str
    model: str
    batch: int
    rival: str
    mode: str
    found: Findings | None
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


def comparisons(folder: Path) -> list[Comparison]:
    """Every record in the folder. Raises GelulessError where there is none."""
    paths = sorted(folder.glob("*.bench.json"))
    if not paths:
        raise GelulessError(f"{folder} holds no *.bench.json: nothing was measured")
    machine = _machine(folder)
    return [_comparison(path, machine) for path in paths]


def judged(folder: Path, size: str) -> tuple[Judgement, Evidence]:
    """Is `relu` at least 11 % faster than FasterTransformer's structure at every batch?

    Raises GelulessError with every reason where a record of this size does not count or is missing, or a record cannot be read.
    """
    model = SIZES[size]
    of_size = [one for one in comparisons(folder) if one.model in (model, "")]
    problems = [f"{one.name}: {'; '.join(one.reasons)}" for one in of_size if one.reasons]
    every = [(one.rival, one.batch, one.mode) for one in of_size]
    problems += [
        f"{rival} at batch {batch}, {how} was measured twice"
        for rival, batch, how in sorted({one for one in every if every.count(one) > 1})
    ]
    meant = {(one.rival, one.batch): one.found for one in of_size if one.mode == MEANT and one.found is not None}
    wanted = [(rival, batch) for rival in (RIVAL, AGAIN) for batch in BATCHES]
    problems += [f"relu / {rival} at batch {batch} was not measured" for rival, batch in wanted if (rival, batch) not in meant]
    if problems:
        raise GelulessError(f"the runner's records of {model} are no evidence: {'; '.join(problems)}")
    found, against_itself = ({f"batch {batch}": meant[rival, batch] for batch in BATCHES} for rival in (RIVAL, AGAIN))
    judgement = at_every({condition: eleven_percent_faster(one, OURS, RIVAL) for condition, one in found.items()})
    first = found[f"batch {BATCHES[0]}"]
    fewest = min(len(one.samples.processes) for one in found.values())
    evidence = Evidence(
        ran=f"transfer: {model}, relu against {RIVAL}, FasterTransformer's structure in our engine, as graphs, on the runner; "
        f"batches {', '.join(map(str, BATCHES))}, at least {fewest} processes each",
        tier=f"transfer: {first.environment['gpu']['name']}, our engine on both sides",
        seconds=sum(one.seconds for one in found.values()),
        control=planted(against_itself, OURS, AGAIN).control(),
        artifacts={row.name: row.artifact for row in first.rows},
        numbers=tuple(
            ratio_estimate(one.found, OURS, one.rival, label=f"time of relu over {one.rival}, batch {one.batch}, {one.mode}")
            for one in of_size
            if one.found is not None and not (one.rival == RIVAL and one.mode == MEANT and one.batch in BATCHES)
        ),
        details=tuple(f"verified: {text}" for text in sorted({row.correctness for row in first.rows})),
    )
    return replace(judgement, sentence=f"transfer, our engine on both sides: {judgement.sentence}"), evidence


def _comparison(path: Path, machine: Machine) -> Comparison:
    name = path.name.removesuffix(".bench.json")
    try:
        record = read_record(path)
        first, other = record.candidates
        gpu = record.environment.get("gpu")
        reasons = [*machine.wrong, *_device(gpu), *_watched(record, machine)]
        if record.code != timing_sources():
            reasons.append(f"it was made by other code ({record.code[:12]}, now {timing_sources()[:12]})")
        if (first["name"], first["variant"]) != (OURS, OURS) or other["variant"] != str(other["name"]).removesuffix(" (again)"):
            reasons.append(f"it compares {first['name']} and {other['name']}, not {OURS} with a variant")
        reasons += [f"{row['name']} is not verified" for row in (first, other) if row["verified"] is not True]
        reasons += [text for row in (first, other) if (text := _unmeasured(row))]
        samples = record.timed()
        if record.disturbed:
            reasons.append(f"other processes ran during {record.disturbed} of {record.blocks} blocks")
        if len(samples.processes) < FEWEST:
            reasons.append(f"it is of {len(samples.processes)} process(es): {FEWEST} say something about the next one")
        if not all((values > 0).all() and math.isfinite(values.sum()) for values in samples.seconds.values()):
            raise ValueError("its samples are no times")
        rows = tuple(Row(**{key: row[key] for key in Row.__dataclass_fields__}) for row in record.candidates)
        reasons += [f"{row.name} is of {row.model}, the record of {record.model}" for row in rows if row.model != record.model]
        reasons += [problem] if (problem := problem_of(rows)) else []
        seconds = float(sum(values.sum() for values in samples.seconds.values()))
        found = Findings(samples, record.dropped, rows, seconds, environment=record.environment)
        model = str(record.model).removesuffix(RANDOM)
        return Comparison(name, model, record.batch, str(other["name"]), _mode(gpu), found, tuple(reasons))
    except (GelulessError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Comparison(name, "", 0, "", "", None, (f"no record of a comparison: {error}",))


def _unmeasured(row: Mapping[str, Any]) -> str:
    """Why the tiles of a row make it no fair one; "" where all were measured."""
    layers = row["tiles"]["layers"] if row["tiles"] else []
    lacking = [str(layer["layer"]) for layer in layers if layer["tuned"] is not True]
    if layers and not lacking:
        return ""
    return f"{row['name']} ran with tiles that nobody measured: {', '.join(lacking) or 'none is named'} (`geluless tune`)"


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
    if gpu.get("name") != CARD:
        yield f"measured on {gpu.get('name')}, not on an {CARD}"
    if held := [reason for reason in gpu["throttle_reasons"] if _bits(reason) & ~HARMLESS]:
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


def _bits(text: str) -> int:
    """A mask of reasons; one that cannot be read counts as a reason."""
    try:
        return int(text, 0)
    except ValueError:
        return ~HARMLESS
