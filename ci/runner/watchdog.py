#!/usr/bin/env python3
"""Watches the GPU for compute processes that are not the runner's, and writes down when there were any.

A service on the host (geluless-watchdog.service); needs nothing but Python and nvidia-smi. A process is the runner's when its
cgroup lies in the runner's slice. Every change of the list of others is one line of JSON:

    {"time": "2026-01-31T12:00:00+00:00", "foreign": [{"pid": 4711, "name": "python", "mib": "512"}]}

and once a minute a line says that it is still watching, with the list as it is. Claim c06 (geluless.verdicts.runner_records)
refuses a measurement during which there was one, and one that nobody watched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

SLICE = "geluless-runner.slice"
QUERY = ("nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits")
SECONDS = 1.0  # between two looks
HEARTBEAT = 60.0
KEEP = 8 << 20  # bytes of a log, after which it starts anew and the old one is kept beside it


def foreign(listing: str, cgroup: Callable[[int], str]) -> list[dict[str, object]]:
    """The processes of nvidia-smi's listing that are outside the slice. `cgroup`: of a process, "" for one that has ended since,
    of which nobody can say any more whose it was: whatever uses the device for longer than a look is seen again."""
    found: list[dict[str, object]] = []
    for line in listing.splitlines():
        pid, _, rest = line.partition(",")
        name, _, mib = (part.strip() for part in rest.rpartition(","))
        if not pid.strip().isdigit():
            continue  # "No running processes found", in some drivers
        if (where := cgroup(int(pid))) and SLICE not in where:
            found.append({"pid": int(pid), "name": name, "mib": mib})
    return found


def cgroup_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def events(looks: Iterator[list[dict[str, object]]], clock: Callable[[], float]) -> Iterator[dict[str, object]]:
    """What is written of a sequence of looks: every change, and a heartbeat."""
    last, written = None, -HEARTBEAT
    for found in looks:
        if found != last or clock() - written >= HEARTBEAT:
            last, written = found, clock()
            yield {"time": datetime.now(UTC).isoformat(timespec="seconds"), "foreign": found}


def look_forever() -> Iterator[list[dict[str, object]]]:
    while True:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            sys.exit(f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}")  # systemd starts it again
        yield foreign(done.stdout, cgroup_of)
        time.sleep(SECONDS)


def append(log: Path, event: dict[str, object]) -> None:
    if log.exists() and log.stat().st_size > KEEP:
        log.replace(log.with_suffix(".old"))
    with log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(event) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default=Path("/run/geluless-runner/watchdog.jsonl"))
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked and written")
    options = parser.parse_args()
    if options.dry_run:
        print(f"would ask every {SECONDS:g} s: {' '.join(QUERY)}")
        print(f"would write to {options.log} what runs outside {SLICE}")
        return
    if not cgroup_of(1):
        sys.exit("/proc/1/cgroup cannot be read: with a /proc that hides processes (hidepid) nobody would be foreign")
    for event in events(look_forever(), time.monotonic):
        append(options.log, event)


if __name__ == "__main__":
    main()
