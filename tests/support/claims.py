"""A claim's own tests, run with evidence that was planted, as pytest would run them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from geluless.verdicts import load_registry
from geluless.verdicts.claim_fixture import ClaimFixture
from geluless.verdicts.verdict import Record

CLAIMS = Path(__file__).parents[2] / "claims"
ROWS = {row.id: row for row in load_registry(CLAIMS / "claims.toml")}


@cache
def claim_module(claim: str) -> ModuleType:
    """claims/test_cNN_*.py"""
    (path,) = CLAIMS.glob(f"test_{claim}_*.py")
    spec = importlib.util.spec_from_file_location(f"claim_{claim}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def deliver(claim: str, test: str, **arguments: Any) -> Record:
    """What `test` of this claim's file delivers. Whatever it raises is raised."""
    item = test.removeprefix("test_")
    fixture = ClaimFixture(ROWS[claim], item=item, node=test)
    getattr(claim_module(claim), test)(claim=fixture, **arguments)
    silent = Record(claim, item, test, "ERROR", "the test returned without a verdict", kind=ROWS[claim].kind_of(item))
    return fixture.record or silent


def outcome(claim: str, test: str, **arguments: Any) -> Record:
    """The same, with the status ERROR where it raises."""
    try:
        return deliver(claim, test, **arguments)
    except Exception as error:  # as pytest does: whatever it is, it is no verdict
        item, sentence = test.removeprefix("test_"), f"{type(error).__name__}: {error}"
        return Record(claim, item, test, "ERROR", sentence, kind=ROWS[claim].kind_of(item))
