"""What an importer reads in a graph: the network that was exported, whoever wrote it down, and no other network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from geluless.errors import ArtifactError
from geluless.interop.onnx_import.import_log import ImportLog
from geluless.interop.onnx_import.interpreting import interpret
from geluless.interop.onnx_import.ir import Round, Term
from geluless.interop.onnx_import.reading import read_file
from geluless.interop.onnx_import.rebuilding import linear_layers, rebuild
from geluless.interop.onnx_import.recognition import recognise
from geluless.interop.onnx_import.swin import ReadSwin
from tests.support.networks import AWKWARD_INPUT, awkward_images, awkward_swin
from tests.support.onnx_import_ir import evaluated, in_order
from tests.support.qdq_files import MODELOPT, Convention, quantized_by_hand
from tests.support.qdq_models import exported, prepare, quiet, run_file

OPSET_WITHOUT_LAYER_NORM = 14


@lru_cache(maxsize=8)
def awkward_file(
    *, relu: bool = False, opset: int | None = None, exporter: str = "torchscript", drop_bias: bool = False
) -> bytes:
    return exported(awkward_swin(relu=relu, drop_bias=drop_bias), AWKWARD_INPUT, exporter=exporter, opset=opset)


@lru_cache(maxsize=8)
def awkward_qdq(convention: Convention = MODELOPT) -> bytes:
    return quantized_by_hand(prepare(awkward_file()), awkward_images(16).numpy(), convention)


def terms_of(raw: bytes, folder: Path) -> Term:
    path = folder / "network.onnx"
    path.write_bytes(raw)
    return interpret(read_file(path))


def read(raw: bytes, folder: Path) -> tuple[ReadSwin, ImportLog]:
    log = ImportLog()
    return recognise(terms_of(raw, folder), log), log


FILES: dict[str, tuple[Callable[[], bytes], dict[str, bool]]] = {
    "torchscript": (awkward_file, {}),
    "torchscript relu": (lambda: awkward_file(relu=True), {"relu": True}),
    "torchscript, LayerNorm in pieces": (lambda: awkward_file(opset=OPSET_WITHOUT_LAYER_NORM), {}),
    "torchscript, prepared by ONNX Runtime": (lambda: prepare(awkward_file()), {}),
    "torchscript, fc1 without bias": (lambda: awkward_file(relu=True, drop_bias=True), {"relu": True, "drop_bias": True}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_float_file_rebuilds_the_network_it_was_exported_from(name: str, tmp_path: Path) -> None:
    """Parameter by parameter, on the network with every awkward case of geometry: padding, shifts, unequal sides, odd merging."""
    make, kind = FILES[name]
    network, log = read(make(), tmp_path)
    _require_same(rebuild(network, list(linear_layers(network, log))), awkward_swin(**kind))


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_the_new_exporters_files_rebuild_the_network_too(prepared: bool, tmp_path: Path) -> None:
    raw = awkward_file(exporter="dynamo")
    network, log = read(prepare(raw) if prepared else raw, tmp_path)
    _require_same(rebuild(network, list(linear_layers(network, log))), awkward_swin())


def _require_same(found: SwinTransformer, expected: SwinTransformer) -> None:
    state, truth = found.state_dict(), expected.state_dict()
    assert state.keys() == truth.keys()
    for name, values in truth.items():
        torch.testing.assert_close(state[name], values, rtol=1e-6, atol=1e-7, msg=name)
    norms = [(a.eps, b.eps) for a, b in zip(found.modules(), expected.modules(), strict=True) if isinstance(a, nn.LayerNorm)]
    assert np.allclose(*zip(*norms, strict=True), rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(found(awkward_images(2)), expected(awkward_images(2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("convention", [MODELOPT, Convention(unsigned=True, symmetric=False, per_channel=False)])
def test_the_terms_of_a_file_compute_what_onnxruntime_computes_from_it(convention: Convention, tmp_path: Path) -> None:
    """The oracle sums in float64: a value on a tie may fall to its other side and no more."""
    raw, pixels = awkward_qdq(convention), awkward_images(4, seed=3).numpy()
    terms = terms_of(raw, tmp_path)
    values = evaluated(terms, pixels)[terms].reshape(len(pixels), -1)
    real = evaluated(terms, pixels, rounding=False)[terms].reshape(len(pixels), -1)
    expected = run_file(raw, pixels)
    assert np.square(values - expected).mean() < 0.05 * np.square(real - expected).mean()


def test_every_rounding_of_a_file_is_accounted_for(tmp_path: Path) -> None:
    terms = terms_of(awkward_qdq(), tmp_path)
    log = ImportLog()
    recognise(terms, log)
    roundings = {term for term in in_order(terms) if isinstance(term, Round)}
    assert log.accounted == roundings
    assert len(roundings) > 30


def test_unsigned_grids_are_read_as_the_same_grids(tmp_path: Path) -> None:
    """int8 and uint8 activations differ in how they are stored and in nothing else."""
    networks = [read(awkward_qdq(Convention(unsigned=unsigned, symmetric=False)), tmp_path)[0] for unsigned in (False, True)]
    signed, unsigned = (network.stages[0].blocks[0].attention.proj.input_grid for network in networks)
    assert signed is not None
    assert unsigned is not None
    assert (signed.scale, signed.zero_point + 128) == (unsigned.scale, unsigned.zero_point)


# ------------------------------------------------------------------------------------------------------ other networks


class Residual(nn.Module):
    """A network in the manner of ResNet, small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        return self.fc(y.mean((2, 3)))


