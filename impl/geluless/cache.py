"""Where things are kept that can be made again: the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from geluless.errors import MissingResource, OutputError


def default_cache() -> Path:
    """$XDG_CACHE_HOME/geluless, or ~/.cache/geluless; not made here. Raises MissingResource where there is no home folder."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "geluless"
    try:
        return Path.home() / ".cache" / "geluless"
    except RuntimeError:  # neither $HOME nor an entry in passwd, as for a container's `--user 1234`
        raise MissingResource("this user has no home folder for a cache: set XDG_CACHE_HOME to a folder of yours") from None


def made_cache(folder: Path) -> Path:
    """The folder, which exists after this call. Raises OutputError saying how to choose another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        way_out = "set XDG_CACHE_HOME to a folder that you can write to"
        raise OutputError(f"cannot make the cache folder {folder} ({error.strerror}): {way_out}") from error
    return folder
