"""The paper's accuracy claim on its own data: a Swin of the paper's size on ImageNet-1k, distilled, quantized and judged live.

For one size: the GELU network in FP32 and INT8, the same with every GELU swapped for ReLU and nothing else done, and the ReLU
network after distillation in FP32 and INT8, each on all validation images. The float networks run on a CUDA device where there
is one, the integer ones there or on all cores; the first images are checked against the reference engine, bit by bit. Distilling
and quantizing happen on the CPU and take up to 32 GB of memory for Swin-L. Without a GPU a size takes hours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from geluless.bench.networks import SIZES
from geluless.verdicts.equivalence import better_than, non_inferiority, paired_drop, real_loss, relative_non_inferiority
from geluless.verdicts.micro_networks import CALIBRATION_IMAGES
from geluless.verdicts.resources import IMAGENET_VARIABLE, Resource, checkpoint_of, missing
from geluless.verdicts.verdict import Control, Evidence, Judgement, all_of

if TYPE_CHECKING:
    from torch import nn

    from geluless.data import ImageSource
    from geluless.distillation import Recipe
    from geluless.integer.artifact import Artifact

NEEDED = (Resource.IMAGENET, Resource.IMAGENET_TRAIN, Resource.CHECKPOINTS, Resource.CPU_ENGINE)
TRAINING_IMAGES = 2560  # class-balanced, of 1,281,167: 1,024 to fit each MLP, a tenth held out
CHECKED_IMAGES = 4  # of seconds each in the reference engine
BATCH = 64

Announce = Callable[[str], object]


def live(size: str) -> str:
    """What `ImageNet.part` makes, in words."""
    return f"Swin-{size} distilled live by 'local' on {TRAINING_IMAGES:,} class-balanced training images"


@dataclass(frozen=True)
class ImageNetPart:
    """What was found at one size. Predictions are class indices, int64 [N], by variant: fp32-gelu, fp32-naive, fp32-relu,
    int8-gelu and int8-relu."""

    images: str
    tier: str  # "imagenet" for the whole validation set of its 1,000 classes
    teacher: str  # digest of its weights
    labels: np.ndarray = field(repr=False)
    predictions: Mapping[str, np.ndarray] = field(repr=False)
    artifacts: Mapping[str, str]
    engine: str  # what ran the integer networks
    warnings: tuple[str, ...]
    seconds: float

    def correct(self, variant: str) -> np.ndarray:
        """bool [N]: which images this variant classifies correctly."""
        return self.predictions[variant] == self.labels


class ImageNet:
    """Makes the part of each size once, when it is first asked for."""

    def __init__(
        self,
        *,
        announce: Announce,
        models: Mapping[str, str] = SIZES,
        recipe: str | Recipe = "local",
        training_images: int = TRAINING_IMAGES,
    ) -> None:
        self._announce, self._models, self._recipe = announce, models, recipe
        self._training_images = training_images
        self._found: dict[str, ImageNetPart | Exception] = {}

    def part(self, size: str) -> ImageNetPart:
        """Raises DataError, CheckpointError or ModelError where images or weights are not what they should be."""
        if size not in self._found:
            try:
                self._found[size] = self._made(size)
            except Exception as error:
                self._found[size] = error  # hours of work that would fail again
        found = self._found[size]
        if isinstance(found, Exception):
            raise found
        return found

    def _made(self, size: str) -> ImageNetPart:
        from geluless.data import folder_images
        from geluless.data.balance import balanced_indices
        from geluless.data.subset import Subset
        from geluless.distillation import distill
        from geluless.models.activations import replace_gelu
        from geluless.models.swin import create_model, weights_digest
        from geluless.ptq.quantize import quantize

        started = time.perf_counter()
        model, root = self._models[size], os.environ[IMAGENET_VARIABLE]

        def network() -> nn.Module:
            return create_model(model, checkpoint_of(model))

        teacher, naive = network(), network()
        replace_gelu(naive)
        validation, everything = (folder_images(root, model=teacher, split=split) for split in ("val", "train"))
        training = Subset(everything, balanced_indices(everything.labels, self._training_images))
        others = np.setdiff1d(np.arange(len(everything)), training.indices)
        chosen = balanced_indices(everything.labels[others], min(CALIBRATION_IMAGES, len(others)))
        calibration = Subset(everything, others[chosen])
        self._announce(f"{model}: distilling on {len(training):,} training images")
        distilled = distill(teacher, training, recipe=self._recipe)
        predictions = {}
        for variant, net in (("fp32-gelu", teacher), ("fp32-naive", naive), ("fp32-relu", distilled.student)):
            predictions[variant] = self._float(model, variant, net, validation)
        artifacts, engines = {}, set[str]()
        for variant, net in (("int8-gelu", teacher), ("int8-relu", distilled.student)):
            artifact = quantize(net, calibration.batches(BATCH), profile="best")
            predictions[variant], engine = self._integer(model, variant, artifact, validation)
            artifacts[variant] = artifact.content_hash
            engines.add(engine)
        return ImageNetPart(
            images=f"{validation.name}, {len(validation):,} images, {validation.digest[:16]}",
            tier=validation.tier,
            teacher=weights_digest(teacher),
            labels=np.asarray(validation.labels),
            predictions=predictions,
            artifacts=artifacts,
            engine=", ".join(sorted(engines)),
            warnings=distilled.warnings,
            seconds=time.perf_counter() - started,
        )

    def _float(self, model: str, variant: str, network: nn.Module, images: ImageSource) -> np.ndarray:
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device).eval()
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = [network(batch.to(device)).argmax(1).cpu().numpy() for batch in images.batches(BATCH)]
        network.to("cpu")
        return self._told(model, variant, np.concatenate(found), images)

    def _integer(self, model: str, variant: str, artifact: Artifact, images: ImageSource) -> tuple[np.ndarray, str]:
        """(predictions, engine). Raises RuntimeError where the engine does not give the reference's bits: then nothing counts."""
        import torch

        from geluless.engine.engine import Engine

        engine = Engine(artifact, "gpu" if torch.cuda.is_available() and missing(Resource.GPU_ENGINE) is None else "cpu")
        found = []
        for number, batch in enumerate(images.batches(BATCH)):
            logits = engine(batch)
            if number == 0:
                first = batch[:CHECKED_IMAGES]
                if not np.array_equal(logits[: len(first)], Engine(artifact, "reference")(first)):
                    raise RuntimeError(f"{model}, {variant}: the {engine.backend} engine's logits are not the reference's")
            found.append(logits.argmax(1))
        return self._told(model, variant, np.concatenate(found), images), f"{engine.backend} ({engine.isa})"

    def _told(self, model: str, variant: str, predictions: np.ndarray, images: ImageSource) -> np.ndarray:
        self._announce(
            f"{model}: {variant} {100 * (predictions == images.labels).mean():.2f} % top-1 of {len(predictions):,} images"
        )
        return predictions


