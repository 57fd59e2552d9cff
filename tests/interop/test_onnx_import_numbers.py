"""What the plan can express of other tools' grids, exactly: zero points, tables of the file's own activation, weights as they
are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import geluless
from geluless.integer import reference
from geluless.integer.artifact import Artifact
from geluless.integer.plan import Activation
from geluless.integer.schema import named_linears
from geluless.interop.onnx_import import ImportReport, Reason, import_onnx
from geluless.interop.onnx_import.geometry import grid_rows
from geluless.interop.onnx_import.import_log import ImportLog
from geluless.interop.onnx_import.importing import IMPORTED
from geluless.interop.onnx_import.interpreting import interpret
from geluless.interop.onnx_import.qparams import file_qparams
from geluless.interop.onnx_import.reading import read_file
from geluless.interop.onnx_import.recognition import recognise
from geluless.interop.onnx_import.swin import ReadSwin
from geluless.ptq.builder import Builder
from geluless.ptq.calibrate import observe
from geluless.ptq.folding import QuantParams
from geluless.ptq.overrides import QuantOverrides
from tests.support.networks import AWKWARD_INPUT, awkward_images, awkward_swin
from tests.support.onnx_import_ir import evaluated
from tests.support.qdq_files import MODELOPT, Convention, quantized_by_hand
from tests.support.qdq_models import by_onnxruntime, exported, prepare

ASYMMETRIC = Convention(symmetric=False, float_weights=False, stream=False)


@lru_cache(maxsize=4)
def quantized_file(convention: Convention = MODELOPT, *, relu: bool = False) -> bytes:
    raw = prepare(exported(awkward_swin(relu=relu), AWKWARD_INPUT))
    return quantized_by_hand(raw, awkward_images(16).numpy(), convention)


def imported(raw: bytes, folder: Path) -> tuple[Artifact, ImportReport]:
    path = folder / "network.onnx"
    path.write_bytes(raw)
    return import_onnx(path, batches=[awkward_images(16)], name="awkward")


def read(raw: bytes, folder: Path) -> tuple[ReadSwin, ImportLog]:
    path, log = folder / "network.onnx", ImportLog()
    path.write_bytes(raw)
    return recognise(interpret(read_file(path)), log), log


def traced(artifact: Artifact, image: NDArray[np.float32]) -> dict[str, NDArray[np.int32]]:
    found: dict[str, NDArray[np.int32]] = {}
    geluless.Engine(artifact).trace(image, lambda name, tensor: found.setdefault(name, np.array(tensor)))
    return found


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("convention", [MODELOPT, ASYMMETRIC, Convention(per_channel=False, float_weights=False)])
@pytest.mark.parametrize("relu", [False, True])
def test_weights_and_their_scales_are_those_of_the_file(convention: Convention, relu: bool, tmp_path: Path) -> None:
    """Integer by integer; the real size of an accumulator step is the file's input scale times the file's weight scale."""
    raw = quantized_file(convention, relu=relu)
    artifact, report = imported(raw, tmp_path)
    network, _ = read(raw, tmp_path)
    assert report.quantized_weights == ("head.fc",), "which the file keeps in float"
    for i, stage in enumerate(network.stages):
        for j, block in enumerate(stage.blocks):
            name, fc1 = f"layers.{i}.blocks.{j}.mlp.fc1", block.fc1
            assert fc1.weight.grid is not None
            assert fc1.input_grid is not None
            assert np.array_equal(artifact.tensors[f"{name}.weight"], fc1.weight.grid.steps)
            step = (fc1.input_grid.scale * fc1.weight.grid.scale[:, 0]).astype(np.float32)
            assert np.array_equal(artifact.tensors[f"{name}.accumulator_scale"], step)
            parts = {"attn.qkv": block.attention.qkv, "attn.proj": block.attention.proj, "mlp.fc2": block.fc2}
            for part, linear in parts.items():
                assert linear.weight.grid is not None
                assert np.array_equal(artifact.tensors[f"layers.{i}.blocks.{j}.{part}.weight"], linear.weight.grid.steps)


def test_weights_around_a_zero_point_are_quantized_again_and_said_to_be(tmp_path: Path) -> None:
    convention = Convention(weight_zero_points=True, float_weights=False)
    artifact, report = imported(quantized_file(convention), tmp_path)
    assert report.identical_weights == ()
    reasons = {change.tensor: change.reason for change in report.changes}
    assert reasons["layers.0.blocks.0.attn.qkv"] is Reason.WEIGHT_ZERO_POINT
    assert {name for name, _ in named_linears(artifact.plan)} == set(report.quantized_weights)


# ------------------------------------------------------------------------------------------------- activations: grids


@pytest.mark.parametrize("convention", [MODELOPT, ASYMMETRIC])
def test_the_first_norms_integers_are_the_files(convention: Convention, tmp_path: Path) -> None:
    """Before any rounding has differed: norm1 of the first block, zero point included, but for values on ties."""
    raw = quantized_file(Convention(**{**vars(convention), "stream": False}))
    artifact, _ = imported(raw, tmp_path)
    network, log = read(raw, tmp_path)
    rounding = log.kept["layers.0.blocks.0.norm1:out"]
    pixels = awkward_images(4, seed=9).numpy()
    values = evaluated(rounding, pixels)[rounding]
    side = file_qparams(network, ImportLog())["layers.0.blocks.0.norm1:out"]
    assert (side.zero_point == 0) == convention.symmetric
    theirs = np.rint(values / side.scale) + side.zero_point
    ours = np.concatenate([traced(artifact, pixel[None])["layers.0.blocks.0.norm1"] for pixel in pixels])
    different = np.abs(ours.reshape(-1) - _on_the_grid(theirs, network))
    assert different.max() <= 1
    assert (different > 0).mean() < 0.02


def _on_the_grid(windows: NDArray[np.float64], network: ReadSwin) -> NDArray[np.float64]:
    """[B, windows * tokens, C] of the first block in the order of the token grid."""
    attention = network.stages[0].blocks[0].attention
    rows = windows.reshape(len(windows), -1, windows.shape[-1])
    if rows.shape[1] == np.prod(network.stages[0].size):
        return rows.reshape(-1)
    return rows[:, grid_rows(network.stages[0].size, attention.window, attention.shift)].reshape(-1)


def test_the_zero_point_of_a_context_moves_its_integers_and_nothing_else() -> None:
    """v carries it: where its own step divides the zero point, every context is the one without, plus the zero point."""
    model, name = awkward_swin(relu=True), "layers.0.blocks.0.attn"
    seen = observe(model, [awkward_images(16)])
    step, shift = seen["layers.0.blocks.0.attn.proj:in"].symmetric(IMPORTED.range_rule) / 60, 20
    artifacts = []
    for zero in (0, shift):
        qparams = {f"{name}.proj:in": QuantParams(step, zero, -128, 127), f"{name}.qkv:v": QuantParams(4 * step, 0, -128, 127)}
        artifacts.append(Builder(model, seen, IMPORTED, Activation.RELU, QuantOverrides(qparams=qparams)).build("awkward", {}))
    without, moved = (traced(artifact, awkward_images(1, seed=4).numpy()) for artifact in artifacts)
    context = without[f"{name}.context"]
    assert np.abs(context).max() < 127 - shift, "nothing is clipped"
    values = [_values(artifact, without["layers.0.blocks.0.norm1"], name) for artifact in artifacts]
    steps = values[1] - values[0]
    exact = (steps == shift // 4).mean()
    assert np.abs(steps - shift // 4).max() <= 1
    assert exact > 0.95, "v is rounded twice: a few in a hundred lie on a tie and fall to its other side"
    difference = moved[f"{name}.context"] - context
    assert np.abs(difference - shift).max() <= 4, "such a v is four steps of the context"
    # A context is a mean of sixteen v: one on the other side moves it by a quarter of a step and turns every fourth rounding.
    assert (difference == shift).mean() > 1 - 16 * (1 - exact) / 4 - 0.02
    after = "layers.0.blocks.0"
    assert np.abs(moved[after] - without[after]).max() < 0.05 * np.abs(without[after]).max()


def _values(artifact: Artifact, x: NDArray[np.int32], name: str) -> NDArray[np.int32]:
    """v of the first block, int32 [tokens, C], from its input."""
    channels = x.shape[-1]
    qkv = artifact.plan.stages[0].blocks[0].qkv
    return reference.linear(x.reshape(-1, channels).astype(np.int32), f"{name}.qkv", qkv, artifact.tensors)[:, 2 * channels :]


def test_a_zero_point_of_k_does_not_change_attention() -> None:
    model, name = awkward_swin(relu=True), "layers.1.blocks.1.attn"
    seen = observe(model, [awkward_images(16)])
    step = seen.ranges[f"{name}.qkv:k"].symmetric(IMPORTED.range_rule) / 80
    logits = []
    for zero in (0, 30, -30):
        given = QuantOverrides(qparams={f"{name}.qkv:k": QuantParams(step, zero, -128, 127)})
        artifact = Builder(model, seen, IMPORTED, Activation.RELU, given).build("awkward", {})
        logits.append(geluless.Engine(artifact)(awkward_images(8, seed=6)))
    spread = np.square(logits[0] - logits[0].mean(0)).mean()
    assert all(np.square(other - logits[0]).mean() < 1e-3 * spread for other in logits[1:])


# ------------------------------------------------------------------------------------------------ the file's own GELU


@pytest.mark.slow
def test_the_table_is_the_files_own_gelu_with_all_its_roundings(tmp_path: Path) -> None:
    """ONNX Runtime quantizes every step of a GELU in pieces: its 256 results, run there, are the 256 entries of the table."""
    import onnxruntime

    raw = by_onnxruntime(relu=False, signed=True, per_channel=True)
    path = tmp_path / "network.onnx"
    path.write_bytes(raw)
    artifact, _ = import_onnx(path)
    network, log = read(raw, tmp_path)
    name = "layers.2.blocks.1.mlp"
    nodes = {node.name: node for node in onnx.load_from_string(raw).graph.node}
    first, last = (nodes[log.kept[f"{name}.{tensor}"].where].output[0] for tensor in ("fc1:out", "fc2:in"))
    piece = onnx.utils.Extractor(_typed(onnx.load_from_string(raw), first, last)).extract_model([first], [last])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(piece.SerializeToString(), options, providers=["CPUExecutionProvider"])
    hidden = network.stages[2].blocks[1].fc1.weight.values.shape[0]
    steps = np.broadcast_to(np.arange(-128, 128, dtype=np.int8)[:, None], (256, hidden))
    (results,) = session.run(None, {first: steps[None]})
    assert np.array_equal(artifact.tensors[f"{name}.table"], results[0, :, 0].astype(np.int16) + 128)


def _typed(model: onnx.ModelProto, first: str, last: str) -> onnx.ModelProto:
    """The extractor wants to know the types of the ends."""
    for name in (first, last):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    return model


def test_the_engines_agree_on_an_imported_network(tmp_path: Path) -> None:
    """Zero points and an affine last norm are new to them: the compiled engine must give the reference's bits all the same."""
    for relu in (False, True):
        artifact, _ = imported(quantized_file(ASYMMETRIC, relu=relu), tmp_path)
        pixels = awkward_images(16, seed=8)
        assert np.array_equal(geluless.Engine(artifact, backend="cpu")(pixels), geluless.Engine(artifact)(pixels))


def test_an_imported_artifact_survives_the_disk(tmp_path: Path) -> None:
    artifact, _ = imported(quantized_file(ASYMMETRIC), tmp_path)
    loaded = geluless.load_artifact(artifact.save(tmp_path / "network.int8.safetensors"))
    assert loaded.content_hash == artifact.content_hash
    assert loaded.plan.profile == "imported"
    assert set(loaded.plan.parents) == {"onnx", "calibration", "calibration_images"}
