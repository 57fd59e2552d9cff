"""What an import did: which numbers are the file's, which were calibrated, and what the artifact does differently, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from geluless.interop.onnx_import.import_log import Change
from geluless.interop.onnx_import.reading import ForeignFile


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
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return plain | {"changes": [{"tensor": change.tensor, "reason": change.reason.value} for change in self.changes]}

    def __str__(self) -> str:
        layers = len(self.identical_weights) + len(self.quantized_weights)
        lines = [
            f"{self.activation} network quantized by {self.quantizer} (producer: {self.producer}), sha256 {self.sha256[:16]}",
            f"int8 weights as in the file: {len(self.identical_weights)} of {layers} layers{_few(self.quantized_weights, 'not')}",
            f"scales from the file: {len(self.from_file)} tensors; calibrated on {self.images} images: {len(self.calibrated)}",
        ]
        counts = Counter(change.reason for change in self.changes)
        lines += [f"changed, {count} times: {reason.value}" for reason, count in counts.most_common()]
        return "\n".join(lines)


def _few(names: Iterable[str], word: str) -> str:
    shown = list(names)
    return f" ({word} {', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''})" if shown else ""


def quantizer_of(file: ForeignFile) -> str:
    """Which tool made the file, as far as its habits tell: none of them signs its work reliably."""
    constants = file.constants.keys()
    on_constants = any(node.op == "QuantizeLinear" and node.inputs[0] in constants for node in file.nodes)
    if any("nncf" in name or name.startswith("q_output_") for name in constants):
        return "nncf"
    if file.producer.startswith("onnx.quantize"):
        return "modelopt" if on_constants else "onnxruntime"  # ModelOpt calls ONNX Runtime's tool, but leaves weights in float
    return "unknown"
