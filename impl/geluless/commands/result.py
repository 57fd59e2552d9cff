"""What a verb hands back: the same facts for a machine and for a person. Only `cli.main` prints them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from geluless.errors import GelulessError

if TYPE_CHECKING:
    from rich.console import Console


class ExitCode(IntEnum):
    """The process's exit codes; 130 is the shell's own for an interrupt, 143 for SIGTERM."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MISSING_RESOURCE = 3
    INTERRUPTED = 130
    TERMINATED = 143


class OptionError(GelulessError):
    """The options contradict each other or name an output that cannot be written; exit code 2."""


@dataclass(frozen=True)
class Result:
    """`data` is JSON-ready; `show` prints the same for a person."""

    data: dict[str, Any]
    show: Callable[[Console], None]
    code: ExitCode = ExitCode.OK
