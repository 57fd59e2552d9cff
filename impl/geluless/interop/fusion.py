"""What a runtime made of the matrix products of an exported file: in which precision each runs, and what is fused into it.

A runtime's adapter gives the layers it built, each with the names of the ONNX nodes in it (`tensorrt/layers.py`,
`openvino.py`); the rest is the same for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from geluless.integer.plan import encode
from geluless.interop.products import Product

UNKNOWN = "unknown"
EIGHT_BITS = frozenset({"int8", "uint8"})
WIDEST_FIRST = ("float", "bfloat16", "half", "fp8")
SHOWN_OPERATIONS = 8  # of a kernel's, in a table for a terminal

_PRODUCT = re.compile(r"gemm|fullyconnected|matmul|matrixmultiply|convolution|correlation|fusion", re.IGNORECASE)


class Placement(StrEnum):
    """Where an activation runs."""

    FUSED = "fused"  # in the kernel of the product before it
    SEPARATE = "separate"  # in a kernel that reads what that one wrote
    UNKNOWN = "unknown"  # no layer names it


@dataclass(frozen=True)
class Value:
    """A tensor between the layers of a built network. dtype: int8, uint8, half, float, ... or unknown."""

    name: str
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One kernel of a built network.

    factors: the types of what it multiplies, if it is a product of two matrices. operations: what it computes, in the runtime's
    words. origins: the ONNX nodes in it.
    """

    name: str
    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    factors: tuple[str, ...]
    operations: tuple[str, ...]
    origins: frozenset[str]

    @property
    def is_product(self) -> bool:
        return bool(_PRODUCT.search(self.kind)) or "Fc" in self.operations


@dataclass(frozen=True)
class Gemm:
    """One product of the plan as it was built.

    precision: int8 where both factors are 8-bit integers, else the wider of the two. fused: ONNX operators behind the product
    that are in its kernel. follower: the kernel that has the activation, or reads the result; operations: that kernel's.
    """

    place: str
    role: str
    quantized: bool
    kind: str
    precision: str
    output: str
    fused: tuple[str, ...]
    follower: str | None
    operations: tuple[str, ...]
    activation: str | None
    placement: Placement | None

    @property
    def in_int8(self) -> bool:
        return self.precision == "int8"


