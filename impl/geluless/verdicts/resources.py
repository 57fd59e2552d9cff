"""What a check may need and this machine may lack. Every probe looks; none assumes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from geluless.errors import MissingResource

IMAGENET_VARIABLE = "GELULESS_IMAGENET"
CHECKPOINTS_VARIABLE = "GELULESS_CHECKPOINTS"
RUNNER_VARIABLE = "GELULESS_RUNNER_RECORDS"
IMAGENET_CLASSES = 1000
CARD = "NVIDIA GeForce RTX 4090"
ARM_PROGRAMS = {  # by name, the package that has it
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "cmake": "cmake",
    "ninja": "ninja-build",
}
BASELINES = ("openvino", "onnxruntime", "tensorrt")


class Resource(Enum):
    """Printed as NEEDS_<name>. CHECK: everything else is here, but the check is not written yet."""

    GPU = "an NVIDIA GPU that torch can use"
    RTX_4090 = "an NVIDIA GeForce RTX 4090"
    RUNNER_RECORDS = "what the RTX 4090 runner has measured"
    FASTER_TRANSFORMER = "a FasterTransformer build with Swin INT8"
    IMAGENET = "the ImageNet-1k validation images"
    IMAGENET_TRAIN = "the ImageNet-1k training images, for distillation"
    CHECKPOINTS = "the four GELU networks, trained on ImageNet-1k"
    CPU_ENGINE = "the fused CPU engine"
    GPU_ENGINE = "the compiler of the fused GPU engine (triton; no GPU)"
    AMD_COMPILER = "triton's compiler for AMD's GPUs (no GPU)"
    ARM_EMULATOR = "a compiler for ARM and a program that emulates it"
    DISASSEMBLER = "a disassembler of the CPU engine's machine code (objdump, for x86-64)"
    BASELINES = "another inference engine to compare with"
    PREPARED_BASELINES = "networks that other engines have compiled"
    CHECK = "a check that is not written yet"

    @property
    def status(self) -> str:
        """The word in the report; a variant of a resource shares its word, the reason tells them apart."""
        return f"NEEDS_{_WORDS.get(self.name, self.name)}"


_WORDS = {
    "RTX_4090": "GPU",
    "RUNNER_RECORDS": "GPU",
    "FASTER_TRANSFORMER": "BASELINES",
    "PREPARED_BASELINES": "BASELINES",
    "IMAGENET_TRAIN": "IMAGENET",
    "CHECKPOINTS": "IMAGENET",
}


def missing(resource: Resource) -> str | None:
    """What exactly is missing, in words that say how to provide it; None when the resource is here."""
    return _PROBES[resource]()


def _gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device (torch.cuda.is_available() is False)"


def _rtx_4090() -> str | None:
    if lacking := _gpu():
        return f"an RTX 4090: {lacking}"
    import torch

    name = torch.cuda.get_device_name()  # the one that everything here runs on; not a 4090 D, and no laptop's
    return None if name == CARD else f"an {CARD} as the first device: it is an {name} (CUDA_VISIBLE_DEVICES chooses)"


def _runner_records() -> str | None:
    root = os.environ.get(RUNNER_VARIABLE)
    if not root:
        return f"records of the RTX 4090 runner: set {RUNNER_VARIABLE} to the folder that `nox -s gpu` has filled there"
    return None if Path(root).is_dir() else f"{RUNNER_VARIABLE} is {root}, which is no folder"


def _faster_transformer() -> str | None:
    from geluless.baselines.fastertransformer import EXAMPLE, SEARCH, VARIABLE

    root = os.environ.get(VARIABLE)
    if not root:
        return f"a FasterTransformer build with Swin INT8: set {VARIABLE} to its build folder"
    lacking = [path for program in (EXAMPLE, SEARCH) if not (path := Path(root) / program).is_file()]
    return f"{VARIABLE} is {root}, but {lacking[0]} does not exist" if lacking else None


def _imagenet(split: str) -> str | None:
    root = os.environ.get(IMAGENET_VARIABLE)
    if not root:
        return f"ImageNet-1k, split {split}: set {IMAGENET_VARIABLE} to a folder with {split}/<class>/*.JPEG"
    folder = Path(root) / split
    if not folder.is_dir():
        return f"{IMAGENET_VARIABLE} is {root}, but {folder} is no folder"
    classes = sum(entry.is_dir() for entry in folder.iterdir())
    if classes != IMAGENET_CLASSES:
        return f"{folder} has {classes} class folders, ImageNet-1k has {IMAGENET_CLASSES}"
    return None


def checkpoint_of(model: str) -> Path:
    """Where the weights of timm's network `model` are expected: a file, or a folder in the Hugging Face layout."""
    root = Path(os.environ.get(CHECKPOINTS_VARIABLE, ""))
    return next((path for suffix in (".safetensors", ".pth") if (path := root / f"{model}{suffix}").is_file()), root / model)


