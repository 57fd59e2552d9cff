"""Our own engine as one of the baselines: the same float network, quantized with the profile `per-channel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape
from geluless.errors import ArtifactError

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork
    from geluless.engine.engine import Engine

CALIBRATION_BATCH = 16
ARTIFACT = "network.int8.safetensors"


@dataclass(frozen=True)
class Geluless:
    """Backend "cpu"; `variant` None means the artifact's own fused variant: relu, or gelu-lut."""

    name: str
    variant: str | None = None
    activation: str | None = None
    precision: str = "int8"
    family: str = "geluless"
    packages: tuple[str, ...] = ("geluless", "numpy")
    configurations: tuple[str, ...] = ("best instruction set",)

    @property
    def settings(self) -> tuple[Setting, ...]:
        variant = self.variant or "the artifact's own: relu, or gelu-lut"
        return (
            Setting(f"variant: {variant}", "geluless bench --help"),
            Setting("profile per-channel, calibrated on the images that all baselines get", "geluless quantize --help"),
            Setting("one thread per core given; the best instruction set that the processor reports", "geluless doctor"),
        )

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        import torch

        from geluless.ptq.quantize import quantize

        path = folder / ARTIFACT
        if path.exists():  # the family's other variant has made it
            return
        batches = torch.from_numpy(subject.array("calibration")).split(CALIBRATION_BATCH)
        quantize(subject.network(), batches, profile="per-channel", name=subject.model).save(path)

    def imports(self) -> None:
        import geluless.engine.engine
        import geluless.integer.artifact  # noqa: F401
        from geluless.engine.cpu import native

        native()  # MissingResource now, rather than the reference's speed under the name of the compiled engine

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> GelulessRunner:
        from geluless.engine.engine import Engine
        from geluless.integer.artifact import load_artifact

        artifact = load_artifact(folder / ARTIFACT)
        plan = artifact.plan
        if (plan.model, plan.activation, plan.parents["weights"]) != (subject.model, subject.activation, subject.weights_sha256):
            raise ArtifactError(f"{folder / ARTIFACT} is of {plan.model} with {plan.activation}, or of other weights: remove it")
        return GelulessRunner(Engine(artifact, backend="cpu", variant=self.variant, threads=shape.threads))

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return [folder / ARTIFACT]


class GelulessRunner:
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
        return Executed(products, 0, f"{self._engine.variant} on {self._engine.isa}; the classifier takes 16-bit input besides")

    def exact(self, images: NDArray[np.float32]) -> tuple[str, bool]:
        from geluless.bench.verification import verify_call

        return verify_call(self._engine, images, lambda: self._engine(images))