def vision_transformer() -> nn.Module:
    size = {"img_size": (24, 36), "patch_size": 6, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 7}
    return VisionTransformer(**size).eval()


def with_silu() -> nn.Module:
    model = awkward_swin()
    model.layers[1].blocks[0].mlp.act = nn.SiLU()
    return model


def with_mixed_activations() -> nn.Module:
    model = awkward_swin()
    model.layers[1].blocks[0].mlp.act = nn.ReLU()
    return model


def without_mask() -> nn.Module:
    model = awkward_swin()
    model.layers[0].blocks[1].attn_mask = torch.zeros_like(model.layers[0].blocks[1].attn_mask)
    return model


def with_maximum_pooling() -> nn.Module:
    model = awkward_swin()
    model.head.global_pool = nn.Identity()
    model.forward_head = lambda x, pre_logits=False: model.head.fc(x.amax((1, 2)))
    return model


def with_a_scaled_branch() -> nn.Module:
    model = awkward_swin()
    model.layers[0].blocks[0].drop_path2 = Scaled()
    return model


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a ResNet": (Residual, "patches overlap or are padded, as in a ResNet"),
    "a ViT": (vision_transformer, "class token, as in a ViT"),
    "SiLU": (with_silu, "neither GELU nor ReLU"),
    "mixed activations": (with_mixed_activations, "some of its MLPs have GELU and some ReLU"),
    "a missing mask": (without_mask, "mask is not the one of Swin's shifted windows"),
    "maximum pooling": (with_maximum_pooling, "no operation|ReduceMax"),
    "a scaled branch": (with_a_scaled_branch, "no sum of itself and a branch"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_network_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, message = OTHERS[name]
    shape = (3, 24, 36) if name == "a ViT" else AWKWARD_INPUT
    with quiet():
        raw = exported(make().eval(), shape)

    def read_and_rebuild() -> None:
        network, log = read(raw, tmp_path)
        rebuild(network, list(linear_layers(network, log)))

    with pytest.raises(ArtifactError, match=message):
        read_and_rebuild()


def test_integer_operators_are_refused_with_the_format_to_use(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    node = helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"], "dynamic")
    out = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"])
    raw = helper.make_model(helper.make_graph([node, out], "g", [image], [logits])).SerializeToString()
    with pytest.raises(ArtifactError, match="'dynamic' computes with integers: quantize in the QDQ format"):
        terms_of(raw, tmp_path)


def test_a_layer_norm_in_pieces_with_a_wrong_constant_is_none(tmp_path: Path) -> None:
    """Negative control of the recognition by values: squares that are cubes."""
    model = onnx.load_from_string(awkward_file(opset=OPSET_WITHOUT_LAYER_NORM))
    powers = {node.input[1] for node in model.graph.node if node.op_type == "Pow"}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in powers:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32(3)))
    with pytest.raises(ArtifactError, match="LayerNorm"):
        read(model.SerializeToString(), tmp_path)
