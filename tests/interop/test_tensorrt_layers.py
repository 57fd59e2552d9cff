"""What an engine's layer tables are read as: the verbose log of TensorRT-RTX, and the inspector's JSON of TensorRT 10 and 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("onnx", reason="exports need onnx: pip install 'geluless[export]'")

from geluless.interop.fusion import FusionReport, Layer, Placement, Value, claim, fusion_report, precision
from geluless.interop.products import Operator, Product
from geluless.interop.tensorrt.layers import layers_of_inspector, layers_of_log

# As TensorRT-RTX 1.7 prints it, strides and formats shortened.
PLAIN = "Format: (Linear) Row major linear format"
LOG = f"""Layers:
Name: mlp.fc1/product_U148_myl0_12, LayerType: gemm, \
Inputs: [ {{ Name: fc1/product.1_17_myl0, Dimensions: [-1,16], Strides: [16,1], Datatype: Int8, {PLAIN} }}], \
Constants: [ {{ Name: fc1.weight_constantInt8, Dimensions: [16,64], Datatype: Int8, {PLAIN} }}, \
{{ Name: alpha, Dimensions: [1], Datatype: Float, {PLAIN} }}], \
Outputs: [ {{ Name: __arg18, Dimensions: [-1,64], Datatype: Float, {PLAIN} }}], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: mlp.fc1/product][ONNX Layer: norm2/real][ONNX Layer: mlp.fc1.weight/real]
Name: __myl_MulAddReluMulMinMaxRounCast_myl0_13, LayerType: kgen, \
Inputs: [ {{ Name: __arg18, Dimensions: [-1,64], Datatype: Float, {PLAIN} }}], \
Constants: [ {{ Name: c, Dimensions: [1,64], Datatype: Float, {PLAIN} }}], \
Outputs: [ {{ Name: __arg19, Dimensions: [-1,64], Datatype: Int8, {PLAIN} }}], \
TacticName: __myl_MulAddReluMulMinMaxRounCast_0x36, StreamId: 0, \
Metadata: [ONNX Layer: mlp.fc1/product][ONNX Layer: mlp.fc1/biased][ONNX Layer: mlp.hidden][ONNX Layer: mlp/relu]

I/O Tensors:
 Name: images, IOMode: Input, DataType: Float, Dimensions: [1,3,22,36], Location: Device"""

FC1 = Product(
    place="mlp.fc1",
    node="mlp.fc1/product",
    quantized=True,
    follows=(Operator("mlp.fc1/biased", "Add"), Operator("mlp/relu", "Relu"), Operator("mlp.hidden", "QuantizeLinear")),
    activation=Operator("mlp/relu", "Relu"),
)


def report_of(layers: tuple[Layer, ...], product: Product = FC1) -> FusionReport:
    return fusion_report([product], layers, runtime="TensorRT 10.3", target="sm_89", source="test", variant="relu")


def test_the_log_of_a_build_gives_types_operations_and_origins() -> None:
    gemm, pointwise = layers_of_log(["nothing of interest", LOG])
    assert gemm.inputs == (Value("fc1/product.1_17_myl0", "int8"),)
    assert gemm.factors == ("int8", "int8")
    assert gemm.outputs == (Value("__arg18", "float"),)
    assert gemm.origins == {"mlp.fc1/product", "norm2/real", "mlp.fc1.weight/real"}
    assert pointwise.operations == ("Mul", "Add", "Relu", "Mul", "Min", "Max", "Roun", "Cast")
    assert not layers_of_log(["no table at all"])


def test_an_activation_in_the_next_kernel_is_separate() -> None:
    (gemm,) = report_of(layers_of_log([LOG])).gemms
    assert (gemm.precision, gemm.output, gemm.fused, gemm.placement) == ("int8", "float", (), Placement.SEPARATE)
    assert "Relu" in gemm.operations


def of_inspector(**changes: Any) -> tuple[Layer, ...]:
    """One fused product as TensorRT 10 describes it, with `changes`."""
    layer = {
        "Name": "mlp.fc1/product_myl0_7",
        "LayerType": "gemm",
        "Inputs": [{"Name": "a", "Dimensions": [198, 16], "Format/Datatype": "Int8"}],
        "Outputs": [{"Name": "b", "Dimensions": [198, 64], "Format/Datatype": "Int8"}],
        "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x64_stage4_tensor16x8x32",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: mlp.fc1/product]\x1e[ONNX Layer: mlp/relu]\x1e[ONNX Layer: mlp.hidden]",
    }
    return layers_of_inspector(json.dumps({"Layers": [layer | changes], "Bindings": ["images", "logits"]}))


def test_an_activation_in_the_products_own_kernel_is_fused() -> None:
    """TensorRT 10 lists no constants: the kernel's name says what it multiplies."""
    (gemm,) = report_of(of_inspector()).gemms
    assert (gemm.precision, gemm.output, gemm.placement) == ("int8", "int8", Placement.FUSED)
    assert gemm.fused == ("Relu", "QuantizeLinear")
    assert (gemm.follower, gemm.operations) == (None, ())


