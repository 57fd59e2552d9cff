"""The matrix products of an exported file that a plan names, and the operators behind each of them.

What a runtime made of them, one integer kernel or three, is asked of the runtime by the nodes' names: see `fusion.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

ACTIVATIONS = frozenset({"Relu", "Gelu"})
POINTWISE = ACTIVATIONS | {"Add", "Mul", "Div", "Clip", "Floor", "Cast", "QuantizeLinear", "DequantizeLinear"}

Readers = Mapping[str, Sequence[onnx.NodeProto]]


@dataclass(frozen=True)
class Operator:
    """A node of the graph by its name, and its type."""

    node: str
    kind: str


@dataclass(frozen=True)
class Product:
    """A MatMul with the weights of `place`, as `layers.0.blocks.1.mlp.fc1`.

    quantized: both factors come out of DequantizeLinear, which is what asks a runtime for an integer kernel. follows: the
    pointwise operators behind it as far as each result has one reader, and no further than the rounding of the activation.
    activation: the first Relu or Gelu before another product.
    """

    place: str
    node: str
    quantized: bool
    follows: tuple[Operator, ...]
    activation: Operator | None

    @property
    def role(self) -> str:
        """fc1, fc2, qkv, proj, reduction or head."""
        return "head" if self.place.startswith("head") else self.place.rpartition(".")[2]


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """In the order of the graph: qkv, proj, fc1 and fc2 of every block, reduction of every merge, the head."""
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        source = node.input[1]
        while source in makers and makers[source].op_type in {"DequantizeLinear", "Cast"}:
            source = makers[source].input[0]
        if source in weights:
            quantized = all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input)
            activation = _activation(node, readers)
            place = source.removesuffix(".weight")
            found.append(Product(place, node.name, quantized, _follows(node, readers, activation), activation))
    return tuple(found)


def _follows(node: onnx.NodeProto, readers: Readers, activation: Operator | None) -> tuple[Operator, ...]:
    chain: list[Operator] = []
    while len(readers[node.output[0]]) == 1 and readers[node.output[0]][0].op_type in POINTWISE:
        node = readers[node.output[0]][0]
        chain.append(Operator(node.name, node.op_type))
        if node.op_type == "QuantizeLinear" and (activation is None or activation in chain):
            break
    return tuple(chain)


def _activation(product: onnx.NodeProto, readers: Readers) -> Operator | None:
    """Breadth first, past no other product: the residual stream goes on through the network, but around the activations."""
    ahead, seen = [product], {product.name}
    for node in ahead:
        for reader in readers[node.output[0]]:
            if reader.op_type in ACTIVATIONS:
                return Operator(reader.name, reader.op_type)
            if reader.op_type != "MatMul" and reader.name not in seen:
                seen.add(reader.name)
                ahead.append(reader)
    return None
