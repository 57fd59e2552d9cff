"""The working tree against itself with its code at another place: every difference is noise, and the thresholds come from it.

The head's kernels lie somewhat further on (faults/layout.patch), in turn by each of LAYOUTS: where a loop happens to lie is
noise, too. Every run is a line of noise.jsonl at once. A recording that was interrupted goes on from there: lines of the same
sources, method, processor and budget count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci.gate import footprint, machine_code, thresholds
from ci.gate.fault_injection import inject
from ci.gate.judgement import judge
from ci.gate.revisions import GateError, Revision, build, copy_of, head_revision, sources_digest
from ci.gate.thresholds import Thresholds
from ci.gate.timing import ATTEMPTS, compare, until_quiet
from geluless import sources
from geluless.bench.environment import cpu_model

RUNS = "noise.jsonl"
SEEDS = 1_000_000  # apart from those of the gate itself
LAYOUTS = (16, 32, 48)  # bytes, of a cache line of 64
METHOD = (*(Path(__file__).with_name(name) for name in ("timing.py", "judgement.py")), sources.PACKAGE / "bench")


def equal_revisions(repository: Path, home: Path, layouts: Sequence[int]) -> tuple[Revision, list[Revision]]:
    """(base, heads), all of the working tree and all built, the heads with their code at other places than the base. Raises
    GateError where it is not."""
    tree = head_revision(repository, home)
    base = copy_of(tree, "base", home / "base")
    heads = [copy_of(tree, "head", home / f"{layout:04}") for layout in layouts]
    build(base)
    for head, layout in zip(heads, layouts, strict=True):
        inject(head, f"layout{layout}")
        build(head)
        if head.native.read_bytes() == base.native.read_bytes():
            raise GateError(f"layout{layout} has moved nothing: the same file would be timed against itself")
    return base, heads


def record_noise(
    repository: Path,
    home: Path,
    folder: Path,
    file: Path,
    *,
    runs: int,
    pairs: int,
    blocks: int,
    announce: Callable[[str], object],
) -> None:
    """Write the thresholds of `runs` runs to `file`. Raises GateError where nothing can be timed, or the runs are too few."""
    base, heads = equal_revisions(repository, home, LAYOUTS)
    kept = thresholds.read(file) if file.exists() else Thresholds()
    key = {
        "sources": sources_digest(base),
        "method": sources.digest(*METHOD)[:12],
        "cpu": cpu_model(),
        "pairs": pairs,
        "blocks": blocks,
    }
    folder.mkdir(parents=True, exist_ok=True)
    done = list(_done(folder / RUNS, key))
    for number in range(len(done), runs):
        done.append(_one(base, heads[number % len(heads)], seed=SEEDS + number, pairs=pairs, blocks=blocks))
        with (folder / RUNS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "ratios": done[-1]}) + "\n")
        announce(f"run {number + 1} of {runs}: the largest difference is {_largest(done[-1])}")
    ratios = {name: [run[name] for run in done[:runs]] for name in done[0] if all(name in run for run in done[:runs])}
    noise = {
        "cpu": key["cpu"],
        "sources": key["sources"],
        "runs": runs,
        "pairs": pairs,
        "blocks": blocks,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    code = kept.code or {"instructions": machine_code.GROWTH}
    weights = kept.footprint or footprint.MAY_GROW
    thresholds.write(file, Thresholds(thresholds.from_noise(ratios), code, weights, noise))
    announce(f"thresholds: {file}")


def _one(base: Revision, head: Revision, *, seed: int, pairs: int, blocks: int) -> dict[str, float]:
    """head / base by benchmark."""
    found = until_quiet(lambda: compare(base, head, pairs=pairs, blocks=blocks, seed=seed))
    for name, problem in {**found.mended, **found.wrong}.items():
        raise GateError(f"{name}: {problem}: nothing with a wrong output can be timed")
    if found.disturbed:
        raise GateError(f"{found.disturbed}, {ATTEMPTS} times: start again on a quiet machine, it goes on from here")
    return {name: judgement.ratio.value for name, judgement in judge(found, Thresholds()).items() if judgement.ratio}


def _done(path: Path, key: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Runs that an interrupted recording has left; a line that is none, or of something else, does not count."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            run = json.loads(line)
            if run["key"] == key and run["ratios"]:
                yield {str(name): float(value) for name, value in run["ratios"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _largest(ratios: dict[str, float]) -> str:
    name = max(ratios, key=lambda name: abs(ratios[name] - 1))
    return f"{100 * (ratios[name] - 1):+.1f} %, of {name}"
