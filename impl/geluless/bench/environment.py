"""Where a run happened: enough to say later why two runs differ."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from geluless.sources import package_version

PACKAGES = ("geluless", "torch", "timm", "numpy", "scipy", "statsmodels", "safetensors")
ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def environment_record(*, root: Path | None = None) -> dict[str, Any]:
    """JSON values: processor, operating system, versions, and the git revision of `root` (default: where the package lies)."""
    return {
        "cpu": cpu_model(),
        "isa": isa_flags(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "git": git_state(root or Path(__file__).parent),
    }


def cpu_model() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def isa_flags() -> list[str]:
    """The instruction sets that matter here and that this processor has."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return [flag for flag in ISA_FLAGS if flag in flags]
    return []


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def git_state(folder: Path) -> dict[str, Any]:
    """{"revision": hex or None, "dirty": bool or None}: None where there is no git or no repository."""
    revision = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision or None, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
