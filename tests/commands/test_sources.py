"""A record is of what made it: every file that decides counts, what only draws does not; and so do fixtures and packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from geluless import sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a few files in place of ours."""
    root, claims = tmp_path / "impl" / "package", tmp_path / "claims"
    files = (
        "bench/paired.py",
        "engine/cpu/gemm.h",
        "engine/__init__.py",
        "engine/engine.py",
        "integer/plan.py",
        "models/swin.py",
        "data/embedded.py",
        "bench/networks.py",
    )
    files += ("ptq/fold.py", "baselines/openvino.py", "verdicts/latency.py", "verdicts/harness.py", "verdicts/statistics.py")
    for name in (*files, "report/html.py", "cli.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("one")
    claims.mkdir()
    (claims / "claims.toml").write_text("one")
    monkeypatch.setattr(sources, "PACKAGE", root)
    monkeypatch.setattr(sources, "CLAIMS", claims)
    (fixtures := tmp_path / "fixtures").mkdir()
    (fixtures / "MANIFEST.toml").write_text("one")
    monkeypatch.setattr(sources, "FIXTURES", fixtures / "MANIFEST.toml")
    return root


DIGESTS = {name: getattr(sources, f"{name}_sources") for name in ("verdict", "timing", "comparison", "artifact")}


def digests() -> dict[str, str]:
    return {name: digest.__wrapped__() for name, digest in DIGESTS.items()}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("bench/paired.py", {"verdict", "timing", "comparison"}),
        ("engine/cpu/gemm.h", {"verdict", "timing", "comparison"}),
        ("baselines/openvino.py", {"verdict", "comparison"}),
        ("bench/networks.py", {"verdict", "timing", "comparison", "artifact"}),
        ("models/swin.py", {"verdict", "comparison", "artifact"}),
        ("data/embedded.py", {"verdict", "comparison", "artifact"}),
        ("../../fixtures/MANIFEST.toml", {"verdict", "comparison", "artifact"}),
        ("ptq/fold.py", {"verdict", "comparison", "artifact"}),
        ("integer/plan.py", {"verdict", "timing", "comparison", "artifact"}),
        ("verdicts/latency.py", {"verdict", "timing"}),
        ("verdicts/statistics.py", {"verdict"}),
        ("../../claims/claims.toml", {"verdict"}),
        ("report/html.py", set()),
        ("cli.py", set()),
    ],
)
def test_a_change_counts_where_it_can_change_the_record(package: Path, name: str, changed: set[str]) -> None:
    before = digests()
    (package / name).write_text("two")
    after = digests()
    assert {name for name in DIGESTS if before[name] != after[name]} == changed


@pytest.mark.parametrize("name", ["numpy", "timm", "torch"])
@pytest.mark.parametrize("now", ["99.0", None], ids=["another version", "not installed"])
@pytest.mark.usefixtures("package")
def test_another_version_of_what_makes_networks_counts(monkeypatch: pytest.MonkeyPatch, name: str, now: str | None) -> None:
    """But not for what is timed: records of one machine are read on another."""
    before, honest = digests(), sources.version

    def version(wanted: str) -> str:
        if wanted != name:
            return honest(wanted)
        if now is None:
            raise PackageNotFoundError(wanted)
        return now

    monkeypatch.setattr(sources, "version", version)
    assert {name for name, digest in digests().items() if digest != before[name]} == {"verdict", "comparison", "artifact"}


def test_outside_a_clone_there_are_no_fixtures_to_count(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests()
    monkeypatch.setattr(sources, "FIXTURES", package / "elsewhere")
    assert digests()["artifact"] != before["artifact"]


def test_a_renamed_file_counts(package: Path) -> None:
    before = digests()
    (package / "bench" / "paired.py").rename(package / "bench" / "pairs.py")
    assert digests()["verdict"] != before["verdict"]


def test_the_code_alone_is_the_same_whatever_packages_there_are(package: Path) -> None:
    """With the networks that lie beside it, and without what only shows."""
    code = sources.code_sources.__wrapped__
    before = code()
    (package / "report" / "html.py").write_text("two")
    assert code() == before
    (package / "ptq" / "fold.py").write_text("two")
    changed = code()
    assert changed != before
    (package.parents[1] / "fixtures").mkdir(exist_ok=True)
    (package.parents[1] / "fixtures" / "MANIFEST.toml").write_text("another network")
    assert code() not in (before, changed)


@pytest.mark.parametrize("place", ["engine", "bench", "verdicts/harness.py"])
def test_a_place_that_was_renamed_is_an_error_and_not_left_out(package: Path, place: str) -> None:
    (package / place).rename(package / "elsewhere")
    with pytest.raises(FileNotFoundError, match=place):
        digests()


def test_the_real_package_has_all_of_them() -> None:
    assert len({digest() for digest in DIGESTS.values()}) == len(DIGESTS)
