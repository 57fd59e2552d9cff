"""A claim's test file as a module, and its tests run with a claim fixture of their own: for planting faults in what they read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from geluless.verdicts import ClaimFixture, load_registry

CLAIMS = Path(__file__).parents[2] / "claims"


def claim_module(claim: str, config: pytest.Config) -> ModuleType:
    """claims/test_cNN_*.py; `config` learns the marker that claims/conftest.py would register."""
    config.addinivalue_line("markers", "evidence(*tasks): the live evidence this test reads")
    (path,) = CLAIMS.glob(f"test_{claim}_*.py")
    spec = importlib.util.spec_from_file_location(f"claim_{claim}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def deliver(module: ModuleType, test: str, *arguments: object) -> tuple[str, str]:
    """(status, sentence) of what a test of this module delivers."""
    row = next(row for row in load_registry(CLAIMS / "claims.toml") if row.id == module.__name__.removeprefix("claim_"))
    claim = ClaimFixture(row, item=test, node=test)
    getattr(module, test)(claim, *arguments)
    assert claim.record is not None
    return claim.record.status, claim.record.sentence
