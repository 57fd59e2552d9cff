"""ONNX models run by the runtimes that people have. Import errors say which extra to install."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from geluless.errors import ExportError, MissingResource

Arrays = dict[str, NDArray[Any]]
Runtime = Callable[[onnx.ModelProto, Mapping[str, NDArray[Any]], Sequence[str]], Arrays]

OPENVINO_DEVICE = "CPU"
# Where the processor has bfloat16, OpenVINO's own choice rounds everything that is not int8 to 8 bits of mantissa.
OPENVINO_CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}


def run_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
    """ONNX Runtime on the CPU with all its graph optimisations. Raises MissingResource, and ExportError for what it refuses."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingResource("ONNX Runtime is missing: pip install 'geluless[export]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    # Without VNNI its kernels for uint8 times int8 add pairs of products in saturating 16 bits, unless they are told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(outputs, session.run(list(outputs), dict(feeds)), strict=True))
    except Exception as error:  # its exceptions share no base class but this
        raise ExportError(f"ONNX Runtime refuses the model: {error}") from error


def load_openvino() -> Any:
    """The package. Raises MissingResource without it."""
    try:
        import openvino
    except ImportError as error:
        raise MissingResource("OpenVINO is missing: pip install 'geluless[export]'") from error
    return openvino


def run_openvino(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
    """OpenVINO on the CPU in float32. Raises MissingResource, and ExportError for what it refuses."""
    core = load_openvino().Core()
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), OPENVINO_DEVICE, OPENVINO_CONFIG)
        named = {port: next(name for name in port.names if name in feeds) for port in compiled.inputs}  # a port can have several
        results = compiled({port: feeds[name] for port, name in named.items()})
        return {name: np.array(results[compiled.output(name)]) for name in outputs}
    except RuntimeError as error:
        raise ExportError(f"OpenVINO refuses the model: {error}") from error


RUNTIMES: dict[str, Runtime] = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}
