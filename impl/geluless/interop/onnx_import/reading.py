"""An ONNX file as plain values: nodes in an order in which they can be computed, constants as arrays, one image in, logits out.

The file is hostile until shown otherwise. Sizes are bounded before anything is allocated, references to other files stay in the
file's own folder, and whatever is refused is named together with what to do about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ArtifactError
from geluless.interop.onnx_file import parse_onnx

MAX_NODES = 1 << 15  # a traced Swin-L with every tensor quantized has 12,000
MAX_ELEMENTS = 1 << 26  # of one constant: a classifier of 22,000 classes on 1536 channels has 2^25
OPSETS = range(11, 29)  # QuantizeLinear came with 10, its zero points per axis are used from 13 on
IMAGE_RANK = 4
# By their numbers in TensorProto; 8 is a string.
DTYPES = dict(enumerate(["float32", "uint8", "int8", "uint16", "int16", "int32", "int64"], start=1))
DTYPES |= dict(enumerate(["bool", "float16", "float64"], start=9))


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. An absent optional input is the empty string."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}"


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """What an importer may know of a file. `image` is (channels, height, width)."""

    sha256: str
    producer: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    input_name: str
    output_name: str
    image: tuple[int, int, int]

    @property
    def quantizer(self) -> str:
        """Which tool made the file, as far as its habits tell: none of them signs its work reliably."""
        if any("nncf" in name or name.startswith("q_output_") for name in self.constants):
            return "nncf"
        if not self.producer.startswith("onnx.quantize"):
            return "unknown"
        on_constants = any(node.op == "QuantizeLinear" and node.inputs[0] in self.constants for node in self.nodes)
        return "modelopt" if on_constants else "onnxruntime"  # ModelOpt calls ONNX Runtime's tool, but leaves weights in float


def read_file(path: Path) -> OnnxFile:
    """Parse and check. Raises ArtifactError naming what is wrong, MissingResource as `parse_onnx` does."""
    raw, model = parse_onnx(path)
    graph = model.graph
    if not graph.node or len(graph.node) > MAX_NODES:
        raise ArtifactError(f"its graph has {len(graph.node)} nodes, not 1 to {MAX_NODES:,}: is it an ONNX model of a Swin?")
    if model.functions or graph.sparse_initializer:
        raise ArtifactError("it has local functions or sparse constants: run onnx.inliner.inline_local_functions on it first")
    _check_opset(model)
    tensors = _Tensors(path.parent)
    constants = {tensor.name: tensors.array(tensor, f"constant {tensor.name!r}") for tensor in graph.initializer}
    if len(constants) < len(graph.initializer):
        raise ArtifactError("two constants have the same name: export the model again")
    nodes = [_node(proto, tensors) for proto in graph.node]
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ArtifactError(f"it has {len(inputs)} inputs and {len(graph.output)} outputs: a classifier has one of each")
    return OnnxFile(
        sha256=hashlib.sha256(raw + tensors.outside.digest() if tensors.any_outside else raw).hexdigest(),
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        nodes=tuple(_ordered(nodes, {inputs[0].name, *constants})),
        constants=constants,
        input_name=inputs[0].name,
        output_name=graph.output[0].name,
        image=_image(inputs[0]),
    )


def _check_opset(model: Any) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        known = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise ArtifactError(f"its opset is {versions or 'missing'}, this version reads {known}: export the model again")


def _image(value: Any) -> tuple[int, int, int]:
    """The fixed sizes of the input; the batch must be free or one, since all movement is followed for one image."""
    tensor = value.type.tensor_type
    sizes = [size.dim_value if size.WhichOneof("value") == "dim_value" else None for size in tensor.shape.dim]
    if tensor.elem_type != 1 or len(sizes) != IMAGE_RANK:
        raise ArtifactError(f"its input {value.name!r} is no float32 tensor [batch, channels, height, width]")
    batch, channels, height, width = sizes
    if batch not in (None, 0, 1):
        raise ArtifactError(f"its batch size is fixed to {batch}: export the model with a batch of 1 or a dynamic one")
    if not (channels and height and width) or channels * height * width > MAX_ELEMENTS:
        raise ArtifactError(f"the image size of its input {value.name!r} is not fixed, or absurd: export it for one image size")
    return channels, height, width


def _node(proto: Any, tensors: _Tensors) -> Node:
    name = proto.name or (proto.output[0] if proto.output else "without a name")
    op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}::{proto.op_type}"
    attributes = {a.name: _attribute(a, f"{op} {name!r}", tensors) for a in proto.attribute}
    return Node(op, name, tuple(proto.input), tuple(proto.output), attributes)


def _attribute(proto: Any, node: str, tensors: _Tensors) -> Any:
    match proto.type:
        case proto.FLOAT:
            return proto.f
        case proto.INT:
            return proto.i
        case proto.STRING:
            return proto.s.decode("utf-8", errors="replace")
        case proto.TENSOR:
            return tensors.array(proto.t, node)
        case proto.FLOATS:
            return tuple(proto.floats)
        case proto.INTS:
            return tuple(proto.ints)
    raise ArtifactError(f"{node} has an attribute {proto.name!r} that no Swin needs: export the model without control flow")


class _Tensors:
    """TensorProtos as arrays; remembers what was read from beside the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.any_outside = False
        self.outside = hashlib.sha256()

    def array(self, proto: Any, where: str) -> NDArray[Any]:
        from onnx import numpy_helper

        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise ArtifactError(f"{where} has a data type that is not handled (bfloat16? 4 bits?): quantize to 8 bits")
        shape = tuple(proto.dims)
        if any(size < 0 or size > MAX_ELEMENTS for size in shape) or np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
            raise ArtifactError(f"{where} has the shape {list(shape)}, more than {MAX_ELEMENTS:,} elements: is it a Swin?")
        count, width = int(np.prod(shape, dtype=np.int64)), np.dtype(dtype).itemsize
        if proto.data_location == proto.EXTERNAL or proto.external_data:
            content = self._beside(proto, where, count * width)
        elif proto.HasField("raw_data"):
            content = proto.raw_data
        else:
            try:
                return np.asarray(numpy_helper.to_array(proto), dtype).reshape(shape)
            except (ValueError, TypeError, OverflowError) as error:
                raise ArtifactError(f"{where} does not hold the {count:,} values of its shape: fetch the file again") from error
        if len(content) != count * width:
            raise ArtifactError(f"{where} holds {len(content):,} bytes, its shape needs {count * width:,}: fetch the file again")
        return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)

    def _beside(self, proto: Any, where: str, size: int) -> bytes:
        """Bytes of a file in the same folder; a location with any path in it is refused, as is a link that leads elsewhere."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if not location or location != Path(location).name or "\\" in location or location in (".", ".."):
            raise ArtifactError(f"{where} lies in {location!r}, outside of its folder: save the model with its weights inside")
        path = self.folder / location
        try:
            if path.resolve(strict=True).parent != self.folder.resolve(strict=True) or not path.is_file():
                raise ArtifactError(f"{where} lies in {location!r}, which leads out of its folder: keep both files in one")
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
            if offset < 0 or length != size or offset + size > path.stat().st_size:
                raise ArtifactError(f"{where} does not fit into {location!r}: fetch both files again")
            with path.open("rb") as stream:
                stream.seek(offset)
                content = stream.read(size)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{where} cannot be read from {location!r}: keep both files in one folder") from error
        self.any_outside = True
        self.outside.update(content)
        return content


def _ordered(nodes: list[Node], defined: Iterable[str]) -> list[Node]:
    """The nodes in an order in which every input is computed before it is used."""
    known = set(defined)
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for output in filter(None, node.outputs):
            if output in makers or output in known:
                raise ArtifactError(f"{node} computes {output!r}, which exists already: export the model again")
            makers[output] = index
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, node in enumerate(nodes):
        needed = [name for name in node.inputs if name and name not in known]
        if missing := [name for name in needed if name not in makers]:
            raise ArtifactError(f"{node} reads {missing[0]!r}, which nothing computes: export the model again")
        sorter.add(index, *(makers[name] for name in needed))
    try:
        return [nodes[index] for index in sorter.static_order()]
    except CycleError as error:
        stuck = nodes[error.args[1][0]]
        raise ArtifactError(f"{stuck} waits for its own output: the graph has a cycle; export the model again") from error
