"""The registry of claims: claims/claims.toml, one row per claim of the paper, one test file per row.

Ids are stable (c01, c02, ...). The paper gives two numbers, 11 % and 0.5 %; `paper_numbers` may hold nothing else, so
that no figure of ours can pass for one of the paper's. Every check has a kind, so that none passes for the paper's own
statement that is something else.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from geluless.errors import GelulessError

PAPER_NUMBERS = ("11 %", "0.5 %")
DIRECTIONS = ("below", "above", "equal", "explore")
COVERS = ("key result", "mechanism", "break condition", "open question", "next check", "limitation")
KINDS = {
    "paper": "the paper's own statement, on its data or its card",
    "arithmetic": "exact, so that any machine decides it",
    "stand-in": "the paper's statement on other data",
    "transfer": "the paper's statement on other hardware",
    "ours": "a question or a baseline of ours, or an open question of the paper",
}
ID = re.compile(r"c\d\d")
TEST_FILE = re.compile(r"test_(c\d\d)_\w+\.py")
REFUTED = re.compile(r"refuted: .+")
OPEN_OR_REFUTED = re.compile(r"(open|refuted): .+")
STANCE = re.compile(r"(stated|asked|ours): .+")

Value = TypeVar("Value")


class RegistryError(GelulessError):
    """The registry of claims contradicts itself, its test files, or the package."""


@dataclass(frozen=True)
class Claim:
    """One row.

    `margin` is a number of `unit`, or None where the statement is exact; `direction` says on which side of it the
    statistic must lie ("explore": reported without a bound). `expected` is "" or "refuted: why"; then a reproduction is
    the surprise that fails the run. `expected_items` says the same of single checks, by the beginning of their names, or
    "open: why" where the verdict depends on the machine: then each one is a finding, and none fails the run.

    `paper` says what the paper itself has to do with the row: "stated: ...", "asked: ..." (an open question or a next check),
    or "ours: ...", and why nobody has judged its own statement where no check of kind "paper" can. `kinds` gives every
    check one of KINDS, `needs` the resources that it names, both by the beginning of the check's name; the longest counts.
    """

    id: str
    title: str
    claim: str
    source: str
    statistic: str
    margin: float | None
    unit: str
    direction: str
    paper: str
    paper_numbers: tuple[str, ...]
    kinds: tuple[tuple[str, str], ...]
    fallback: str
    modules: tuple[str, ...]
    negative_control: str
    covers: tuple[str, ...]
    break_condition: str = ""
    expected: str = ""
    expected_items: tuple[tuple[str, str], ...] = ()
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def expectation(self, item: str) -> str:
        """ "refuted: why" or "open: why" where that is said of the check `item` (its test's name without test_), else ""."""
        return next((text for name, text in self.expected_items if item.startswith(name)), self.expected)

    @property
    def stance(self) -> str:
        """The first word of `paper`: "stated", "asked" or "ours"."""
        return self.paper.partition(":")[0]

    def kind_of(self, item: str) -> str:
        """One of KINDS for the check `item`. Raises RegistryError that says what to write."""
        if (kind := _longest(self.kinds, item)) is None:
            name, known = item.partition("[")[0], "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
            raise RegistryError(f'{self.id}: the check {item} has no kind: add {name} = "KIND" to its row\'s kinds. {known}')
        return kind

    def needs_of(self, item: str) -> tuple[str, ...]:
        """The names of the resources (geluless.verdicts.resources) without which the check `item` says NEEDS_x."""
        return _longest(self.needs, item) or ()


def _longest(entries: Iterable[tuple[str, Value]], item: str) -> Value | None:
    """What the longest of the names that `item` begins with stands for."""
    found = [(len(name), value) for name, value in entries if item.startswith(name)]
    return max(found, key=lambda entry: entry[0])[1] if found else None


LISTS = {"paper_numbers", "modules", "covers"}
TABLES = {"kinds", "needs", "expected_items"}
MAY_BE_EMPTY = {"paper_numbers"}  # a claim without a number of the paper
OPTIONAL = {"break_condition", "expected", "expected_items", "needs"}


def load_registry(path: str | Path) -> tuple[Claim, ...]:
    """Read and check the rows, in the order of their ids. Raises RegistryError that names row and field."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegistryError(f"{path} is no readable TOML file: {error}") from error
    if unknown := sorted(set(document) - {"claim", "timing"}):
        raise RegistryError(f"{path}: unknown table {unknown[0]!r}; rows are [[claim]], protocols [timing]")
    rows = document.get("claim", [])
    if not isinstance(rows, list) or not rows:
        raise RegistryError(f"{path} holds no [[claim]] row")
    claims = tuple(_claim(row, f"{path}, row {index + 1}") for index, row in enumerate(rows))
    ids = [claim.id for claim in claims]
    if ids != sorted(set(ids)):
        raise RegistryError(f"{path}: ids must be unique and in order, not {', '.join(ids)}")
    return claims


def _claim(row: dict[str, Any], where: str) -> Claim:
    known = {field.name for field in fields(Claim)}
    if unknown := sorted(set(row) - known):
        raise RegistryError(f"{where}: unknown key {unknown[0]!r}; a row has {', '.join(sorted(known))}")
    if missing := sorted(known - OPTIONAL - {"margin"} - set(row)):
        raise RegistryError(f"{where}: {missing[0]!r} is missing")
    where = f"{where} ({row['id']})"
    for key, value in row.items():
        if key in LISTS:
            if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
                raise RegistryError(f"{where}: {key!r} must be a list of non-empty strings")
            if not value and key not in MAY_BE_EMPTY:
                raise RegistryError(f"{where}: {key!r} is empty")
        elif key in TABLES:
            _check_table(key, value, where)
        elif key == "margin":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RegistryError(f"{where}: 'margin' must be a number; leave it out where the statement is exact")
        elif not isinstance(value, str) or not value.strip():
            raise RegistryError(f"{where}: {key!r} must be a non-empty string")
    if not ID.fullmatch(row["id"]):
        raise RegistryError(f"{where}: an id is c and two digits")
    if row["direction"] not in DIRECTIONS:
        raise RegistryError(f"{where}: direction {row['direction']!r} is none of {', '.join(DIRECTIONS)}")
    if (row["direction"] in ("below", "above")) != ("margin" in row):
        raise RegistryError(f"{where}: a margin belongs to the directions below and above, and to no other")
    if bad := sorted(set(row["covers"]) - set(COVERS)):
        raise RegistryError(f"{where}: covers {bad[0]!r}, which is none of {', '.join(COVERS)}")
    if bad := sorted(set(row["paper_numbers"]) - set(PAPER_NUMBERS)):
        raise RegistryError(f"{where}: {bad[0]!r} is no number of the paper that is known to us ({', '.join(PAPER_NUMBERS)})")
    if ("break condition" in row["covers"]) != ("break_condition" in row):
        raise RegistryError(f"{where}: covering a break condition means stating it in 'break_condition', and the reverse")
    if "expected" in row and not REFUTED.fullmatch(row["expected"]):
        raise RegistryError(f"{where}: 'expected' is left out, or reads 'refuted: why'")
    if not STANCE.fullmatch(row["paper"]):
        raise RegistryError(f"{where}: 'paper' reads 'stated: ...', 'asked: ...' or 'ours: ...'")
    values: dict[str, Any] = {key: tuple(value) if key in LISTS else value for key, value in row.items()}
    values["expected_items"] = tuple(row.get("expected_items", {}).items())
    values["kinds"] = tuple(row["kinds"].items())
    values["needs"] = tuple((name, tuple(needs)) for name, needs in row.get("needs", {}).items())
    claim = Claim(**{"margin": None, **values})
    if claim.stance != "stated" and any(kind == "paper" for _, kind in claim.kinds):
        raise RegistryError(f"{where}: a check of kind 'paper' judges what the paper states, and 'paper' says {claim.paper!r}")
    return claim


def _check_table(key: str, value: Any, where: str) -> None:
    entries = value.values() if isinstance(value, dict) else [None]
    if key == "expected_items":
        sound = all(isinstance(entry, str) and OPEN_OR_REFUTED.fullmatch(entry) for entry in entries)
        meaning = 'to "refuted: why" or "open: why"'
    elif key == "kinds":
        sound = bool(value) and all(isinstance(entry, str) and entry in KINDS for entry in entries)
        meaning = f"to one of {', '.join(KINDS)}, every check to one"
    else:
        sound = all(isinstance(entry, list) and entry and all(isinstance(name, str) for name in entry) for entry in entries)
        meaning = "to lists of resources; a check that needs nothing is left out"
    if not sound or "" in value:
        raise RegistryError(f"{where}: {key!r} maps the names of checks {meaning}")


def claim_of_file(path: str | Path) -> str | None:
    """The claim id that a test file's name carries (test_c03_accuracy.py -> "c03"), or None."""
    match = TEST_FILE.fullmatch(Path(path).name)
    return match.group(1) if match else None


def check_bijection(claims: tuple[Claim, ...], folder: str | Path) -> None:
    """One test file per row and one row per test file; RegistryError names the odd one out."""
    files: dict[str, str] = {}
    for file in sorted(Path(folder).glob("test_*.py")):
        identifier = claim_of_file(file)
        if identifier is None:
            raise RegistryError(f"{file.name}: a claim's test file is called test_cNN_words.py")
        if identifier in files:
            raise RegistryError(f"{identifier} has two test files, {files[identifier]} and {file.name}")
        files[identifier] = file.name
    ids = {claim.id for claim in claims}
    if lacking := sorted(ids - set(files)):
        raise RegistryError(f"{lacking[0]} has a row but no test file test_{lacking[0]}_*.py in {folder}")
    if orphans := sorted(set(files) - ids):
        raise RegistryError(f"{files[orphans[0]]} has no row {orphans[0]} in the registry")


def missing_modules(claims: tuple[Claim, ...]) -> tuple[str, ...]:
    """The modules named by rows that this installation cannot find, as "cNN: module"."""
    lacking = []
    for claim in claims:
        for module in claim.modules:
            try:
                found = importlib.util.find_spec(module) is not None
            except ModuleNotFoundError:
                found = False
            if not found:
                lacking.append(f"{claim.id}: {module}")
    return tuple(lacking)
