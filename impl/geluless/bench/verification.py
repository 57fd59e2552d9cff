"""Whether a speed counts: the call that will be timed, compared with the reference in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geluless.engine.engine import Engine

Run = Callable[[], NDArray[np.float32]]

# Variants whose fp32 GELU may miss the reference's by its last bit. That moves a hidden value by one step where the value lies on
# a tie, a few times in a million; another GELU moves every fourth.
FLOAT_VARIANTS = frozenset({"gelu-fused", "gelu-fused-tanh", "gelu-poly", "gelu-separate"})
GPU_FLOAT_VARIANTS = FLOAT_VARIANTS | {"gelu-shift"}  # its last product is fp32 there
MOVED_SHARE = 1e-3  # of the values of one hidden tensor; one value is always allowed


def verify_call(engine: Engine, images: NDArray[np.float32], run: Run) -> tuple[str, bool]:
    """The very call that will be timed: its first image against the reference, the others against themselves alone.

    On a GPU an image alone is another program with other tiles, which may take a last bit of a float GELU elsewhere: where it
    does, the reference decides about that image too.
    """
    from geluless.engine.engine import Engine

    logits = run()
    floats = engine.variant in {"cpu": FLOAT_VARIANTS, "gpu": GPU_FLOAT_VARIANTS}.get(engine.backend, ())
    others: list[int] = []
    if len(images) > 1 and engine.backend != "reference":
        others = [i for i in range(len(images)) if not np.array_equal(engine(images[i : i + 1])[0], logits[i])]
    if others and not (floats and engine.backend == "gpu"):
        return f"WRONG: image {others[0]} alone has other logits than in the batch", False
    if floats:
        return _step_by_step(engine, images, logits, sorted({0, *others}))
    expected = Engine(engine.artifact, variant=engine.variant, threads=1)(images[:1])
    if np.array_equal(logits[:1], expected):
        return "equal to the reference", True
    distance = float(np.abs(logits[:1] - expected).max() / max(float(expected.std()), 1e-30))
    return f"WRONG: off by {distance:.1e} of the logits' spread", False


def _step_by_step(engine: Engine, images: NDArray[np.float32], logits: NDArray[np.float32], which: list[int]) -> tuple[str, bool]:
    """Every tensor of some of the images against the reference, which goes on from the engine's hidden tensors.

    The logits alone tell nothing: one hidden value on a tie moves them as far, by the end, as another GELU does. With the
    engine's hidden tensors as its own, the reference must agree on everything else to the bit, logits included.
    """
    from geluless.integer import reference

    plan, tensors = engine.artifact.plan, engine.artifact.tensors
    problems: list[str] = []
    hidden_values = moved_values = 0

    def compare(name: str, tensor: NDArray[np.int32]) -> None:
        nonlocal hidden_values, moved_values
        got = traced[name].reshape(tensor.shape)
        steps = np.abs(got.astype(np.int64) - tensor)
        moved, allowed = int((steps > 0).sum()), 0
        if name.endswith(".mlp.hidden"):
            hidden_values, moved_values = hidden_values + tensor.size, moved_values + moved
            allowed = max(1, int(tensor.size * MOVED_SHARE))
            tensor[...] = got  # the reference's own array: it computes the next layer from it
        if moved > allowed or (moved and int(steps.max()) > 1):
            problems.append(f"{moved:,} of {tensor.size:,} values of {name} are off by up to {int(steps.max())}")

    for i in which:
        again, traced = _traced(engine, images, i)
        if not np.array_equal(again, logits[i]):
            return "WRONG: a second run gives other logits", False
        expected = reference.forward(images[i : i + 1], plan, tensors, engine.variant, compare)
        if not problems and not np.array_equal(logits[i], expected[0]):
            problems.append("the logits are others")
        if problems:
            return f"WRONG: image {i}: {problems[0]}", False
    if moved_values:
        return f"within 1 step of the reference in {moved_values:,} of {hidden_values:,} hidden values, else equal", True
    return "equal to the reference", True


def _traced(engine: Engine, images: NDArray[np.float32], index: int) -> tuple[NDArray[np.float32], dict[str, NDArray[np.int32]]]:
    """(logits, intermediate tensors by name) of one image; on a GPU as part of its batch, in the program that is timed."""
    from geluless.engine.gpu import GpuNetwork

    traced: dict[str, NDArray[np.int32]] = {}
    if not isinstance(engine.network, GpuNetwork):
        return engine.trace(images[index : index + 1], traced.__setitem__)[0], traced
    pieces = engine.network.pieces(images)
    size = len(pieces[0][1])  # of all pieces but the last
    (program, piece), place = pieces[index // size], index % size

    def keep(name: str, tensor: NDArray[np.int32]) -> None:
        traced[name] = tensor.reshape(len(piece), -1, tensor.shape[-1])[place].copy()

    logits, _ = engine.network.executor.run(program, piece, keep)
    return logits[place], traced
