#!/usr/bin/env python3
"""Is this machine fit to measure? Every check with what was found; exit code 1 where one fails.

Needs nothing but Python: it runs on the host before a job is accepted and in the job before anything is measured.

    preflight.py                     all checks; --json FILE keeps them for the judge
    preflight.py --record-imagenet   once, by the operator: what ImageNet's files are, for later comparison
    preflight.py --dry-run           says what would be checked, on any machine
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

DEVICE = "RTX 4090"
OLDEST_DRIVER = (570, 0)
SM_CLOCK, MEMORY_CLOCK = 2235, 10501  # MHz, as `clocks lock` sets them
CLOCK_SLACK = 15  # MHz
POWER_LIMIT = 450.0  # W, the card's own
HOTTEST = 65  # degrees Celsius before anything has run
HARMLESS = 0b11  # reasons for low clocks: the device is idle, or its clocks are set by a program
FASTERTRANSFORMER = "df4a753"  # the commit that ci/runner/README.md builds
RECORD = Path("/etc/geluless-runner/imagenet.json")
IMAGES = 50_000  # of ImageNet's validation set
SAMPLE = 500  # of ImageNet's files whose content is compared; of all others only name and size
REASONS = "clocks_event_reasons.active"
QUERIES = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu", "display_active", REASONS)


@dataclass(frozen=True)
class Check:
    """`good` is None where the machine has nothing to check and does not claim to."""

    name: str
    good: bool | None
    found: str


def device_checks(row: Mapping[str, str]) -> Iterator[Check]:
    """Of nvidia-smi's answer by query."""
    yield Check("device", DEVICE in row["name"], row["name"])
    driver = tuple(int(part) for part in row["driver_version"].split(".") if part.isdigit())
    yield Check(f"driver at least {OLDEST_DRIVER[0]}", driver >= OLDEST_DRIVER, row["driver_version"])
    for name, wanted in (("clocks.sm", SM_CLOCK), ("clocks.mem", MEMORY_CLOCK)):
        clock = number(row[name])
        locked = clock is not None and abs(clock - wanted) <= CLOCK_SLACK
        yield Check(f"{name} locked at {wanted} MHz", locked, f"{row[name]} MHz")
    limit = number(row["power.limit"])
    yield Check(f"power limit {POWER_LIMIT:g} W", limit == POWER_LIMIT, f"{row['power.limit']} W")
    heat = number(row["temperature.gpu"])
    yield Check(f"cooler than {HOTTEST} C", heat is not None and heat < HOTTEST, f"{row['temperature.gpu']} C")
    yield Check("no display", row["display_active"] == "Disabled", row["display_active"])  # it draws beside every measurement
    yield Check("not throttled", not (bits(row[REASONS]) & ~HARMLESS), row[REASONS])


def query_device() -> dict[str, str] | str:
    """nvidia-smi's answer, or why there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader,nounits"]
    if shutil.which(command[0]) is None:
        return "nvidia-smi is missing: install the driver"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer"
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.strip().splitlines()]
    if done.returncode or len(rows) != 1 or len(rows[0]) != len(QUERIES):
        return f"nvidia-smi answered {(done.stdout + done.stderr).strip()!r:.200}; one device is expected"
    return dict(zip(QUERIES, rows[0], strict=True))


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def bits(text: str) -> int:
    """A mask of reasons; one that cannot be read counts as a reason."""
    try:
        return int(text, 0)
    except ValueError:
        return 1 << 62


def imagenet_files(root: Path) -> dict[str, int]:
    """Sizes in bytes by path below the root's `val`."""
    return {str(path.relative_to(root)): path.stat().st_size for path in sorted((root / "val").rglob("*")) if path.is_file()}


