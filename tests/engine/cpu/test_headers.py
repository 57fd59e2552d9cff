"""Every header of the C++ engine and of its checks includes what it needs: it compiles alone, for its instruction set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cpp")
SEARCH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # cmake and ninja are Python packages


def why_not() -> str:
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool, path=SEARCH):
            return f"{tool} is missing: pip install {tool}"
    return "" if os.environ.get("CXX") or shutil.which("c++") else "there is no C++ compiler"


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def cmake(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": SEARCH}
    return subprocess.run(["cmake", *arguments], env=environment, capture_output=True, text=True, check=False)


def configure(build: Path, *options: str) -> None:
    done = cmake("-G", "Ninja", "-S", str(SOURCE), "-B", str(build), *options)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_header_compiles_alone(tmp_path: Path) -> None:
    configure(tmp_path)
    done = cmake("--build", str(tmp_path), "--target", "check_headers")
    assert done.returncode == 0, done.stdout


def test_a_header_that_needs_another_before_it_is_noticed(tmp_path: Path) -> None:
    """Control."""
    (wrong := tmp_path / "wrong.h").write_text("#pragma once\ninline std::string name() { return {}; }\n")
    configure(tmp_path / "build", f"-DGELULESS_MORE_HEADERS={wrong}")
    done = cmake("--build", str(tmp_path / "build"), "--target", "CMakeFiles/check_headers_plain.dir/plain/wrong.cpp.o")
    assert done.returncode != 0
    assert "std::string" in done.stdout or "‘string’" in done.stdout
