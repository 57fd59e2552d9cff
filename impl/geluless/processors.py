"""How many threads are worth starting: one per processor that this process may use, whatever the machine has.

A scheduler (SLURM, `taskset`, `docker --cpuset-cpus`) binds a process to some processors; a container's quota (`docker --cpus`,
Kubernetes' `limits.cpu`) gives it a share of the time of all. `os.cpu_count()` knows of neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from geluless.errors import SettingError

VARIABLE = "GELULESS_THREADS"
MAX_THREADS = 1024


def default_threads() -> int:
    """$GELULESS_THREADS, else the processors that this process may use. Raises SettingError for another value."""
    return requested_threads() or min(usable_processors(), MAX_THREADS)


def requested_threads() -> int | None:
    """$GELULESS_THREADS, or None where it is not set or empty. Raises SettingError."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_THREADS):
        raise SettingError(f"{VARIABLE}={text!r} is no number of threads: set it to 1..{MAX_THREADS}, or unset it")
    return int(text)


def usable_processors() -> int:
    """By affinity and by the quotas of the control groups that this process is in, whichever is least; at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    # Rounded down: the threads of a pass wait for each other, and one that has used up the quota keeps all of them waiting.
    return bound if quota is None else max(1, min(bound, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """As many processors' time as the tightest control group around this process allows, of version 1 or 2; None for no limit.

    Sources: docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us). A
    file that is not there or holds something else limits nothing.
    """
    quotas = (_quota(folder) for version, group in _groups(root) for folder in _folders(root, version, group))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """("cgroup2", "/user.slice") for a line 0::/user.slice, ("cgroup", "/docker/1f") for a line 4:cpu,cpuacct:/docker/1f."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", group
        elif "cpu" in controllers.split(","):
            yield "cgroup", group


# 36 35 0:31 /docker/1f /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
MOUNT = re.compile(r"\S+ \S+ \S+ (?P<root>\S+) (?P<place>\S+) .*- (?P<version>cgroup2?) \S+ (?P<options>\S+)")


def _folders(root: Path, version: str, group: str) -> Iterator[Path]:
    """The group's folder and those of the groups around it, as far as they are mounted."""
    for mount in filter(None, map(MOUNT.fullmatch, _lines(root / "proc/self/mountinfo"))):
        if mount["version"] != version or (version == "cgroup" and "cpu" not in mount["options"].split(",")):
            continue
        top = root / mount["place"].lstrip("/")
        inside = Path(group.removeprefix(mount["root"].rstrip("/")).strip("/"))  # a container may see its own group only
        yield top
        if ".." not in inside.parts:  # a group beside the one that is mounted
            yield from (top.joinpath(*inside.parts[:depth]) for depth in range(1, len(inside.parts) + 1))


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None  # -1: none
    except (OSError, ValueError, ZeroDivisionError):  # of int("max"): none
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
