"""Which TensorRT is installed, for which processor it builds, and what it logs.

TensorRT tunes an engine on the GPU that will run it. TensorRT-RTX compiles for an architecture on any machine and finishes on
the user's GPU; its Python API is TensorRT's without what is deprecated there, plus the target and a few run-time options. The
log is kept and never printed: a build's has the layers, and its errors have the reasons.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from geluless.errors import ExportError, MissingResource

DEFAULT_ARCHITECTURE = "sm_89"  # the paper's RTX 4090
SHOWN = 5  # errors in one message


class Flavour(StrEnum):
    """The value is the name of the package and of the extra that installs it."""

    TENSORRT = "tensorrt"
    RTX = "tensorrt-rtx"

    @property
    def label(self) -> str:
        return {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[self.value]

    @property
    def module(self) -> str:
        return self.value.replace("-", "_")

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


@dataclass(frozen=True, eq=False)
class Library:
    """An imported TensorRT; `trt` is its module."""

    flavour: Flavour
    version: str
    trt: Any

    def __str__(self) -> str:
        return f"{self.flavour.label} {self.version}"


@dataclass(frozen=True)
class Target:
    """What an engine is built for: the GPU of that name, or ahead of time (None) any of the architecture, as sm_89."""

    architecture: str
    device: str | None

    def __str__(self) -> str:
        return self.architecture if self.device is None else f"{self.device} ({self.architecture})"


def load(flavour: Flavour) -> Library:
    """Raises MissingResource naming the extra to install."""
    try:
        trt = importlib.import_module(flavour.module)
    except (ImportError, OSError, RuntimeError) as error:  # the package itself is there without its libraries now and then
        raise MissingResource(f"{flavour.label} cannot be loaded ({error}): pip install 'geluless[{flavour}]'") from error
    return Library(flavour, str(trt.__version__), trt)


def current_device() -> Target | None:
    """torch's current CUDA device, if it sees one."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return Target(f"sm_{major}{minor}", torch.cuda.get_device_name())


def choose(flavour: str | None, arch: str | None) -> tuple[Library, Target]:
    """The library and the target of a build: by default for the GPU at hand; without a GPU, ahead of time for sm_89.

    Raises MissingResource for what is not installed, and for TensorRT where its GPU is not at hand; ExportError for an unknown
    flavour or architecture.
    """
    names = ", ".join(Flavour)
    if flavour is not None and flavour not in list(Flavour):
        raise ExportError(f"no TensorRT is called {flavour!r}; there are {names}")
    device = None if arch else current_device()
    possible = tuple(Flavour) if device else (Flavour.RTX,)
    wanted = Flavour(flavour) if flavour else next((one for one in possible if one.is_installed), Flavour.RTX)
    if wanted is Flavour.TENSORRT and device is None:
        why = f"{arch} was asked for" if arch else "torch sees none here"
        raise MissingResource(
            f"TensorRT builds on the GPU that it builds for, and {why}: flavour tensorrt-rtx builds ahead of time for others "
            f"(pip install 'geluless[{Flavour.RTX}]')"
        )
    library = load(wanted)
    if device is not None:
        return library, device
    target = Target(arch or DEFAULT_ARCHITECTURE, None)
    if target.architecture not in (known := architectures(library)):
        raise ExportError(f"{library} builds for {', '.join(known)}, not for {target.architecture}")
    return library, target


def architectures(library: Library) -> list[str]:
    """Those that TensorRT-RTX builds for ahead of time."""
    names = [name for name in dir(library.trt.ComputeCapability) if name.startswith("SM")]
    return [f"sm_{name[2:]}" for name in sorted(names, key=lambda name: int(name[2:]))]


def recorder(trt: Any) -> Any:
    """A logger that keeps everything as (severity, text) in `messages`."""

    class Recorder(trt.ILogger):  # type: ignore[misc]  # whichever of the two libraries it is
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((severity.name, text))

    return Recorder()


def reasons(logger: Any) -> str:
    """Its last errors on one line."""
    errors = [" ".join(text.split()) for severity, text in logger.messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return "; ".join(errors[-SHOWN:]) or "it logged no reason"
