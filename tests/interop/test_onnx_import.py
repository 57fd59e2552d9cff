"""Networks that other tools quantized, imported and run: as close to what ONNX Runtime computes from the file as the file is to
its float network, or nearly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import geluless
from geluless.data.embedded import embedded_images
from geluless.errors import CalibrationError
from geluless.integer.artifact import Artifact
from geluless.interop.onnx_import import ImportReport, Reason, import_onnx
from tests.support.qdq_files import quantized_by_hand
from tests.support.qdq_models import by_modelopt, by_nncf, by_onnxruntime, calibration, float_file, images, run_file

COUNT = 1000
# Two arithmetics that differ by as little as the int16 residual stream alone round differently from the first block on, and then
# agree no better than two quantizations of one network do. Measured on 10,000 images: 99.2 to 99.8 % of the classes, and errors
# up to 1.3 times that of the file itself. ONNX Runtime's optimised session agrees with its own plain one on 99.2 to 100 %.
AGREEMENT, ACCURACY, ERRORS = 0.985, 0.01, 2.0


@dataclass(frozen=True, eq=False)
class Closeness:
    """Shares of images, and the mean square difference of the logits as a multiple of the file's own quantization error."""

    agreement: float
    accuracy: float  # ours minus the file's
    errors: float

    @property
    def holds(self) -> bool:
        return self.agreement >= AGREEMENT and abs(self.accuracy) <= ACCURACY and self.errors <= ERRORS


def closeness(artifact: Artifact, raw: bytes, *, relu: bool) -> Closeness:
    """The artifact on the compiled engine against the file in ONNX Runtime."""
    ours = geluless.Engine(artifact, backend="cpu", threads=2)(images(COUNT))
    theirs, real = logits_of(raw), logits_of(float_file(relu=relu))
    labels = embedded_images("test").labels[np.linspace(0, 9999, COUNT).astype(int)]
    right = [(logits.argmax(1) == labels).mean() for logits in (ours, theirs)]
    errors = np.square(ours - theirs).mean() / np.square(theirs - real).mean()
    return Closeness(float((ours.argmax(1) == theirs.argmax(1)).mean()), float(right[0] - right[1]), float(errors))


@lru_cache(maxsize=8)
def logits_of(raw: bytes) -> NDArray[np.float32]:
    return run_file(raw, images(COUNT))


@lru_cache(maxsize=8)
def imported(raw: bytes, *, calibrated: bool = True) -> tuple[Artifact, ImportReport]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(raw)
        return import_onnx(path, batches=[torch.from_numpy(calibration())] if calibrated else None)


Maker = Callable[[], bytes]
QUICK: dict[str, tuple[bool, Maker]] = {
    "onnxruntime gelu": (False, lambda: by_onnxruntime(relu=False, signed=True, per_channel=True)),
    "nncf relu": (True, lambda: by_nncf(relu=True, preset="PERFORMANCE", smooth=False)),
    "modelopt's convention gelu": (False, lambda: quantized_by_hand(float_file(relu=False), calibration())),
    "modelopt's convention relu": (True, lambda: quantized_by_hand(float_file(relu=True), calibration())),
}
ORT = [
    (False, False, False, "torchscript", False),
    (True, True, True, "torchscript", True),
    (True, False, False, "dynamo", True),
    (False, False, True, "dynamo", False),
]
NNCF = [
    (False, "PERFORMANCE", True, "torchscript", True),
    (True, "MIXED", False, "torchscript", False),
    (True, "PERFORMANCE", True, "dynamo", True),
    (False, "MIXED", False, "dynamo", False),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_an_imported_network_is_as_close_to_its_file_as_rounding_allows(name: str) -> None:
    relu, make = QUICK[name]
    artifact, report = imported(make())
    assert artifact.activation == report.activation == ("relu" if relu else "gelu")
    found = closeness(artifact, make(), relu=relu)
    assert found.holds, f"{found}\n{report}"


@pytest.mark.nightly
@pytest.mark.parametrize(("relu", "signed", "per_channel", "exporter", "prepared"), ORT)
def test_every_form_of_onnxruntimes_files_is_read(
    relu: bool,
    signed: bool,
    per_channel: bool,
    exporter: str,
    prepared: bool,
) -> None:
    raw = by_onnxruntime(relu=relu, signed=signed, per_channel=per_channel, exporter=exporter, prepared=prepared)
    artifact, report = imported(raw)
    assert closeness(artifact, raw, relu=relu).holds
    assert report.quantizer == "onnxruntime"
    assert not report.calibrated
    assert not report.quantized_weights


@pytest.mark.nightly
@pytest.mark.parametrize(("relu", "preset", "smooth", "exporter", "prepared"), NNCF)
def test_every_form_of_nncfs_files_is_read(
    relu: bool,
    preset: str,
    smooth: bool,
    exporter: str,
    prepared: bool,
) -> None:
    raw = by_nncf(relu=relu, preset=preset, smooth=smooth, exporter=exporter, prepared=prepared)
    artifact, report = imported(raw)
    assert closeness(artifact, raw, relu=relu).holds
    assert report.quantizer == "nncf"
    assert bool(report.quantized_weights) == (smooth and not relu), "factors behind GELU alone do not fit"


@pytest.mark.nightly
@pytest.mark.parametrize("relu", [False, True])
def test_modelopts_own_files_are_read(relu: bool) -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="nvidia-modelopt[onnx] is not installed")
    raw = by_modelopt(relu=relu)
    artifact, report = imported(raw)
    assert closeness(artifact, raw, relu=relu).holds
    assert report.quantizer == "modelopt"


