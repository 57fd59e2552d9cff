"""The browser that the report's tests look at it in: Debian's package `chromium`, or whatever GELULESS_CHROMIUM is the path of.

playwright's Python package (`pip install playwright`) drives it; playwright's own browsers are not needed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("GELULESS_CHROMIUM", ""), *NAMES))), None)


def why_no_chromium() -> str:
    """Empty where pages can be looked at."""
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright's Python package: pip install playwright"
    if (chosen := os.environ.get("GELULESS_CHROMIUM")) and not shutil.which(chosen):
        return f"GELULESS_CHROMIUM={chosen} is no program"
    return "" if chromium() else "needs a browser: apt-get install chromium, or its path in GELULESS_CHROMIUM"
