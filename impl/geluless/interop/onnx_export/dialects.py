"""What an ONNX file promises: the engine's own bits, or the same network in the words that a runtime's fusions look for."""

from __future__ import annotations

from enum import StrEnum

from geluless.errors import VariantError
from geluless.integer.plan import Activation, Plan
from geluless.integer.variants import Variant, choose_variant


class Dialect(StrEnum):
    """Three ways to write one plan.

    EXACT spells the integer law out: every tensor counts steps (its scale is 1), products are exact, and each rounding is the
    engine's, so that a runtime with IEEE arithmetic gives the reference's bits. FUSED has real scales, one rounding per linear
    layer, a float residual stream and Softmax: what runtimes turn into their fastest kernels. It differs from the reference as
    two roundings differ. TENSORRT is FUSED with int8 activations around zero, which is all that TensorRT takes: a uint8 hidden
    tensor keeps half of its levels, and the image stays float.
    """

    EXACT = "exact"
    FUSED = "fused"
    TENSORRT = "tensorrt"


# gelu-poly and gelu-shift are formulas of their papers' kernels: no runtime has an operator for them.
EXPRESSIBLE = {
    Activation.RELU: (Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_FLOAT, Variant.RELU_SEPARATE),
    Activation.GELU: (Variant.GELU_LUT, Variant.GELU_FUSED, Variant.GELU_SEPARATE),
}


def exported_variant(plan: Plan, variant: str | None, dialect: Dialect) -> Variant:
    """The variant that a file spells out: for None the artifact's own, but GELU as an operator where a runtime shall fuse it.

    Raises VariantError for a variant that the artifact cannot run or that ONNX has no operator for.
    """
    chosen = choose_variant(plan, variant)
    if variant is None and chosen is Variant.GELU_LUT and dialect is not Dialect.EXACT:
        return Variant.GELU_FUSED
    if chosen not in EXPRESSIBLE[plan.activation]:
        names = ", ".join(expressible.value for expressible in EXPRESSIBLE[plan.activation])
        raise VariantError(f"variant {chosen.value} has no ONNX operators; choose one of {names}")
    return chosen
