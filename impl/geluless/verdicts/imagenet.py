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
    """How `ImageNet.result` comes about, in words."""
    return f"Swin-{size} distilled live by 'local' on {TRAINING_IMAGES:,} class-balanced training images"


@dataclass(frozen=True)
class ImageNetResult:
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
    """Distils, quantizes and runs each size once, when its result is first asked for."""

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
        self._found: dict[str, ImageNetResult | Exception] = {}

    def result(self, size: str) -> ImageNetResult:
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

    def _made(self, size: str) -> ImageNetResult:
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
            artifact = quantize(net, calibration.batches(BATCH), profile="per-channel", name=model)
            predictions[variant], engine = self._integer(model, variant, artifact, validation)
            artifacts[variant] = artifact.content_hash
            engines.add(engine)
        return ImageNetResult(
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
        return self._announced(model, variant, np.concatenate(found), images)

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
        return self._announced(model, variant, np.concatenate(found), images), f"{engine.backend} ({engine.isa})"

    def _announced(self, model: str, variant: str, predictions: np.ndarray, images: ImageSource) -> np.ndarray:
        self._announce(
            f"{model}: {variant} {100 * (predictions == images.labels).mean():.2f} % top-1 of {len(predictions):,} images"
        )
        return predictions


def recovery(result: ImageNetResult) -> tuple[Judgement, Control]:
    """c02: the naive swap loses, distillation keeps the network within 0.5 points of its teacher and beats the naive swap."""
    gelu, naive, relu = (result.correct(f"fp32-{variant}") for variant in ("gelu", "naive", "relu"))
    swapped, distilled = paired_drop(gelu, naive), paired_drop(gelu, relu)
    judgement = all_of([real_loss(swapped), non_inferiority(distilled), better_than(paired_drop(naive, relu))])
    return judgement, _naive_control(result)


def four_readings(result: ImageNetResult) -> tuple[Judgement, Control]:
    """c03: the drop of INT8 ReLU in points and in per cent, against FP32 and against INT8 GELU; all four must hold."""
    tests = (non_inferiority, relative_non_inferiority)
    references = [result.correct(variant) for variant in ("fp32-gelu", "int8-gelu")]
    relu = result.correct("int8-relu")
    return all_of([test(paired_drop(right, relu)) for right in references for test in tests]), _naive_control(result)


def _naive_control(result: ImageNetResult) -> Control:
    """In points: there it also passes, and so fails the run, when labels and classes do not match and nothing can be lost."""
    wrong = non_inferiority(paired_drop(result.correct("fp32-gelu"), result.correct("fp32-naive")))
    return Control.refused("the network that was swapped but not distilled (fp32-naive) must not pass", wrong)


def imagenet_evidence(result: ImageNetResult, ran: str, control: Control) -> Evidence:
    top1 = [f"{variant} {100 * result.correct(variant).mean():.2f}" for variant in result.predictions]
    return Evidence(
        ran=f"{ran}, on {result.images}",
        tier=result.tier,
        seconds=result.seconds,
        control=control,
        artifacts={"teacher": result.teacher, **result.artifacts},
        numbers=tuple(
            paired_drop(result.correct("fp32-gelu"), result.correct(variant)).estimate(f"drop to {variant}")
            for variant in result.predictions
            if variant != "fp32-gelu"
        ),
        details=(
            f"top-1 in %: {', '.join(top1)}",
            f"integer networks ran on {result.engine}; the logits of {CHECKED_IMAGES} images are the reference's, bit by bit",
            *result.warnings,
        ),
    )
