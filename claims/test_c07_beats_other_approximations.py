"""c07: ReLU against the approximations of GELU: I-BERT's polynomial, I-ViT's shifts, and a table of 256 values."""

from __future__ import annotations

import time
from functools import lru_cache, partial

import pytest

from geluless.bench.networks import SIZES as NETWORKS
from geluless.bench.networks import random_artifact
from geluless.engine.cpu.lowering import lower
from geluless.engine.cpu.traffic import Traffic, mlp_traffic
from geluless.integer.artifact import Artifact
from geluless.integer.variants import Variant
from geluless.verdicts import ClaimFixture, Control, Evidence, Resource
from geluless.verdicts.latency import RESOLUTION, at_every, faster
from geluless.verdicts.micro_networks import SIZES
from geluless.verdicts.timed import agreed
from geluless.verdicts.timing_controls import timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import TimingSession

APPROXIMATIONS = {
    "gelu-poly": "I-BERT's polynomial in floating point",
    "gelu-ibert": "I-BERT's polynomial in integers",
    "gelu-shift": "I-ViT's ShiftGELU",
    "gelu-lut": "a table of 256 values",
}


@pytest.mark.parametrize("variant", APPROXIMATIONS)
def test_time_against(claim: ClaimFixture, timing_session: TimingSession, variant: str) -> None:
    """At every size."""
    if claim.lacks(Resource.CPU_ENGINE, would_run=f"relu against {APPROXIMATIONS[variant]} on this CPU, at every size"):
        return
    studies = {size: timing_session.variants(size) for size in SIZES}
    claim.decide(
        at_every({size: agreed(timed, partial(faster, against=variant)) for size, timed in studies.items()}),
        timing_evidence(
            studies["tiny"],
            f"Swin-T, S, B and L, batch 1, one thread: relu against {variant} ({APPROXIMATIONS[variant]}), at every size",
            timing_control(studies),
        ),
    )


@pytest.mark.parametrize("size", SIZES)
def test_memory_against_all(claim: ClaimFixture, size: str) -> None:
    """Bytes that the MLPs read and write per image, counted from the layers that run, with the constants of their activations."""
    started = time.perf_counter()
    relu = traffic(size, Variant.RELU)
    taken = {variant: traffic(size, Variant(variant)) for variant in (*APPROXIMATIONS, "gelu-separate")}
    more = {variant: 100 * (moved.bytes / relu.bytes - 1) for variant, moved in taken.items()}
    separate, own = more.pop("gelu-separate"), 100 * (traffic(size, Variant.RELU).bytes / relu.bytes - 1)
    least = 100 * (RESOLUTION - 1)
    evidence = Evidence(
        ran=f"Swin-{size}: bytes that its MLPs read and write for one image, by variant; every operand once per layer",
        tier="any CPU",
        seconds=time.perf_counter() - started,
        control=Control(
            f"a variant with a pass of its own must move at least {least:g} % more, relu against itself nothing",
            f"gelu-separate {separate:+.2f} %, relu {own:+.2f} %",
            separate > least and own == 0,
        ),
        details=tuple(
            f"{variant}: {moved.read:,} bytes read, {moved.written:,} written"
            for variant, moved in {"relu": relu, **taken}.items()
        ),
    )
    sentence = ", ".join(f"{variant} moves {percent:+.4f} %" for variant, percent in more.items())
    if min(more.values()) > least:
        claim.reproduced(f"beyond relu: {sentence}", evidence)
    else:
        claim.refuted(f"not every approximation moves {least:g} % more than relu: {sentence}", evidence)


def traffic(size: str, variant: Variant) -> Traffic:
    made = artifact(size, relu=variant.value.startswith("relu"))
    return mlp_traffic(lower(made.plan, made.tensors, variant))


@lru_cache(maxsize=2)
def artifact(size: str, *, relu: bool) -> Artifact:
    return random_artifact(NETWORKS[size], relu=relu)
