"""What a worker process does for one task of live evidence: distil, quantize, predict, compare."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geluless.bench.verification import verify_call
from geluless.data import embedded_images, teacher_path
from geluless.data.balance import balanced_indices
from geluless.data.selection import Selection, select
from geluless.data.subset import Subset
from geluless.distillation import Distillation, Recipe, correct_biases, distill, format_record
from geluless.engine.cpu import native
from geluless.engine.engine import Engine
from geluless.errors import MissingResource
from geluless.models.activations import replace_gelu
from geluless.models.description import describe_blocks
from geluless.models.swin import create_model, weights_digest
from geluless.ptq.profiles import PROFILES, Profile
from geluless.ptq.quantize import quantize
from geluless.verdicts.ablation import CONTROL_IMAGES, CONTROL_JUDGED, Setting, control_recipe, recipe_of, setting_of
from geluless.verdicts.curved_teacher import curved_teacher
from geluless.verdicts.failure_signs import dead_units, silence
from geluless.verdicts.layer_errors import layer_errors
from geluless.verdicts.micro_networks import (
    BATCH,
    BROKEN_SIZE,
    CALIBRATION_IMAGES,
    CHECKED_IMAGES,
    CHOSEN,
    CURVED_CHOSEN,
    CURVED_IMAGES,
    DESCRIBED_IMAGES,
    DRAWS,
    ENGINE_CONTROL,
    FLOAT_GELUS,
    INT8_NAIVE_SIZES,
    LAYER_ERROR_IMAGES,
    OTHER_ISA_IMAGES,
    PTX_IMAGES,
    PTX_TARGET,
    REFERENCE_DRAW_IMAGES,
    ROUNDING_IMAGES,
    ROUNDING_SIZE,
    SILENCED,
    Kind,
    Task,
    TaskResult,
)
from geluless.verdicts.mlp_path import MlpCode, cpu_mlp_code, gpu_mlp_code

if TYPE_CHECKING:
    from torch import nn

    from geluless.data import ImageSource
    from geluless.integer.artifact import Artifact

Report = Callable[[str], None]

# The best profile but for its rounding: FasterTransformer's two in every linear layer.
TWO_STAGE = dataclasses.replace(PROFILES["per-channel"], name="best-two-stage", two_stage_layers=PROFILES["ft1"].two_stage_layers)


def run_task(task: Task, *, images: int | None = None, report: Report = print) -> TaskResult:
    """Run one task in this process. `images` limits the test images (for tests of this module only)."""
    return Worker(task, images=images, report=report).run()


class Worker:
    """Runs one task; every step's seconds are kept."""

    def __init__(self, task: Task, *, images: int | None, report: Report) -> None:
        self.task = task
        self.report = report
        self.seconds: dict[str, float] = {}
        self.train = embedded_images("train")
        self.test = embedded_images("test")
        judging = range(len(self.test))[-CURVED_IMAGES if task.curved else 0 :]
        self.indices = judging[:images]
        self.checkpoint = teacher_path(task.model)
        self.labels = np.asarray(self.test.labels)[list(self.indices)].astype(np.uint8)

    def run(self) -> TaskResult:
        steps = {
            Kind.BASE: self._base,
            Kind.LOCAL: self._local,
            Kind.PAPER: self._soft,
            Kind.LOCAL_KD: self._soft,
            Kind.FIRST: self._first_block,
            Kind.CONTROL: self._control,
            Kind.NOBIAS: self._without_bias,
            Kind.VARIED: self._varied,
        }
        found = steps[self.task.kind]()
        return TaskResult(
            task=str(self.task),
            images=self._images(),
            teacher_sha256=self._teacher_sha256(),
            labels=self.labels,
            seconds=self.seconds,
            **found,
        )

    # ------------------------------------------------------------------------------------------------------ the tasks

    def _base(self) -> dict[str, Any]:
        teacher, swapped = self._teacher(), self._teacher()
        replace_gelu(swapped)
        described = self.train.batches(BATCH, indices=balanced_indices(self.train.labels, DESCRIBED_IMAGES))
        blocks = self._timed("blocks described", lambda: describe_blocks(teacher, described))
        gelu, naive = self._float("FP32 GELU", teacher), self._float("FP32 naive swap", swapped)
        found = {"predictions": {}} if self.task.curved else self._base_quantized(teacher, swapped)
        self._timed("biases corrected", lambda: correct_biases(teacher, swapped, self._calibration_images(draw=0)))
        corrected = self._float("FP32 bias-corrected swap", swapped)
        predictions = {"fp32-gelu": gelu, "fp32-naive": naive, "fp32-corrected": corrected, **found["predictions"]}
        return {**found, "predictions": predictions, "blocks": blocks}

    def _base_quantized(self, teacher: nn.Module, naive: nn.Module) -> dict[str, Any]:
        predictions, artifacts = {}, {}
        predictions["int8-gelu"], artifact = self._integer("INT8 GELU", teacher)
        artifacts["int8-gelu"] = artifact.content_hash
        predictions |= self._float_gelu(artifact)
        if self.task.size in INT8_NAIVE_SIZES:
            predictions["int8-naive"], naive_artifact = self._integer("INT8 naive swap", naive)
            artifacts["int8-naive"] = naive_artifact.content_hash
        return {
            "predictions": predictions,
            "artifacts": artifacts,
            "manifests": {"int8-gelu": _manifest(artifact)},
            **self._further("int8-gelu", "INT8 GELU", teacher, artifact, predictions["int8-gelu"]),
        }

    def _local(self) -> dict[str, Any]:
        student, record = self._distilled("local")
        predictions = {"fp32-relu": self._float("FP32 ReLU", student)}
        if self.task.curved:
            return {"predictions": predictions, **record}
        if not self.task.plain:
            quick, digest, _ = self._quick_integer("INT8 ReLU", student, draw=0)
            return {"predictions": {**predictions, "int8-relu": quick}, "artifacts": {"int8-relu": digest}, **record}
        name = "INT8 ReLU"
        artifact, logits = self._quantized(name, student, profile="per-channel", indices=self.indices)
        engines = self._timed(f"{name}, compiled", lambda: self._compiled_differences(artifact, logits))
        gpu_code = self._timed(f"{name}, PTX", lambda: self._gpu_code_differences(artifact, logits))
        predictions["int8-relu"] = self._predicted(name, logits)
        errors, artifacts, manifests = self._rounding(student) if self.task.size == ROUNDING_SIZE else ({}, {}, {})
        mlp_code = self._mlp_code(student, artifact) if self.task.size == ROUNDING_SIZE else {}
        return {
            "predictions": predictions,
            "errors": errors,
            "artifacts": {"int8-relu": artifact.content_hash, **artifacts},
            "manifests": {"int8-relu": _manifest(artifact), **manifests},
            "engines": engines,
            "gpu_code": gpu_code,
            "mlp_code": mlp_code,
            **self._further("int8-relu", "INT8 ReLU", student, artifact, predictions["int8-relu"]),
            **record,
        }

    def _soft(self) -> dict[str, Any]:
        student, record = self._distilled(self.task.kind.value)
        return {"predictions": {"fp32-relu": self._float("FP32 ReLU", student)}, **record}

    def _varied(self) -> dict[str, Any]:
        setting = setting_of(self.task.setting)
        student, record = self._distilled(recipe_of(setting), images=self._chosen(setting), backwards=setting.backwards)
        return {"predictions": {"fp32-relu": self._float(setting.value, student)}, **record}

    def _without_bias(self) -> dict[str, Any]:
        """fc1's biases go with their GELU: distilled by 'local', and not at all."""
        student, record = self._distilled("local", drop_bias=True)
        naive = self._teacher()
        replace_gelu(naive, drop_bias=True)
        predictions = {"fp32-relu": self._float("FP32 ReLU", student), "fp32-naive": self._float("FP32 naive swap", naive)}
        predictions["int8-relu"], digest, engine = self._quick_integer("INT8 ReLU", student, draw=0)
        return {"predictions": predictions, "artifacts": {"int8-relu": digest}, "draws_engine": engine, **record}

    def _first_block(self) -> dict[str, Any]:
        """The first block alone is swapped; the others keep their GELU."""
        naive = self._teacher()
        replace_gelu(naive, blocks=[0])
        predictions = {"fp32-naive": self._float("FP32 first block, naive", naive)}
        for recipe in ("local", "paper"):
            student = self._student(recipe, blocks=1).student
            predictions[f"fp32-{recipe}"] = self._float(f"FP32 first block, {recipe}", student)
        return {"predictions": predictions}

    def _control(self) -> dict[str, Any]:
        """A recipe that is taught other images' targets, and the same run with its own: what the shuffle alone does."""
        recipe, judged = control_recipe(self.task.setting), self.indices[:CONTROL_JUDGED]
        images = Subset(self.train, balanced_indices(self.train.labels, CONTROL_IMAGES))
        predictions = {}
        for name, shuffled in (("shuffled", True), ("own-targets", False)):
            student = self._student(recipe, images=images, shuffled=shuffled, step=f"distilled, {name}").student
            predictions[f"fp32-{name}"] = self._float(f"FP32 {name}", student, judged)
        found: dict[str, Any] = {"predictions": predictions}
        if self.task.setting == "local" and self.task.size == BROKEN_SIZE:
            blank = [torch.zeros(CALIBRATION_IMAGES, *self.train.input_size)]
            engine = self._available(
                self._timed("INT8 blank, quantized", lambda: quantize(student, blank, profile="per-channel"))
            )
            predictions["int8-blank"] = self._predicted(
                "INT8 blank", self._timed("INT8 blank", lambda: self._run(engine, judged))
            )
            silence(student, share=SILENCED)
            found["silenced_units"] = self._dead_units(student)
        return found

    def _rounding(self, student: nn.Module) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, list[dict[str, str]]]]:
        """Squared logit errors of one network whose artifacts differ in their rounding alone, and of ft1 and ft2."""
        indices = self.indices[:ROUNDING_IMAGES]
        exact = self._logits(student, indices)
        best = PROFILES["per-channel"]
        variants: dict[str, Profile] = {
            "one-stage": best,
            "one-stage again": best,
            "two-stage": TWO_STAGE,
            "ft1": PROFILES["ft1"],
            "ft2": PROFILES["ft2"],
        }
        errors, artifacts, manifests = {}, {}, {}
        for name, profile in variants.items():
            artifact, logits = self._quantized(f"rounding {name}", student, profile=profile, indices=indices)
            errors[name] = ((logits.astype(np.float64) - exact) ** 2).mean(axis=1)  # float64 [N]
            artifacts[name] = artifact.content_hash
            manifests[name] = _manifest(artifact)
        self.report(
            f"  {self.task!s:<14} rounding variants: mean squared logit error "
            + ", ".join(f"{name} {values.mean():.4g}" for name, values in errors.items())
        )
        return errors, artifacts, manifests

    # ------------------------------------------------------------------------------------------------------ the steps

    def _teacher(self) -> nn.Module:
        return copy.deepcopy(self._made_teacher)

    @functools.cached_property
    def _made_teacher(self) -> nn.Module:
        shipped = create_model(self.task.model, self.checkpoint)
        if not self.task.curved:
            return shipped
        return self._timed("teacher curved", lambda: curved_teacher(shipped, self.train))

    def _teacher_sha256(self) -> str:
        if self.task.curved:
            return weights_digest(self._made_teacher)
        return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()

    def _images(self) -> str:
        first = f" from number {self.indices.start:,} on" if self.indices.start else ""
        chosen = CURVED_CHOSEN if self.task.curved else CHOSEN
        return f"{self.test.name}, {len(self.indices):,} images{first}, sha256 {self.test.digest[:16]} ({chosen})"

    def _distilled(
        self,
        recipe: str | Recipe,
        *,
        images: ImageSource | None = None,
        drop_bias: bool = False,
        backwards: bool = False,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The student; its record and its dead units as fields of TaskResult."""
        result = self._student(recipe, images=images, drop_bias=drop_bias, backwards=backwards)
        return result.student, {"distillation": result.to_json(), "dead_units": self._dead_units(result.student)}

    def _student(
        self,
        recipe: str | Recipe,
        *,
        images: ImageSource | None = None,
        drop_bias: bool = False,
        backwards: bool = False,
        blocks: int | None = None,
        shuffled: bool = False,
        step: str | None = None,
    ) -> Distillation:
        """Distilled from all training images, or from `images`."""
        teacher, name = self._teacher(), recipe if isinstance(recipe, str) else recipe.name
        return self._timed(
            step or f"distilled by {name}",
            lambda: distill(
                teacher,
                self.train if images is None else images,
                recipe=recipe,
                seed=self.task.seed,
                drop_bias=drop_bias,
                backwards=backwards,
                blocks=blocks,
                shuffled=shuffled,
                on_block=lambda record: self.report(f"  {self.task!s:<14} {format_record(record)}"),
            ),
        )

    def _chosen(self, setting: Setting) -> ImageSource:
        """The training images that a setting gives to its recipe."""
        if setting.images is None:
            return self.train
        uncertain = setting.selection is Selection.LEAST_CERTAIN
        logits = self._logits(self._teacher(), range(len(self.train)), images=self.train) if uncertain else None
        return Subset(self.train, select(self.train.labels, setting.images, setting.selection, logits=logits))

    def _dead_units(self, student: nn.Module) -> dict[str, float]:
        seen = self.train.batches(BATCH, indices=balanced_indices(self.train.labels, DESCRIBED_IMAGES))
        return self._timed("dead units", lambda: dead_units(student, seen))

    def _float(self, name: str, model: nn.Module, indices: range | None = None) -> np.ndarray:
        """Of all test images, or of those `indices`."""
        return self._predicted(name, self._timed(name, lambda: self._logits(model, self.indices if indices is None else indices)))

    def _logits(self, model: nn.Module, indices: range, *, images: ImageSource | None = None) -> np.ndarray:
        """float64 [N, classes] of test images, or of those of another source."""
        model.eval()
        source = self.test if images is None else images
        with torch.inference_mode():
            return np.concatenate([model(batch).double().numpy() for batch in source.batches(BATCH, indices=indices)])

    def _integer(self, name: str, model: nn.Module) -> tuple[np.ndarray, Artifact]:
        artifact = self._calibrated(model, profile="per-channel", draw=0)
        logits = self._timed(name, lambda: self._checked_logits(name, artifact))
        return self._predicted(name, logits), artifact

    def _quantized(self, name: str, model: nn.Module, *, profile: str | Profile, indices: range) -> tuple[Artifact, np.ndarray]:
        artifact = self._calibrated(model, profile=profile, draw=0)
        engine = Engine(artifact, backend="reference", threads=1)
        return artifact, self._timed(name, lambda: self._run(engine, indices))

    def _run(self, engine: Engine, indices: range) -> np.ndarray:
        """float32 logits [N, classes]."""
        return np.concatenate([engine(batch) for batch in self.test.batches(BATCH, indices=indices)])

    def _compiled(self, artifact: Artifact) -> Engine | None:
        """None where there are no compiled kernels."""
        try:
            native()
        except MissingResource:
            return None
        return Engine(artifact, backend="cpu", threads=1)

    def _available(self, artifact: Artifact) -> Engine:
        """The compiled engine, or the reference where there are no compiled kernels."""
        return self._compiled(artifact) or Engine(artifact, backend="reference", threads=1)

    def _predicted(self, step: str, logits: np.ndarray) -> np.ndarray:
        """uint8 [N], and a line that says how accurate they are."""
        predictions = logits.argmax(1).astype(np.uint8)
        top1 = 100 * (predictions == self.labels[: len(predictions)]).mean()
        self.report(f"  {self.task!s:<14} {step:<16} {top1:6.2f} % top-1   ({self.seconds[step]:.0f} s)")
        return predictions

    def _checked_logits(self, name: str, artifact: Artifact) -> np.ndarray:
        """Of all images, by the compiled engine once its logits of the first ones equal the reference's, else by the reference.

        Raises RuntimeError where they differ: then nothing that this engine says counts.
        """
        reference, compiled = Engine(artifact, backend="reference", threads=1), self._compiled(artifact)
        if compiled is None:
            return self._run(reference, self.indices)
        logits, checked = self._run(compiled, self.indices), self.indices[:CHECKED_IMAGES]
        if not np.array_equal(logits[: len(checked)], self._run(reference, checked)):
            raise RuntimeError(f"{name}: the compiled engine's logits are not the reference's")
        return logits

    def _calibrated(self, model: nn.Module, *, profile: str | Profile, draw: int) -> Artifact:
        return quantize(model, self._calibration_images(draw=draw), profile=profile, name=self.task.model)

    def _calibration_images(self, *, draw: int) -> Iterator[torch.Tensor]:
        chosen = calibration_indices(self.train.labels, CALIBRATION_IMAGES, draw=draw)
        return self.train.batches(64, indices=chosen)

    def _quick_integer(self, name: str, model: nn.Module, *, draw: int) -> tuple[np.ndarray, str, str]:
        """(predictions, artifact, engine) by compiled kernels; without them by the reference on the first images only.

        The same run compares these kernels' logits with the reference's, bit by bit (TaskResult.engines).
        """
        step = f"{name}, draw {draw}"
        artifact = self._timed(f"{step}, quantized", lambda: self._calibrated(model, profile="per-channel", draw=draw))
        engine, indices = self._compiled(artifact), self.indices
        if engine is None:
            engine, indices = Engine(artifact, backend="reference", threads=1), self.indices[:REFERENCE_DRAW_IMAGES]
        predictions = self._predicted(step, self._timed(step, lambda: self._run(engine, indices)))
        return predictions, artifact.content_hash, f"{engine.backend} ({engine.isa}), {len(indices):,} images"

    def _float_gelu(self, artifact: Artifact) -> dict[str, np.ndarray]:
        """The INT8 GELU network with the fp32 GELUs that are timed: FasterTransformer's structure, and erf fused.

        One value on a tie may be a step off the reference's, so a second engine verifies each tensor of an image
        (`verify_call`). Raises RuntimeError where it finds another GELU. Empty without compiled kernels.
        """
        found = {}
        for variant in FLOAT_GELUS if self._compiled(artifact) is not None else ():
            engine, name = Engine(artifact, "cpu", variant=variant, threads=1), f"INT8 {variant}"
            image = next(iter(self.test.batches(1, indices=self.indices[:1]))).numpy()
            correctness, good = verify_call(engine, image, functools.partial(engine, image))
            if not good:
                raise RuntimeError(f"{name}: {correctness}")
            found[f"int8-{variant}"] = self._predicted(
                name, self._timed(name, functools.partial(self._run, engine, self.indices))
            )
        return found

    def _further(self, variant: str, name: str, model: nn.Module, artifact: Artifact, first: np.ndarray) -> dict[str, Any]:
        """Fields of TaskResult: other draws of calibration images, and each layer's distance from the float network."""
        others = [self._quick_integer(name, model, draw=draw) for draw in DRAWS[1:]]
        chosen = self.test.batches(LAYER_ERROR_IMAGES, indices=self.indices[:LAYER_ERROR_IMAGES])
        errors = self._timed(f"{name}, layer errors", lambda: layer_errors(model, artifact, chosen))
        return {
            "draws": {variant: (first, *(predictions for predictions, _, _ in others))},
            "draws_engine": others[0][2],
            "layer_errors": {variant: errors},
        }

    def _compiled_differences(self, artifact: Artifact, expected: np.ndarray) -> dict[str, tuple[int, int]]:
        """Compiled engines and the unfused ReLU against the reference's logits; empty without engines.

        (images that differ, images compared) by engine.
        """
        try:
            available: list[str] = native().available()
        except MissingResource:
            return {}
        variants = [("relu", artifact, isa) for isa in available] + [("relu-separate", artifact, available[0])]
        runs = {
            f"{variant} on {isa}": Engine(made, "cpu", variant=variant, threads=1, isa=isa) for variant, made, isa in variants
        }
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
        from geluless.engine.gpu import GpuNetwork
        from geluless.engine.gpu.compiler import require_triton
        from geluless.integer.variants import Variant

        try:
            require_triton()
        except MissingResource:
            return {}
        from geluless.engine.gpu.executors.ptx import PtxExecutor

        executor, chosen = PtxExecutor(PTX_TARGET), self.indices[:PTX_IMAGES]
        images = np.concatenate([batch.numpy() for batch in self.test.batches(BATCH, indices=chosen)])
        found = {}
        for name, made in ((f"relu, PTX for {PTX_TARGET}", artifact), (ENGINE_CONTROL, _one_weight_changed(artifact))):
            logits = GpuNetwork(made.plan, made.tensors, Variant.RELU, executor=executor).run(images)
            found[name] = (int((logits != expected[: len(images)]).any(axis=1).sum()), len(images))
        return found

    def _mlp_code(self, student: nn.Module, artifact: Artifact) -> dict[str, tuple[MlpCode, ...]]:
        """The machine code of the MLP of `artifact` and of two that must show floating point, on "cpu" and on "gpu" (named so
        before the variant); without what is needed to compile or to read it, nothing."""
        two_stage = self._calibrated(student, profile=TWO_STAGE, draw=0)
        compared: dict[str, tuple[Artifact, str | None]] = {
            "relu": (artifact, None),
            "relu-float": (artifact, "relu-float"),
            "two-stage": (two_stage, None),
        }
        image = next(iter(self.test.batches(1, indices=self.indices[:1]))).numpy()

        def on_cpu() -> dict[str, tuple[MlpCode, ...]]:
            return {f"cpu {name}": cpu_mlp_code(made, image, variant=variant) for name, (made, variant) in compared.items()}

        def on_gpu() -> dict[str, tuple[MlpCode, ...]]:
            return {
                f"gpu {name}": (gpu_mlp_code(made, PTX_TARGET, batch=PTX_IMAGES, variant=variant),)
                for name, (made, variant) in compared.items()
            }

        found: dict[str, tuple[MlpCode, ...]] = {}
        for where, read in (("cpu", on_cpu), ("gpu", on_gpu)):
            with suppress(MissingResource):
                found |= self._timed(f"MLP's code, {where}", read)
        return found

    def _timed(self, step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        self.seconds[step] = time.perf_counter() - started
        return result


def calibration_indices(labels: np.ndarray, count: int, *, draw: int) -> list[int]:
    """Ascending indices of `count` class-balanced images: draw 0 in file order, draw d in an order shuffled with seed d."""
    if draw == 0:
        return balanced_indices(labels, count)
    order = np.random.default_rng(draw).permutation(len(labels))
    return sorted(order[balanced_indices(np.asarray(labels)[order], count)].tolist())


def _manifest(artifact: Artifact) -> list[dict[str, str]]:
    return [dict(row) for row in artifact.precision_manifest()]


def _one_weight_changed(artifact: Artifact) -> Artifact:
    """The same artifact but for the smallest step of one weight: a wrong kernel would do more harm than that."""
    name = "head.fc.weight"  # reaches one logit of nearly every image; deeper ones can vanish in a rounding
    weight = artifact.tensors[name].copy()
    weight[0, 0] += 1 if weight[0, 0] < 127 else -1
    return dataclasses.replace(artifact, tensors={**artifact.tensors, name: weight})
