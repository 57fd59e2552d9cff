"""GELULESS_REQUIRE=engine,chromium,triton: what must be there, so that a missing one is a failure and not some skipped tests.

.ci/run and the workflow of pull requests set it. Where it is not set, tests that need one of these are skipped and say why.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

from tests.support.chromium import why_no_chromium
from tests.support.compiled import MISSING_REASON


def why_no_triton() -> str:
    return "" if importlib.util.find_spec("triton") else "the GPU engine needs triton: pip install 'geluless[gpu]'"


# The reason why it is missing; nothing where it is there.
RESOURCES: dict[str, Callable[[], str]] = {
    "engine": lambda: MISSING_REASON,
    "chromium": why_no_chromium,
    "triton": why_no_triton,
}


def test_what_is_required_is_here() -> None:
    required = filter(None, os.environ.get("GELULESS_REQUIRE", "").split(","))
    unknown = f"no such resource; there are {', '.join(RESOURCES)}"
    missing = {name: why for name in required if (why := RESOURCES[name]() if name in RESOURCES else unknown)}
    assert not missing


def test_what_is_required_and_missing_fails() -> None:
    absent = {"GELULESS_NATIVE": "/no/such/module.so", "GELULESS_CHROMIUM": "/no/such/browser"}
    variables = {**os.environ, **absent, "GELULESS_REQUIRE": "engine,chromium,engnie"}
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_what_is_required_is_here")
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    for complaint in (*absent.values(), "no such resource; there are engine, chromium, triton", "1 failed"):
        assert complaint in result.stdout
