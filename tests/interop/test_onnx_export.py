"""Exported ONNX files: the reference's bits in ONNX Runtime, bounded steps elsewhere, and back to the same artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from geluless import Engine
from geluless.errors import ArtifactError, VariantError
from geluless.integer.artifact import Artifact
from geluless.integer.variants import available_variants
from geluless.interop.compare import compare_layers
from geluless.interop.onnx_export import Dialect, Exported, export_onnx, import_own
from geluless.interop.onnx_export.exported import EXPRESSIBLE, PLAN_KEY
from geluless.interop.runtimes import run_onnxruntime, run_openvino
from geluless.ptq.profiles import PROFILES
from tests.support.networks import awkward_artifact, awkward_images
from tests.support.vnni import needs_vnni

# gelu-fused and gelu-separate take erf and tanh from the runtime: a hidden value on a tie may fall to its other side.
FLOAT_VARIANTS = ("gelu-fused", "gelu-separate")


def artifacts() -> list[Artifact]:
    """Every profile and activation, fc1 without bias too."""
    made = [awkward_artifact(relu=relu, profile=profile) for relu in (True, False) for profile in PROFILES]
    return [*made, awkward_artifact(relu=True, drop_bias=True)]


def exports(dialect: Dialect) -> list[Exported]:
    return [
        export_onnx(artifact, dialect=dialect, variant=variant)
        for artifact in artifacts()
        for variant in available_variants(artifact.plan)
        if variant in EXPRESSIBLE[artifact.plan.activation]
    ]


def named(exported: Exported) -> str:
    plan = exported.artifact.plan
    bias = "" if plan.stages[0].blocks[0].mlp.has_bias else " without bias"
    return f"{plan.profile} {exported.variant}{bias}"


def images(count: int = 3) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = awkward_images(count).numpy()
    return pixels


@pytest.mark.parametrize("exported", [e for e in exports(Dialect.EXACT) if e.variant not in FLOAT_VARIANTS], ids=named)
def test_an_exact_file_gives_the_bits_of_the_reference(exported: Exported) -> None:
    result = compare_layers(exported, images(), run_onnxruntime)
    assert result.first is None
    assert np.array_equal(result.logits, result.expected)


@pytest.mark.parametrize("exported", [e for e in exports(Dialect.EXACT) if e.variant in FLOAT_VARIANTS], ids=named)
def test_an_exact_file_with_a_float_gelu_moves_hidden_values_on_ties_alone(exported: Exported) -> None:
    result = compare_layers(exported, images(), run_onnxruntime, isolated=True)
    for layer in result.layers:
        allowed = 1e-3 * layer.values if layer.name.endswith(".hidden") else 0
        assert layer.moved <= allowed
        assert layer.largest <= 1


@pytest.mark.parametrize("dialect", [Dialect.EXACT, Dialect.FUSED])
@pytest.mark.parametrize("runtime", [run_onnxruntime, pytest.param(run_openvino, marks=needs_vnni)])
@pytest.mark.parametrize("relu", [True, False])
def test_every_layer_by_itself_keeps_within_the_stated_steps(relu: bool, runtime: object, dialect: Dialect) -> None:
    """The bounds of impl/geluless/interop/README.md: three 8-bit steps (softmax without its table), sixteen of the 16-bit stream
    (one step of an 8-bit tensor that the reference does not name, times a weight)."""
    exported = export_onnx(awkward_artifact(relu=relu), dialect=dialect)
    for layer in compare_layers(exported, images(), runtime, isolated=True).layers:  # type: ignore[arg-type]
        eight_bits = layer.name.endswith((".norm1", ".norm2", ".context", ".hidden"))
        if dialect is Dialect.EXACT:
            assert layer.largest <= 1
            assert layer.moved <= max(1, 1e-4 * layer.values)
        else:
            assert layer.largest <= (3 if eight_bits else 16), layer


@pytest.mark.parametrize("exported", exports(Dialect.FUSED) + exports(Dialect.TENSORRT), ids=lambda e: f"{e.dialect} {named(e)}")
def test_files_with_real_scales_predict_what_the_reference_predicts(exported: Exported) -> None:
    """Logits within the noise of 8-bit rounding: far less than between two images."""
    pixels = images(16)
    got = run_onnxruntime(exported.model(), {"images": pixels}, ["logits"])["logits"]
    expected = Engine(exported.artifact, variant=exported.variant)(pixels)
    noise = 0.25 if exported.dialect is Dialect.TENSORRT else 0.15
    assert np.sqrt(np.mean((got - expected) ** 2)) <= noise * expected.std()


def test_one_changed_weight_is_seen_in_the_layer_that_holds_it() -> None:
    """Negative control of the comparison: it names the first layer that differs, and only that one when isolated."""
    exported = export_onnx(awkward_artifact(), dialect="exact")

    def broken(model: onnx.ModelProto, feeds: dict, outputs: list) -> dict:
        (weight,) = (t for t in model.graph.initializer if t.name == "layers.1.blocks.0.attn.proj.weight")
        values = onnx.numpy_helper.to_array(weight).copy()
        values[:, 0] = 100
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return run_onnxruntime(model, feeds, outputs)

    cascading = compare_layers(exported, images(), broken)  # type: ignore[arg-type]
    assert cascading.first is not None
    assert cascading.first.name == "layers.1.blocks.0.norm2"  # what follows the residual sum
    isolated = compare_layers(exported, images(), broken, isolated=True)  # type: ignore[arg-type]
    moved = [layer.name for layer in isolated.layers if layer.moved]
    # The sum behind proj has no name of its own in the reference: norm2 and the block's end are the two that read it.
    assert moved == ["layers.1.blocks.0.norm2", "layers.1.blocks.0"]


# ---------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("artifact", artifacts(), ids=lambda a: f"{a.plan.profile} {a.activation}")
def test_a_round_trip_keeps_the_content_hash(artifact: Artifact, dialect: Dialect, tmp_path: Path) -> None:
    export_onnx(artifact, dialect=dialect).save(tmp_path / "a.onnx")
    back = import_own(tmp_path / "a.onnx")
    assert back.artifact.content_hash == artifact.content_hash
    assert back.dialect is dialect


def test_equal_artifacts_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(awkward_artifact(), dialect="fused").save(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def saved(tmp_path: Path, dialect: str = "fused") -> onnx.ModelProto:
    return onnx.load(export_onnx(awkward_artifact(), dialect=dialect).save(tmp_path / "a.onnx"))


def refused(model: onnx.ModelProto, tmp_path: Path, message: str) -> None:
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=message):
        import_own(path)


def test_a_changed_weight_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    (weight,) = (t for t in model.graph.initializer if t.name == "layers.0.blocks.0.mlp.fc1.weight")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    refused(model, tmp_path, "content hash")


def test_a_changed_scale_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    (scale,) = (t for t in model.graph.initializer if t.name == "layers.0.blocks.0.norm1/scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(2) * onnx.numpy_helper.to_array(scale), scale.name))
    refused(model, tmp_path, "initializer 'layers.0.blocks.0.norm1/scale' was changed")


def test_a_changed_node_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"
    refused(model, tmp_path, "relu' was changed")


def test_a_missing_initializer_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    del model.graph.initializer[[t.name for t in model.graph.initializer].index("head.fc.weight")]
    refused(model, tmp_path, "head.fc.weight is missing")


def test_an_added_node_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["more"], name="more"))
    refused(model, tmp_path, "node 'more' was added")


@pytest.mark.parametrize("damage", ["not json", "[]", '{"format": 2}', '{"format": 1, "plan": {}}'])
def test_damaged_metadata_is_refused(damage: str, tmp_path: Path) -> None:
    model = saved(tmp_path)
    next(entry for entry in model.metadata_props if entry.key == PLAN_KEY).value = damage
    refused(model, tmp_path, "refused")


def test_another_batch_in_the_metadata_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path)
    entry = next(entry for entry in model.metadata_props if entry.key == PLAN_KEY)
    entry.value = json.dumps(json.loads(entry.value) | {"batch": 4})
    refused(model, tmp_path, "was changed")


def test_weights_in_another_file_are_not_followed(tmp_path: Path) -> None:
    model = saved(tmp_path)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refused(model, tmp_path, "lies in another file")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        import_own(tmp_path / "a.onnx")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    raw = export_onnx(awkward_artifact()).save(tmp_path / "a.onnx").read_bytes()
    for size in range(0, len(raw), len(raw) // 40):
        (tmp_path / "cut.onnx").write_bytes(raw[:size])
        with pytest.raises(ArtifactError):
            import_own(tmp_path / "cut.onnx")


def test_variants_without_operators_are_refused() -> None:
    with pytest.raises(VariantError, match="gelu-poly has no ONNX operators"):
        export_onnx(awkward_artifact(relu=False), variant="gelu-poly")
    with pytest.raises(VariantError, match="does not fit"):
        export_onnx(awkward_artifact(relu=True), variant="gelu-lut")


def test_a_fixed_batch_is_in_the_signature() -> None:
    graph = export_onnx(awkward_artifact(), batch=5).model().graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5
    got = run_onnxruntime(export_onnx(awkward_artifact(), batch=5).model(), {"images": images(5)}, ["logits"])
    assert np.array_equal(got["logits"], Engine(awkward_artifact())(images(5)))


def test_tensorrt_gets_signed_bytes_only() -> None:
    """What TensorRT documents: QuantizeLinear to int8 with zero point 0, one scale per activation."""
    graph = export_onnx(awkward_artifact(), dialect="tensorrt").model().graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert tensors[node.input[2]].dtype == np.int8
            assert not tensors[node.input[2]].any()
        if node.op_type == "QuantizeLinear":
            assert tensors[node.input[1]].ndim == 0


@pytest.mark.parametrize("dialect", list(Dialect))
def test_polygraphy_finds_nothing_to_lint(dialect: Dialect, tmp_path: Path) -> None:
    path = export_onnx(awkward_artifact(), dialect=dialect).save(tmp_path / "a.onnx")
    command = [Path(sys.executable).with_name("polygraphy"), "check", "lint", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
