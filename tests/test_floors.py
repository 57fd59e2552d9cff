"""The floors of the package, as pyproject.toml has them: they hold, and each contract finds the import that it forbids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
pytest.importorskip("importlinter", reason="needs import-linter: pip install 'geluless[dev]'")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the contracts about them, to plant imports in."""
    folder = tmp_path_factory.mktemp("floors")
    for package in ("geluless", "ptxsim"):
        shutil.copytree(REPOSITORY / "impl" / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint_imports(folder: Path) -> tuple[int, str]:
    """Exit code and output, for the packages in the folder, wherever geluless is installed."""
    use_the_folder = f"from ci.gate.launch import use_only; use_only({str(folder)!r})"
    program = f"{use_the_folder}; from importlinter.cli import lint_imports_command; lint_imports_command()"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = (sys.executable, "-c", program, "--no-cache")
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def test_every_import_runs_down(copy: Path) -> None:
    code, output = lint_imports(copy)
    assert code == 0, output


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("geluless/integer/plan.py", "from geluless.ptq import quantize", "the floors of geluless"),
        ("geluless/engine/engine.py", "from geluless.ptq import quantize", "the floors of geluless"),
        ("geluless/ptq/builder.py", "from geluless.engine import engine", "the floors of geluless"),
        ("geluless/bench/load.py", "def late():\n    import geluless.verdicts.pool", "the floors of geluless"),
        ("geluless/files.py", "import geluless.cli", "the floors of geluless"),
        ("geluless/newcomer.py", "", "the floors of geluless"),
        ("ptxsim/bits.py", "from geluless.errors import GelulessError", "ptxsim stands alone"),
        ("geluless/integer/plan.py", "import torch", "know no torch"),
        ("geluless/engine/cpu/__init__.py", "import torch", "know no torch"),
        ("geluless/ptq/builder.py", "import pandas", "needs no statistics"),
        ("geluless/errors.py", "import tests.support", "needs the repository"),
    ],
)
def test_a_planted_import_is_found(copy: Path, module: str, planted: str, contract: str) -> None:
    path = copy / module
    text = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{text or ''}\n{planted}\n", encoding="utf-8")
    try:
        code, output = lint_imports(copy)
    finally:
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")
    assert code == 1, output
    broken = [line for line in output.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken), output