def doctored(raw: bytes, change: Callable[[NDArray], NDArray], *, layers: slice) -> bytes:
    """The file with other scales of some of its weights."""
    model = onnx.load_from_string(raw)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    matrices = [node for node in weights if len(tensors[node.input[0]].dims) == 2 and len(tensors[node.input[1]].dims) == 1]
    assert matrices[layers]
    for node in matrices[layers]:
        scale = tensors[node.input[1]]
        scale.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(scale)), scale.name))
    return model.SerializeToString()


def shuffled(scale: NDArray) -> NDArray:
    return np.random.default_rng(0).permutation(scale)


def doubled(scale: NDArray) -> NDArray:
    return scale * np.float32(2)


@pytest.mark.parametrize(("change", "layers"), [(shuffled, slice(None)), (doubled, slice(2, 3))])
def test_a_file_with_other_scales_is_told_apart(change: Callable[[NDArray], NDArray], layers: slice) -> None:
    """Negative controls of the check above: scales in another order, one layer's scales doubled."""
    relu, make = QUICK["nncf relu"]
    artifact, _ = imported(doctored(make(), change, layers=layers))
    found = closeness(artifact, make(), relu=relu)
    assert not found.holds
    assert found.errors > 2 * ERRORS


def test_the_report_says_what_is_the_files_and_what_is_not() -> None:
    raw = QUICK["nncf relu"][1]()
    artifact, report = imported(raw)
    assert report.quantizer == "nncf"
    assert len(report.identical_weights) == 53
    assert not report.quantized_weights
    assert report.changes == (), "every rounding of this file is done by the artifact, too"
    assert "layers.2.blocks.3.attn.qkv:v" in report.calibrated
    assert "layers.2.blocks.3.norm1:out" in report.from_file
    assert not set(report.calibrated) & set(report.from_file)
    assert artifact.plan.parents["onnx"] == report.sha256
    assert report.as_dict()["changes"] == []
    assert "53 of 53 layers" in str(report)


def test_a_file_with_a_range_for_everything_needs_no_images() -> None:
    raw = QUICK["onnxruntime gelu"][1]()
    alone, report = imported(raw, calibrated=False)
    assert (report.calibrated, report.images) == ((), 0)
    assert {Reason.STREAM, Reason.BEFORE_BIAS, Reason.SCORES} <= {change.reason for change in report.changes}
    assert Reason.UNKNOWN not in {change.reason for change in report.changes}
    calibrated, _ = imported(raw)
    equal = [name for name, tensor in alone.tensors.items() if np.array_equal(tensor, calibrated.tensors[name])]
    assert len(equal) == len(alone.tensors), "images must not change what the file says"


def test_tensors_without_a_range_are_named() -> None:
    with pytest.raises(CalibrationError, match=r"patch_embed\.proj:out.* in float, without a range: pass calibration images"):
        imported(QUICK["nncf relu"][1](), calibrated=False)