@dataclass(frozen=True)
class FusionReport:
    """Of one built network. target: the processor it is for. source: what the runtime was asked. kernels: how many it has."""

    runtime: str
    target: str
    source: str
    variant: str
    kernels: int
    gemms: tuple[Gemm, ...]

    @property
    def in_int8(self) -> int:
        return sum(gemm.in_int8 for gemm in self.gemms)

    @property
    def missed(self) -> tuple[str, ...]:
        """Places whose product is quantized in the file and runs in another precision."""
        return tuple(gemm.place for gemm in self.gemms if gemm.quantized and not gemm.in_int8 and gemm.precision != UNKNOWN)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Places of which the runtime does not tell in which precision they run."""
        return tuple(gemm.place for gemm in self.gemms if gemm.precision == UNKNOWN)

    @property
    def activation(self) -> str:
        """The operator behind fc1, as Relu or Gelu; empty where the file spells it out otherwise."""
        return next((gemm.activation for gemm in self.gemms if gemm.activation), "")

    def activations(self, placement: Placement) -> int:
        return sum(gemm.placement is placement for gemm in self.gemms)

    def sentence(self) -> str:
        return claim([self])

    def data(self) -> dict[str, Any]:
        """JSON-ready: everything, and the summaries."""
        placements = {placement.value: self.activations(placement) for placement in Placement}
        summary = {"in_int8": self.in_int8, "missed": list(self.missed), "unseen": list(self.unseen)}
        summary |= {"activation": self.activation, "placements": placements}
        content: dict[str, Any] = encode(self)
        return content | {"summary": summary | {"sentence": self.sentence()}}

    def rows(self) -> Iterator[str]:
        """A table for a terminal: layers of one kind that were built alike are one line."""
        groups: dict[tuple[str, ...], int] = {}
        for gemm in self.gemms:
            then = " ".join(gemm.operations[:SHOWN_OPERATIONS]) + (" ..." if len(gemm.operations) > SHOWN_OPERATIONS else "")
            types = f"{gemm.precision} -> {gemm.output}"
            row = (gemm.role, gemm.kind, types, ", ".join(gemm.fused) or "nothing", then or "nothing")
            groups[row] = groups.get(row, 0) + 1
        heads = ("layers", "kernel", "operands -> result", "fused into it", "next kernel")
        lines = [heads, *((f"{count} x {role}", *rest) for (role, *rest), count in groups.items())]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        for line in lines:
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def claim(reports: Sequence[FusionReport]) -> str:
    """One sentence on networks that one runtime built for one target, as of ReLU and of GELU. Raises ValueError for others."""
    about = {f"{report.runtime} for {report.target}" for report in reports}
    if len(about) != 1:
        raise ValueError(f"a sentence is about one runtime and one target, not about {sorted(about) or 'none'}")
    counts = list(dict.fromkeys(_found(report.in_int8, len(report.gemms), len(report.unseen)) for report in reports))
    parts = [f"{' and '.join(counts)} GEMMs in int8"]
    for report in reports:
        if report.activation:
            fused, separate, unknown = (report.activations(placement) for placement in Placement)
            found = _found(fused, fused + separate + unknown, unknown)
            parts.append(f"{report.activation} (variant {report.variant}) is fused into fc1 in {found}")
    return f"{about.pop()}: {'; '.join(parts)}"


def _found(count: int, total: int, unknown: int) -> str:
    return f"{count} of {total}" + (f" ({unknown} not found)" if unknown else "")


def fusion_report(
    products: Sequence[Product], layers: Sequence[Layer], *, runtime: str, target: str, source: str, variant: str
) -> FusionReport:
    """Every product of the file, found among the layers that were built."""
    gemms = tuple(_gemm(product, layers) for product in products)
    return FusionReport(runtime, target, source, variant, len(layers), gemms)


def _gemm(product: Product, layers: Sequence[Layer]) -> Gemm:
    kernel, activation = _kernel(product, layers), product.activation
    kind, placement = (activation.kind, Placement.UNKNOWN) if activation else (None, None)
    about = (product.place, product.role, product.quantized)
    if kernel is None:
        return Gemm(*about, "not found", UNKNOWN, UNKNOWN, (), None, (), kind, placement)
    inside = [i for i, operator in enumerate(product.follows) if operator.node in kernel.origins]
    follower = _reader(kernel, layers)
    if activation is not None:
        # A runtime may drop a Relu where the rounding behind it clamps at zero: what comes later in the kernel implies it.
        implied = activation in product.follows and any(i > product.follows.index(activation) for i in inside)
        if activation.node in kernel.origins or implied:
            placement = Placement.FUSED
        elif holder := next((layer for layer in layers if activation.node in layer.origins), None):
            follower, placement = holder, Placement.SEPARATE
    output = kernel.outputs[0].dtype if kernel.outputs else UNKNOWN
    fused = tuple(product.follows[i].kind for i in inside)
    then, operations = (follower.name, follower.operations) if follower else (None, ())
    return Gemm(*about, kernel.kind, precision(kernel), output, fused, then, operations, kind, placement)


def _kernel(product: Product, layers: Sequence[Layer]) -> Layer | None:
    """Of the layers that name the product the one that computes it: a kernel that only rescales by channel names it as well."""
    named = [layer for layer in layers if product.node in layer.origins]
    behind = {operator.node for operator in product.follows}
    merged = [layer for layer in layers if layer.is_product and behind & layer.origins]  # under the name of its bias alone
    return next((layer for layer in (*named, *merged) if layer.is_product), named[0] if named else None)


def _reader(kernel: Layer, layers: Sequence[Layer]) -> Layer | None:
    """The first layer that reads what `kernel` writes, unless that is a product itself: then nothing runs between the two."""
    written = {value.name for value in kernel.outputs}
    reader = next((layer for layer in layers if layer is not kernel and written & {value.name for value in layer.inputs}), None)
    return None if reader is None or reader.is_product else reader


def precision(kernel: Layer) -> str:
    """Of a product: the wider of its factors' types. A cast before the product ("Fc") in one kernel makes integers floats."""
    if len(kernel.factors) < 2 or UNKNOWN in kernel.factors:
        return UNKNOWN
    if all(dtype in EIGHT_BITS for dtype in kernel.factors):
        before = kernel.operations[: kernel.operations.index("Fc")] if "Fc" in kernel.operations else ()
        return "float" if "Cast" in before else "int8"
    return next((dtype for dtype in WIDEST_FIRST if dtype in kernel.factors), kernel.factors[0])
