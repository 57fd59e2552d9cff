"""What a baseline is: a way to run a network, prepared once into files, loaded in a process of its own, and asked for logits.

A baseline's module must be light: its own imports are standard library and numpy. Whatever the runtime needs is imported in
`imports()`, so that a process can tell the memory of a runtime from the memory of a network in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork


@dataclass(frozen=True)
class Setting:
    """One choice among a runtime's options, and where it is documented or what it was measured against."""

    text: str
    source: str


@dataclass(frozen=True, order=True)
class Shape:
    """What a network is compiled for: images per call and threads."""

    batch: int
    threads: int


@dataclass(frozen=True)
class Executed:
    """Matrix products and convolutions of one call by the precision of their kernels, as the runtime itself reports them.

    Runtimes count differently: a fused attention may be one node or two products, and what a runtime hands to another
    library it may not see. Only `int8` is judged, against the number of linear layers in the network's blocks.
    """

    int8: int
    floating: int
    how: str


class Runner(Protocol):
    """A loaded network, for calls of one shape."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, C, H, W] -> float32 logits [B, classes], B as it was loaded for."""
        ...

    def executed(self, images: NDArray[np.float32]) -> Executed | None:
        """Kernels of one call by precision; None where there is nothing to ask."""
        ...

    def exact(self, images: NDArray[np.float32]) -> tuple[str, bool] | None:
        """The logits against an exact definition, in words, and whether they agree; None where there is none."""
        ...


class Baseline(Protocol):
    """Frozen and picklable. Every method may raise CandidateFailure; any other exception becomes one."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...  # "int8" or "fp32": which limit its logits must keep

    @property
    def activation(self) -> str | None: ...  # "gelu" or "relu" where it runs no other

    @property
    def family(self) -> str: ...  # its baselines are prepared in one process and share a folder; "" where nothing is prepared

    @property
    def packages(self) -> tuple[str, ...]: ...  # distributions whose versions decide what is prepared

    @property
    def configurations(self) -> tuple[str, ...]: ...  # options that a short pilot chooses among; at least one

    @property
    def settings(self) -> tuple[Setting, ...]: ...

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        """Write into `folder` whatever loading needs."""
        ...

    def imports(self) -> None:
        """Import the runtime. Raises ImportError where it is not installed."""
        ...

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> Runner: ...

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        """What must be on a disk to run a call of this shape."""
        ...
