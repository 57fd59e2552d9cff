"""Scripts in a process of their own, for what a test must not do in its own: fork beside threads, be killed, fill a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_script(script: str, *arguments: object, timeout: float = 120, environment: dict[str, str] | None = None) -> str:
    """What it printed. Fails where it exits with another code than 0, or hangs: then everything it started is killed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"it hangs after {timeout:g} s; so far: {out}\n{err}") from None
    assert process.returncode == 0, f"exit code {process.returncode}: {out}\n{err}"
    return out
