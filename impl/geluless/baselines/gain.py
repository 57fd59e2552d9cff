"""What ReLU instead of GELU saves within each engine: both networks of every engine, timed in the same blocks.

Every round starts all processes anew, because a process keeps its memory layout for life; the interval is over rounds. Only int8
engines that quantize statically take part: the others keep GELU in floating point whatever it costs them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geluless.baselines.baseline import Baseline, BaselineFailure
from geluless.baselines.comparison import its_own_seconds, on_cores, peak_loop
from geluless.baselines.defaults import BATCH, SEED, THROUGHPUT_BATCH, shapes_of
from geluless.baselines.preparation import Prepared, are_prepared, prepare_all
from geluless.baselines.registry import OURS, chosen_baselines
from geluless.baselines.startup import Dropped, Entrant, start
from geluless.baselines.subject_network import Subject, make_subject, random_network
from geluless.bench.environment import environment_record
from geluless.bench.load import TOO_MUCH, ForeignLoad
from geluless.bench.networks import SIZES
from geluless.bench.paired import Samples, joined, time_paired
from geluless.bench.study import Findings, StudyError

MODEL = SIZES["tiny"]
ENGINES = (OURS, "openvino", "onnxruntime", "inductor")
SEPARATE = "geluless-gelu-separate"
CONTROL = f"{OURS} relu again"
ROUNDS, FEWEST, BLOCKS = 4, 3, 12  # FEWEST: of rounds, for an interval

SHAPES = shapes_of()  # with the seed and the images all that `nox -s baselines` prepares, so that its cache serves here

Announce = Callable[[str], object]
Outcomes = Mapping[tuple[str, str], Prepared | BaselineFailure]


@dataclass(frozen=True)
class Gain:
    """`engines`: those of which both networks ran; `failures`: the others and why. Samples are named "openvino relu"."""

    found: Findings
    engines: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


def measure_gain(
    cache: Path, *, cores: Sequence[int], prepare: bool, announce: Announce = lambda line: None, rounds: int = ROUNDS
) -> Gain | None:
    """On one thread, batch 1. None where the networks are not prepared and `prepare` is not set; preparing takes minutes.

    Raises StudyError when our own engine fails or other processes disturb more than a round.
    """
    if not prepare and not any(cache.glob(f"{MODEL}_*")):  # before two networks are made only to find that out
        return None
    baselines = chosen_baselines((*ENGINES, SEPARATE))
    families = {baseline.family for baseline in baselines if baseline.family}
    wanted = [baseline for baseline in chosen_baselines(()) if baseline.family in families]  # a family is prepared as a whole
    with tempfile.TemporaryDirectory(prefix="geluless-gain-") as name:
        scratch = Path(name)
        subjects = {activation: _subject(scratch, activation) for activation in ("gelu", "relu")}
        every = list(subjects.values())
        if not prepare and not are_prepared(every, wanted, SHAPES, cache=cache):
            return None
        outcomes = prepare_all(every, wanted, SHAPES, cache=cache, scratch=scratch, cores=cores)
        return time_rounds(subjects, baselines, outcomes, rounds=rounds, cores=cores[-1:], scratch=scratch, announce=announce)


def _subject(scratch: Path, activation: str) -> Subject:
    (folder := scratch / activation).mkdir()
    model = random_network(MODEL, activation, seed=SEED)
    return make_subject(
        folder, model, name=MODEL, weights=f"random, seed {SEED}", batch=max(BATCH, THROUGHPUT_BATCH), test_images=0, seed=SEED
    )


def time_rounds(
    subjects: Mapping[str, Subject],
    baselines: Sequence[Baseline],
    outcomes: Outcomes,
    *,
    rounds: int,
    cores: Sequence[int],
    scratch: Path,
    announce: Announce,
) -> Gain:
    lineup = {
        f"{baseline.name} {activation}": (baseline, activation)
        for baseline in baselines
        for activation in subjects
        if baseline.activation in (None, activation)
    }
    (ours,) = (baseline for baseline in baselines if baseline.name == OURS)
    lineup[CONTROL] = (ours, "relu")
    parts: list[Samples] = []
    failures: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    foreign: list[float] = []
    for number in range(rounds):
        entrants: dict[str, Entrant] = {}
        with on_cores(cores):
            try:
                for name, (baseline, activation) in lineup.items():
                    outcome, log = outcomes[activation, baseline.name], scratch / f"{name.replace(' ', '_')}_{number}.log"
                    try:
                        entrants[name] = start(baseline, subjects[activation], outcome, SHAPES[0], cores=cores, log=log)
                    except BaselineFailure as failure:
                        failures[name] = failure.reason
                samples, busy = _timed(entrants, seed=SEED + number)
                rows = rows or [_row(name, entrant) for name, entrant in entrants.items()]
            finally:
                for entrant in entrants.values():
                    entrant.process.close()
        lineup = {name: what for name, what in lineup.items() if name not in failures}
        parts.append(samples)
        foreign.append(busy)
        announce(f"  round {number + 1} of {rounds}: {len(entrants)} engines")
    return _judged(parts, rows, foreign, failures)


def _timed(entrants: Mapping[str, Entrant], *, seed: int) -> tuple[Samples, float]:
    """The blocks of one round, and how many cores others kept busy meanwhile. Raises StudyError when an engine fails."""
    load = ForeignLoad([entrant.process for entrant in entrants.values()])
    try:
        samples = time_paired(
            {name: entrant.sample for name, entrant in entrants.items()},
            seconds=0.0,
            min_blocks=BLOCKS,
            warm_up=1,
            seed=seed,
            peak=peak_loop(),
            stopwatch=its_own_seconds,
        )
    except Dropped as dropped:
        raise StudyError(f"{dropped.entrant.baseline.name} failed while it was timed: {dropped.failure.reason}") from dropped
    return samples, load.look() or 0.0


def _judged(parts: list[Samples], rows: list[dict[str, Any]], foreign: list[float], failures: dict[str, str]) -> Gain:
    quiet = [part for part, cores in zip(parts, foreign, strict=True) if cores <= TOO_MUCH]
    if len(quiet) < max(FEWEST, len(parts) - 1):
        raise StudyError(f"other processes disturbed {len(parts) - len(quiet)} of {len(parts)} rounds: repeat on a quiet machine")
    names = [name for name in quiet[0].seconds if all(name in part.seconds for part in quiet)]
    if not {f"{OURS} relu", f"{OURS} gelu", CONTROL} <= set(names):
        raise StudyError(f"our own engine is missing beside the others: {failures}")
    samples = joined([_only(part, names) for part in quiet])
    seconds = float(sum(values.sum() for values in samples.seconds.values()))
    dropped = sum(part.blocks for part in parts) - samples.blocks
    found = Findings(samples, dropped, tuple(row for row in rows if row["name"] in names), seconds, environment_record())
    engines = tuple(name for name in ENGINES if {f"{name} gelu", f"{name} relu"} <= set(names))
    return Gain(found, engines, failures)


def _only(part: Samples, names: Sequence[str]) -> Samples:
    """Of those who ran in every round."""
    peak = {name: part.peak[name] for name in names} if part.peak else {}
    return Samples({name: part.seconds[name] for name in names}, peak)


def _row(name: str, entrant: Entrant) -> dict[str, Any]:
    facts, close = entrant.facts, entrant.facts["closeness"][str(SHAPES[0].batch)]
    precision = f"; {facts['executed']['int8']} int8 kernels" if facts.get("executed") else ""
    return {
        "name": name,
        "variant": entrant.subject.activation,
        "isa": "each engine's own choice",
        "threads": 1,
        "batch": 1,
        "artifact": entrant.subject.digest,
        "correctness": f"{name}: off the float logits by {close['distance']:.2g} of their spread{precision}",
        "model": MODEL,
        "memory_bytes": facts["memory"]["running"],
    }