def _checkpoints() -> str | None:
    from geluless.bench.networks import SIZES

    models = list(SIZES.values())
    if not os.environ.get(CHECKPOINTS_VARIABLE):
        return f"weights: set {CHECKPOINTS_VARIABLE} to a folder with {models[0]}.safetensors, or .pth, and the other three"
    lacking = [model for model in models if not checkpoint_of(model).exists()]
    return f"{CHECKPOINTS_VARIABLE} is {os.environ[CHECKPOINTS_VARIABLE]}, but {lacking[0]} is not there" if lacking else None


def _cpu_engine() -> str | None:
    from geluless.engine.cpu import native

    return _refusal(native)


def _gpu_engine() -> str | None:
    from geluless.engine.gpu.compiler import require_triton

    return _refusal(require_triton)


def _amd_compiler() -> str | None:
    if lacking := _gpu_engine():
        return lacking
    return None if _module_exists("triton.backends.amd.compiler") else "this build of triton comes without its backend for AMD"


def find_program(name: str) -> str | None:
    """On the PATH, or beside the interpreter: cmake and ninja are Python packages too."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _arm_emulator() -> str | None:
    lacking = [name for name in ARM_PROGRAMS if find_program(name) is None]
    packages = ", ".join(sorted({ARM_PROGRAMS[name] for name in lacking}))
    return f"{' and '.join(lacking)}: install {packages} (Debian, Ubuntu)" if lacking else None


def _disassembler() -> str | None:
    from geluless.engine.disassembly import require_x86_listings

    return _refusal(require_x86_listings)


def _refusal(required: Callable[[], object]) -> str | None:
    try:
        required()
    except MissingResource as reason:
        return str(reason)
    return None


def _baselines() -> str | None:
    if any(_module_exists(name) for name in BASELINES):
        return None
    return f"none of {', '.join(BASELINES)} is installed: pip install 'geluless[baselines]'"


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


_PROBES: dict[Resource, Callable[[], str | None]] = {
    Resource.GPU: _gpu,
    Resource.RTX_4090: _rtx_4090,
    Resource.RUNNER_RECORDS: _runner_records,
    Resource.FASTER_TRANSFORMER: _faster_transformer,
    Resource.IMAGENET: lambda: _imagenet("val"),
    Resource.IMAGENET_TRAIN: lambda: _imagenet("train"),
    Resource.CHECKPOINTS: _checkpoints,
    Resource.CPU_ENGINE: _cpu_engine,
    Resource.GPU_ENGINE: _gpu_engine,
    Resource.AMD_COMPILER: _amd_compiler,
    Resource.ARM_EMULATOR: _arm_emulator,
    Resource.DISASSEMBLER: _disassembler,
    Resource.BASELINES: _baselines,
    Resource.PREPARED_BASELINES: lambda: (
        "Swin-T compiled by the other engines: run `nox -s baselines` once (10 minutes), or add --full"
    ),
    Resource.CHECK: lambda: "the check itself is not written yet",
}
