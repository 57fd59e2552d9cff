"""Where things are kept that can be made again: the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """$XDG_CACHE_HOME/geluless, or ~/.cache/geluless; not made here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "geluless"
