"""OpenVINO IR: the pair of files is the network of the ONNX file, and predicts what the reference predicts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("openvino", reason="IR needs OpenVINO: pip install 'geluless[export]'")

import geluless
from geluless import Engine
from geluless.data.embedded import embedded_images
from geluless.data.manifest import teacher_path
from geluless.errors import ExportError, MissingResource
from geluless.integer.artifact import Artifact
from geluless.interop import openvino as openvino_ir
from geluless.interop.fusion import claim
from geluless.interop.onnx_export import Exported, export_onnx
from geluless.interop.openvino import export_openvino
from tests.support.networks import awkward_artifact, awkward_images
from tests.support.vnni import needs_vnni

NAME = "swin_micro_tiny"


@cache
def embedded_artifact() -> Artifact:
    model = geluless.create_model(NAME, checkpoint=teacher_path(NAME))
    return geluless.quantize(model, list(embedded_images("train").batches(32, indices=range(32))))


@cache
def pixels() -> NDArray[np.float32]:
    images: NDArray[np.float32] = torch.cat(list(embedded_images("test").batches(200, indices=range(200)))).numpy()
    return images


def compiled(path: Path) -> Any:
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    network = compiled(path)
    return np.array(network({network.inputs[0]: images})[network.outputs[0]])


@pytest.mark.slow
@needs_vnni
@pytest.mark.parametrize("dialect", ["exact", "fused"])
def test_the_ir_agrees_with_the_reference_on_embedded_images(dialect: str, tmp_path: Path) -> None:
    exported = export_onnx(embedded_artifact(), dialect=dialect)
    export_openvino(exported, tmp_path / "x.xml")
    logits, expected = run(tmp_path / "x.xml", pixels()), Engine(exported.artifact, variant=exported.variant)(pixels())
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= (1.0 if dialect == "exact" else 0.99)
    # OpenVINO has no float64: in the exact dialect about one value in a million is off by a step
    noise = {"exact": 0.01, "fused": 0.05}[dialect]
    assert np.sqrt(np.mean((logits - expected) ** 2)) <= noise * expected.std()
    shuffled = expected[np.random.default_rng(0).permutation(len(expected))]
    assert np.sqrt(np.mean((logits - shuffled) ** 2)) > 0.5 * expected.std(), "control: the bound tells images apart"


def test_the_ir_says_which_network_it_is(tmp_path: Path) -> None:
    import openvino

    exported = export_onnx(awkward_artifact(), dialect="fused")
    report = export_openvino(exported, tmp_path / "x.xml")
    assert report.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    network = openvino.Core().read_model(str(report.path))
    told = {
        name: network.get_rt_info(["geluless", name]).astype(str)
        for name in ("content_hash", "dialect", "variant", "inference_precision")
    }
    content_hash = exported.artifact.content_hash
    assert told == {"content_hash": content_hash, "dialect": "fused", "variant": "relu", "inference_precision": "f32"}


@pytest.mark.parametrize("relu", [True, False])
def test_the_report_says_which_layers_run_in_int8(relu: bool, tmp_path: Path) -> None:
    """int8 is the plugin's choice by processor; that the report finds every product, and the float head, is checked."""
    fusion = export_openvino(export_onnx(awkward_artifact(relu=relu), dialect="fused"), tmp_path / "x.xml").fusion
    assert len(fusion.gemms) == 18
    assert not fusion.unseen
    assert fusion.gemms[-1].role == "head"
    assert not fusion.gemms[-1].in_int8, "its input keeps 12 bits"
    assert fusion.in_int8 + len(fusion.missed) == 17
    assert fusion.activation == ("Relu" if relu else "Gelu")
    assert claim([fusion]).startswith("OpenVINO ")


def test_a_second_export_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path, images = tmp_path / "x.xml", awkward_images(2).numpy()
    export_openvino(export_onnx(awkward_artifact(relu=False), dialect="fused"), path)
    before = run(path, images)
    export_openvino(export_onnx(awkward_artifact(relu=True), dialect="fused"), path)
    assert not np.array_equal(run(path, images), before)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.bin", "x.xml"]


def test_an_ir_that_computes_something_else_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the check after writing: another network's weights, of the same shapes."""
    import openvino

    save, other = openvino.save_model, export_onnx(awkward_artifact(profile="ft1"), dialect="fused").model()

    def damaged(_network: Any, path: str, **options: Any) -> None:
        save(openvino.Core().read_model(other.SerializeToString()), path, **options)

    monkeypatch.setattr(openvino, "save_model", damaged)
    with pytest.raises(ExportError, match="other weights"):
        export_openvino(export_onnx(awkward_artifact(), dialect="fused"), tmp_path / "x.xml")
    assert not list(tmp_path.iterdir())


def test_what_openvino_cannot_read_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    class Broken(Exported):
        def model(self) -> Any:
            model = super().model()
            next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
            return model

    good = export_onnx(awkward_artifact(), dialect="fused")
    with pytest.raises(ExportError, match="Frobnicate"):
        export_openvino(Broken(good.artifact, good.dialect, good.variant, good.batch), tmp_path / "x.xml")
    with pytest.raises(ExportError, match=r"must end in \.xml"):
        export_openvino(good, tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingResource, match=r"geluless\[export\]"):
        openvino_ir.export_openvino(export_onnx(awkward_artifact(), dialect="fused"), tmp_path / "x.xml")


@pytest.mark.nightly
@pytest.mark.parametrize("relu", [True, False])
def test_every_product_of_a_whole_swin_t_is_found_in_what_openvino_runs(relu: bool, tmp_path: Path) -> None:
    """Fused layers get names of OpenVINO's own in large networks."""
    from geluless.bench.networks import random_artifact

    artifact = random_artifact("swin_tiny_patch4_window7_224", relu=relu)
    fusion = export_openvino(export_onnx(artifact, dialect="fused"), tmp_path / "t.xml").fusion
    assert len(fusion.gemms) == 52
    assert not fusion.unseen
    assert fusion.in_int8 + len(fusion.missed) == 51
