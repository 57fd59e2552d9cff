"""PTX's fundamental types as NumPy's. Source: PTX ISA 8.8, section 5.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptxsim.errors import PtxError

Row = NDArray[Any]  # one value per thread of a wave, or one value for all: shape [threads] or [1]


@dataclass(frozen=True)
class Scalar:
    """A PTX type: `kind` is b, u, s, f or pred, `bits` its width; pred counts as one bit."""

    name: str
    kind: str
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """bool for pred, unsigned integers for .bN and .uN."""
        if self.kind == "pred":
            return np.dtype(np.bool_)
        return np.dtype(f"{ {'b': 'u', 'u': 'u', 's': 'i', 'f': 'f'}[self.kind] }{self.bits // 8}")

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def signed(self) -> bool:
        return self.kind == "s"

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value of an integer type."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


PRED = Scalar("pred", "pred", 1)
SCALARS = {f"{kind}{bits}": Scalar(f"{kind}{bits}", kind, bits) for kind in "bus" for bits in (8, 16, 32, 64)} | {
    "f32": Scalar("f32", "f", 32),
    "pred": PRED,
}
U16, U32, U64 = SCALARS["u16"], SCALARS["u32"], SCALARS["u64"]
S32, S64, F32 = SCALARS["s32"], SCALARS["s64"], SCALARS["f32"]


def scalar(name: str) -> Scalar:
    """The type called `name`, without its dot. Raises PtxError for types that no kernel here uses (f16, f64, b128)."""
    if name not in SCALARS:
        raise PtxError(f"no PTX type .{name} here; there are {', '.join(SCALARS)}")
    return SCALARS[name]


def untyped(bits: int) -> Scalar:
    """Bits alone, held as unsigned integers."""
    return SCALARS[f"b{bits}"]
