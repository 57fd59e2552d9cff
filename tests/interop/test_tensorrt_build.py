"""Real builds, ahead of time for sm_89, for which TensorRT-RTX needs no GPU: what it made of each layer, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("tensorrt_rtx", reason="these builds need TensorRT-RTX: pip install 'geluless[tensorrt-rtx]'")

from geluless.errors import ExportError, MissingResource
from geluless.integer.plan import Plan
from geluless.interop.fusion import FusionReport, Placement, claim
from geluless.interop.onnx_export import Exported, export_onnx
from geluless.interop.tensorrt import BuildReport, Flavour, Settings, build, library
from geluless.ptq.profiles import PROFILES
from tests.support.networks import awkward_artifact

ACTIVATIONS = {True: ("Relu", "Relu"), False: ("Gelu", "Erf")}  # by relu: the operator, and one that its kernel must name


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BuildReport]:
    """Builds by (relu, batch), each made once."""
    folder = tmp_path_factory.mktemp("engines")

    @cache
    def engine(relu: bool, batch: int | None) -> BuildReport:
        return build(exported(relu=relu, batch=batch), folder / f"{relu}_{batch}.engine")

    return engine


def exported(*, relu: bool = True, batch: int | None = 1, dialect: str = "tensorrt") -> Exported:
    return export_onnx(awkward_artifact(relu=relu), dialect=dialect, batch=batch)


def int8_products(plan: Plan) -> int:
    """qkv, proj, fc1 and fc2 of every block, reduction of every merge; the head's input keeps 12 bits."""
    return sum(4 * len(stage.blocks) + (stage.merge is not None) for stage in plan.stages)


def fusion_of(report: BuildReport) -> FusionReport:
    assert report.fusion is not None
    return report.fusion


# --------------------------------------------------------------------------------------------------------- fusion report


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize("relu", [True, False])
def test_every_quantized_product_of_the_plan_runs_in_int8(
    engines: Callable[..., BuildReport], relu: bool, batch: int | None
) -> None:
    plan, fusion = awkward_artifact(relu=relu).plan, fusion_of(engines(relu, batch))
    assert fusion.in_int8 == int8_products(plan)
    assert not fusion.missed
    assert not fusion.unseen
    assert [gemm.place for gemm in fusion.gemms if not gemm.in_int8] == ["head.fc"]
    assert {gemm.kind for gemm in fusion.gemms if gemm.in_int8} == {"gemm"}
    assert fusion.source == "build log"
    assert fusion.target == "sm_89"


@pytest.mark.parametrize("relu", [True, False])
def test_the_activation_is_found_behind_every_fc1(engines: Callable[..., BuildReport], relu: bool) -> None:
    """Fused or in a kernel of its own is TensorRT's choice; that it is the right operator is checked either way."""
    fusion, (operator, operation) = fusion_of(engines(relu, 1)), ACTIVATIONS[relu]
    assert fusion.activation == operator
    blocks = sum(len(stage.blocks) for stage in awkward_artifact(relu=relu).plan.stages)
    assert fusion.activations(Placement.FUSED) + fusion.activations(Placement.SEPARATE) == blocks
    for gemm in fusion.gemms:
        assert (gemm.role == "fc1") == (gemm.activation is not None)
        if gemm.placement is Placement.SEPARATE:
            assert operation in gemm.operations
            assert gemm.output != "int8", "control: an int8 result leaves nothing to a kernel between fc1 and fc2"
        if gemm.placement is Placement.FUSED:
            assert operator in gemm.fused


def test_the_sentence_and_the_table_come_from_the_report(engines: Callable[..., BuildReport]) -> None:
    reports = [fusion_of(engines(relu, 1)) for relu in (True, False)]
    words = claim(reports)
    assert words.startswith("TensorRT-RTX 1.")
    assert "17 of 18 GEMMs in int8" in words
    for report in reports:
        assert (
            f"{report.activation} (variant {report.variant}) is fused into fc1 in {report.activations(Placement.FUSED)} of 4"
            in words
        )
        counts = [int(row.split(" x ")[0]) for row in list(report.rows())[1:]]
        assert sum(counts) == len(report.gemms)
        data = json.loads(json.dumps(report.data(), allow_nan=False))
        assert data["summary"]["in_int8"] == 17
        assert len(data["gemms"]) == 18


class Tampered(Exported):
    """An export whose file differs from what the artifact says."""

    change: Callable[[onnx.ModelProto], object]

    def model(self) -> onnx.ModelProto:
        model = super().model()
        type(self).change(model)
        return model


