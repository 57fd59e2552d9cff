"""Live evidence of the embedded tier: its tasks and what each finds, for micro networks of the paper's four sizes.

A task is a function of one network that a worker process (geluless.verdicts.worker) runs alone on one thread, on 10,000 images:

    base      the GELU teacher, the naive swap, both quantized,
              the naive swap with corrected biases                  -> predictions, artifacts, its blocks' statistics
    local     per-block distillation of the teacher, then INT8      -> predictions, artifact, learning curves;
              with another seed ("local:tiny#1") that alone
              for tiny also one rounding against FasterTransformer's two -> squared logit errors
    paper     block after block by soft labels (the paper's way)    -> predictions, learning curves
    local+kd  local, then fine-tuned by soft labels                 -> predictions, learning curves
    first     the first block alone swapped, naively and by local and paper -> predictions
    control   what must fail ("control:tiny/local"): the recipe with other images' targets, beside it with its own -> predictions;
              for local and tiny also the latter quantized from blank images, and with half its hidden units silenced
    nobias    local with fc1's biases dropped, then INT8; the naive swap without them beside it -> predictions
    varied    a recipe with one factor changed ("varied:tiny/rate-quarter#1", see ablation) -> predictions

base and local are quantized with further draws of calibration images, with each layer's distance from the float network; base
also runs the INT8 GELU network with each of FLOAT_GELUS. For "tiny-curved" and its like (geluless.verdicts.curved_teacher) base
and local stay in FP32, on the last 5,000 test images. What earlier runs have left and this one reads: claims/README.md.
Prediction vectors of different tasks are paired by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from geluless import sizes
from geluless.verdicts.ablation import control_recipe, setting_of

if TYPE_CHECKING:
    from geluless.models.description import BlockDescription
    from geluless.verdicts.layer_errors import LayerError
    from geluless.verdicts.mlp_path import MlpCode

SIZES = tuple(sizes.SIZES)
INT8_NAIVE_SIZES = ("tiny",)  # elsewhere the naive swap in FP32 is control enough, at a third of the time
FLOAT_GELUS = ("gelu-separate", "gelu-fused")  # variants of the INT8 GELU network: FasterTransformer's structure, and erf fused
SEED = 0
SEEDS = (SEED, 1, 2)  # of distillation, where several are run
CALIBRATION_IMAGES = 256
DRAWS = (0, 1, 2)  # of calibration images: 0 is balanced_indices in file order, the others in an order shuffled with that seed
CHECKED_IMAGES = 1000  # of compiled kernels' test images, how many the reference computes too where no claim is about kernels
REFERENCE_DRAW_IMAGES = 1000  # test images per further draw where there are no compiled kernels
LAYER_ERROR_IMAGES = 64
DESCRIBED_IMAGES = 500
ROUNDING_SIZE, ROUNDING_IMAGES = "tiny", 2000
BROKEN_SIZE = "tiny"  # where a network is broken on purpose, for the judges of the failure signs
SILENCED = 0.5  # share of every MLP's hidden units that are silenced there
BATCH = 250
CHOSEN = "which chose the networks too: their training was tried out until the naive swap lost about a point"

CURVED = "-curved"  # behind a size: the network of geluless.verdicts.curved_teacher, made from that size's
CURVED_SIZES = tuple(size + CURVED for size in SIZES)
CURVED_IMAGES = 5000  # the last test images judge curved networks; the others were looked at while their making was decided
CURVED_CHOSEN = "which chose nothing about these networks but the shipped ones that they are made from"

OTHER_ISA_IMAGES = 500  # the best instruction set sees every image, slower ones these many
PTX_IMAGES = 16  # executing a GPU's code on a CPU takes up to a second per image
PTX_TARGET = "sm_89"
ENGINE_CONTROL = "relu, one weight of the classifier changed by one step"


class Kind(Enum):
    BASE = "base"
    LOCAL = "local"
    PAPER = "paper"
    LOCAL_KD = "local+kd"
    FIRST = "first"
    CONTROL = "control"
    NOBIAS = "nobias"
    VARIED = "varied"


# Seconds on one quiet core for the tiny micro network: only their order matters, the longest task starts first.
TINY_SECONDS = {
    Kind.BASE: 70,
    Kind.LOCAL: 90,
    Kind.PAPER: 200,
    Kind.LOCAL_KD: 120,
    Kind.FIRST: 75,
    Kind.NOBIAS: 60,
}
OTHER_SEED_SECONDS = 45  # of local: no engines, no roundings, no further draws
CONTROL_SECONDS = {"local": 8, "paper": 30, "local+kd": 12}
SIZE_FACTOR = {"tiny": 1.0, "small": 2.0, "base": 3.2, "large": 4.5}


@dataclass(frozen=True)
class Task:
    """One unit of evidence: "local:tiny", "local:tiny#1" (seed 1), "varied:tiny/steps-quarter#1" or "local:tiny-curved"."""

    kind: Kind
    size: str
    seed: int = SEED
    setting: str = ""  # of the ablation for Kind.VARIED, the recipe for Kind.CONTROL, and for no other

    def __post_init__(self) -> None:
        if self.size not in SIZES + CURVED_SIZES:
            raise ValueError(f"no micro network is called {self.size!r}; the sizes are {', '.join(SIZES + CURVED_SIZES)}")
        if (self.kind in (Kind.VARIED, Kind.CONTROL)) != bool(self.setting):
            raise ValueError(
                f"{self.kind.value}: a setting of the ablation belongs to {Kind.VARIED.value}, a recipe to {Kind.CONTROL.value}, "
                "and neither to another kind"
            )
        if self.kind is Kind.VARIED:
            setting_of(self.setting)
        if self.kind is Kind.CONTROL:
            control_recipe(self.setting)
        if self.kind is Kind.BASE and self.seed != SEED:
            raise ValueError(f"{self.kind.value} draws nothing at random: it has no other seed")

    @staticmethod
    def parse(text: str) -> Task:
        rest, _, seed = text.partition("#")
        rest, _, setting = rest.partition("/")
        kind, _, size = rest.partition(":")
        return Task(Kind(kind), size, int(seed) if seed else SEED, setting)

    def __str__(self) -> str:
        setting, seed = self.setting and f"/{self.setting}", "" if self.seed == SEED else f"#{self.seed}"
        return f"{self.kind.value}:{self.size}{setting}{seed}"

    @property
    def plain(self) -> bool:
        """The first seed of an unchanged recipe."""
        return self.seed == SEED and not self.setting

    @property
    def curved(self) -> bool:
        return self.size.endswith(CURVED)

    @property
    def model(self) -> str:
        return f"swin_micro_{self.size.removesuffix(CURVED)}"

    @property
    def expected_seconds(self) -> float:
        if self.kind is Kind.VARIED:
            seconds = setting_of(self.setting).seconds
        elif self.kind is Kind.CONTROL:
            seconds = CONTROL_SECONDS[self.setting]
        elif self.kind is Kind.LOCAL and not self.plain:
            seconds = OTHER_SEED_SECONDS
        else:
            seconds = TINY_SECONDS[self.kind]
        return seconds * SIZE_FACTOR[self.size.removesuffix(CURVED)]


@dataclass(frozen=True)
class TaskResult:
    """What one task found. Predictions are class indices, uint8 [N], by variant."""

    task: str
    images: str  # name of the test images, their number and digest, and what else they were used for
    teacher_sha256: str  # of its file; of a curved one, which has none, `weights_digest`
    labels: np.ndarray = field(repr=False)
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    errors: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # float64 [N]: squared logit error per image
    artifacts: Mapping[str, str] = field(default_factory=dict)  # content hashes by variant
    manifests: Mapping[str, list[dict[str, str]]] = field(default_factory=dict, repr=False)  # executed precision by variant
    # Compiled engines on the INT8 ReLU network: images whose logits differ from the reference's in any bit, and images compared,
    # by engine. ENGINE_CONTROL is the negative control: one weight changed by one step.
    engines: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    gpu_code: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # the same for the GPU engine's compiled PTX
    mlp_code: Mapping[str, tuple[MlpCode, ...]] = field(default_factory=dict, repr=False)  # by "cpu relu", "gpu two-stage", ...
    distillation: Mapping[str, Any] | None = None
    dead_units: Mapping[str, float] = field(default_factory=dict, repr=False)  # by block: share of hidden units that never fire
    silenced_units: Mapping[str, float] = field(default_factory=dict, repr=False)  # the same of the broken network, see control
    # By variant: one vector per entry of DRAWS.
    draws: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict, repr=False)
    draws_engine: str = ""  # what ran the further draws
    layer_errors: Mapping[str, tuple[LayerError, ...]] = field(default_factory=dict, repr=False)  # by variant
    blocks: tuple[BlockDescription, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step

    def correct(self, variant: str) -> np.ndarray:
        """bool [n], n <= N: which images this variant classifies correctly. KeyError for a variant the task did not run."""
        return self.predictions[variant] == self.labels[: len(self.predictions[variant])]

    def correct_by_draw(self, variant: str) -> tuple[np.ndarray, ...]:
        """bool [n], n <= N, for each draw of calibration images; draws beyond the first may have seen the first images only."""
        return tuple(values == self.labels[: len(values)] for values in self.draws[variant])
