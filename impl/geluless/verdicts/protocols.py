"""How much is timed for every claim about latency: the `[timing]` table of claims/claims.toml, frozen before anything is looked
at.

A protocol that is chosen after a look at what it says decides the verdict itself. So the numbers stand in the registry, a test
knows the table's digest, and every report prints them.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geluless.verdicts.registry import RegistryError

NUMBERS = ("warm_up", "foreign_load", "runs")


@dataclass(frozen=True)
class TimingProtocol:
    """Of one study.

    runs          of other processes each; a verdict is what all of them say
    processes     of each run; an interval is over processes
    blocks        of each process: every entry once, in random order
    warm_up       seconds of calls, all entries in turns, before a process is asked for a sample
    foreign_load  cores busy with other work above which a block is dropped; a process that lost most of its blocks is dropped
    whole
    """

    runs: int
    processes: int
    blocks: int
    warm_up: float
    foreign_load: float

    def __str__(self) -> str:
        return (
            f"{self.runs} runs x {self.processes} processes x {self.blocks} blocks, {self.warm_up:g} s of warm-up, blocks with "
            f"more than {self.foreign_load:g} cores of other work dropped"
        )


@dataclass(frozen=True)
class Protocols:
    """By study: "tiny", "batch 8"; a name that ends in * holds for every study that begins so. `digest`: of the whole table."""

    studies: Mapping[str, TimingProtocol]
    digest: str

    def of(self, study: str) -> TimingProtocol:
        """Raises RegistryError for a study without a protocol."""
        for name, protocol in self.studies.items():
            if name == study or (name.endswith("*") and study.startswith(name[:-1])):
                return protocol
        raise RegistryError(
            f"no protocol for the timing of {study!r}: give it processes and blocks in [timing.studies] of claims.toml"
        )


def load_protocols(path: str | Path) -> Protocols:
    """The `[timing]` table. Raises RegistryError that names what is missing, unknown or no positive number."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("timing")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegistryError(f"{path} is no readable TOML file: {error}") from error
    if not isinstance(table, dict) or set(table) != {*NUMBERS, "studies"} or not isinstance(table["studies"], dict):
        raise RegistryError(f"{path}: [timing] has {', '.join(NUMBERS)} and the table 'studies', and nothing else")
    common = {name: _positive(table[name], f"{path}: [timing] {name}", whole=name == "runs") for name in NUMBERS}
    studies = {}
    for study, numbers in table["studies"].items():
        if not isinstance(numbers, dict) or set(numbers) != {"processes", "blocks"}:
            raise RegistryError(f"{path}: the study {study!r} has 'processes' and 'blocks', and nothing else")
        own = {name: _positive(value, f"{path}: {name} of the study {study!r}", whole=True) for name, value in numbers.items()}
        studies[study] = TimingProtocol(**common, **own)
    return Protocols(studies, hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest())


def _positive(value: Any, where: str, *, whole: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
        raise RegistryError(f"{where} must be a positive {'whole ' if whole else ''}number, not {value!r}")
    return value
