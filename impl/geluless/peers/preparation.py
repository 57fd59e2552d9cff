"""Exporting, quantizing, compiling: once per network and family of peers, in processes side by side, kept for the next run.

What is prepared is valid for the network and its images, the peers' settings and shapes, this code, the versions of the packages
and this processor; all of that is in the folder's name. A folder of the same family with another digest is removed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from geluless.bench.environment import cpu_model, environment_record
from geluless.files import read_json
from geluless.peers.code import code_digest
from geluless.peers.peer import Peer, PeerFailure, Shape
from geluless.peers.process import PeerProcess
from geluless.peers.subject import Subject

TIMEOUT = 900.0  # seconds for one family
DONE = "prepared.json"  # in a complete folder: seconds per peer
UNFINISHED = ".preparing-"
A_DAY = 86400.0


@dataclass(frozen=True)
class Prepared:
    """`seconds` is what it took when it was made; `cached` tells whether that was an earlier run."""

    folder: Path
    seconds: float
    cached: bool


Result = dict[tuple[str, str], Prepared | PeerFailure]  # by (activation, peer's name)


def prepare_all(
    subjects: Sequence[Subject],
    peers: Sequence[Peer],
    shapes: Sequence[Shape],
    *,
    cache: Path,
    scratch: Path,
    cores: Sequence[int],
    done: Callable[[int], object] = lambda count: None,
) -> Result:
    """Prepare every peer for every subject that it can run. `scratch` takes logs and compilers' files; `done` is told how many
    peers each finished family had."""
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    jobs = [(subject, family) for subject in subjects for family in families_of(peers, subject)]
    place = _Place(cache, scratch, tuple(cores), [])
    nothing = Prepared(scratch, 0.0, False)
    result: Result = {(subject.activation, peer.name): nothing for subject in subjects for peer in peers if not peer.family}
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


def are_prepared(subjects: Sequence[Subject], peers: Sequence[Peer], shapes: Sequence[Shape], *, cache: Path) -> bool:
    """Whether an earlier run has left everything that these peers need."""
    wanted = [(subject, family) for subject in subjects for family in families_of(peers, subject)]
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
    running: list[PeerProcess]


def families_of(peers: Sequence[Peer], subject: Subject) -> list[tuple[Peer, ...]]:
    """The peers to prepare for this activation, grouped, the slowest to prepare (the compilers) first."""
    grouped: dict[str, list[Peer]] = {}
    for peer in peers:
        if peer.family and peer.activation in (None, subject.activation):
            grouped.setdefault(peer.family, []).append(peer)
    slow = ("inductor", "torch-compile", "onnxruntime", "openvino")
    order = sorted(grouped, key=lambda name: slow.index(name) if name in slow else len(slow))
    return [tuple(grouped[name]) for name in order]


def _prepare_family(
    subject: Subject, family: tuple[Peer, ...], shapes: Sequence[Shape], place: _Place
) -> dict[str, Prepared | PeerFailure]:
    stem, folder = _stem(subject, family), _folder(place.cache, subject, family, shapes)
    if (seconds := _complete(folder)) is not None:
        return {peer.name: Prepared(folder, seconds[peer.name], True) for peer in family}
    fresh = Path(tempfile.mkdtemp(dir=place.cache, prefix=UNFINISHED))
    try:
        outcome = _ask(subject, family, shapes, folder=fresh, log=place.scratch / f"{stem}.log", place=place)
        if not any(isinstance(value, PeerFailure) for value in outcome.values()):
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


def _prepared(folder: Path, outcome: float | PeerFailure) -> Prepared | PeerFailure:
    return outcome if isinstance(outcome, PeerFailure) else Prepared(folder, outcome, False)


def _ask(
    subject: Subject, family: tuple[Peer, ...], shapes: Sequence[Shape], *, folder: Path, log: Path, place: _Place
) -> dict[str, float | PeerFailure]:
    # One compiler cache for the whole run: inductor's precompiled headers serve every family.
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(place.scratch / "torchinductor")}
    process = PeerProcess(log, cores=place.cores, threads=len(place.cores), environment=environment)
    place.running.append(process)
    try:
        outcome: dict[str, float | PeerFailure] = process.ask("prepare", family, subject, folder, shapes, timeout=TIMEOUT)
        return outcome
    except PeerFailure as failure:  # of the whole process: every peer in it is lost
        return {peer.name: PeerFailure(failure.status, f"while it was prepared: {failure.reason}") for peer in family}
    finally:
        process.close()


def _complete(folder: Path) -> dict[str, float] | None:
    with suppress(OSError, ValueError):
        seconds: dict[str, float] = read_json(folder / DONE)
        return seconds
    return None


def _stem(subject: Subject, family: tuple[Peer, ...]) -> str:
    return f"{subject.model}_{subject.activation}_{family[0].family}"


def _folder(cache: Path, subject: Subject, family: tuple[Peer, ...], shapes: Sequence[Shape]) -> Path:
    return cache / f"{_stem(subject, family)}_{_digest(subject, family, shapes)}"


def _others(cache: Path, stem: str, folder: Path) -> Iterator[Path]:
    return (path for path in cache.glob(f"{glob.escape(stem)}_*") if path != folder)


def _digest(subject: Subject, family: tuple[Peer, ...], shapes: Sequence[Shape]) -> str:
    packages = sorted({package for peer in family for package in peer.packages})
    processor = (cpu_model(), environment_record()["isa"])
    parts = (subject.digest, family, sorted(shapes), code_digest(), [(name, _version(name)) for name in packages], processor)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
