"""Exporting, quantizing, compiling: once per network and family of baselines, in processes side by side, kept for the next run.

What is prepared is valid for the network and its images, the baselines' settings and shapes, this code, the versions of the
packages and this processor; all of that is in the folder's name. A folder of the same family with another digest is removed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geluless.baselines.baseline import Baseline, Shape
from geluless.baselines.host import BaselineHost
from geluless.baselines.subject_network import SubjectNetwork
from geluless.bench.environment import cpu_model, isa_flags
from geluless.bench.process import CandidateFailure, TimingProcess
from geluless.cache import made_cache
from geluless.files import read_json
from geluless.sources import comparison_sources, package_version

TIMEOUT = 900.0  # seconds for one family
DONE = "prepared.json"  # in a complete folder: seconds per baseline
UNFINISHED = ".preparing-"
A_DAY = 86400.0


@dataclass(frozen=True)
class Prepared:
    """`seconds` is what it took when it was made; `cached` tells whether that was an earlier run."""

    folder: Path
    seconds: float
    cached: bool


Result = dict[tuple[str, str], Prepared | CandidateFailure]  # by (activation, baseline's name)


def prepare_all(
    subjects: Sequence[SubjectNetwork],
    baselines: Sequence[Baseline],
    shapes: Sequence[Shape],
    *,
    cache: Path,
    scratch: Path,
    cores: Sequence[int],
    done: Callable[[int], object] = lambda count: None,
) -> Result:
    """Prepare every baseline for every subject that it can run. `scratch` takes logs and compilers' files; `done` is told how
    many baselines each finished family had."""
    made_cache(cache)
    _sweep(cache)
    jobs = [(subject, family) for subject in subjects for family in families_of(baselines, subject)]
    place = _Place(cache, scratch, tuple(cores), [])
    nothing = Prepared(scratch, 0.0, False)
    result: Result = {
        (subject.activation, baseline.name): nothing for subject in subjects for baseline in baselines if not baseline.family
    }
    with ThreadPoolExecutor(max(1, len(cores))) as pool:
        waiting = {pool.submit(_prepare_family, subject, family, shapes, place): (subject, family) for subject, family in jobs}
        try:
            for future in as_completed(waiting):
                subject, family = waiting[future]
                result |= {(subject.activation, name): outcome for name, outcome in future.result().items()}
                done(len(family))
        except BaseException:  # an interrupt above all: nobody waits for what is still being compiled
            pool.shutdown(wait=False, cancel_futures=True)
            for process in place.running:
                process.kill()
            raise
    return result


def are_prepared(
    subjects: Sequence[SubjectNetwork], baselines: Sequence[Baseline], shapes: Sequence[Shape], *, cache: Path
) -> bool:
    """Whether an earlier run has left everything that these baselines need."""
    wanted = [(subject, family) for subject in subjects for family in families_of(baselines, subject)]
    return all(_complete(_folder(cache, subject, family, shapes)) is not None for subject, family in wanted)


def _sweep(cache: Path) -> None:
    """Remove what runs that were killed have left half made."""
    for path in cache.glob(f"{UNFINISHED}*"):
        if time.time() - path.stat().st_mtime > A_DAY:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Place:
    cache: Path
    scratch: Path
    cores: tuple[int, ...]
    running: list[TimingProcess]


def families_of(baselines: Sequence[Baseline], subject: SubjectNetwork) -> list[tuple[Baseline, ...]]:
    """The baselines to prepare for this activation, grouped, the slowest to prepare (the compilers) first."""
    grouped: dict[str, list[Baseline]] = {}
    for baseline in baselines:
        if baseline.family and baseline.activation in (None, subject.activation):
            grouped.setdefault(baseline.family, []).append(baseline)
    slow = ("inductor", "torch-compile", "onnxruntime", "openvino")
    order = sorted(grouped, key=lambda name: slow.index(name) if name in slow else len(slow))
    return [tuple(grouped[name]) for name in order]


def _prepare_family(
    subject: SubjectNetwork, family: tuple[Baseline, ...], shapes: Sequence[Shape], place: _Place
) -> dict[str, Prepared | CandidateFailure]:
    stem, folder = _stem(subject, family), _folder(place.cache, subject, family, shapes)
    if (seconds := _complete(folder)) is not None:
        return {baseline.name: Prepared(folder, seconds[baseline.name], True) for baseline in family}
    fresh = Path(tempfile.mkdtemp(dir=place.cache, prefix=UNFINISHED))
    try:
        outcome = _ask(subject, family, shapes, folder=fresh, log=place.scratch / f"{stem}.log", place=place)
        if not any(isinstance(value, CandidateFailure) for value in outcome.values()):
            (fresh / DONE).write_text(json.dumps(outcome), encoding="utf-8")
            for old in _others(place.cache, stem, folder):
                shutil.rmtree(old, ignore_errors=True)
            fresh.rename(folder)
            return {name: _prepared(folder, value) for name, value in outcome.items()}
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    # A family with a failure is used in this run, and tried again in the next one.
    kept = place.scratch / f"{stem}.prepared"
    shutil.move(fresh, kept)
    return {name: _prepared(kept, value) for name, value in outcome.items()}


def _prepared(folder: Path, outcome: float | CandidateFailure) -> Prepared | CandidateFailure:
    return outcome if isinstance(outcome, CandidateFailure) else Prepared(folder, outcome, False)


def _ask(
    subject: SubjectNetwork, family: tuple[Baseline, ...], shapes: Sequence[Shape], *, folder: Path, log: Path, place: _Place
) -> dict[str, float | CandidateFailure]:
    # One compiler cache for the whole run: inductor's precompiled headers serve every family.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(place.scratch / "torchinductor")}
    process = TimingProcess(BaselineHost, log, cores=place.cores, threads=len(place.cores), environment=environment)
    place.running.append(process)
    try:
        outcome: dict[str, float | CandidateFailure] = process.ask("prepare", family, subject, folder, shapes, timeout=TIMEOUT)
        return outcome
    except CandidateFailure as failure:  # of the whole process: every baseline in it is lost
        return {
            baseline.name: CandidateFailure(failure.status, f"while it was prepared: {failure.reason}") for baseline in family
        }
    finally:
        process.close()


def _complete(folder: Path) -> dict[str, float] | None:
    with suppress(OSError, ValueError):
        seconds: dict[str, float] = read_json(folder / DONE)
        return seconds
    return None


def _stem(subject: SubjectNetwork, family: tuple[Baseline, ...]) -> str:
    return f"{subject.model}_{subject.activation}_{family[0].family}"


def _folder(cache: Path, subject: SubjectNetwork, family: tuple[Baseline, ...], shapes: Sequence[Shape]) -> Path:
    return cache / f"{_stem(subject, family)}_{_digest(subject, family, shapes)}"


def _others(cache: Path, stem: str, folder: Path) -> Iterator[Path]:
    return (path for path in cache.glob(f"{glob.escape(stem)}_*") if path != folder)


def _digest(subject: SubjectNetwork, family: tuple[Baseline, ...], shapes: Sequence[Shape]) -> str:
    packages = sorted({package for baseline in family for package in baseline.packages})
    processor = (cpu_model(), isa_flags())
    parts = (
        subject.digest,
        family,
        sorted(shapes),
        comparison_sources(),
        [(name, package_version(name)) for name in packages],
        processor,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
