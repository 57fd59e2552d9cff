"""What a revision weighs: its wheel, the artifact of Swin-T, and what an import loads and takes.

Sizes and modules are counts; the processor time of an import is the least of several runs, taken in turns, and must grow in two
rounds to fail. [footprint] in the thresholds holds the per cent by which each may grow: wheel, artifact, modules, import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.gate.revisions import SIDES, Revision, probe

IMPORTS = {
    "the command line": "import geluless.cli",
    "the package": "import geluless",
    "loading an artifact": "from geluless import load_artifact, Engine",
}
RUNS = 7
LEAST = 0.02  # seconds below which an import's growth is nothing anybody waits for
MAY_GROW = {"wheel": 2.0, "artifact": 0.1, "modules": 5.0, "import": 25.0}  # per cent, where the thresholds say nothing
FEW = 10  # modules more are nothing, however few there were

Runs = dict[str, list[dict[str, Any]]]  # what probe.py said, by side


@dataclass(frozen=True)
class Weight:
    """One figure of both revisions; `problem` is empty where it did not grow by more than it may."""

    name: str
    unit: str
    before: float
    after: float
    problem: str


def weigh(base: Revision, head: Revision, may_grow: Mapping[str, float]) -> list[Weight]:
    """Of revisions that are built. Raises GateError where one cannot be imported."""
    limits = {**MAY_GROW, **may_grow}
    weights = [
        _weight("wheel", "bytes", _bytes([base.wheel]), _bytes([head.wheel]), limits["wheel"]),
        _weight("artifacts of Swin-T", "bytes", _bytes(base.artifacts), _bytes(head.artifacts), limits["artifact"]),
    ]
    for name, code in IMPORTS.items():
        runs = _import(base, head, code)
        before, after = (runs[side][0] for side in SIDES)
        many = after["modules"] > before["modules"] + FEW
        limit = limits["modules"] if many else math.inf
        weights.append(_weight(f"{name}: modules", "", before["modules"], after["modules"], limit))
        if after["torch"] and not before["torch"]:
            weights.append(Weight(f"{name}: torch", "", 0, 1, "is imported now"))
        weights.append(_import_time(name, base, head, runs, limits["import"]))
    return weights


def _bytes(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _weight(name: str, unit: str, before: float, after: float, limit: float) -> Weight:
    grown = after > before * (1 + limit / 100)
    return Weight(name, unit, before, after, f"grew by more than {limit:g} %" if grown else "")


def _import_time(name: str, base: Revision, head: Revision, runs: Runs, limit: float) -> Weight:
    before, after = _least(runs)
    if _longer(before, after, limit):
        before, after = _least(_import(base, head, IMPORTS[name]))
    problem = f"takes over {limit:g} % longer, in two rounds" if _longer(before, after, limit) else ""
    return Weight(f"{name}: processor time", "s", before, after, problem)


def _longer(before: float, after: float, limit: float) -> bool:
    return after > max(before * (1 + limit / 100), before + LEAST)


def _least(runs: Runs) -> tuple[float, float]:
    before, after = (min(float(run["seconds"]) for run in runs[side]) for side in SIDES)
    return before, after


def _import(base: Revision, head: Revision, code: str) -> Runs:
    found: Runs = {side: [] for side in SIDES}
    for _ in range(RUNS):
        for side in (base, head):
            found[side.side].append(probe(side, "import", code))
    return found