def record_imagenet(root: Path, record: Path) -> None:
    """What is there now: names, sizes, and the content of a sample."""
    files = imagenet_files(root)
    if len(files) < IMAGES:
        sys.exit(f"{root}/val holds {len(files)} files, fewer than the validation set's {IMAGES}: nothing is recorded")
    chosen = random.Random(0).sample(sorted(files), min(SAMPLE, len(files)))
    content = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in chosen}
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps({"files": len(files), "names": names_digest(files), "content": content}), encoding="utf-8")
    partial.replace(record)


def names_digest(files: Mapping[str, int]) -> str:
    return hashlib.sha256("\n".join(f"{name} {size}" for name, size in sorted(files.items())).encode()).hexdigest()


def imagenet_check(root: str | None, record: Path) -> Check:
    if not root:
        return Check("ImageNet", None, "GELULESS_IMAGENET is not set: accuracy on it is not measured here")
    if not record.is_file():
        return Check("ImageNet", False, f"{record} is missing: run preflight.py --record-imagenet once")
    try:
        expected = json.loads(record.read_text(encoding="utf-8"))
        files = imagenet_files(Path(root))
        if len(files) != expected["files"] or names_digest(files) != expected["names"]:
            recorded = f"the {expected['files']} recorded"
            return Check("ImageNet", False, f"{len(files)} files in {root}/val; names or sizes are not those of {recorded}")
        for name, digest in expected["content"].items():
            if hashlib.sha256((Path(root) / name).read_bytes()).hexdigest() != digest:
                return Check("ImageNet", False, f"{name} has other content than recorded")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Check("ImageNet", False, f"cannot be compared with {record}: {error}")
    return Check("ImageNet", True, f"{len(files)} files as recorded, {len(expected['content'])} of them by content")


FT_PARTS = ("bin/swin_int8_example", "bin/swin_gemm", "COMMIT")


def fastertransformer_check(build: str | None) -> Check:
    name = f"FasterTransformer {FASTERTRANSFORMER}"
    if not build:
        return Check(name, None, "GELULESS_FASTERTRANSFORMER is not set: the paper's baseline is not measured here")
    missing = [part for part in FT_PARTS if not (Path(build) / part).is_file()]
    if missing:
        return Check(name, False, f"{build} has no {missing[0]}")
    commit = (Path(build) / "COMMIT").read_text(encoding="utf-8", errors="replace").strip()
    return Check(name, commit.startswith(FASTERTRANSFORMER), f"built from {commit[:12] or 'nothing'}")


def checks(record: Path, ask: Callable[[], dict[str, str] | str] = query_device) -> list[Check]:
    row = ask()
    found = [Check("device", False, row)] if isinstance(row, str) else list(device_checks(row))
    found.append(imagenet_check(os.environ.get("GELULESS_IMAGENET"), record))
    return [*found, fastertransformer_check(os.environ.get("GELULESS_FASTERTRANSFORMER"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help=f"of ImageNet (default: {RECORD})")
    parser.add_argument("--record-imagenet", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.dry_run:
        print(f"would ask nvidia-smi for {', '.join(QUERIES)}")
        print(f"would want: {DEVICE}, driver {OLDEST_DRIVER[0]} or newer, {SM_CLOCK} and {MEMORY_CLOCK} MHz, {POWER_LIMIT:g} W")
        print(f"would compare $GELULESS_IMAGENET/val with {options.record}, {SAMPLE} files by content")
        print(f"would look for FasterTransformer {FASTERTRANSFORMER} in $GELULESS_FASTERTRANSFORMER")
        return 0
    if options.record_imagenet:
        root = os.environ.get("GELULESS_IMAGENET")
        if not root:
            sys.exit("set GELULESS_IMAGENET to the folder that holds val/")
        record_imagenet(Path(root), options.record)
        return 0
    found = checks(options.record)
    for check in found:
        print(f"{'fits' if check.good else 'none' if check.good is None else 'FAILS'}  {check.name}: {check.found}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "checks": [asdict(check) for check in found]}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(any(check.good is False for check in found))


if __name__ == "__main__":
    sys.exit(main())
