"""Evidence of the embedded tier, made live: the micro twins of the paper's four sizes on 10,000 test images.

The evidence comes in tasks, each a function of one size that a worker process runs alone on one thread:

    base      the GELU teacher, the naive swap, both quantized      -> predictions, artifacts, what its blocks look like
    local     per-block distillation of the teacher, then INT8      -> predictions, artifact, learning curves;
              for tiny also one rounding against FasterTransformer's two -> squared logit errors
    paper     block after block by soft labels (the paper's way)    -> predictions, learning curves
    local+kd  local, then a polish by soft labels                   -> predictions, learning curves
    shuffled  negative control: soft labels of other images, beside one with the true ones -> predictions

Nothing is read from earlier runs. Prediction vectors of different tasks are paired by image.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from geluless.models.description import BlockDescription
    from geluless.ptq import Artifact, Profile

SIZES = ("tiny", "small", "base", "large")
INT8_NAIVE_SIZES = ("tiny",)  # elsewhere the naive swap in FP32 is control enough, at a third of the time
SEED = 0
CALIBRATION_IMAGES = 256
DESCRIBED_IMAGES = 500
ROUNDING_SIZE, ROUNDING_IMAGES = "tiny", 2000
BATCH = 250

OTHER_ISA_IMAGES = 500  # the best instruction set sees every image, slower ones these many
PTX_IMAGES = 16  # executing a GPU's code on a CPU takes up to a second per image
PTX_TARGET = "sm_89"
ENGINE_CONTROL = "relu, one weight of the classifier changed by one step"

Report = Callable[[str], None]


class Kind(Enum):
    BASE = "base"
    LOCAL = "local"
    PAPER = "paper"
    LOCAL_KD = "local+kd"
    SHUFFLED = "shuffled"


# Seconds on one quiet core for the tiny twin: only their order matters, the longest task starts first.
TINY_SECONDS = {
    Kind.BASE: 70,
    Kind.LOCAL: 90,
    Kind.PAPER: 200,
    Kind.LOCAL_KD: 120,
    Kind.SHUFFLED: 50,
}
SIZE_FACTOR = {"tiny": 1.0, "small": 2.0, "base": 3.2, "large": 4.5}


@dataclass(frozen=True)
class Task:
    """One unit of evidence, written "local:tiny"."""

    kind: Kind
    size: str

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"no twin is called {self.size!r}; the sizes are {', '.join(SIZES)}")

    @staticmethod
    def parse(text: str) -> Task:
        kind, _, size = text.partition(":")
        return Task(Kind(kind), size)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.size}"

    @property
    def model(self) -> str:
        return f"swin_micro_{self.size}"

    @property
    def expected_seconds(self) -> float:
        return TINY_SECONDS[self.kind] * SIZE_FACTOR[self.size]


@dataclass(frozen=True)
class Part:
    """What one task found. Predictions are class indices, uint8 [N], by arm."""

    task: str
    images: str  # name of the test images, their number and digest
    teacher_sha256: str
    labels: np.ndarray = field(repr=False)
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    errors: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # float64 [N]: squared logit error per image
    artifacts: Mapping[str, str] = field(default_factory=dict)  # content hashes by arm
    manifests: Mapping[str, list[dict[str, str]]] = field(default_factory=dict, repr=False)  # executed precision by arm
    # Compiled engines on the INT8 ReLU network: images whose logits differ from the reference's in any bit, and images compared,
    # by engine. ENGINE_CONTROL is the negative control: one weight changed by one step.
    engines: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    gpu_code: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # the same for the GPU engine's compiled PTX
    distillation: Mapping[str, Any] | None = None
    blocks: tuple[BlockDescription, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step

    def correct(self, arm: str) -> np.ndarray:
        """bool [N]: which images this arm classifies correctly. KeyError for an arm the task did not run."""
        return self.predictions[arm] == self.labels


def run_task(task: Task, *, images: int | None = None, report: Report = print) -> Part:
    """Run one task in this process. `images` limits the test images (for tests of this module only)."""
    return _Worker(task, images=images, report=report).run()


class _Worker:
    def __init__(self, task: Task, *, images: int | None, report: Report) -> None:
        from geluless.data import embedded_images, teacher_path

        self.task = task
        self.report = report
        self.seconds: dict[str, float] = {}
        self.train = embedded_images("train")
        self.test = embedded_images("test")
        self.indices = range(len(self.test) if images is None else min(images, len(self.test)))
        self.checkpoint = teacher_path(task.model)
        self.labels = np.asarray(self.test.labels)[: len(self.indices)].astype(np.uint8)

    def run(self) -> Part:
        steps = {
            Kind.BASE: self._base,
            Kind.LOCAL: self._local,
            Kind.PAPER: self._soft,
            Kind.LOCAL_KD: self._soft,
            Kind.SHUFFLED: self._shuffled,
        }
        found = steps[self.task.kind]()
        return Part(
            task=str(self.task),
            images=f"{self.test.name}, {len(self.indices):,} images, sha256 {self.test.digest[:16]}",
            teacher_sha256=hashlib.sha256(self.checkpoint.read_bytes()).hexdigest(),
            labels=self.labels,
            seconds=self.seconds,
            **found,
        )

    # ------------------------------------------------------------------------------------------------------ the tasks

    def _base(self) -> dict[str, Any]:
        from geluless.data.balance import balanced_indices
        from geluless.models.activations import replace_gelu
        from geluless.models.description import describe_blocks

        teacher = self._teacher()
        described = self.train.batches(BATCH, indices=balanced_indices(self.train.labels, DESCRIBED_IMAGES))
        blocks = self._timed("blocks described", lambda: describe_blocks(teacher, described))
        predictions, artifacts = {"fp32-gelu": self._float("FP32 GELU", teacher)}, {}
        predictions["int8-gelu"], artifacts["int8-gelu"], gelu_manifest = self._integer("INT8 GELU", teacher)
        naive = self._teacher()
        replace_gelu(naive)
        predictions["fp32-naive"] = self._float("FP32 naive swap", naive)
        if self.task.size in INT8_NAIVE_SIZES:
            predictions["int8-naive"], artifacts["int8-naive"], _ = self._integer("INT8 naive swap", naive)
        return {
            "predictions": predictions,
            "artifacts": artifacts,
            "manifests": {"int8-gelu": gelu_manifest},
            "blocks": blocks,
        }

    def _local(self) -> dict[str, Any]:
        student, record = self._distilled("local")
        predictions = {"fp32-relu": self._float("FP32 ReLU", student)}
        engines: dict[str, tuple[int, int]] = {}
        gpu_code: dict[str, tuple[int, int]] = {}
        predictions["int8-relu"], digest, manifest = self._integer("INT8 ReLU", student, engines, gpu_code)
        errors, artifacts, manifests = self._rounding(student) if self.task.size == ROUNDING_SIZE else ({}, {}, {})
        return {
            "predictions": predictions,
            "errors": errors,
            "artifacts": {"int8-relu": digest, **artifacts},
            "manifests": {"int8-relu": manifest, **manifests},
            "engines": engines,
            "gpu_code": gpu_code,
            "distillation": record,
        }

    def _soft(self) -> dict[str, Any]:
        student, record = self._distilled(self.task.kind.value)
        return {"predictions": {"fp32-relu": self._float("FP32 ReLU", student)}, "distillation": record}

    def _shuffled(self) -> dict[str, Any]:
        """Everything swapped at once, then one pass of soft labels: those of other images, and for comparison the true ones."""
        import torch

        from geluless.distillation import RECIPES
        from geluless.distillation.soft_labels import SoftLabels, train
        from geluless.models.activations import replace_gelu

        settings = RECIPES["paper"].soft_labels
        assert settings is not None, "the paper's recipe distils soft labels"
        true = SoftLabels.of(self._teacher().eval(), torch.cat(list(self.train.batches(BATCH))))
        shuffled = SoftLabels(true.images, true.logits.roll(1, dims=1))  # each image gets its neighbour's logits
        predictions = {}
        for name, labels in (("shuffled", shuffled), ("true-labels", true)):
            student = self._teacher().train()
            replace_gelu(student)
            work = functools.partial(train, student, labels, settings, torch.Generator().manual_seed(SEED))
            self._timed(f"trained, {name}", work)
            predictions[f"fp32-{name}"] = self._float(f"FP32 {name}", student)
        return {"predictions": predictions}

    def _rounding(self, student: nn.Module) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, list[dict[str, str]]]]:
        """Squared logit errors of one network whose artifacts differ in their rounding alone, and of ft1 and ft2."""
        from geluless.ptq import PROFILES

        indices = self.indices[:ROUNDING_IMAGES]
        exact = self._logits(student, indices)
        best = PROFILES["best"]
        variants: dict[str, Profile] = {
            "single": best,
            "single-again": best,
            "double": dataclasses.replace(best, name="best-double", double_rounding=PROFILES["ft1"].double_rounding),
            "ft1": PROFILES["ft1"],
            "ft2": PROFILES["ft2"],
        }
        errors, artifacts, manifests = {}, {}, {}
        for name, profile in variants.items():
            artifact, logits = self._quantized(f"rounding {name}", student, profile=profile, indices=indices)
            errors[name] = ((logits.astype(np.float64) - exact) ** 2).mean(axis=1)  # float64 [N]
            artifacts[name] = artifact.content_hash
            manifests[name] = [dict(row) for row in artifact.precision_manifest()]
        self.report(
            f"  {self.task!s:<14} rounding variants: mean squared logit error "
            + ", ".join(f"{name} {values.mean():.4g}" for name, values in errors.items())
        )
        return errors, artifacts, manifests

    # ------------------------------------------------------------------------------------------------------ the steps

    def _teacher(self) -> nn.Module:
        from geluless.models.swin import create_model

        return create_model(self.task.model, self.checkpoint)

    def _distilled(self, recipe: str) -> tuple[nn.Module, dict[str, Any]]:
        from geluless.distillation import distill, format_record

        teacher = self._teacher()
        result = self._timed(
            f"distilled by {recipe}",
            lambda: distill(
                teacher,
                self.train,
                recipe=recipe,
                seed=SEED,
                on_block=lambda record: self.report(f"  {self.task!s:<14} {format_record(record)}"),
            ),
        )
        return result.student, result.to_json()

    def _float(self, name: str, model: nn.Module) -> np.ndarray:
        predictions = self._timed(name, lambda: self._logits(model, self.indices)).argmax(1).astype(np.uint8)
        self._say_accuracy(name, predictions)
        return predictions

    def _logits(self, model: nn.Module, indices: range) -> np.ndarray:
        import torch

        model.eval()
        with torch.inference_mode():
            return np.concatenate([model(batch).double().numpy() for batch in self.test.batches(BATCH, indices=indices)])

    def _integer(
        self,
        name: str,
        model: nn.Module,
        engines: dict[str, tuple[int, int]] | None = None,
        gpu_code: dict[str, tuple[int, int]] | None = None,
    ) -> tuple[np.ndarray, str, list[dict[str, str]]]:
        artifact, logits = self._quantized(name, model, profile="best", indices=self.indices)
        if engines is not None:
            engines.update(self._timed(f"{name}, compiled", lambda: self._compiled_differences(artifact, logits)))
        if gpu_code is not None:
            gpu_code.update(self._timed(f"{name}, PTX", lambda: self._gpu_code_differences(artifact, logits)))
        predictions = logits.argmax(1).astype(np.uint8)
        self._say_accuracy(name, predictions)
        return predictions, artifact.content_hash, [dict(row) for row in artifact.precision_manifest()]

    def _quantized(self, name: str, model: nn.Module, *, profile: str | Profile, indices: range) -> tuple[Any, np.ndarray]:
        from geluless.data.balance import balanced_indices
        from geluless.engine.engine import Engine
        from geluless.ptq import quantize

        chosen = balanced_indices(self.train.labels, CALIBRATION_IMAGES)
        artifact = quantize(model, self.train.batches(64, indices=chosen), profile=profile)
        engine = Engine(artifact, backend="reference", threads=1)
        logits = self._timed(name, lambda: np.concatenate([engine(batch) for batch in self.test.batches(BATCH, indices=indices)]))
        return artifact, logits

    def _compiled_differences(self, artifact: Artifact, expected: np.ndarray) -> dict[str, tuple[int, int]]:
        """Compiled engines and the unfused ReLU against the reference's logits; empty without engines.

        (images that differ, images compared) by engine.
        """
        from geluless.engine.cpu import native
        from geluless.engine.engine import Engine
        from geluless.errors import MissingResource

        try:
            available: list[str] = native().available()
        except MissingResource:
            return {}
        arms = [("relu", artifact, isa) for isa in available] + [("relu-separate", artifact, available[0])]
        runs = {f"{arm} on {isa}": Engine(made, "cpu", arm=arm, threads=1, isa=isa) for arm, made, isa in arms}
        runs[ENGINE_CONTROL] = Engine(_one_weight_changed(artifact), "cpu", threads=1)
        found = {name: [0, 0] for name in runs}
        for start, batch in zip(self.indices[::BATCH], self.test.batches(BATCH, indices=self.indices), strict=True):
            want = expected[start : start + len(batch)]
            for name, engine in runs.items():
                if engine.isa != available[0] and start >= OTHER_ISA_IMAGES:
                    continue
                found[name][0] += int((engine(batch) != want).any(axis=1).sum())
                found[name][1] += len(batch)
        return {name: (different, compared) for name, (different, compared) in found.items()}

    def _gpu_code_differences(self, artifact: Artifact, expected: np.ndarray) -> dict[str, tuple[int, int]]:
        """(images that differ, images compared) of the PTX of the GPU engine, run on this CPU; empty without triton."""
        from geluless.engine.arms import Arm
        from geluless.engine.gpu import GpuNetwork
        from geluless.engine.gpu.compiler import require_triton
        from geluless.errors import MissingResource

        try:
            require_triton()
        except MissingResource:
            return {}
        from geluless.engine.gpu.machines.ptx import PtxMachine

        machine, chosen = PtxMachine(PTX_TARGET), self.indices[:PTX_IMAGES]
        images = np.concatenate([batch.numpy() for batch in self.test.batches(BATCH, indices=chosen)])
        found = {}
        for name, made in ((f"relu, PTX for {PTX_TARGET}", artifact), (ENGINE_CONTROL, _one_weight_changed(artifact))):
            logits = GpuNetwork(made.plan, made.tensors, Arm.RELU, machine=machine).run(images)
            found[name] = (int((logits != expected[: len(images)]).any(axis=1).sum()), len(images))
        return found

    def _timed(self, step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        self.seconds[step] = time.perf_counter() - started
        return result

    def _say_accuracy(self, step: str, predictions: np.ndarray) -> None:
        top1 = 100 * (predictions == self.labels).mean()
        self.report(f"  {self.task!s:<14} {step:<16} {top1:6.2f} % top-1   ({self.seconds[step]:.0f} s)")


def _one_weight_changed(artifact: Artifact) -> Artifact:
    """The same artifact but for the smallest step of one weight: a wrong kernel would do more harm than that."""
    name = "head.fc.weight"  # reaches one logit of nearly every image; deeper ones can vanish in a rounding
    weight = artifact.tensors[name].copy()
    weight[0, 0] += 1 if weight[0, 0] < 127 else -1
    return dataclasses.replace(artifact, tensors={**artifact.tensors, name: weight})
