"""ONNX files as others make them: networks exported by torch, quantized by ONNX Runtime, NNCF or ModelOpt, and run by ONNX
Runtime.

Files are kept as bytes, made once per test run. ONNX Runtime runs them without its graph optimisations: those insert and remove
roundings, so that the optimised session no longer computes what the file says (interop/README.md has the figures).
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from geluless.data.embedded import embedded_images
from geluless.data.manifest import teacher_path
from geluless.models import create_model, replace_gelu

CALIBRATION_IMAGES = 16
OPSETS = {"torchscript": 17, "dynamo": 18}
Pixels = NDArray[np.float32]


@contextmanager
def quiet() -> Iterator[None]:
    """Other people's tools warn about themselves and about each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=2)
def micro(*, relu: bool) -> nn.Module:
    """The trained GELU micro network of Swin-T, or the same with ReLU put in without retraining: 2 % less accurate, and a
    network all the same."""
    model = create_model("swin_micro_tiny", checkpoint=teacher_path("swin_micro_tiny"))
    if relu:
        replace_gelu(model)
    return model.eval()


@lru_cache(maxsize=2)
def images(count: int, *, split: str = "test") -> Pixels:
    """float32 [count, 1, 28, 28], evenly over the split."""
    source = embedded_images(split)
    chosen = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    return np.concatenate([batch.numpy() for batch in source.batches(500, indices=chosen)])


def calibration() -> Pixels:
    return images(CALIBRATION_IMAGES, split="train")


def exported(model: nn.Module, shape: tuple[int, int, int], *, exporter: str = "torchscript", opset: int | None = None) -> bytes:
    """`image` float32 [batch, *shape] to `logits`, by torch's old exporter ("torchscript") or its new one ("dynamo")."""
    example, opset = torch.zeros(1, *shape), opset or OPSETS[exporter]
    names = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset}
    with quiet():
        if exporter == "dynamo":
            dynamic = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **names)
            return program.model_proto.SerializeToString()
        stream = io.BytesIO()
        axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, (example,), stream, dynamo=False, dynamic_axes=axes, **names)
        return stream.getvalue()


@lru_cache(maxsize=8)
def float_file(*, relu: bool, exporter: str = "torchscript", prepared: bool = True) -> bytes:
    """The micro network, by itself or after ONNX Runtime's `quant_pre_process`, which folds what a traced export leaves of
    shapes."""
    raw = exported(micro(relu=relu), (1, 28, 28), exporter=exporter)
    return prepare(raw) if prepared else raw


def prepare(raw: bytes) -> bytes:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def run(source: Path, target: Path) -> None:
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)

    return _through_files(raw, run)


@lru_cache(maxsize=8)
def by_onnxruntime(*, relu: bool, signed: bool, per_channel: bool, exporter: str = "torchscript", prepared: bool = True) -> bytes:
    """`quantize_static` with its defaults: every operation it knows is quantized, the residual stream included."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"image": calibration()}])

        def get_next(self) -> dict[str, Pixels] | None:
            return next(self.batches, None)

    def run(source: Path, target: Path) -> None:
        kind = QuantType.QInt8 if signed else QuantType.QUInt8
        options = {"quant_format": QuantFormat.QDQ, "activation_type": kind, "weight_type": QuantType.QInt8}
        quantize_static(str(source), str(target), Reader(), per_channel=per_channel, **options)

    return _through_files(float_file(relu=relu, exporter=exporter, prepared=prepared), run)


@lru_cache(maxsize=8)
def by_nncf(*, relu: bool, preset: str, smooth: bool, exporter: str = "torchscript", prepared: bool = True) -> bytes:
    """`nncf.quantize` for transformers; `smooth` is SmoothQuant at NNCF's default strength, else it is off."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    model = onnx.load_from_string(float_file(relu=relu, exporter=exporter, prepared=prepared))
    data = nncf.Dataset([image[None] for image in calibration()], lambda image: {"image": image})
    alphas = AdvancedSmoothQuantParameters() if smooth else AdvancedSmoothQuantParameters(matmul=-1)
    with quiet():
        result = nncf.quantize(
            model,
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset[preset],
            subset_size=CALIBRATION_IMAGES,
            advanced_parameters=AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )
    return result.SerializeToString()


def by_modelopt(*, relu: bool) -> bytes:
    """NVIDIA ModelOpt's own quantizer, where it is installed (it needs packages that this project does not)."""
    from modelopt.onnx.quantization import quantize

    def run(source: Path, target: Path) -> None:
        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data=calibration(),
            calibration_method="max",
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(target),
        )

    return _through_files(float_file(relu=relu), run)


def _through_files(raw: bytes, run: Callable[[Path, Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(raw)
        run(source, target)
        return target.read_bytes()


def run_file(raw: bytes, pixels: Pixels, *, optimised: bool = False) -> NDArray[np.float32]:
    """ONNX Runtime's logits, by default of exactly what the file says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": batch})[0] for batch in np.array_split(pixels, -(-len(pixels) // 250))])