def tampered(change: Callable[[onnx.ModelProto], object], good: Exported | None = None) -> Exported:
    kind = type("Changed", (Tampered,), {"change": staticmethod(change)})
    good = good or exported()
    made: Exported = kind(good.artifact, good.dialect, good.variant, good.batch)
    return made


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def without_pairs(place: str) -> Callable[[onnx.ModelProto], None]:
    """The same layer on float factors."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        makers = {output: node for node in graph.node for output in node.output}
        product = next(node for node in graph.node if node.name == f"{place}/product")
        of_input, of_weight = makers[product.input[0]], makers[product.input[1]]
        weight, scale = (initializer(model, name) for name in of_weight.input[:2])
        real = numpy_helper.to_array(weight).astype(np.float32) * numpy_helper.to_array(scale)
        weight.CopyFrom(numpy_helper.from_array(real, weight.name))
        quantizer = makers[of_input.input[0]]
        product.input[:] = [quantizer.input[0], weight.name]
        for node in (of_input, of_weight, quantizer):
            graph.node.remove(node)

    return change


@pytest.mark.parametrize("place", ["layers.0.blocks.1.mlp.fc2", "layers.1.downsample.reduction"])
def test_a_layer_without_its_pairs_is_reported_as_not_int8_and_no_other(place: str, tmp_path: Path) -> None:
    """Negative control of the whole report."""
    fusion = fusion_of(build(tampered(without_pairs(place)), tmp_path / "x.engine"))
    (found,) = (gemm for gemm in fusion.gemms if gemm.place == place)
    assert not found.quantized
    assert found.precision == "float"
    assert {gemm.place for gemm in fusion.gemms if not gemm.in_int8} == {place, "head.fc"}


def test_a_layer_whose_input_alone_lost_its_pair_is_missed_nowhere_but_not_int8(tmp_path: Path) -> None:
    place = "layers.0.blocks.0.mlp.fc2"

    def change(model: onnx.ModelProto) -> None:
        makers = {output: node for node in model.graph.node for output in node.output}
        product = next(node for node in model.graph.node if node.name == f"{place}/product")
        dequantizer = makers[product.input[0]]
        quantizer = makers[dequantizer.input[0]]
        product.input[0] = quantizer.input[0]
        for node in (dequantizer, quantizer):
            model.graph.node.remove(node)

    fusion = fusion_of(build(tampered(change), tmp_path / "x.engine"))
    assert {gemm.place for gemm in fusion.gemms if not gemm.in_int8} == {place, "head.fc"}


@pytest.mark.parametrize("relu", [True, False])
def test_what_tensorrt_fuses_is_reported_as_fused(relu: bool, tmp_path: Path) -> None:
    """Positive control on real engines. With one scale per weight and no bias, which is what our exporter writes where it can,
    ReLU disappears into fc1's product, and GELU does not."""
    profile = replace(PROFILES["per-channel"], per_channel_weights=False, fold_norms=False)
    good = export_onnx(awkward_artifact(relu=relu, profile=profile, drop_bias=relu), dialect="tensorrt", batch=1)
    fusion = fusion_of(build(good, tmp_path / "x.engine"))
    for gemm in fusion.gemms:
        if gemm.placement is Placement.FUSED:
            assert (gemm.output, gemm.follower, gemm.fused) == ("int8", None, ("Relu", "QuantizeLinear"))
    assert fusion.activations(Placement.FUSED) + fusion.activations(Placement.SEPARATE) == 4
    if fusion.runtime.startswith("TensorRT-RTX 1.7."):  # a later one may choose otherwise
        assert fusion.activations(Placement.FUSED) == (4 if relu else 0)


# --------------------------------------------------------------------------------------------------------------- refusals


def unknown_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"


def zero_point(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "layers.0.blocks.0.norm1/zero_point")
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(np.int8(3)), tensor.name))


def cut_weight(model: onnx.ModelProto) -> None:
    tensor = initializer(model, "layers.0.blocks.0.mlp.fc1.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1], tensor.name))


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (unknown_operator, "layers.0.blocks.0.mlp/relu (Frobnicate)"),
        (zero_point, "layers.0.blocks.0.norm1 (QuantizeLinear)"),
        (cut_weight, "layers.0.blocks.0.mlp.fc1/product (MatMul)"),
        (no_nodes, "the file"),
    ],
)
def test_a_damaged_file_is_refused_with_the_node(change: Callable[[onnx.ModelProto], object], named: str, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with pytest.raises(ExportError) as refusal:
        build(tampered(change), path)
    assert named in str(refusal.value)
    assert not list(tmp_path.glob("*x.engine*")), "nothing is left, no partial file either"


def test_what_does_not_fit_together_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with pytest.raises(ExportError, match="dialect 'tensorrt'"):
        build(exported(dialect="fused"), path)
    with pytest.raises(ExportError, match="batches of 1 alone"):
        build(exported(), path, settings=Settings(batches=(1, 2, 4)))
    with pytest.raises(ExportError, match="fewest"):
        Settings(batches=(4, 2, 8))
    with pytest.raises(ExportError, match="level"):
        Settings(level=6)
    with pytest.raises(ExportError, match="MiB"):
        Settings(workspace_mib=0)
    with pytest.raises(ExportError, match="sm_89"):
        build(exported(), path, arch="sm_13")
    with pytest.raises(ExportError, match="tensorrt-rtx"):
        build(exported(), path, flavour="trt")
    with pytest.raises(MissingResource, match=r"geluless\[tensorrt-rtx\]"):
        build(exported(), path, flavour="tensorrt", arch="sm_89")
    assert not path.exists()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(library.importlib, "import_module", nothing)
    for flavour in Flavour:
        with pytest.raises(MissingResource, match=rf"pip install 'geluless\[{flavour}\]'"):
            library.load(flavour)


# ------------------------------------------------------------------------------------------------------------- full size


@pytest.mark.nightly
@pytest.mark.parametrize("relu", [True, False])
def test_a_whole_swin_t_builds_with_every_quantized_product_in_int8(relu: bool, tmp_path: Path) -> None:
    from geluless.bench.networks import random_artifact

    artifact = random_artifact("swin_tiny_patch4_window7_224", relu=relu)
    report = build(export_onnx(artifact, dialect="tensorrt", batch=1), tmp_path / "t.engine")
    fusion = fusion_of(report)
    assert fusion.in_int8 == int8_products(artifact.plan) == 51
    assert len(fusion.gemms) == 52
    assert fusion.activations(Placement.FUSED) + fusion.activations(Placement.SEPARATE) == 12
