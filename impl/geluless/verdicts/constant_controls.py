"""Controls whose outcome is written down instead of found: read from a claim test's source, because no run can show it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

HELD = 2  # the place of `held` among the arguments of Control


@cache
def constant_controls(path: Path) -> tuple[int, ...]:
    """Line numbers of every `Control(what, observed, held)` in the file whose `held` is an expression that looks at nothing."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return tuple(sorted(call.lineno for call in calls if _named(call.func) == "Control" and _is_constant(_held(call))))


def _named(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""


def _held(call: ast.Call) -> ast.expr | None:
    by_name = next((keyword.value for keyword in call.keywords if keyword.arg == "held"), None)
    return call.args[HELD] if len(call.args) > HELD else by_name


def _is_constant(value: ast.expr | None) -> bool:
    looks = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)
    return value is not None and not any(isinstance(node, looks) for node in ast.walk(value))
