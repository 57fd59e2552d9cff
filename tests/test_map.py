"""The maps name places that exist: a page that misleads is worse than none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "impl/README.md", "ci/README.md", "claims/README.md", ".github/CONTRIBUTING.md")
# `name/...` or `name.ext` in backquotes or a link: a path below the repository, the package, or the page's own folder.
PLACE = re.compile(r"(?:`|\]\()((?:\.\./)?[\w.-]+(?:/[\w.-]+)*\.(?:py|h|cpp|md|toml|cmake|yml)|[\w-]+(?:/[\w-]+)+/)(?:`|\))")
ELSEWHERE = re.compile(
    r"claims\.(md|html)|claims\.summary\.md|junit\.xml|gate\.md|report/.*|.*(NAME|NN).*"
)  # what a run writes, and placeholders


def places(page: str) -> list[str]:
    return PLACE.findall((ROOT / page).read_text(encoding="utf-8"))


WORDS = {"geluless", "ptxsim", "relu", "claim"}


def found(name: str) -> list[Path]:
    roots = (ROOT / "impl", ROOT, ROOT / "impl" / "geluless")
    there = [root / name for root in roots if (root / name).exists()]
    return there or list((ROOT / "impl").rglob(name))


def exists(name: str, page: Path) -> bool:
    roots = (page.parent, ROOT, ROOT / "impl", ROOT / "impl" / "geluless")
    if any((root / name).exists() for root in roots):
        return True
    return ("/" not in name and any((ROOT / "impl").rglob(name))) or any((ROOT / "tests").rglob(name))


@pytest.mark.parametrize("page", PAGES)
def test_every_place_that_a_page_names_is_there(page: str) -> None:
    assert not [name for name in places(page) if not ELSEWHERE.fullmatch(name) and not exists(name, ROOT / page)]


def test_the_map_walks_through_every_floor() -> None:
    named = {name.split("/")[1] for name in places("impl/README.md") if name.startswith("geluless/")}
    floors = {path.name for path in (ROOT / "impl" / "geluless").iterdir() if (path / "__init__.py").exists()}
    text = (ROOT / "impl" / "README.md").read_text(encoding="utf-8")
    assert {floor for floor in floors if f"{floor}/" not in text} == set()
    assert {"models", "distillation", "ptq", "integer", "engine", "bench", "verdicts", "report"} <= named


def test_every_name_beside_a_place_stands_in_one_of_the_files_of_its_line() -> None:
    """`file` (`name`), or a row that names both: a name that moved misleads as a file does."""
    text = (ROOT / "impl" / "README.md").read_text(encoding="utf-8")
    paragraphs = [block for block in re.split(r"\n\n|\n(?=\|)", text) if not block.startswith("```")]
    for block in paragraphs:
        names = re.findall(r"`([a-zA-Z_]\w+)(?:\(\))?`", block)
        files = [path for name in PLACE.findall(block) for path in found(name)]
        content = "".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
        assert [name for name in names if name not in WORDS and "NAME" not in name and name not in content] == [], block


def test_a_place_that_is_not_there_is_noticed() -> None:
    assert not exists("geluless/engine/plan.py", ROOT / "impl" / "README.md")
    assert PLACE.findall("see `geluless/engine/plan.py`, [page](integer/FORMAT.md) and `tests/laws/`") == [
        "geluless/engine/plan.py",
        "integer/FORMAT.md",
        "tests/laws/",
    ]
