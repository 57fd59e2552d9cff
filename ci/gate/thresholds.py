"""What counts as slower: one threshold per benchmark, from the noise that runs of a revision against itself have left.

The threshold is NOISE_FACTOR times the spread (root mean square) of the logarithms of the ratios in those runs, rounded up to a
tenth of a per cent, and never below FLOOR. The run that is furthest off is left out: a burst that disturbs one run does not come
again in the next, and a regression needs two.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ci.gate.footprint import MAY_GROW
from ci.gate.revisions import GateError
from geluless.files import atomic_output

FLOOR = 1.5  # per cent: of 30 runs of equal code one called 1.3 % a regression, twice
NOISE_FACTOR = 3.0
DEFAULT = 3.0  # per cent, for a benchmark that no noise is on record of
MIN_RUNS = 5  # fewer say little about a spread
KNOWN = {"code": ("instructions",), "footprint": tuple(MAY_GROW)}


@dataclass(frozen=True)
class Thresholds:
    """latency: per cent by benchmark. code, footprint: per cent by kind, as `machine_code` and `footprint` name them.
    noise: what the latency thresholds were made from."""

    latency: Mapping[str, float] = field(default_factory=dict)
    code: Mapping[str, float] = field(default_factory=dict)
    footprint: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of(self, benchmark: str) -> float:
        return self.latency.get(benchmark, DEFAULT)


def read(path: Path) -> Thresholds:
    """Raises GateError where the file is not what `write` makes."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GateError(f"{path} does not exist: `nox -s gate -- --noise 20` makes it") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GateError(f"{path} cannot be read: {error}") from error
    if unknown := sorted(set(data) - {"latency", "code", "footprint", "noise"}):
        raise GateError(f"{path}: there is no table [{unknown[0]}] in a file of thresholds")
    for table in data:
        if not isinstance(data[table], dict):
            raise GateError(f"{path}: {table} must be a table of names and numbers")
    for table in ("latency", "code", "footprint"):
        known = KNOWN.get(table)
        for name, value in data.get(table, {}).items():
            if known is not None and name not in known:
                raise GateError(f"{path}: [{table}] knows {', '.join(known)}, not {name}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 100:
                raise GateError(f"{path}: [{table}] {name} must be a number from 0 to 100, not {value!r}")
    return Thresholds(**data)


def from_noise(ratios: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Per cent by benchmark from head / base of runs whose two revisions were the same. Raises GateError for too few runs."""
    runs = min((len(found) for found in ratios.values()), default=0)
    if runs < MIN_RUNS:
        raise GateError(f"{runs} runs say little about noise: give at least {MIN_RUNS}")
    return {name: _threshold(found) for name, found in ratios.items()}


def _threshold(ratios: Sequence[float]) -> float:
    off = np.sort(np.abs(np.log(ratios)))[:-1]  # from 0, which is known to be the truth
    spread = float(np.sqrt(np.mean(np.square(off))))
    return max(FLOOR, math.ceil(1000 * NOISE_FACTOR * spread) / 10)


def write(path: Path, thresholds: Thresholds) -> None:
    lines = [
        "# Made by `nox -s gate -- --noise RUNS`; [code] and [footprint] are ours to choose.",
        "# What the numbers mean: ci/gate/thresholds.py, machine_code.py and footprint.py.",
    ]
    for table in ("noise", "latency", "code", "footprint"):
        lines += ["", f"[{table}]", *(f"{_key(name)} = {_value(value)}" for name, value in getattr(thresholds, table).items())]
    with atomic_output(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else f'"{name}"'


def _value(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:g}" if isinstance(value, float) else str(value)
