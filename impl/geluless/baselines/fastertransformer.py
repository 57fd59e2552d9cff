"""FasterTransformer's C++ int8 example of Swin v1: the baseline of the paper, where someone has built it and has a GPU for it.

It times itself, on weights that it never initialises, and prints a mean: nothing of it can be compared with the network that
the other baselines run, so it never becomes more than a row with a remark. NVIDIA's published figures lie
beside this module.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geluless.baselines.baseline import Runner, Setting, Shape
from geluless.bench.process import CandidateFailure, Status

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork

VARIABLE = "GELULESS_FASTERTRANSFORMER"
EXAMPLE, SEARCH = Path("bin", "swin_int8_example"), Path("bin", "swin_gemm")
MODEL_TYPES = {  # the example's first argument
    "swin_tiny_patch4_window7_224": 0,
    "swin_small_patch4_window7_224": 1,
    "swin_base_patch4_window7_224": 2,
    "swin_large_patch4_window7_224": 4,
}
PUBLISHED = Path(__file__).with_name("fastertransformer_int8.csv")  # latencies of its guide, by its makers
GUIDE = "github.com/NVIDIA/FasterTransformer/blob/main/docs/swin_guide.md"
SOURCE = "github.com/NVIDIA/FasterTransformer/blob/main/examples/cpp/swin_int8/swin_int8_example.cc"
# Its loop could be captured by changing its source: everything that it times is on one stream. From outside nothing reaches that
# stream. The torch operator of the same code (th_op/swin/SwinINT8Op.h) runs on torch's stream, but is another front end, of the
# torch of its container: it makes the network anew and allocates and frees its buffers in every call.
NO_GRAPH = (
    "FasterTransformer's example takes a model and a batch size, has no option for a CUDA graph, and launches on a stream of its "
    "own; it cannot be captured without patching it"
)
TIME = re.compile(r"FT-CPP-time (\d+\.\d+) ms")
DEVICE = re.compile(r"^Device (.+)$", re.MULTILINE)
TIMEOUT = 900.0  # seconds, which a search for algorithms may take
UNTUNED = re.compile(r"default (gemm )?algo", re.IGNORECASE)
# Image, window, heads of the first stage and channels per head, as the search wants them.
SHAPE_OF = {
    "swin_tiny_patch4_window7_224": ("224", "7", "3", "32"),
    "swin_small_patch4_window7_224": ("224", "7", "3", "32"),
    "swin_base_patch4_window7_224": ("224", "7", "4", "32"),
    "swin_large_patch4_window7_224": ("224", "7", "6", "32"),
}


@dataclass(frozen=True)
class FasterTransformer:
    name: str = "fastertransformer"
    activation: str | None = "gelu"
    precision: str = "int8"
    family: str = ""
    packages: tuple[str, ...] = ()
    configurations: tuple[str, ...] = ("int8_mode 1",)
    settings: tuple[Setting, ...] = (
        Setting(f"{EXAMPLE} MODEL_TYPE BATCH below ${VARIABLE}, its build folder", SOURCE),
        Setting("bin/swin_gemm run before, or every product takes a default algorithm", GUIDE),
    )

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        """Nothing: it invents its weights."""

    def imports(self) -> None:
        if not os.environ.get(VARIABLE):
            needed = f"needs a GPU and its build: set {VARIABLE} to the build folder that holds {EXAMPLE}"
            raise CandidateFailure(Status.NEEDS_GPU, needed)

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> Runner:
        raise CandidateFailure(*ask_example(Path(os.environ[VARIABLE]), subject.model, shape.batch))

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return []


def ask_example(build: Path, model: str, batch: int) -> tuple[Status, str]:
    """Run the example once: what its row says, never a figure among the verified ones."""
    try:
        found = time_example(build, model, batch)
    except CandidateFailure as failure:
        return failure.status, failure.reason
    says = f"it reports {1000 * found.seconds:.2f} ms at batch {batch} on {found.device}"
    return Status.UNVERIFIED, f"{says}: a mean over 100 calls on uninitialised weights, with no result to compare"


@dataclass(frozen=True)
class Example:
    """What one run of the example says: seconds per call, the mean of 100, and the name of the device."""

    seconds: float
    device: str


def tune(build: Path, model: str, batch: int, folder: Path) -> None:
    """Let FasterTransformer look for its fastest algorithms at this shape. They lie in `folder`, for this shape alone: a search
    writes the file anew. Raises CandidateFailure where it finds nothing."""
    program = build / SEARCH
    if not program.is_file():
        raise CandidateFailure(Status.MISSING, f"{program} does not exist: build FasterTransformer 5.3")
    command = [str(program.resolve()), str(batch), *SHAPE_OF[model], "1", "1"]  # fp16, and int8 beside it
    done = _run(command, folder)
    if done.returncode or not any(path.stat().st_size for path in folder.glob("igemm*")):
        raise CandidateFailure(Status.NEEDS_GPU, f"{program.name} found no algorithm: {_last_line(done)}")


def time_example(build: Path, model: str, batch: int, folder: Path | None = None) -> Example:
    """Run the example once, in the folder that `tune` filled (default: the build's). Raises CandidateFailure where it cannot, or
    where the folder has no algorithm for one of its products."""
    if model not in MODEL_TYPES:
        raise CandidateFailure(Status.MISSING, f"its example knows {', '.join(MODEL_TYPES)}, not {model}")
    program = build / EXAMPLE
    if not program.is_file():
        raise CandidateFailure(Status.MISSING, f"{program} does not exist: build FasterTransformer 5.3 with -DBUILD_EXAMPLES=ON")
    # Where it is started the example looks for the algorithms that swin_gemm has found.
    done = _run([str(program.resolve()), str(MODEL_TYPES[model]), str(batch)], folder or build)
    found, device = TIME.search(done.stdout), DEVICE.search(done.stdout)
    if done.returncode or not found:
        raise CandidateFailure(Status.NEEDS_GPU, f"needs a GPU that it supports: {program.name} says {_last_line(done)}")
    if folder is not None and UNTUNED.search(done.stdout + done.stderr):
        raise CandidateFailure(
            Status.WRONG, f"{program.name} took default algorithms though it was tuned: its time is not its best"
        )
    return Example(float(found[1]) / 1000, device[1].strip() if device else "an unnamed device")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CandidateFailure(Status.NEEDS_GPU, f"{Path(command[0]).name} did not end well: {error}") from error


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1]
