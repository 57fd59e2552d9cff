"""OpenVINO, in fp32 and quantized by NNCF: its own way from a PyTorch module to int8 on a CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape

if TYPE_CHECKING:
    from geluless.baselines.subject_network import SubjectNetwork

DOCS = "docs.openvino.ai/2025/openvino-workflow"
HINTS = f"{DOCS}/running-inference/inference-devices-and-modes/cpu-device/performance-hint-and-thread-scheduling.html"
PRECISION = f"{DOCS}/running-inference/optimize-inference/precision-control.html"
QUANTIZING = f"{DOCS}/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html"
SMOOTH_OFF = "github.com/openvinotoolkit/nncf/pull/1945, issues 2279 and 2297: SmoothQuant costs Swin accuracy"
PRODUCTS = ("FullyConnected", "MatMul", "Convolution")  # layer types of the runtime's own graph
INTEGERS = ("i8", "u8")


@dataclass(frozen=True)
class OpenVino:
    """`scheme` is "fp32", "int8" (SmoothQuant off) or "smoothquant" (NNCF's defaults for transformers)."""

    name: str
    scheme: str
    activation: str | None = None
    family: str = "openvino"
    packages: tuple[str, ...] = ("openvino", "nncf", "torch")

    @property
    def precision(self) -> str:
        return "fp32" if self.scheme == "fp32" else "int8"

    @property
    def configurations(self) -> tuple[str, ...]:
        return ("f32",) if self.scheme == "fp32" else ("f32", "bf16")

    @property
    def settings(self) -> tuple[Setting, ...]:
        common = (
            Setting("converted from the PyTorch module, batch dimension made static before compilation", QUANTIZING),
            Setting("PERFORMANCE_HINT=LATENCY, ENABLE_CPU_PINNING=YES, INFERENCE_NUM_THREADS=threads given", HINTS),
        )
        if self.scheme == "fp32":
            return (*common, Setting("INFERENCE_PRECISION_HINT=f32: the default here may be bf16", PRECISION))
        smooth = Setting("preset MIXED and SmoothQuant at alpha 0.95: the defaults for this model type", QUANTIZING)
        if self.scheme == "int8":
            smooth = Setting("preset PERFORMANCE, SmoothQuant off: closer to fp32 here and as fast as MIXED", SMOOTH_OFF)
        return (
            Setting("nncf.quantize, model_type TRANSFORMER", QUANTIZING),
            smooth,
            *common,
            Setting("INFERENCE_PRECISION_HINT: f32 or bf16 for what is not int8, whichever the pilot finds faster", PRECISION),
        )

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        import openvino as ov

        model = _converted(subject, folder)
        if self.scheme != "fp32":
            ov.save_model(_quantized(model, subject, smooth=self.scheme == "smoothquant"), self._path(folder), False)

    def imports(self) -> None:
        import openvino  # noqa: F401

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> OpenVinoRunner:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(self._path(folder))
        model.reshape([shape.batch, *subject.input_size])
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": "YES",
            "INFERENCE_NUM_THREADS": str(shape.threads),
            "INFERENCE_PRECISION_HINT": configuration,
        }
        return OpenVinoRunner(core.compile_model(model, "CPU", options))

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        path = self._path(folder)
        return [path, path.with_suffix(".bin")]

    def _path(self, folder: Path) -> Path:
        return folder / f"{self.scheme}.xml"


class OpenVinoRunner:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._request.infer({0: images})[0]  # a copy: the request's own tensor is written again
        return logits

    def executed(self, images: NDArray[np.float32]) -> Executed:
        kinds = Counter((_info(node, "layerType"), _info(node, "runtimePrecision")) for node in _nodes(self._compiled))
        products = {kind: count for kind, count in kinds.items() if kind[0] in PRODUCTS}
        int8 = sum(count for (_, precision), count in products.items() if precision in INTEGERS)
        fused = sum(count for (layer, precision), count in kinds.items() if layer == "Subgraph" and precision in INTEGERS)
        note = f"; {fused} fused subgraphs take int8 besides" if fused else ""
        return Executed(int8, sum(products.values()) - int8, f"{', '.join(PRODUCTS)} in the runtime's graph{note}")

    def exact(self, images: NDArray[np.float32]) -> None:
        return None


def _nodes(compiled: Any) -> list[Any]:
    nodes: list[Any] = compiled.get_runtime_model().get_ops()
    return nodes


def _info(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].value) if key in info else ""


def _converted(subject: SubjectNetwork, folder: Path) -> Any:
    """The fp32 network with a dynamic batch, read back from the file that the family's first baseline writes."""
    import openvino as ov

    path = folder / "fp32.xml"
    if not path.exists():
        import torch

        shape = subject.input_size
        with torch.no_grad():
            model = ov.convert_model(subject.network(), example_input=torch.zeros(2, *shape), input=[-1, *shape])
        ov.save_model(model, path, compress_to_fp16=False)
    return ov.Core().read_model(path)


def _quantized(model: Any, subject: SubjectNetwork, *, smooth: bool) -> Any:
    import nncf

    off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    images = subject.array("calibration")
    return nncf.quantize(
        model,
        nncf.Dataset([images[i : i + 1] for i in range(len(images))]),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=None if smooth else nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(images),
        advanced_parameters=None if smooth else nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off),
    )
