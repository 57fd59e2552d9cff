"""The registry and the claims folder agree, and a defect in either is named."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from geluless.verdicts import Claim, RegistryError, Resource, load_registry
from geluless.verdicts.registry import KINDS, PAPER_NUMBERS, check_bijection, claim_of_file, missing_modules

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
paper = "stated: of networks on ImageNet"
paper_numbers = ["0.5 %"]
kinds = {{ it = "stand-in" }}
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
    assert {need for row in registry for _, needs in row.needs for need in needs} <= names


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
        (ROW.format(id="c01").replace('kinds = { it = "stand-in" }\n', ""), "'kinds' is missing"),
        (ROW.format(id="c01").replace('"stand-in"', '"guess"'), "'kinds' maps .* to one of paper, arithmetic, stand-in"),
        (ROW.format(id="c01").replace('{ it = "stand-in" }', "{}"), "'kinds' maps"),
        (ROW.format(id="c01").replace('{ it = "stand-in" }', '{ "" = "stand-in" }'), "'kinds' maps"),
        (ROW.format(id="c01").replace('{ it = "stand-in" }', '["it"]'), "'kinds' maps"),
        (ROW.format(id="c01").replace('paper = "stated: of networks on ImageNet"\n', ""), "'paper' is missing"),
        (ROW.format(id="c01").replace("stated: of", "perhaps: of"), "'paper' reads 'stated"),
        (ROW.format(id="c01").replace("stated: of", "asked: of").replace("stand-in", "paper"), "judges what the paper states"),
        (ROW.format(id="c01") + 'needs = ["IMAGENET"]\n', "'needs' maps"),
        (ROW.format(id="c01") + "needs = { it = [] }\n", "'needs' maps"),
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


# -------------------------------------------------------------------------------------------------------- kinds and needs


def checks_of(file: Path) -> dict[str, ast.FunctionDef]:
    """The tests of a claim's file by the registry's names for them."""
    functions = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return {node.name.removeprefix("test_"): node for node in functions if node.name.startswith("test_")}


def file_of(row: Claim) -> Path:
    (file,) = CLAIMS.glob(f"test_{row.id}_*.py")
    return file


def test_every_check_has_a_kind_and_every_kind_a_check(registry: tuple[Claim, ...]) -> None:
    for row in registry:
        checks = checks_of(file_of(row))
        assert {check: row.kind_of(check) for check in checks}.keys() == checks.keys()
        named = {name.partition("[")[0] for name, _ in (*row.kinds, *row.needs, *row.expected_items)}
        assert [name for name in named if not any(check.startswith(name) for check in checks)] == [], row.id


def test_the_paper_is_judged_where_it_states_something(registry: tuple[Claim, ...]) -> None:
    """Open questions and rows of ours have no check of the paper's own statement, and no row is silent about the paper."""
    for row in registry:
        assert row.stance in ("stated", "asked", "ours"), row.id
        if any(kind == "paper" for _, kind in row.kinds):
            assert row.stance == "stated", row.id
        if any(word in row.source for word in ("open question", "next check")):
            assert row.stance == "asked", row.id


def resources_of(check: ast.FunctionDef, file: Path) -> set[str]:
    """The names of the resources that a test asks for. CHECK counts where it says NEEDS_x whatever is here: `claim.needs` in its
    outermost lines."""
    names = {node.attr for node in ast.walk(check) if isinstance(node, ast.Attribute) and _is_name(node.value, "Resource")}
    for node in ast.walk(check):
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Name):
            names |= {resource.name for resource in imported(node.value.id, file)}
    always = any(
        isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and ast.unparse(line.value.func) == "claim.needs"
        for line in check.body
    )
    return names - {"CHECK"} | ({"CHECK"} if always else set())


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def imported(name: str, file: Path) -> tuple[Resource, ...]:
    """A tuple of resources that the file imports by this name."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            found: tuple[Resource, ...] = getattr(importlib.import_module(node.module), name)
            return found if all(isinstance(one, Resource) for one in found) else ()
    return ()


def test_the_registry_names_what_each_check_asks_for(registry: tuple[Claim, ...]) -> None:
    """`geluless doctor` says by these what a machine can judge."""
    for row in registry:
        file = file_of(row)
        for check, function in checks_of(file).items():
            assert set(row.needs_of(check)) == resources_of(function, file), f"{row.id}, needs of {check}"


def test_what_a_check_asks_for_is_read_from_its_source(tmp_path: Path) -> None:
    file = tmp_path / "test_c01_x.py"
    file.write_text(
        "from geluless.verdicts.rtx4090 import NEEDED\n"
        "def test_here(claim):\n    if claim.lacks(*NEEDED, Resource.IMAGENET):\n        claim.needs(Resource.CHECK)\n"
        "def test_never(claim):\n    claim.needs(Resource.GPU)\n"
        "def test_free(claim):\n    pass\n"
    )
    found = {name: resources_of(check, file) for name, check in checks_of(file).items()}
    assert found == {
        "here": {"RTX_4090", "GPU_ENGINE", "FASTER_TRANSFORMER", "IMAGENET"},
        "never": {"GPU", "CHECK"},
        "free": set(),
    }


def test_the_longest_beginning_of_a_name_counts_and_none_says_what_to_write(tmp_path: Path) -> None:
    kinds = 'kinds = { on = "stand-in", on_imagenet = "paper", on_image = "ours" }'
    text = ROW.format(id="c07").replace('kinds = { it = "stand-in" }', kinds)
    (row,) = load_registry(write(tmp_path, text + 'needs = { on_imagenet = ["IMAGENET"] }\n'))
    assert [row.kind_of(item) for item in ("on_imagenet[tiny]", "on_images", "on")] == ["paper", "ours", "stand-in"]
    assert row.needs_of("on_imagenet[tiny]") == ("IMAGENET",)
    assert row.needs_of("on") == ()
    with pytest.raises(
        RegistryError, match=r'c07: the check off\[tiny\] has no kind: add off = "KIND" to its row\'s kinds'
    ) as told:
        row.kind_of("off[tiny]")
    assert all(kind in str(told.value) for kind in KINDS)
