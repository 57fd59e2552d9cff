"""What code a figure depends on: a record or a prepared file made by other code is no longer about this one."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from geluless.sources import source_line

PACKAGE = Path(__file__).parent.parent
SOURCES = (
    *("bench/intervals.py", "bench/load.py", "bench/paired.py", "bench/verification.py"),
    *("engine/*.py", "engine/cpu/*.py", "engine/cpu/*.h", "engine/cpu/*.cpp"),
    *("peers/*.py", "ptq/*.py"),
)


@cache
def code_digest() -> str:
    """sha256 in hex over the sources of the engine, of quantization, of timing and of the peers."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(PACKAGE.glob(pattern)):
            digest.update(source_line(path, PACKAGE))
    return digest.hexdigest()
