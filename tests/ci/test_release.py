"""What is released: contents of the files, the version said once, and what an installed package needs and imports."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geluless
from ci.release import contents
from geluless.cli import STATISTICS
from geluless.integer.gelu import erf, gelu_table

REPOSITORY = Path(__file__).parents[2]
METADATA = "geluless-1.0.dist-info"
WHEEL = (
    *("geluless/__init__.py", "geluless/py.typed", "geluless/engine/cpu/_native.abi3.so", "ptxsim/__init__.py"),
    *(f"{METADATA}/licenses/{licence}" for licence in contents.LICENCES),
    *(f"{METADATA}/METADATA", "geluless.libs/libstdc++-1234.so.6"),
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return document


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[ \[<>=;]", requirement, maxsplit=1)[0] for requirement in requirements}


def test_a_wheel_as_it_should_be() -> None:
    assert contents.wrong_in_wheel(WHEEL) == []


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("geluless/engine/cpu/gemm.h", "of no use"),
        ("geluless/engine/cpu/bindings.cpp", "of no use"),
        ("geluless/engine/cpu/CMakeLists.txt", "of no use"),
        ("geluless/tests/test_a.py", "of no use"),
        ("tests/test_a.py", "belongs to no package"),
    ],
)
def test_a_file_that_has_no_place_in_a_wheel(more: str, complaint: str) -> None:
    [wrong] = [line for line in contents.wrong_in_wheel((*WHEEL, more)) if complaint in line]
    assert more in wrong


@pytest.mark.parametrize("without", [name for name in WHEEL if name.endswith(("LICENSE", "py.typed", ".abi3.so"))])
def test_a_file_that_a_wheel_lacks(without: str) -> None:
    [wrong] = contents.wrong_in_wheel(set(WHEEL) - {without})
    assert "missing" in wrong


def test_a_source_distribution_without_a_source() -> None:
    whole = [f"geluless-1.0/{name}" for name in (*contents.NEEDED_TO_BUILD, *contents.LICENCES)]
    assert contents.wrong_in_sdist(whole) == []
    assert contents.wrong_in_sdist(whole[1:]) == ["pyproject.toml is missing"]


def test_nothing_to_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contents.main([str(tmp_path)]) == 1
    assert "0 wheels and 0 source distributions" in capsys.readouterr().err


def test_the_version_is_written_once(project: dict[str, Any]) -> None:
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    [metadata] = project["tool"]["dynamic-metadata"]
    source = metadata["input"]
    assert Path(geluless.__file__).samefile(REPOSITORY / source)
    assert f'__version__ = "{geluless.__version__}"' in (REPOSITORY / source).read_text(encoding="utf-8")
    assert importlib.metadata.version("geluless") == geluless.__version__


def test_running_needs_no_statistics(project: dict[str, Any]) -> None:
    optional = project["project"]["optional-dependencies"]
    assert names(optional["claims"]) == set(STATISTICS)
    assert not names(project["project"]["dependencies"]) & set(STATISTICS)


def test_what_the_project_is_known_to_use(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    everything = names(project["project"]["dependencies"]).union(*map(names, extras))
    assert everything >= {"hypothesis", "nox", "pandas", "pytest", "pytest-benchmark", "tensorrt", "timm", "torch"}


def without(packages: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` where importing any of `packages` fails as if it were not installed."""
    absent = f"""
import sys
from importlib.machinery import PathFinder
class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""
    return subprocess.run([sys.executable, "-c", absent + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["geluless.engine.engine", "geluless.engine.cpu", "geluless.integer.artifact", "geluless.cli"])
def test_running_an_artifact_imports_numpy_and_safetensors(module: str) -> None:
    result = without((*STATISTICS, "torch", "torchvision", "timm", "PIL", "rich", "tqdm"), f"import {module}")
    assert result.returncode == 0, result.stderr


def test_quantizing_imports_no_statistics() -> None:
    modules = ("distillation", "ptq.quantize", "models", "data", "interop.onnx_export")
    result = without(STATISTICS, "import " + ", ".join(f"geluless.{module}" for module in modules))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", [["harness"], ["report", "report/claims.json"]])
def test_a_verb_that_needs_statistics_names_the_extra(line: list[str]) -> None:
    result = without(STATISTICS, f"from geluless.cli import main; sys.exit(main({line}))")
    assert result.returncode == 3, result.stderr
    assert "pip install 'geluless[claims]'" in result.stderr


def test_doctor_needs_no_statistics() -> None:
    result = without(STATISTICS, "from geluless.cli import main; sys.exit(main(['doctor']))")
    assert result.returncode == 0, result.stderr
    assert "absent" in result.stdout


def test_an_artifact_is_the_same_where_scipy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy's erf and the C library's differ in last bits of doubles, but in no table and no fp32 value that an artifact uses."""
    rng = np.random.default_rng(0)
    quantizers = [(10 ** rng.uniform(-3, 0), rng.integers(256), 10 ** rng.uniform(-3, 0), rng.integers(256)) for _ in range(300)]
    doubles = rng.uniform(-6, 6, 10_000)
    singles = doubles.astype(np.float32)

    def values() -> tuple[list[bytes], np.ndarray, np.ndarray]:
        return [gelu_table(*quantizer).tobytes() for quantizer in quantizers], erf(singles), erf(doubles)

    with_scipy = values()
    monkeypatch.setitem(sys.modules, "scipy", None)
    without_scipy = values()
    assert with_scipy[0] == without_scipy[0]
    assert (with_scipy[1] == without_scipy[1]).all()
    assert (with_scipy[2] != without_scipy[2]).any(), "scipy was not left out"
