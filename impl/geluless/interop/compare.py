"""Layer by layer: where a runtime that executes an exported file first differs from the reference, and by how many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from geluless.integer import reference
from geluless.interop.onnx_export import Exported
from geluless.interop.onnx_export.graph import Tap
from geluless.interop.runtimes import Runtime


@dataclass(frozen=True)
class LayerDifference:
    """How many of a tensor's values are not the reference's, and by how many of its steps the furthest is off."""

    name: str
    values: int
    moved: int
    largest: int


@dataclass(frozen=True)
class Comparison:
    """Layers in the order of the network; logits as float32 [B, classes] of runtime and reference."""

    layers: tuple[LayerDifference, ...]
    logits: NDArray[np.float32]
    expected: NDArray[np.float32]

    @property
    def first(self) -> LayerDifference | None:
        """The first layer that differs, or None."""
        return next((layer for layer in self.layers if layer.moved), None)


def compare_layers(exported: Exported, images: NDArray[np.float32], runtime: Runtime, *, isolated: bool = False) -> Comparison:
    """Run `images`, float32 [B, C, H, W], through a runtime and the reference, with every tensor that both name.

    Isolated, each layer of the runtime gets the reference's tensors as its inputs: a difference is then its own and not what
    earlier layers passed on. Raises MissingResource and ExportError as the runtime does.
    """
    expected: dict[str, NDArray[np.int32]] = {}
    artifact = exported.artifact
    logits = reference.forward(images, artifact.plan, artifact.tensors, exported.variant, expected.__setitem__)
    taps = {name: tap for name, tap in exported.graph.taps.items() if name in expected}
    model, feeds = exported.model(), {"images": images}
    tapped = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(tapped[tap.value] for tap in taps.values())
    if isolated:
        _cut(model, {tap.value for tap in taps.values()})
        feeds |= {_substitute(tap.value): _stored(expected[name], tap) for name, tap in taps.items()}
    results = runtime(model, feeds, ["logits", *(tap.value for tap in taps.values())])
    layers = (_difference(name, results[tap.value], expected[name], tap) for name, tap in taps.items())
    return Comparison(tuple(layers), results["logits"], logits)


def _cut(model: onnx.ModelProto, values: set[str]) -> None:
    """Every consumer of one of these values reads an input of the model instead."""
    for node in model.graph.node:
        node.input[:] = [_substitute(name) if name in values else name for name in node.input]
    for output in model.graph.output:
        if output.name in values:
            kind = output.type.tensor_type
            columns = kind.shape.dim[-1].dim_value
            model.graph.input.append(helper.make_tensor_value_info(_substitute(output.name), kind.elem_type, [None, columns]))


def _substitute(value: str) -> str:
    return f"{value}/given"


def _stored(tensor: NDArray[np.int32], tap: Tap) -> NDArray[Any]:
    """The reference's integers [..., C] as the value that the graph holds there, [rows, C]."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    if tap.scale is not None:
        return (rows * tap.scale).astype(np.float32)
    return (rows - tap.offset).astype(np.uint8 if tap.unsigned else np.int8)


def _difference(name: str, found: NDArray[Any], expected: NDArray[np.int32], tap: Tap) -> LayerDifference:
    steps = np.rint(found / tap.scale) if tap.scale is not None else found.astype(np.int64) + tap.offset
    off = np.abs(steps.reshape(expected.shape) - expected)
    return LayerDifference(name, expected.size, int((off > 0).sum()), int(off.max(initial=0)))
