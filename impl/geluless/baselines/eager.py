"""PyTorch as it comes: the float module, called in eager mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape
from geluless.baselines.subject_network import WEIGHTS

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork

TUNING = "docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"


@dataclass(frozen=True)
class TorchEager:
    name: str = "torch-eager"
    activation: str | None = None
    precision: str = "fp32"
    family: str = ""
    packages: tuple[str, ...] = ("torch", "timm")
    configurations: tuple[str, ...] = ("oneDNN",)
    settings: tuple[Setting, ...] = (
        Setting("inference_mode, evaluation mode, contiguous float32 input", TUNING),
        Setting("torch.set_num_threads and OMP_NUM_THREADS = threads given", TUNING),
        Setting("timm's Swin as it is: it decides by itself how attention is computed", "timm/models/swin_transformer.py"),
    )

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        """Nothing: the weights are the subject's own."""

    def imports(self) -> None:
        import timm  # noqa: F401
        import torch  # noqa: F401

        import geluless.models  # noqa: F401

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> TorchRunner:
        import torch

        torch.set_num_threads(shape.threads)
        return TorchRunner(subject.network())

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return [subject.folder / WEIGHTS]


class TorchRunner:
    """Anything that maps a float32 tensor to logits."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self._call(torch.from_numpy(images)).numpy()
        return logits

    def executed(self, images: NDArray[np.float32]) -> Executed | None:
        return None

    def exact(self, images: NDArray[np.float32]) -> None:
        return None