def recovery(part: ImageNetPart) -> tuple[Judgement, Control]:
    """c02: the naive swap loses, distillation keeps the network within 0.5 points of its teacher and beats the naive swap."""
    gelu, naive, relu = (part.correct(f"fp32-{variant}") for variant in ("gelu", "naive", "relu"))
    swapped, distilled = paired_drop(gelu, naive), paired_drop(gelu, relu)
    judgement = all_of([real_loss(swapped), non_inferiority(distilled), better_than(paired_drop(naive, relu))])
    return judgement, _naive_control(part)


def four_readings(part: ImageNetPart) -> tuple[Judgement, Control]:
    """c03: the drop of INT8 ReLU in points and in per cent, against FP32 and against INT8 GELU; all four must hold."""
    judges = (non_inferiority, relative_non_inferiority)
    references = [part.correct(variant) for variant in ("fp32-gelu", "int8-gelu")]
    relu = part.correct("int8-relu")
    return all_of([judge(paired_drop(right, relu)) for right in references for judge in judges]), _naive_control(part)


def _naive_control(part: ImageNetPart) -> Control:
    """In points, where it passes, as it must not, also when labels and classes do not belong together: then nothing is lost."""
    wrong = non_inferiority(paired_drop(part.correct("fp32-gelu"), part.correct("fp32-naive")))
    return Control.refused("the network that was swapped but not distilled (fp32-naive) must not pass", wrong)


def imagenet_evidence(part: ImageNetPart, ran: str, control: Control) -> Evidence:
    top1 = [f"{variant} {100 * part.correct(variant).mean():.2f}" for variant in part.predictions]
    return Evidence(
        ran=f"{ran}, on {part.images}",
        tier=part.tier,
        seconds=part.seconds,
        control=control,
        artifacts={"teacher": part.teacher, **part.artifacts},
        numbers=tuple(
            paired_drop(part.correct("fp32-gelu"), part.correct(variant)).estimate(f"drop to {variant}")
            for variant in part.predictions
            if variant != "fp32-gelu"
        ),
        details=(
            f"top-1 in %: {', '.join(top1)}",
            f"integer networks ran on {part.engine}; the logits of {CHECKED_IMAGES} images are the reference's, bit by bit",
            *part.warnings,
        ),
    )
