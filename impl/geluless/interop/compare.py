"""Layer by layer: where a runtime that executes an exported file first differs from the reference, and by how many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from geluless.integer import reference
from geluless.interop.onnx_export.graph import Probe
from geluless.interop.onnx_export.onnx_file import Exported
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
    feeds = {"images": images}
    probes = {name: probe for name, probe in exported.graph.probes.items() if name in expected}
    model = _observable(exported.model(), probes)
    if isolated:
        model = _cut(model, probes)
        feeds |= {f"{probe.value}/given": _stored(expected[name], probe) for name, probe in probes.items()}
    results = runtime(model, feeds, ["logits", *(probe.value for probe in probes.values())])
    layers = (_difference(name, results[probe.value], expected[name], probe) for name, probe in probes.items())
    return Comparison(tuple(layers), results["logits"], logits)


def _observable(model: onnx.ModelProto, probes: dict[str, Probe]) -> onnx.ModelProto:
    """The model with every probed value as an output too."""
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(known[probe.value] for probe in probes.values())
    return model


def _cut(model: onnx.ModelProto, probes: dict[str, Probe]) -> onnx.ModelProto:
    """Every consumer of a probed value reads an input of the model instead."""
    cut = {probe.value for probe in probes.values()}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in cut:
                node.input[i] = f"{name}/given"
    for output in list(model.graph.output):
        if output.name in cut:
            kind = output.type.tensor_type
            columns = kind.shape.dim[-1].dim_value
            model.graph.input.append(helper.make_tensor_value_info(f"{output.name}/given", kind.elem_type, [None, columns]))
    return model


def _stored(tensor: NDArray[np.int32], probe: Probe) -> NDArray:
    """The reference's integers [..., C] as the value that the graph holds there, [rows, C]."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    if probe.scale is not None:
        return (rows * probe.scale).astype(np.float32)
    return (rows - probe.offset).astype(np.uint8 if probe.unsigned else np.int8)


def _difference(name: str, found: NDArray, expected: NDArray[np.int32], probe: Probe) -> LayerDifference:
    steps = np.rint(found / probe.scale) if probe.scale is not None else found.astype(np.int64) + probe.offset
    off = np.abs(steps.reshape(expected.shape) - expected)
    return LayerDifference(name, expected.size, int((off > 0).sum()), int(off.max(initial=0)))
