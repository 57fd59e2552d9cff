"""An ONNX graph under construction: every node and every value gets a name that says where in the network it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from geluless.interop.onnx_export.scales import Scale


@dataclass(frozen=True)
class Tap:
    """A value of the graph that the reference names too: stored integers plus `offset`, or floats that are `scale` times them."""

    value: str
    offset: int = 0
    unsigned: bool = True
    scale: float | None = None


@dataclass
class Graph:
    """Nodes in order and initializers by name. A value's name is `place/what`, as its node's is."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """One node with one output; returns the output's name, which is the node's."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> str:
        """An initializer; the same name always stands for the same values."""
        tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
        if self.initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"{name} stands for two different constants")
        return name

    def real(self, name: str, values: NDArray[Any] | float) -> str:
        """A float32 initializer: a scale, or a bias in real units."""
        return self.constant(name, np.asarray(values, np.float32))

    def shape(self, *sizes: int) -> str:
        """An int64 initializer for Reshape; -1 is the batch."""
        return self.constant(f"shape {'x'.join(map(str, sizes))}", np.array(sizes, np.int64))

    def quantize(self, x: str, name: str, scale: Scale, zero: NDArray[Any]) -> str:
        """QuantizeLinear: integers of zero's dtype, rint(x / scale) + zero, saturated; one scale, or one per channel."""
        return self._rescale("QuantizeLinear", x, name, name, scale, zero, axis=-1)

    def dequantize(self, q: str, name: str, scale: Scale, zero: NDArray[Any], *, axis: int = -1) -> str:
        """DequantizeLinear: scale * (q - zero), one scale or one per index of `axis`. `name` is that of the quantized tensor."""
        return self._rescale("DequantizeLinear", q, f"{name}/real", name, scale, zero, axis=axis)

    def rounded(self, x: str, name: str, scale: Scale, zero: NDArray[Any]) -> str:
        """x rounded to multiples of `scale`: a QuantizeLinear and its DequantizeLinear."""
        return self.dequantize(self.quantize(x, name, scale, zero), name, scale, zero)

    def _rescale(self, operator: str, x: str, output: str, name: str, scale: Scale, zero: NDArray[Any], *, axis: int) -> str:
        zeros = np.broadcast_to(zero, np.shape(scale)).astype(zero.dtype)
        inputs = [x, self.real(f"{name}/scale", scale), self.constant(f"{name}/zero_point", zeros)]
        return self.node(operator, inputs, output, **({"axis": axis} if np.ndim(scale) else {}))
