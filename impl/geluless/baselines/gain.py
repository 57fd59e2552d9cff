"""What ReLU instead of GELU saves within each engine: both networks of every engine, timed in the same blocks.

Every round starts all processes anew, because a process keeps its memory layout for life; the interval is over rounds. Only int8
engines that quantize statically take part: the others keep GELU in floating point whatever it costs them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from geluless.baselines.baseline import Baseline
from geluless.baselines.comparison import on_cores, ready
from geluless.baselines.defaults import BATCH, SEED, THROUGHPUT_BATCH, shapes_of
from geluless.baselines.preparation import Prepared, are_prepared, prepare_all
from geluless.baselines.registry import OURS, chosen_baselines
from geluless.baselines.startup import Dropped, RunningBaseline, start
from geluless.baselines.subject_network import SubjectNetwork, make_subject, random_network
from geluless.bench.harness import Findings, Protocol, Round, Row, StudyError, time_rounds
from geluless.bench.identity import problem_of
from geluless.bench.networks import SIZES
from geluless.bench.process import CandidateFailure

MODEL = SIZES["tiny"]
ENGINES = (OURS, "openvino", "onnxruntime", "inductor")
SEPARATE = "geluless-gelu-separate"
CONTROL = f"{OURS} relu again"

SHAPES = shapes_of()  # with the seed and the images all that `nox -s baselines` prepares, so that its cache serves here

Announce = Callable[[str], object]
Outcomes = Mapping[tuple[str, str], Prepared | CandidateFailure]


@dataclass(frozen=True)
class Gain:
    """`engines`: those of which both networks ran; `failures`: the others and why. Samples are named "openvino relu"."""

    found: Findings
    engines: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


def measure_gain(
    cache: Path, protocol: Protocol, *, cores: Sequence[int], prepare: bool, announce: Announce = lambda line: None
) -> Gain | None:
    """On one thread, batch 1. None where the networks are not prepared and `prepare` is not set; preparing takes minutes.

    Raises StudyError when our own engine fails or other processes disturb too much.
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
        return time_gain(subjects, baselines, outcomes, protocol, cores=cores[-1:], scratch=scratch, announce=announce)


def _subject(scratch: Path, activation: str) -> SubjectNetwork:
    (folder := scratch / activation).mkdir()
    model = random_network(MODEL, activation, seed=SEED)
    return make_subject(
        folder, model, name=MODEL, weights=f"random, seed {SEED}", batch=max(BATCH, THROUGHPUT_BATCH), test_images=0, seed=SEED
    )


def time_gain(
    subjects: Mapping[str, SubjectNetwork],
    baselines: Sequence[Baseline],
    outcomes: Outcomes,
    protocol: Protocol,
    *,
    cores: Sequence[int],
    scratch: Path,
    announce: Announce,
) -> Gain:
    every = {
        f"{baseline.name} {activation}": (baseline, activation)
        for baseline in baselines
        for activation in subjects
        if baseline.activation in (None, activation)
    }
    (ours,) = (baseline for baseline in baselines if baseline.name == OURS)
    every[CONTROL] = (ours, "relu")
    failures: dict[str, str] = {}

    @contextmanager
    def start_all(number: int) -> Iterator[Round]:
        running: dict[str, RunningBaseline] = {}
        with on_cores(cores):
            try:
                for name in np.random.default_rng([protocol.seed, number]).permutation(list(every)).tolist():
                    baseline, activation = every[name]
                    if name in failures:
                        continue
                    outcome, log = outcomes[activation, baseline.name], scratch / f"{name.replace(' ', '_')}_{number}.log"
                    try:
                        running[name] = start(baseline, subjects[activation], outcome, SHAPES[0], cores=cores, log=log)
                    except CandidateFailure as failure:
                        failures[name] = failure.reason
                if not {f"{OURS} relu", f"{OURS} gelu", CONTROL} <= set(running):
                    raise StudyError(f"our own engine is missing beside the others: {failures}")
                rows = [_row(name, one) for name, one in running.items()]
                if problem := problem_of(rows):
                    raise StudyError(problem)
                yield replace(ready(running), rows=rows)
            finally:
                for one in running.values():
                    one.process.close()

    try:
        found = time_rounds(start_all, protocol, announce=announce)
    except Dropped as dropped:
        raise StudyError(f"{dropped.running.baseline.name} failed while it was timed: {dropped.failure.reason}") from dropped
    names = found.samples.seconds
    return Gain(found, tuple(name for name in ENGINES if {f"{name} gelu", f"{name} relu"} <= set(names)), failures)


def _row(name: str, running: RunningBaseline) -> Row:
    facts, close = running.facts, running.facts["closeness"][str(SHAPES[0].batch)]
    precision = f"; {facts['executed']['int8']} int8 kernels" if facts.get("executed") else ""
    return Row(
        name=name,
        variant=running.subject.activation,
        model=MODEL,
        artifact=running.subject.digest,
        correctness=f"{name}: off the float logits by {close['distance']:.2g} of their spread{precision}",
        isa="each engine's own choice",
        verified=True,
        memory_bytes=facts["memory"]["running"],
    )
