"""Damaged and forged ONNX files: each is refused by name, none raises errors of numpy or onnx, none leads out of its folder."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from geluless.errors import ArtifactError, CalibrationError
from geluless.interop.onnx_import import import_onnx
from geluless.interop.onnx_import.reading import MAX_ELEMENTS
from tests.support.networks import AWKWARD_INPUT, awkward_images, awkward_swin
from tests.support.qdq_files import Convention, quantized_by_hand
from tests.support.qdq_models import exported, prepare


@lru_cache(maxsize=1)
def good_file() -> bytes:
    raw = prepare(exported(awkward_swin(), AWKWARD_INPUT))
    return quantized_by_hand(raw, awkward_images(8).numpy(), Convention(float_weights=False, symmetric=False))


def good_model() -> onnx.ModelProto:
    return onnx.load_from_string(good_file())


def refused(model: onnx.ModelProto | bytes, folder: Path, message: str) -> None:
    path = folder / "network.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(ArtifactError, match=message) as caught:
        import_onnx(path, batches=[awkward_images(2)])
    assert str(path) in str(caught.value)


def first(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def rewrite(model: onnx.ModelProto, name: str, values: NDArray) -> None:
    constant(model, name).CopyFrom(numpy_helper.from_array(values, name))


# ------------------------------------------------------------------------------------------------------ the container


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model at all", b"\x08\xff\xff\xff\xff\xff"])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path, "no ONNX model|0 nodes|is it an ONNX model")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    refused(good_file()[: int(share * len(good_file()))], tmp_path, "cut off|0 nodes|its shape needs|which nothing computes")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            import_onnx(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "folder/secret", "..\\secret", "link", ""])
def test_external_data_never_leads_out_of_the_folder(location: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "secret", tmp_path / "inside"
    inside.mkdir()
    outside.write_bytes(bytes(1 << 16))
    (inside / "link").symlink_to(outside)
    model = good_model()
    tensor = constant(model, first(model, "DequantizeLinear").input[1])
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    refused(model, inside, "out of its folder|outside of its folder")


@pytest.mark.parametrize(("offset", "length"), [(-4, None), (1 << 40, None), (0, 1), (0, 1 << 40)])
def test_external_data_outside_of_its_file_is_refused(offset: int, length: int | None, tmp_path: Path) -> None:
    model = _with_external_data(tmp_path, offset=offset, length=length)
    refused(model, tmp_path, "does not fit into 'weights.bin'")


def test_external_data_in_the_same_folder_is_read(tmp_path: Path) -> None:
    model = _with_external_data(tmp_path, offset=0, length=None)
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "whole.onnx").write_bytes(good_file())
    apart, _ = import_onnx(tmp_path / "network.onnx", batches=[awkward_images(2)])
    whole, _ = import_onnx(tmp_path / "whole.onnx", batches=[awkward_images(2)])
    assert all(np.array_equal(tensor, apart.tensors[name]) for name, tensor in whole.tensors.items())
    assert apart.plan.parents["onnx"] != whole.plan.parents["onnx"]


def _with_external_data(folder: Path, *, offset: int, length: int | None) -> onnx.ModelProto:
    model = good_model()
    name = next(node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and "quantized" in node.input[0])
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.INT8)
    assert name
    values = numpy_helper.to_array(tensor)
    (folder / "weights.bin").write_bytes(values.tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.external_data.add(key="offset", value=str(offset))
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))
    return model


# ---------------------------------------------------------------------------------------------------------- the graph


def cycle(model: onnx.ModelProto) -> None:
    first(model, "MatMul").input[0] = model.graph.node[-1].output[0]


def unknown_operation(model: onnx.ModelProto) -> None:
    first(model, "Softmax").op_type = "Hardmax"


def operation_of_another_domain(model: onnx.ModelProto) -> None:
    first(model, "Softmax").domain = "com.example"


def missing_value(model: onnx.ModelProto) -> None:
    first(model, "Softmax").input[0] = "nobody"


def twice_defined(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["image"], [first(model, "Softmax").output[0]]))


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, [1]))


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def free_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9


def sub_graph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["image"], ["unused"], "branch", then_branch=body, else_branch=body))


def giant_constant(model: onnx.ModelProto) -> None:
    node = helper.make_node("ConstantOfShape", ["giant_shape"], ["giant"], "giant_node")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "giant_shape"))
    model.graph.node.append(node)


def giant_shape(model: onnx.ModelProto) -> None:
    tensor = constant(model, first(model, "DequantizeLinear").input[1])
    del tensor.dims[:]
    tensor.dims.extend([1 << 31, 1 << 31])


def negative_shape(model: onnx.ModelProto) -> None:
    tensor = constant(model, first(model, "DequantizeLinear").input[1])
    del tensor.dims[:]
    tensor.dims.extend([-1])


def wrong_reshape(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Reshape")
    rewrite(model, node.input[1], np.array([-1, 5], np.int64))


def wrong_permutation(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Transpose" and len(node.attribute[0].ints) == 6)
    node.attribute[0].CopyFrom(helper.make_attribute("perm", [0, 3, 1, 2, 4, 5]))


def giant_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([40000, 3, 22, 36], np.int64), "many"))
    model.graph.node.append(helper.make_node("Expand", ["image", "many"], ["giant"], "giant_node"))


def unhandled_output(model: onnx.ModelProto) -> None:
    node = first(model, "LayerNormalization")
    node.output.append("its_mean")
    model.graph.node.append(helper.make_node("Identity", ["its_mean"], ["copy"], "reader"))


def text_for_numbers(model: onnx.ModelProto) -> None:
    first(model, "Transpose").attribute[0].CopyFrom(helper.make_attribute("perm", "many"))


GRAPHS: dict[Callable[[onnx.ModelProto], None], str] = {
    cycle: "the graph has a cycle",
    unknown_operation: "Hardmax .* is an operation that no Swin needs",
    operation_of_another_domain: "com.example::Softmax .* is an operation that no Swin needs",
    missing_value: "reads 'nobody', which nothing computes",
    twice_defined: "which exists already",
    two_inputs: "has 2 inputs",
    fixed_batch: "batch size is fixed to 8",
    free_height: "image size of its input 'image' is not fixed",
    old_opset: r"opset is \[9\]",
    sub_graph: "If 'branch' has an attribute 'else_branch' that no Swin needs|If 'branch' has an attribute 'then_branch'",
    giant_constant: f"'giant_node' makes a tensor of more than {MAX_ELEMENTS:,} elements",
    giant_shape: "more than .* elements",
    giant_tensor: "'giant_node'.* (elements|exceed all bounds)",
    unhandled_output: "Identity 'reader' reads 'its_mean', an output that is not handled",
    negative_shape: r"has the shape \[-1\]",
    wrong_reshape: "Reshape .* is malformed|channels are taken apart|is this a Swin",
    wrong_permutation: "is this a Swin|is it a Swin|taken apart",
    text_for_numbers: "Transpose .* is malformed",
}


@pytest.mark.parametrize("change", GRAPHS, ids=lambda change: change.__name__)
def test_a_forged_graph_is_refused_by_name(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = good_model()
    change(model)
    refused(model, tmp_path, GRAPHS[change])


# -------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30])
@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_a_scale_that_is_none_is_refused(value: float, op: str, tmp_path: Path) -> None:
    model = good_model()
    name = first(model, op).input[1]
    values = numpy_helper.to_array(constant(model, name)).copy()
    values.reshape(-1)[0] = value
    rewrite(model, name, values)
    refused(model, tmp_path, "has the scale .*: scales are positive numbers of sane size")


def test_scales_that_do_not_fit_their_weight_are_refused(tmp_path: Path) -> None:
    model = good_model()
    scales = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    rewrite(model, next(name for name in scales if len(constant(model, name).dims) == 1), np.ones(5, np.float32))
    refused(model, tmp_path, r"has \[5\] scales or zero points for")


def test_activations_per_channel_are_refused(tmp_path: Path) -> None:
    model = good_model()
    node = first(model, "QuantizeLinear")
    rewrite(model, node.input[1], np.ones(3, np.float32))
    refused(model, tmp_path, "3 scales for one activation: quantize activations per tensor")


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_sixteen_bit_activations_are_refused(dtype: type, tmp_path: Path) -> None:
    model = good_model()
    rewrite(model, first(model, "QuantizeLinear").input[2], np.zeros((), dtype))
    refused(model, tmp_path, "quantize to 8 bits|quantize them to 8 bits")


@pytest.mark.parametrize("what", ["LayerNormalization", "MatMul"])
def test_parameters_that_are_not_finite_are_refused(what: str, tmp_path: Path) -> None:
    model = good_model()
    if what == "LayerNormalization":
        name = first(model, what).input[1]
    else:
        names = {tensor.name for tensor in model.graph.initializer}
        name = next(
            node.input[at] for node in model.graph.node if node.op_type == "Add" for at in (0, 1) if node.input[at] in names
        )
    values = numpy_helper.to_array(constant(model, name)).copy()
    values.reshape(-1)[0] = np.nan
    rewrite(model, name, values)
    refused(model, tmp_path, "NaN or infinite|is it a Swin|is this a Swin|mask")


def test_quantizer_and_dequantizer_must_agree(tmp_path: Path) -> None:
    model = good_model()
    live = first(model, "QuantizeLinear")
    reader = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == live.output[0])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "another_scale"))
    reader.input[1] = "another_scale"
    refused(model, tmp_path, "with another scale or zero point than wrote them")


# ------------------------------------------------------------------------------------------------------------ fuzzing


def mutated(seed: int) -> bytes:
    """The good file with one to three random changes of its structure or its numbers."""
    rng, model = random.Random(seed), good_model()
    for _ in range(rng.randint(1, 3)):
        node, tensor = rng.choice(model.graph.node), rng.choice(model.graph.initializer)
        match rng.randrange(9):
            case 0:
                node.op_type = rng.choice(model.graph.node).op_type
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice(rng.choice(model.graph.node).output)
            case 2:
                del node.input[rng.randrange(len(node.input) + 1) :]
            case 3 if node.attribute:
                del node.attribute[rng.randrange(len(node.attribute))]
            case 4 if node.attribute:
                name = rng.choice(node.attribute).name
                node.attribute[0].CopyFrom(helper.make_attribute(name, [rng.randint(-9, 9) for _ in range(rng.randint(1, 7))]))
            case 5:
                dims = list(tensor.dims)
                del tensor.dims[:]
                tensor.dims.extend(rng.sample(dims, len(dims)) if rng.random() < 0.5 else [rng.randint(-2, 99)])
            case 6 if tensor.raw_data:
                content = bytearray(tensor.raw_data)
                for _ in range(rng.randint(1, 8)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
                tensor.raw_data = bytes(content)
            case 7:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(rng.choice(model.graph.initializer)), tensor.name))
            case 8:
                model.graph.node.remove(node)
    return model.SerializeToString()


@pytest.mark.property
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mutated_file_is_imported_or_refused_and_nothing_else(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("mutated") / "network.onnx"
    path.write_bytes(mutated(seed))
    with contextlib.suppress(ArtifactError, CalibrationError):
        import_onnx(path, batches=[awkward_images(2)])


@pytest.mark.property
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_random_bytes_are_imported_or_refused(seed: int, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng, content = random.Random(seed), bytearray(good_file())
    start = int(share * (len(content) - 1))
    for at in range(start, min(start + rng.randint(1, 40), len(content))):
        content[at] = rng.randrange(256)
    path = tmp_path_factory.mktemp("bytes") / "network.onnx"
    path.write_bytes(bytes(content))
    with contextlib.suppress(ArtifactError, CalibrationError):
        import_onnx(path, batches=[awkward_images(2)])
