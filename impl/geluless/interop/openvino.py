"""Exported files as OpenVINO IR: the pair of an .xml and a .bin, checked against the ONNX file before it is there.

The IR says under `geluless` in its rt_info which network it is, and with which INFERENCE_PRECISION_HINT it has to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import ExportError
from geluless.files import atomic_output
from geluless.interop.fusion import UNKNOWN, FusionReport, Layer, Value, fusion_report
from geluless.interop.onnx_export import Exported
from geluless.interop.products import products
from geluless.interop.runtimes import OPENVINO_CONFIG, OPENVINO_DEVICE, load_openvino

SUFFIX = ".xml"
NO_KERNELS = frozenset({"Const", "Input", "Output"})

_ADDED = re.compile(r"/Dequantization\w+$")  # what OpenVINO appends to the names of nodes it made from a DequantizeLinear
# And to a product's name for its weights: a layer fused under a name of OpenVINO's own still reads them.
_WEIGHTS = "/transpose_b"
_TYPES = {"u8": "uint8", "i8": "int8", "f32": "float", "f16": "half", "bf16": "bfloat16", "i32": "int32", "boolean": "bool"}


@dataclass(frozen=True)
class OpenVinoReport:
    """size: of both files, in bytes. fusion: what this machine's CPU plugin makes of the network."""

    path: Path
    size: int
    fusion: FusionReport


def export_openvino(exported: Exported, path: str | Path) -> OpenVinoReport:
    """Write `path`, an .xml, and the .bin beside it, after one image gave the logits of the ONNX file to the bit.

    Raises MissingResource without OpenVINO, ExportError for what it refuses or computes otherwise.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ExportError(f"{path} must end in {SUFFIX}: the weights go beside it, into {path.with_suffix('.bin').name}")
    openvino, model, stem = load_openvino(), exported.model(), exported.artifact.plan.stem
    shape = (exported.batch or 1, stem.channels, stem.height, stem.width)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the files are renamed while the network that was read from them is in use
    about = {"content_hash": exported.artifact.content_hash, "dialect": exported.dialect.value, "variant": exported.variant.value}
    about["inference_precision"] = OPENVINO_CONFIG["INFERENCE_PRECISION_HINT"]
    try:
        network = core.read_model(model.SerializeToString())
        for name, value in about.items():
            network.set_rt_info(value, ["geluless", name])
        expected = _logits(core.compile_model(network, OPENVINO_DEVICE, OPENVINO_CONFIG), image)
        # The .bin takes its place first, and an older .xml is gone by then: no .xml ever lies beside another network's weights.
        with atomic_output(path) as xml, atomic_output(path.with_suffix(".bin")) as weights:
            try:
                openvino.save_model(network, str(xml), compress_to_fp16=False)
            except RuntimeError:
                xml.write_bytes(bytes(1 << 20))  # C++ streams do not say why they fail: Python's do, where it is the disk
                raise
            compiled = core.compile_model(core.read_model(str(xml)), OPENVINO_DEVICE, OPENVINO_CONFIG)
            if not np.array_equal(_logits(compiled, image), expected):
                raise ExportError("OpenVINO reads other weights from the IR than from the ONNX file: nothing was written")
            size = xml.stat().st_size + weights.stat().st_size
            path.unlink(missing_ok=True)
        fusion = fusion_report(
            products(model),
            tuple(_layers(compiled.get_runtime_model())),
            runtime=f"OpenVINO {openvino.__version__.partition('-')[0]}",
            target=str(core.get_property(OPENVINO_DEVICE, "FULL_DEVICE_NAME")).strip(),
            source="runtime model",
            variant=exported.variant.value,
        )
    except RuntimeError as error:
        raise ExportError(f"OpenVINO refuses the model: {error}") from error
    return OpenVinoReport(path, size, fusion)


def _logits(compiled: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array(compiled({compiled.inputs[0]: images})[compiled.outputs[0]])


def _layers(runtime_model: Any) -> Iterator[Layer]:
    """The kernels that the plugin runs, in their order."""
    for operation in runtime_model.get_ordered_ops():
        info, name = operation.get_rt_info(), operation.get_friendly_name()
        kind = _word(info, "layerType")
        if kind in NO_KERNELS:
            continue
        inputs = tuple(_value(port.get_source_output().get_node(), port) for port in operation.inputs())
        outputs = tuple(_value(operation, port) for port in operation.outputs())
        origins = {_ADDED.sub("", origin) for origin in _word(info, "originalLayersNames").split(",")}
        origins |= {value.name.removesuffix(_WEIGHTS) for value in inputs[1:2] if value.name.endswith(_WEIGHTS)}
        factors = tuple(value.dtype for value in inputs[:2])
        yield Layer(name, kind, inputs, outputs, factors, (kind,), frozenset(origins))


def _word(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else UNKNOWN


def _value(node: Any, port: Any) -> Value:
    dtype = str(port.get_element_type().get_type_name())
    return Value(node.get_friendly_name(), _TYPES.get(dtype, dtype))
