"""A quantizer of a few lines: quantize-dequantize pairs around a float ONNX file's matrix products, in a chosen convention.

`MODELOPT` follows what NVIDIA ModelOpt 0.47 was seen to write for a Swin: float weights behind a QuantizeLinear, symmetric int8
activations with the largest magnitude as range, LayerNorm's inputs and the branches of residual additions rounded too,
attention and classifier in float. Its file is made here because ModelOpt itself is no dependency of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.support.qdq_models import Pixels


@dataclass(frozen=True)
class Convention:
    """How a tool writes its grids."""

    unsigned: bool = False  # uint8 activations instead of int8
    symmetric: bool = True  # activations have the zero point 0 (int8) or 128 (uint8)
    per_channel: bool = True
    weight_zero_points: bool = False  # weights as uint8 around a zero point
    float_weights: bool = True  # QuantizeLinear of the float weight instead of stored integers
    stream: bool = True  # LayerNorm's inputs and the branches of residual additions


MODELOPT = Convention()


def quantized_by_hand(raw: bytes, pixels: Pixels, convention: Convention = MODELOPT) -> bytes:
    """The float file with pairs in it; ranges are the extremes over `pixels` [N, C, H, W]."""
    model = onnx.load_from_string(raw)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    places = _places(graph, constants, convention)
    ranges = _ranges(raw, sorted({node.input[at] for node, at in places}), pixels)
    pairs: list[onnx.NodeProto] = []
    done: dict[str, str] = {}
    for node, at in places:
        name = node.input[at]
        if name not in done:
            scale, zero = _activation_grid(*ranges[name], convention)
            done[name] = _pair(graph, pairs, name, scale, zero, stored=None)
        node.input[at] = done[name]
    for node in graph.node:
        if node.op_type in ("MatMul", "Conv") and node.input[1] in constants:
            node.input[1] = _weight(graph, pairs, node, constants[node.input[1]], convention)
    _insert(graph, pairs)
    return model.SerializeToString()


def _places(graph: onnx.GraphProto, constants: dict[str, NDArray], convention: Convention) -> list[tuple[onnx.NodeProto, int]]:
    """(node, input) to be rounded."""
    places = [(node, 0) for node in graph.node if node.op_type in ("MatMul", "Conv") and node.input[1] in constants]
    if convention.stream:
        places += [(node, 0) for node in graph.node if node.op_type == "LayerNormalization"]
        live = {output for node in graph.node if node.op_type != "Constant" for output in node.output}
        places += [(node, 1) for node in graph.node if node.op_type == "Add" and set(node.input) <= live]
    return places


def _ranges(raw: bytes, names: list[str], pixels: Pixels) -> dict[str, tuple[float, float]]:
    model = onnx.load_from_string(raw)
    found = {"image": (float(pixels.min()), float(pixels.max()))}
    del model.graph.output[:]
    names = [name for name in names if name != "image"]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    for name, values in zip(names, _outputs(model.SerializeToString(), pixels), strict=True):
        found[name] = (float(values.min()), float(values.max()))
    return found


def _outputs(raw: bytes, pixels: Pixels) -> list[NDArray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"]).run(None, {"image": pixels})


def _activation_grid(low: float, high: float, convention: Convention) -> tuple[NDArray, NDArray]:
    first = 0 if convention.unsigned else -128
    kind = np.uint8 if convention.unsigned else np.int8
    if convention.symmetric:
        return np.float32(max(-low, high, 1e-6) / 127), kind(first + 128)
    low, high = min(low, 0.0), max(high, 1e-6)
    scale = np.float32((high - low) / 255)
    return scale, kind(first + round(-low / float(scale)))


def _weight(
    graph: onnx.GraphProto, pairs: list[onnx.NodeProto], node: onnx.NodeProto, weight: NDArray, convention: Convention
) -> str:
    axis = 0 if node.op_type == "Conv" else 1
    others = tuple(i for i in range(weight.ndim) if i != axis) if convention.per_channel else None
    if convention.weight_zero_points:
        low, high = np.minimum(weight.min(others), 0), np.maximum(weight.max(others), 0)
        scale = ((high - low) / 255).astype(np.float32)
        zero = np.rint(-low / scale).astype(np.uint8)
    else:
        scale = (np.abs(weight).max(others) / 127).astype(np.float32)
        zero = np.zeros(scale.shape, np.int8)
    name = node.input[1]
    if convention.float_weights:
        return _pair(graph, pairs, name, scale, zero, stored=None, axis=axis)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if convention.per_channel else []
    steps = np.rint(weight / scale.reshape(shape)) + zero.reshape(shape).astype(np.float32)
    info = np.iinfo(zero.dtype)
    return _pair(graph, pairs, name, scale, zero, stored=np.clip(steps, info.min, info.max).astype(zero.dtype), axis=axis)


def _pair(
    graph: onnx.GraphProto,
    pairs: list[onnx.NodeProto],
    name: str,
    scale: NDArray,
    zero: NDArray,
    *,
    stored: NDArray | None,
    axis: int | None = None,
) -> str:
    """The name of `name` after a QuantizeLinear and a DequantizeLinear; `stored` takes the place of the first."""
    grid = [f"{name}_scale", f"{name}_zero_point"]
    graph.initializer.extend(
        [numpy_helper.from_array(np.asarray(scale), grid[0]), numpy_helper.from_array(np.asarray(zero), grid[1])]
    )
    where = {} if axis is None or np.ndim(scale) == 0 else {"axis": axis}
    integers = f"{name}_quantized"
    if stored is None:
        pairs.append(helper.make_node("QuantizeLinear", [name, *grid], [integers], f"{name}_QuantizeLinear", **where))
    else:
        graph.initializer.append(numpy_helper.from_array(stored, integers))
    pairs.append(helper.make_node("DequantizeLinear", [integers, *grid], [f"{name}_real"], f"{name}_DequantizeLinear", **where))
    return f"{name}_real"


def _insert(graph: onnx.GraphProto, pairs: list[onnx.NodeProto]) -> None:
    """Runtimes want every node behind those that feed it."""
    nodes, ordered = [*graph.node, *pairs], []
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input} | {""}
    while nodes:
        waiting = []
        for node in nodes:
            if known.issuperset(node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                waiting.append(node)
        assert len(waiting) < len(nodes), "the pairs made a cycle"
        nodes = waiting
    del graph.node[:]
    graph.node.extend(ordered)
