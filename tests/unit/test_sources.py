"""A record is of the code that made it: every file that decides counts, what only draws does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless import sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a few files in place of ours."""
    root, claims = tmp_path / "impl" / "package", tmp_path / "claims"
    for name in ("bench/paired.py", "engine/cpu/gemm.h", "verdicts/latency.py", "verdicts/judge.py", "report/html.py", "cli.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one")
    claims.mkdir()
    (claims / "claims.toml").write_text("one")
    monkeypatch.setattr(sources, "PACKAGE", root)
    monkeypatch.setattr(sources, "CLAIMS", claims)
    return root


def digests() -> tuple[str, str]:
    return sources.verdict_sources.__wrapped__(), sources.timing_sources.__wrapped__()


@pytest.mark.parametrize(
    ("name", "verdicts", "timing"),
    [
        ("bench/paired.py", True, True),
        ("engine/cpu/gemm.h", True, True),
        ("verdicts/latency.py", True, True),
        ("verdicts/judge.py", True, False),
        ("../../claims/claims.toml", True, False),
        ("report/html.py", False, False),
        ("cli.py", False, False),
    ],
)
def test_a_change_counts_where_it_can_change_the_record(package: Path, name: str, verdicts: bool, timing: bool) -> None:
    before = digests()
    (package / name).write_text("two")
    after = digests()
    assert (before[0] != after[0]) is verdicts
    assert (before[1] != after[1]) is timing


def test_a_renamed_file_counts(package: Path) -> None:
    before = digests()
    (package / "bench" / "paired.py").rename(package / "bench" / "pairs.py")
    assert digests()[0] != before[0]


def test_the_real_package_has_both() -> None:
    assert len({*(sources.verdict_sources(), sources.timing_sources())}) == 2
