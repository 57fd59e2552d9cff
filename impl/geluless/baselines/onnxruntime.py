"""ONNX Runtime, in fp32 and quantized by its own tools, statically (QDQ) and dynamically."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork

DOCS = "onnxruntime.ai/docs/performance"
QUANTIZATION = f"{DOCS}/model-optimizations/quantization.html"
THREADING = f"{DOCS}/tune-performance/threading.html"
OPTIMIZATIONS = f"{DOCS}/model-optimizations/graph-optimizations.html"
FIXED_SHAPES = "onnxruntime.ai/docs/tutorials/mobile/helpers/make-dynamic-shape-fixed.html"
MEASURED = "measured for this suite on Swin-T, one thread"
PRODUCTS = ["MatMul", "Gemm", "Conv"]
INT8_KERNELS = ("QGemm", "QLinearMatMul", "QLinearConv", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger")
FLOAT_KERNELS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv")
BATCH = "batch"  # the name of the free dimension


@dataclass(frozen=True)
class OnnxRuntime:
    """`scheme` is "fp32", "static" or "dynamic"."""

    name: str
    scheme: str
    activation: str | None = None
    family: str = "onnxruntime"
    packages: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript", "torch")
    configurations: tuple[str, ...] = ("CPUExecutionProvider",)

    @property
    def precision(self) -> str:
        return "fp32" if self.scheme == "fp32" else "int8"

    @property
    def settings(self) -> tuple[Setting, ...]:
        session = (
            Setting("ORT_ENABLE_ALL, quant_pre_process before", OPTIMIZATIONS),
            Setting("intra_op_num_threads = threads given, sequential; spinning left on, the others are stopped", THREADING),
        )
        if self.scheme == "static":
            return (
                Setting("quantize_static to QDQ, MinMax", QUANTIZATION),
                Setting("U8S8: with VNNI it does not saturate, and the default S8S8 is 15 % slower", MEASURED),
                Setting("weights per channel, reduce_range off: not needed with VNNI", QUANTIZATION),
                Setting("only MatMul, Gemm, Conv: with every operator in int8 it is slower and less accurate", MEASURED),
                Setting("batch fixed before quantization: biases are then folded into QGemm, 15 % faster", FIXED_SHAPES),
                *session,
            )
        if self.scheme == "dynamic":
            return (
                Setting("quantize_dynamic: what the documentation recommends for transformers", QUANTIZATION),
                Setting("MatMul and Gemm, int8 weights per channel", QUANTIZATION),
                *session,
            )
        return session

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        exported = folder / "exported.onnx"
        if not exported.exists():
            _export(subject, exported)
        for batch in sorted({shape.batch for shape in shapes}):
            fixed = folder / f"fp32-{batch}.onnx"
            if not fixed.exists():
                _fix_batch(exported, fixed, batch)
            if self.scheme == "static":
                _quantize_static(subject, fixed, self._path(folder, batch), batch)
            elif self.scheme == "dynamic":
                _quantize_dynamic(fixed, self._path(folder, batch))

    def imports(self) -> None:
        import onnxruntime  # noqa: F401

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> OrtRunner:
        return OrtRunner(self._path(folder, shape.batch), shape, configuration)

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return [self._path(folder, shape.batch)]

    def _path(self, folder: Path, batch: int) -> Path:
        return folder / f"{self.scheme}-{batch}.onnx"


class OrtRunner:
    def __init__(self, path: Path, shape: Shape, provider: str) -> None:
        self._path, self._shape, self._provider = path, shape, provider
        self._session = self._open(None)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        return logits

    def executed(self, images: NDArray[np.float32]) -> Executed:
        """Of one call of a second session with profiling: the names of the kernels that ran."""
        session = self._open(self._path.with_suffix(".profile"))
        session.run(None, {"images": images})
        profile = Path(session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
        profile.unlink()
        ran = Counter(e["args"]["op_name"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
        int8, floating = (sum(ran[name] for name in names) for names in (INT8_KERNELS, FLOAT_KERNELS))
        kinds = ", ".join(f"{ran[name]} {name}" for name in (*INT8_KERNELS, *FLOAT_KERNELS) if ran[name])
        return Executed(int8, floating, f"{kinds} in a profile of one call")

    def exact(self, images: NDArray[np.float32]) -> None:
        return None

    def _open(self, profile: Path | None) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._shape.threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        return ort.InferenceSession(self._path, options, providers=[self._provider])


def _export(subject: SubjectNetwork, path: Path) -> None:
    import torch

    images = torch.zeros(2, *subject.input_size)  # two: a batch of one would be taken for a constant
    torch.onnx.export(
        subject.network(),
        (images,),
        path,
        dynamo=True,
        external_data=False,
        opset_version=20,  # the first with Gelu, which ONNX Runtime fuses with the bias
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim(BATCH, min=1, max=1024)},),
        verbose=False,
    )


def _fix_batch(exported: Path, fixed: Path, batch: int) -> None:
    """The network for one batch size, folded and fused before anything is quantized."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = onnx.load(exported)
    make_dim_param_fixed(model.graph, BATCH, batch)
    quant_pre_process(model, str(fixed))


def _quantize_static(subject: SubjectNetwork, fixed: Path, path: Path, batch: int) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        str(fixed),
        str(path),
        _Reader(subject.array("calibration"), batch),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        reduce_range=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _quantize_dynamic(fixed: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(fixed), str(path), op_types_to_quantize=PRODUCTS[:2], per_channel=True, weight_type=QuantType.QInt8)


class _Reader:
    """ONNX Runtime's CalibrationDataReader, by its shape: whole batches, then None."""

    def __init__(self, images: NDArray[np.float32], batch: int) -> None:
        self._batches: Iterator[NDArray[np.float32]] = (
            images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
