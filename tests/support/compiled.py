"""What the tests of the compiled engine share: its instruction sets on this machine (or the reason why it is missing), and
the comparison of a whole network with the reference, tensor by tensor."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from geluless.engine.cpu import CpuNetwork, native
from geluless.engine.cpu.lowering import Network, lower
from geluless.errors import MissingResource
from geluless.integer import reference
from geluless.integer.artifact import Artifact
from geluless.integer.variants import Variant, available_variants
from tests.support.networks import awkward_artifact

try:
    ISAS: tuple[str, ...] = tuple(native().available())
    MISSING_REASON = ""
except MissingResource as missing:
    ISAS, MISSING_REASON = ("missing",), str(missing)

requires_native = pytest.mark.skipif(bool(MISSING_REASON), reason=MISSING_REASON)
each_isa = pytest.mark.parametrize("isa", ISAS)

REFUSED = (ValueError, TypeError, RuntimeError)  # the last for integers that no int32 can hold
# May miss the reference by a last bit.
FLOAT_VARIANTS = (Variant.GELU_FUSED, Variant.GELU_FUSED_TANH, Variant.GELU_POLY, Variant.GELU_SEPARATE)

Tensors = dict[str, NDArray[np.int32]]


@lru_cache(maxsize=4)
def lowered(variant: Variant = Variant.RELU) -> Network:
    """The awkward network as the extension takes it."""
    artifact = awkward_artifact(relu=variant is not Variant.GELU_SEPARATE)
    return lower(artifact.plan, artifact.tensors, variant)


def tensors_of_reference(artifact: Artifact, variant: Variant, image: NDArray[np.float32]) -> Tensors:
    """Every intermediate tensor of one image as int32 [tokens, channels], in the order of the network; the logits last."""
    seen: Tensors = {}

    def tap(name: str, tensor: NDArray[np.int32]) -> None:
        seen[name] = tensor[0].reshape(-1, tensor.shape[-1])

    with np.errstate(over="ignore"):
        logits = reference.forward(image, artifact.plan, artifact.tensors, variant, tap)
    return seen | {"logits": logits.view(np.int32)}  # floats by their bits


def tensors_of_engine(
    isa: str, artifact: Artifact, variant: Variant, image: NDArray[np.float32], *, blocked: bool = False
) -> Tensors:
    seen: Tensors = {}
    network = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, blocked=blocked)
    logits = network.trace(image, seen.__setitem__)
    assert (network.run(image) == logits).all(), "a traced run is a run"
    return seen | {"logits": logits.view(np.int32)}


def first_difference(want: Tensors, got: Tensors) -> tuple[str, int]:
    """The first tensor that differs and by how much at most; ("", 0) when none does."""
    assert want.keys() == got.keys()
    for name, tensor in want.items():
        if difference := int(np.abs(tensor.astype(np.int64) - got[name]).max()):
            return name, difference
    return "", 0


def assert_same_network(isa: str, artifact: Artifact, variant: Variant, image: NDArray[np.float32]) -> None:
    want, got = tensors_of_reference(artifact, variant, image), tensors_of_engine(isa, artifact, variant, image)
    name, difference = first_difference(want, got)
    last_bit = variant in FLOAT_VARIANTS and difference == 1 and name.endswith(".mlp.hidden")
    assert not name or last_bit, f"{variant.value} on {isa}: {name} is the first tensor to differ, by up to {difference}"


def assert_same_in_every_variant(isa: str, artifact: Artifact, image: NDArray[np.float32]) -> None:
    for variant in available_variants(artifact.plan):
        assert_same_network(isa, artifact, variant, image)
