"""What counts as verified: the reference's bits, or one step of a few hidden values where GELU is computed in fp32.

The engine under test is the reference with a fault of our choice, so these laws hold without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from geluless.bench.harness import Row
from geluless.bench.process import CandidateFailure, Status
from geluless.engine import cpu
from geluless.integer import reference
from geluless.integer.variants import Variant
from tests.support.candidates import prepared
from tests.support.networks import awkward_artifact, awkward_images

Fault = Callable[[str, NDArray], None]
HIDDEN = "layers.1.blocks.0.mlp.hidden"


def network_with(fault: Fault) -> type:
    """A stand-in for CpuNetwork that computes what the reference does, but for what `fault` changes in place."""

    class Faulty:
        isa = "faulty"

        def __init__(
            self, plan, tensors, variant: Variant, *, isa: str | None = None, threads: int = 1, blocked: bool = False
        ) -> None:
            self._plan, self._tensors, self._variant = plan, tensors, variant

        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.concatenate([self.trace(image[None], lambda name, tensor: None) for image in images])

        def trace(self, image: NDArray[np.float32], probe: Callable[[str, NDArray[np.int32]], object]) -> NDArray[np.float32]:
            def watch(name: str, tensor: NDArray) -> None:
                fault(name, tensor)
                probe(name, tensor[0].reshape(-1, tensor.shape[-1]).copy())

            logits = reference.forward(image, self._plan, self._tensors, self._variant, watch)
            fault("logits", logits)
            return logits

    return Faulty


def faulty(monkeypatch: pytest.MonkeyPatch, fault: Fault, *, variant: str, images: int = 1) -> Row:
    monkeypatch.setattr(cpu, "native", lambda: None)
    monkeypatch.setattr(cpu, "CpuNetwork", network_with(fault))
    artifact = awkward_artifact(relu=variant.startswith("relu"))
    return prepared(artifact, variant, awkward_images(images).numpy(), backend="cpu").row


def nothing(name: str, tensor: NDArray) -> None:
    pass


def moving(where: str, *, values: int, steps: int = 1) -> Fault:
    """Moves the first values of one tensor towards the middle of their range, so that none leaves it."""

    def fault(name: str, tensor: NDArray) -> None:
        if name == where:
            flat = tensor.reshape(-1)
            flat[:values] += np.where(flat[:values] > np.median(flat), -steps, steps).astype(tensor.dtype)

    return fault


@pytest.mark.parametrize("variant", ["relu", "gelu-lut", "gelu-fused", "gelu-separate"])
def test_the_reference_itself_is_equal(monkeypatch: pytest.MonkeyPatch, variant: str):
    made = faulty(monkeypatch, nothing, variant=variant, images=3)
    assert (made.verified, made.correctness) == (True, "equal to the reference")


def test_one_step_of_one_hidden_value_is_rounding(monkeypatch: pytest.MonkeyPatch):
    made = faulty(monkeypatch, moving(HIDDEN, values=1), variant="gelu-fused")
    assert made.verified
    assert made.correctness.startswith("within 1 step of the reference in 1 of")


@pytest.mark.parametrize(
    ("variant", "fault", "word"),
    [
        pytest.param("gelu-fused", moving(HIDDEN, values=1, steps=2), "by up to 2", id="two steps"),
        pytest.param("gelu-fused", moving(HIDDEN, values=100), "100 of", id="many hidden values"),
        pytest.param("gelu-fused", moving("layers.1.blocks.0.norm2", values=1), "norm2", id="another tensor"),
        pytest.param("gelu-fused", moving("logits", values=1), "logits", id="the logits"),
        pytest.param("gelu-lut", moving(HIDDEN, values=20), "logits' spread", id="an integer variant may move nothing"),
        pytest.param("relu", moving("logits", values=1), "logits' spread", id="an integer variant's logits"),
    ],
)
def test_a_fault_is_wrong(monkeypatch: pytest.MonkeyPatch, variant: str, fault: Fault, word: str):
    with pytest.raises(CandidateFailure, match="WRONG") as caught:
        faulty(monkeypatch, fault, variant=variant)
    assert caught.value.status is Status.WRONG
    assert word in caught.value.reason


def test_another_gelu_is_wrong(monkeypatch: pytest.MonkeyPatch):
    """The logits of the two differ by no more than rounding does; the hidden tensors tell them apart."""
    choose = network_with(nothing)

    class Polynomial(choose):
        def __init__(self, plan, tensors, variant: Variant, **options: object) -> None:
            super().__init__(plan, tensors, Variant.GELU_POLY)

    monkeypatch.setattr(cpu, "native", lambda: None)
    monkeypatch.setattr(cpu, "CpuNetwork", Polynomial)
    images = awkward_images(1).numpy()
    with pytest.raises(CandidateFailure, match=r"WRONG: .*mlp\.hidden"):
        prepared(awkward_artifact(relu=False), "gelu-fused", images, backend="cpu")


def test_every_image_of_the_batch_counts(monkeypatch: pytest.MonkeyPatch):
    network = network_with(nothing)
    alone = network.run

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = alone(self, images)
        logits[2:] += 1
        return logits

    monkeypatch.setattr(cpu, "native", lambda: None)
    monkeypatch.setattr(cpu, "CpuNetwork", network)
    monkeypatch.setattr(network, "run", run)
    images = awkward_images(4).numpy()
    with pytest.raises(CandidateFailure, match="WRONG: image 2 alone has other logits than in the batch"):
        prepared(awkward_artifact(relu=True), "relu", images, backend="cpu")


def test_what_is_not_compared_is_not_verified():
    images = awkward_images(1).numpy()
    made = prepared(awkward_artifact(relu=True), None, images, backend="reference", verify=False).row
    assert (made.verified, made.correctness) == (False, "not verified")
