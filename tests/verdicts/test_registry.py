"""The registry and the claims folder agree, and a defect in either is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless.verdicts import Claim, RegistryError, Resource, load_registry
from geluless.verdicts.registry import PAPER_NUMBERS, check_bijection, claim_of_file, missing_modules

CLAIMS = Path(__file__).parents[2] / "claims"

ROW = """
[[claim]]
id = "{id}"
title = "t"
claim = "c"
source = "abstract"
covers = ["key result"]
statistic = "s"
margin = 0.5
unit = "pp"
direction = "below"
paper_numbers = ["0.5 %"]
needs = []
fallback = "f"
modules = ["geluless.errors"]
negative_control = "n"
"""


@pytest.fixture(scope="module")
def registry() -> tuple[Claim, ...]:
    return load_registry(CLAIMS / "claims.toml")


def write(folder: Path, text: str) -> Path:
    path = folder / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_ids_are_stable(registry: tuple[Claim, ...]) -> None:
    assert [row.id for row in registry] == [f"c{number:02}" for number in range(1, 15)]


def test_rows_and_test_files_are_in_bijection(registry: tuple[Claim, ...]) -> None:
    check_bijection(registry, CLAIMS)


def test_every_named_module_exists(registry: tuple[Claim, ...]) -> None:
    assert missing_modules(registry) == ()


def test_every_need_is_a_resource_that_can_be_probed(registry: tuple[Claim, ...]) -> None:
    names = {resource.name for resource in Resource}
    assert {need for row in registry for need in row.needs} <= names


def test_only_two_numbers_are_the_papers(registry: tuple[Claim, ...]) -> None:
    assert {number for row in registry for number in row.paper_numbers} == set(PAPER_NUMBERS)


def test_every_kind_of_statement_of_the_paper_is_covered(registry: tuple[Claim, ...]) -> None:
    covered = {kind for row in registry for kind in row.covers}
    assert covered == {"key result", "mechanism", "break condition", "open question", "next check", "limitation"}
    sources = " ".join(row.source for row in registry)
    for place in ("mechanism 1", "mechanisms 1 and 2", "mechanism 3", *(f"open question {i}" for i in (1, 2, 3))):
        assert place in sources
    assert all(f"next check {i}" in sources for i in (1, 2, 3))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ROW.format(id="c01") + 'colour = "red"\n', "unknown key 'colour'"),
        (ROW.format(id="c01").replace('title = "t"\n', ""), "'title' is missing"),
        (ROW.format(id="c01").replace('title = "t"', 'title = " "'), "'title' must be a non-empty string"),
        (ROW.format(id="c01").replace('["geluless.errors"]', "[]"), "'modules' is empty"),
        (ROW.format(id="c01").replace('["geluless.errors"]', '"geluless.errors"'), "must be a list"),
        (ROW.format(id="c01").replace("margin = 0.5", 'margin = "half"'), "'margin' must be a number"),
        (ROW.format(id="c01").replace("margin = 0.5\n", ""), "a margin belongs to"),
        (ROW.format(id="c01").replace('"below"', '"sideways"'), "direction 'sideways'"),
        (ROW.format(id="c01").replace('"0.5 %"', '"12.7 %"'), "'12.7 %' is no number of the paper"),
        (ROW.format(id="c01").replace('"key result"', '"break condition"'), "break condition"),
        (ROW.format(id="c01").replace('"key result"', '"rumour"'), "covers 'rumour'"),
        (ROW.format(id="c01") + 'expected = "perhaps"\n', "'expected' is left out"),
        (ROW.format(id="c01") + 'expected_items = {memory = "perhaps"}\n', "'expected_items' maps"),
        (ROW.format(id="c01") + "expected_items = 3\n", "'expected_items' maps"),
        (ROW.format(id="claim1"), "an id is c and two digits"),
        (ROW.format(id="c02") + ROW.format(id="c01"), "unique and in order"),
        (ROW.format(id="c01") * 2, "unique and in order"),
        ("[claims]\n", "unknown table 'claims'"),
        ("", "no .*row"),
        ("[[claim", "no readable TOML"),
    ],
)
def test_a_defective_row_is_named(tmp_path: Path, broken: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_registry(write(tmp_path, broken))


def test_a_good_row_loads_and_the_expected_refutation_is_read(tmp_path: Path) -> None:
    (row,) = load_registry(write(tmp_path, ROW.format(id="c07") + 'expected = "refuted: tables are as fast"\n'))
    assert row.id == "c07"
    assert row.expectation("anything") == "refuted: tables are as fast"
    assert row.margin == 0.5


def test_rows_without_file_and_files_without_row_are_named(tmp_path: Path) -> None:
    rows = load_registry(write(tmp_path, ROW.format(id="c01") + ROW.format(id="c02")))
    (tmp_path / "test_c01_a.py").touch()
    with pytest.raises(RegistryError, match="c02 has a row but no test file"):
        check_bijection(rows, tmp_path)
    (tmp_path / "test_c02_b.py").touch()
    check_bijection(rows, tmp_path)
    (tmp_path / "test_c09_c.py").touch()
    with pytest.raises(RegistryError, match="has no row c09"):
        check_bijection(rows, tmp_path)
    (tmp_path / "test_c09_c.py").rename(tmp_path / "test_c01_again.py")
    with pytest.raises(RegistryError, match="c01 has two test files"):
        check_bijection(rows, tmp_path)
    (tmp_path / "test_c01_again.py").rename(tmp_path / "test_other.py")
    with pytest.raises(RegistryError, match="is called test_cNN_words"):
        check_bijection(rows, tmp_path)


def test_a_module_that_does_not_exist_is_listed(tmp_path: Path) -> None:
    text = ROW.format(id="c01").replace("geluless.errors", "geluless.magic.wand")
    assert missing_modules(load_registry(write(tmp_path, text))) == ("c01: geluless.magic.wand",)


def test_single_checks_may_be_expected_to_refute(tmp_path: Path) -> None:
    (row,) = load_registry(write(tmp_path, ROW.format(id="c07") + 'expected_items = {memory = "refuted: both fit"}\n'))
    assert row.expectation("memory_against_all[tiny]") == "refuted: both fit"
    assert row.expectation("time_against[tiny]") == ""
    (row,) = load_registry(write(tmp_path, ROW.format(id="c07") + 'expected_items = {time = "open: depends"}\n'))
    assert row.expectation("time_against[tiny]") == "open: depends"


@pytest.mark.parametrize(("name", "expected"), [("test_c03_accuracy.py", "c03"), ("test_c3_x.py", None), ("test_units.py", None)])
def test_the_file_name_carries_the_id(name: str, expected: str | None) -> None:
    assert claim_of_file(name) == expected
