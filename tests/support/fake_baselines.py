"""Baselines whose behaviour is known beforehand, on a network that is one matrix: what the real ones are compared by, in
seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape
from geluless.baselines.subject_network import SubjectNetwork
from geluless.bench.process import CandidateFailure, Status

SIZE, CLASSES, LINEARS = (1, 3, 3), 5, 4


def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((int(np.prod(SIZE)), CLASSES)).astype(np.float32)


def logits_of(images: NDArray[np.float32]) -> NDArray[np.float32]:
    product: NDArray[np.float32] = images.reshape(len(images), -1) @ matrix()
    return product


def fake_subject(folder: Path, *, activation: str = "gelu", test: int = 0) -> SubjectNetwork:
    """A subject that takes no torch: 12 inputs, and `test` labelled images of which the float network gets every second one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    arrays: dict[str, NDArray[Any]] = {
        "calibration": rng.standard_normal((4, *SIZE)).astype(np.float32),
        "inputs": rng.standard_normal((12, *SIZE)).astype(np.float32),
    }
    arrays["logits"] = logits_of(arrays["inputs"])
    if test:
        arrays["test"] = rng.standard_normal((test, *SIZE)).astype(np.float32)
        arrays["test_logits"] = logits_of(arrays["test"])
        arrays["labels"] = (arrays["test_logits"].argmax(1) + np.arange(test) % 2) % CLASSES
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    digest = "1" * 64
    return SubjectNetwork(folder, "fake", activation, "one matrix", "4 images", SIZE, LINEARS, bool(test), digest)


@dataclass(frozen=True)
class FakeBaseline:
    """`behaviour` is "" for a good one, or one of the words below; `seconds` is how long a call takes at least."""

    name: str
    behaviour: str = ""
    seconds: float = 0.0
    precision: str = "int8"
    activation: str | None = None
    family: str = "fakes"
    packages: tuple[str, ...] = ("numpy",)
    configurations: tuple[str, ...] = ("only",)
    settings: tuple[Setting, ...] = (Setting("none", "this file"),)

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        if self.behaviour == "cannot be prepared":
            raise ValueError("no calibration for this")
        if self.behaviour == "dies while prepared":
            os._exit(3)
        with (folder / "log").open("a") as stream:
            stream.write(f"{self.name} {shapes}\n")

    def imports(self) -> None:
        if self.behaviour == "missing":
            import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401
        if self.behaviour == "needs a GPU":
            raise CandidateFailure(Status.NEEDS_GPU, "needs a GPU and its build")

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> FakeRunner:
        if self.behaviour == "crashes":
            print("about to crash", flush=True)
            os.abort()
        if self.behaviour == "hangs" or (self.behaviour == "hangs at batch 4" and shape.batch == 4):
            time.sleep(60)
        return FakeRunner(self, configuration)

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return [subject.folder / "inputs.npy"]


class FakeRunner:
    def __init__(self, baseline: FakeBaseline, configuration: str) -> None:
        self._baseline, self._configuration, self._calls = baseline, configuration, 0

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        behaviour, self._calls = self._baseline.behaviour, self._calls + 1
        time.sleep(self._baseline.seconds * (2 if self._configuration == "slow" else 1))
        if behaviour == "dies in the middle" and self._calls > 60:
            os._exit(9)
        if behaviour == "works":
            deadline = time.process_time() + 0.1
            while time.process_time() < deadline:
                pass
        logits = logits_of(images)
        if behaviour == "mixes images":
            logits = logits_of(np.random.default_rng(self._calls).standard_normal(images.shape).astype(np.float32))
        if behaviour == "NaN":
            logits[0, 0] = np.nan
        if behaviour == "forgets a class":
            logits = logits[:, 1:]
        return logits

    def executed(self, images: NDArray[np.float32]) -> Executed | None:
        return (
            Executed(0, LINEARS, "all in fp32") if self._baseline.behaviour == "secretly fp32" else Executed(LINEARS, 1, "fake")
        )

    def exact(self, images: NDArray[np.float32]) -> tuple[str, bool] | None:
        if self._baseline.behaviour == "inexact":
            return "WRONG: image 0 alone has other logits", False
        return None
