"""FasterTransformer's C++ int8 example of Swin v1: the baseline of the paper, where someone has built it and has a GPU for it.

It times itself, on weights that it never initialises, and prints a mean: nothing of it can be compared with the network that
the other peers run, so it never becomes more than a row with a remark. NVIDIA's published figures are data of
`geluless.bench.roofline`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geluless.peers.peer import PeerFailure, Runner, Setting, Shape, Status

if TYPE_CHECKING:
    from geluless.peers.subject import Subject

VARIABLE = "GELULESS_FASTERTRANSFORMER"
EXAMPLE = Path("bin", "swin_int8_example")
MODEL_TYPES = {  # the example's first argument
    "swin_tiny_patch4_window7_224": 0,
    "swin_small_patch4_window7_224": 1,
    "swin_base_patch4_window7_224": 2,
    "swin_large_patch4_window7_224": 4,
}
GUIDE = "github.com/NVIDIA/FasterTransformer/blob/main/docs/swin_guide.md"
SOURCE = "github.com/NVIDIA/FasterTransformer/blob/main/examples/cpp/swin_int8/swin_int8_example.cc"
TIME = re.compile(r"FT-CPP-time (\d+\.\d+) ms")
DEVICE = re.compile(r"^Device (.+)$", re.MULTILINE)
TIMEOUT = 300.0  # seconds
UNNAMED = "an unnamed device"


@dataclass(frozen=True)
class FasterTransformer:
    name: str = "fastertransformer"
    activation: str | None = "gelu"
    precision: str = "int8"
    family: str = ""
    packages: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("int8_mode 1",)
    settings: tuple[Setting, ...] = (
        Setting(f"{EXAMPLE} MODEL_TYPE BATCH below ${VARIABLE}, its build folder", SOURCE),
        Setting("bin/swin_gemm run before, or every product takes a default algorithm", GUIDE),
    )

    def prepare(self, subject: Subject, folder: Path, shapes: Sequence[Shape]) -> None:
        """Nothing: it invents its weights."""

    def imports(self) -> None:
        if not os.environ.get(VARIABLE):
            needed = f"needs a GPU and its build: set {VARIABLE} to the build folder that holds {EXAMPLE}"
            raise PeerFailure(Status.NEEDS_GPU, needed)

    def load(self, subject: Subject, folder: Path, shape: Shape, variant: str) -> Runner:
        raise PeerFailure(*ask_example(Path(os.environ[VARIABLE]), subject.model, shape.batch))

    def files(self, subject: Subject, folder: Path, shape: Shape) -> list[Path]:
        return []


def ask_example(build: Path, model: str, batch: int) -> tuple[Status, str]:
    """Run the example once: what its row says, never a figure among the verified ones."""
    try:
        found = time_example(build, model, batch)
    except PeerFailure as failure:
        return failure.status, failure.reason
    says = f"it reports {1000 * found.seconds:.2f} ms at batch {batch} on {found.device}"
    return Status.UNVERIFIED, f"{says}: a mean over 100 calls on uninitialised weights, with no result to compare"


@dataclass(frozen=True)
class Example:
    """What one run of the example says: seconds per call, the mean of 100, and the name of the device."""

    seconds: float
    device: str


def time_example(build: Path, model: str, batch: int) -> Example:
    """Run the example once. Raises PeerFailure where it cannot."""
    if model not in MODEL_TYPES:
        raise PeerFailure(Status.MISSING, f"its example knows {', '.join(MODEL_TYPES)}, not {model}")
    program = build / EXAMPLE
    if not program.is_file():
        raise PeerFailure(Status.MISSING, f"{program} does not exist: build FasterTransformer 5.3 with -DBUILD_EXAMPLES=ON")
    command = [str(program), str(MODEL_TYPES[model]), str(batch)]
    # In the build folder: the example looks for igemm.config, which swin_gemm wrote, where it is started.
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=build, check=False)
    found, device = TIME.search(done.stdout), DEVICE.search(done.stdout)
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise PeerFailure(Status.NEEDS_GPU, f"needs a GPU that it supports: {program.name} says {last[0]}")
    return Example(float(found[1]) / 1000, device[1].strip() if device else UNNAMED)
