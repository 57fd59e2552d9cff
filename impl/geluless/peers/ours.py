"""Our own engine as one of the peers: the same float network, quantized with the profile `best`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geluless.peers.peer import Executed, Setting, Shape

if TYPE_CHECKING:
    from geluless.engine.engine import Engine
    from geluless.peers.subject import Subject

CALIBRATION_BATCH = 16
ARTIFACT = "network.int8.safetensors"


@dataclass(frozen=True)
class Ours:
    """Backend "cpu"; `arm` None means the artifact's own fused arm: relu, or gelu-lut."""

    name: str
    arm: str | None = None
    activation: str | None = None
    precision: str = "int8"
    family: str = "ours"
    packages: tuple[str, ...] = ("geluless", "numpy")
    variants: tuple[str, ...] = ("best instruction set",)

    @property
    def settings(self) -> tuple[Setting, ...]:
        arm = self.arm or "the artifact's own: relu, or gelu-lut"
        return (
            Setting(f"arm: {arm}", "geluless bench --help"),
            Setting("profile best, calibrated on the images that all peers get", "geluless quantize --help"),
            Setting("one thread per core given; the best instruction set that the processor reports", "geluless doctor"),
        )

    def prepare(self, subject: Subject, folder: Path, shapes: Sequence[Shape]) -> None:
        import torch

        from geluless.ptq.quantize import quantize

        path = folder / ARTIFACT
        if path.exists():  # the family's other arm has made it
            return
        batches = torch.from_numpy(subject.array("calibration")).split(CALIBRATION_BATCH)
        quantize(subject.network(), batches, profile="best", name=subject.model).save(path)

    def imports(self) -> None:
        import geluless.engine.engine
        import geluless.ptq.artifact  # noqa: F401
        from geluless.engine.cpu import native

        native()  # MissingResource now, rather than the reference's speed under the name of the compiled engine

    def load(self, subject: Subject, folder: Path, shape: Shape, variant: str) -> OurRunner:
        from geluless.engine.engine import Engine
        from geluless.ptq.artifact import load_artifact

        artifact = load_artifact(folder / ARTIFACT)
        return OurRunner(Engine(artifact, backend="cpu", arm=self.arm, threads=shape.threads))

    def files(self, subject: Subject, folder: Path, shape: Shape) -> list[Path]:
        return [folder / ARTIFACT]


class OurRunner:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._engine(images)

    def executed(self, images: NDArray[np.float32]) -> Executed:
        """From the plan, which the engine has no other way to run than in integers."""
        plan = self._engine.artifact.plan
        blocks = sum(len(stage.blocks) for stage in plan.stages)
        merges = sum(stage.merge is not None for stage in plan.stages)
        products = 1 + merges + 6 * blocks  # embedding, reductions; QKV, two of attention, projection, two of the MLP
        return Executed(products, 0, f"{self._engine.arm} on {self._engine.isa}; the classifier takes 16-bit input besides")

    def exact(self, images: NDArray[np.float32]) -> tuple[str, bool]:
        from geluless.bench.verification import verify_call

        return verify_call(self._engine, images, lambda: self._engine(images))
