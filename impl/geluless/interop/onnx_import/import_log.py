"""What became of every rounding in the file, kept on a tensor of the artifact or left out for a reason, and the report of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from geluless.integer.plan import encode
from geluless.interop.onnx_import.ir import Round, Term, children, inner_roundings


class Reason(StrEnum):
    """Why the artifact does not do what the file does."""

    BEFORE_BIAS = "the file rounds the product and the sum with the bias; here the accumulator takes the bias and is rounded once"
    BRANCH = "a branch goes from its accumulator to the int16 residual stream with one rounding; the file rounds it to 8 bits"
    CONTEXT = "the context goes from softmax to the projection with one rounding; the file rounds it more than once"
    EMBEDDING = "the patch embedding is int16; the file rounds it to 8 bits"
    FINAL_NORM = "the last LayerNorm and its mean are int16 and exact sums; the file rounds to 8 bits"
    FINER_THAN_ACCUMULATOR = "the file's step is finer than one of the accumulator, which holds no more; it was raised to that"
    GELU_FACTORS = "one table serves all channels of GELU, so factors per channel behind it (SmoothQuant) were undone"
    INSIDE_NORM = "LayerNorm is one operation here; the file rounds inside it"
    LOGITS = "logits are float32; the file rounds them to 8 bits"
    PRE_RELU = "ReLU is the lower clamp of fc1's one rounding; the file rounds before it, too"
    QUERY_ZERO = "q has no zero point here: the grid is the file's, what lies outside of [-128, 127] steps from zero is clipped"
    QUERY_WIDER = "q has no zero point here: its step was widened until int8 holds the file's range"
    RELU_TOP = "the zero point of a ReLU's output is the lowest integer here: the grid is the file's, its upper end lies higher"
    SCORES = "attention scores are int16; the file rounds them to 8 bits"
    SOFTMAX = "softmax weights are the engine's uint8 table, divided by their sum after the product; the file rounds the quotient"
    STREAM = "the residual stream is int16 with one scale per stage; the file rounds it to 8 bits"
    TWICE = "the file rounds this tensor twice; only the rounding nearest to the matrix product is done here"
    VALUE_SHIFT = "v carries the zero point of the context; its grid is moved by a part of a step, or widened to hold its range"
    WEIGHT_FLOAT = "the file keeps this weight in float: it was quantized here, per channel"
    WEIGHT_INPUT_CHANNELS = (
        "weights have scales per output channel here, the file's have some per input: they were quantized again"
    )
    WEIGHT_LOWEST = "the weight -128 has no counterpart in -127..127: it became -127"
    WEIGHT_ZERO_POINT = "weights are symmetric here; the file's minus their zero point leave int8: they were quantized again"
    UNKNOWN = "no tensor of the artifact corresponds to this rounding"


@dataclass(frozen=True)
class Change:
    """One thing that the artifact does differently, by the tensor or layer it concerns."""

    tensor: str
    reason: Reason


@dataclass
class ImportLog:
    """Filled while a network is read. Where a rounding may be missing, None stands for it."""

    kept: dict[str, Round] = field(default_factory=dict)  # tensor -> its rounding in the file
    changes: list[Change] = field(default_factory=list)
    accounted: set[Round] = field(default_factory=set)

    def keep(self, tensor: str, rounding: Round | None) -> None:
        if rounding is not None:
            self.kept[tensor] = rounding
            self.accounted.add(rounding)

    def drop(self, tensor: str, reason: Reason, roundings: Iterable[Round | None]) -> None:
        """One change for a tensor and reason, however many roundings it stands for."""
        if present := [rounding for rounding in roundings if rounding is not None]:
            self.change(tensor, reason)
            self.accounted.update(present)

    def keep_last(self, tensor: str, roundings: Sequence[Round], reason: Reason = Reason.TWICE) -> None:
        """Of several roundings on the way to a tensor the first is kept: the one nearest to it."""
        self.keep(tensor, next(iter(roundings), None))
        self.drop(tensor, reason, roundings[1:])

    def change(self, tensor: str, reason: Reason) -> None:
        if Change(tensor, reason) not in self.changes:
            self.changes.append(Change(tensor, reason))

    def close(self, logits: Term) -> None:
        """Whatever rounding nobody asked about is named, too."""
        seen, stack = {logits}, [logits]
        while stack:
            current = stack.pop()
            if isinstance(current, Round) and current not in self.accounted:
                self.change(current.where, Reason.UNKNOWN)
            following = [child for child in (*children(current), *inner_roundings(current)) if child not in seen]
            seen.update(following)
            stack += following


@dataclass(frozen=True)
class ImportReport:
    """Tensors and layers go by their names in timm's Swin; `NAME:in` and `NAME:out` are a layer's input and output.

    quantizer: "onnxruntime", "nncf", "modelopt" or "unknown", told from their habits; `producer` is what the file says of itself.
    from_file: tensors whose scale and zero point are the file's. calibrated: tensors that the file keeps in float, with ranges
    from `images` calibration images. identical_weights: layers whose int8 weights are the file's, integer by integer;
    `quantized_weights` are the others, and `changes` has the reason.
    """

    sha256: str
    producer: str
    quantizer: str
    activation: str
    images: int
    from_file: tuple[str, ...]
    calibrated: tuple[str, ...]
    identical_weights: tuple[str, ...]
    quantized_weights: tuple[str, ...]
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        content: dict[str, Any] = encode(self)
        return content

    def __str__(self) -> str:
        others = self.quantized_weights
        few = f" (not {', '.join(others[:3])}{', ...' if len(others) > 3 else ''})" if others else ""
        identical = len(self.identical_weights)
        lines = [
            f"{self.activation} network quantized by {self.quantizer} (producer: {self.producer}), sha256 {self.sha256[:16]}",
            f"int8 weights as in the file: {identical} of {identical + len(others)} layers{few}",
            f"scales from the file: {len(self.from_file)} tensors; calibrated on {self.images} images: {len(self.calibrated)}",
        ]
        counts = Counter(change.reason for change in self.changes)
        lines += [f"changed, {count} times: {reason.value}" for reason, count in counts.most_common()]
        return "\n".join(lines)
