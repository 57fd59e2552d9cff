"""From a file's nodes to the term of its logits.

The graph is run symbolically for one image: shapes are numbers, whatever does not depend on the pixels is computed, what only
moves values becomes an index array. What remains are the terms of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.constants import computable, compute
from geluless.interop.onnx_import.data_movement import MOVING, concatenate, move
from geluless.interop.onnx_import.ir import ANOTHER, Image, Known, Move, Rounding, Term, children, moved, positions
from geluless.interop.onnx_import.operators import OPERATORS
from geluless.interop.onnx_import.quantizing import Stored, dequantized, quantized
from geluless.interop.onnx_import.reading import MAX_ELEMENTS, Node, OnnxFile

Value = Known | Term | Stored
MAX_LIVE = 1 << 24  # elements of a tensor that depends on the image: Swin-L at 384 has scores of 2^23
MAX_WORK = 1 << 33  # elements of all tensors together; of the same network with every tensor quantized 2^32
MAX_HELD = 1 << 30  # of them in index arrays at one time, four bytes each; of that network 2^28
QUANTIZE = ("QuantizeLinear", "com.microsoft::QuantizeLinear")
DEQUANTIZE = ("DequantizeLinear", "com.microsoft::DequantizeLinear")
INTEGER_OPERATORS = ("QLinear", "MatMulInteger", "ConvInteger", "DynamicQuantize")


def interpret(file: OnnxFile) -> Term:
    """The term of the logits. Raises ArtifactError naming the first node that cannot be followed."""
    return _Interpreter(file).run()


class Budget:
    """Bounds on time and memory that no file can exceed: what was computed, and which index arrays are alive."""

    def __init__(self) -> None:
        self.work = self.held = 0

    def take(self, node: Node, result: Value) -> None:
        size = int(np.prod(_shape(result), dtype=np.int64))
        self.work += size
        self.held += _indices(result)
        if isinstance(result, Term) and not isinstance(result, Move):
            self.held += sum(_indices(child) for child in children(result))  # from now on as long as the term itself
        largest = MAX_ELEMENTS if isinstance(result, Known) else MAX_LIVE
        if size > largest or self.work > MAX_WORK or self.held > MAX_HELD:
            raise ArtifactError(f"{node}: the tensors of one image exceed all bounds; is this a Swin?")

    def give_back(self, value: Value) -> None:
        self.held -= _indices(value)


def _indices(value: Value) -> int:
    term = value.real if isinstance(value, Stored) else value
    return term.size if isinstance(term, Move) else 0


class _Interpreter:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.rounding = Rounding()
        self.budget = Budget()
        self.values: dict[str, Value] = {name: Known(array) for name, array in file.constants.items()}
        self.values[file.input_name] = Image((1, *file.image), file.input_name)

    def run(self) -> Term:
        last = {name: index for index, node in enumerate(self.file.nodes) for name in node.inputs}
        for index, node in enumerate(self.file.nodes):
            for name, value in zip(node.outputs, self._results(node), strict=False):
                self.values[name] = value
            for name in {name for name in node.inputs if name and last[name] == index and name != self.file.output_name}:
                self.budget.give_back(self.values.pop(name))  # a network's index arrays would not fit together
        logits = self.values.get(self.file.output_name)
        if not isinstance(logits, Term):
            raise ArtifactError(f"its output {self.file.output_name!r} does not depend on the image: export the model again")
        return logits

    def _results(self, node: Node) -> Sequence[Value]:
        if missing := [name for name in node.inputs if name and name not in self.values]:
            raise ArtifactError(f"{node} reads {missing[0]!r}, an output that is not handled; {ANOTHER}")
        inputs = [self.values[name] if name else None for name in node.inputs]
        try:
            with np.errstate(all="ignore"):
                results = self._step(node, inputs)
        except (ArithmeticError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArtifactError(f"{node} is malformed ({reason}): export the model again") from error
        for result in results:
            self.budget.take(node, result)
        return results

    def _step(self, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
        op, live = node.op, any(isinstance(value, (Term, Stored)) for value in inputs)
        if op in QUANTIZE or op in DEQUANTIZE:
            return [self._rescaled(node, inputs)]
        if op == "Concat":
            return [self._concatenated(node, inputs)]
        if op in MOVING:
            return self._moved(node, inputs)
        if op in ("Shape", "Size") and live:
            (source,) = inputs
            return [Known(compute(node, [np.broadcast_to(np.zeros((), np.int8), _shape(source))]))]
        if not live and computable(op):
            return [Known(compute(node, [value.values if isinstance(value, Known) else None for value in inputs]))]
        if live and op in OPERATORS:
            terms = [value for value in inputs if not isinstance(value, Stored)]
            if len(terms) == len(inputs):
                return [OPERATORS[op](node, terms)]
        if live and (op in OPERATORS or op.split("::")[-1].startswith(INTEGER_OPERATORS)):
            raise ArtifactError(f"{node} computes with integers: quantize in the QDQ format, which leaves operations in float")
        raise ArtifactError(f"{node} is an operation that no Swin needs: export without a runtime's own optimisations; {ANOTHER}")

    def _rescaled(self, node: Node, inputs: list[Value | None]) -> Value:
        x, scale, zero = (*inputs, None)[:3]
        if not isinstance(scale, Known) or isinstance(zero, (Term, Stored)):
            raise ArtifactError(f"{node} computes its scale from the image: quantize statically, with calibration images")
        if node.op in QUANTIZE:
            if not isinstance(x, (Known, Term)):
                raise ArtifactError(f"{node} quantizes integers: quantize the network again")
            return quantized(node, x, scale, zero, self.rounding)
        if not isinstance(x, (Known, Stored)):
            raise ArtifactError(f"{node} dequantizes what was never quantized: quantize the network again")
        return dequantized(node, x, scale, zero)

    def _moved(self, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
        x, parameters = inputs[0], [value.values if isinstance(value, Known) else None for value in inputs[1:]]
        if x is None or any(value is not None and not isinstance(value, Known) for value in inputs[1:]):
            raise ArtifactError(f"{node} moves values to places that depend on the image; {ANOTHER}")
        fill = parameters[1].reshape(-1)[0] if node.op == "Pad" and len(parameters) > 1 and parameters[1] is not None else 0
        if isinstance(x, Known):
            if node.op == "Pad":
                return [Known(piece) for piece in move(node, x.values, parameters, fill=fill)]
            return [x.moved(lambda array, at=at: move(node, array, parameters, fill=0)[at]) for at in range(len(node.outputs))]  # type: ignore[misc]
        term = x.real if isinstance(x, Stored) else x
        if fill != (x.grid.zero_point if isinstance(x, Stored) else 0):
            raise ArtifactError(f"{node} pads with {fill}, which is not zero; {ANOTHER}")
        pieces = [moved(term, index, node.name) for index in move(node, positions(term), parameters, fill=-1)]
        return [Stored(piece, x.grid) for piece in pieces] if isinstance(x, Stored) else pieces

    def _concatenated(self, node: Node, inputs: list[Value | None]) -> Value:
        if all(isinstance(value, Known) for value in inputs):
            return Known(concatenate(node, [value.values for value in inputs if isinstance(value, Known)]))
        terms = [value.real if isinstance(value, Stored) else value for value in inputs]
        grids = {value.grid if isinstance(value, Stored) else None for value in inputs}
        if not all(isinstance(term, Term) for term in terms) or len(grids) > 1:
            raise ArtifactError(f"{node} joins tensors of different kinds (a class token, as in a ViT?); {ANOTHER}")
        sources = {term.of if isinstance(term, Move) else term for term in terms if isinstance(term, Term)}
        if len(sources) > 1:
            raise ArtifactError(f"{node} joins different tensors; {ANOTHER}")
        (source,), (grid,) = sources, grids
        pieces = [term.index if isinstance(term, Move) else positions(term) for term in terms if isinstance(term, Term)]
        joined = moved(source, concatenate(node, pieces), node.name)
        return joined if grid is None else Stored(joined, grid)


def _shape(value: Value | None) -> tuple[int, ...]:
    match value:
        case Known():
            return value.values.shape
        case Stored():
            return value.real.shape
        case Term():
            return value.shape
    raise ValueError("a shape is asked of nothing")