def test_tensorrt_11_gives_the_type_beside_the_format() -> None:
    tensor = {"Name": "a", "Dimensions": [1], "Datatype": "Half", "Format": "Row major linear FP32 format (kLINEAR)"}
    (layer,) = of_inspector(Inputs=[tensor], Outputs=[tensor | {"Datatype": "BFloat16"}])
    assert (layer.inputs[0].dtype, layer.outputs[0].dtype) == ("half", "bfloat16")


def test_types_that_depend_on_shapes_come_from_the_kernels_name() -> None:
    unknown = [{"Name": "a", "Dimensions": [-1, 16], "Format/Datatype": "N/A due to dynamic shapes"}]
    (layer,) = of_inspector(Inputs=unknown, Outputs=unknown, TacticName="sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize")
    assert (precision(layer), layer.outputs[0].dtype) == ("int8", "float")
    (layer,) = of_inspector(Inputs=unknown, Outputs=unknown, TacticName="")
    assert (precision(layer), layer.outputs[0].dtype) == ("unknown", "unknown")


def test_a_convolution_tells_the_type_of_its_weights_and_older_engines_their_origins_by_name() -> None:
    (layer,) = of_inspector(
        Name="mlp.fc1/product + mlp/relu",
        LayerType="CaskConvolution",
        Inputs=[{"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
        Weights={"Type": "Int8", "Count": 131072},
        TacticName="",
        Metadata="",
    )
    assert layer.factors == ("int8", "int8")
    assert layer.origins == {"mlp.fc1/product", "mlp/relu"}


@pytest.mark.parametrize(
    ("factors", "operations", "expected"),
    [
        (("int8", "int8"), (), "int8"),
        (("uint8", "int8"), (), "int8"),
        (("float", "int8"), (), "float"),  # weights alone are quantized
        (("half", "int8"), (), "half"),
        (("int8", "int8"), ("Cast", "Mul", "Fc", "Add"), "float"),  # the kernel makes floats of them first
        (("int8", "int8"), ("Fc", "Cast"), "int8"),
        (("int8",), (), "unknown"),
    ],
)
def test_a_product_is_int8_only_if_it_multiplies_integers(
    factors: tuple[str, ...], operations: tuple[str, ...], expected: str
) -> None:
    assert precision(Layer("x", "gemm", (), (), factors, operations, frozenset())) == expected


def test_a_rounding_in_the_kernel_implies_the_relu_before_it() -> None:
    """A runtime drops a Relu whose rounding clamps at zero; no layer names it then."""
    fused = Layer("x", "FullyConnected", (), (Value("b", "uint8"),), ("uint8", "int8"), (), frozenset({FC1.node, "mlp.hidden"}))
    assert report_of((fused,)).gemms[0].placement is Placement.FUSED
    silent = Layer("x", "FullyConnected", (), (Value("b", "float"),), ("uint8", "int8"), (), frozenset({FC1.node}))
    assert report_of((silent,)).gemms[0].placement is Placement.UNKNOWN


def test_a_product_that_no_layer_names_is_reported_as_missing() -> None:
    report = report_of(())
    assert report.in_int8 == 0
    assert report.unseen == ("mlp.fc1",)
    assert not report.missed
    assert "0 of 1" in report.sentence()
    assert "1 not found" in report.sentence()


def test_a_sentence_is_computed_from_its_reports_and_refuses_to_mix() -> None:
    separate, fused = report_of(layers_of_log([LOG])), report_of(of_inspector())
    words = claim([separate, fused])
    assert words.startswith("TensorRT 10.3 for sm_89: 1 of 1 GEMMs in int8")
    assert "0 of 1" in words
    assert words.endswith("1 of 1")
    other = fusion_report([FC1], (), runtime="OpenVINO", target="sm_89", source="test", variant="relu")
    with pytest.raises(ValueError, match="one runtime"):
        claim([separate, other])
    with pytest.raises(ValueError, match="none"):
        claim([])
