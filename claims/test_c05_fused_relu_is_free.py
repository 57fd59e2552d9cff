"""c05: the ReLU fused into the GEMM costs no time."""

from __future__ import annotations

from geluless.bench.kernels import STAGES
from geluless.verdicts import ClaimHandle, Control, Resource
from geluless.verdicts.lab import TWIN, Lab, kernels_study
from geluless.verdicts.latency import at_every, equivalent, ratio_estimate
from geluless.verdicts.timed import timed_evidence


def test_against_the_bare_gemm_on_this_cpu(claim: ClaimHandle, lab: Lab) -> None:
    if claim.lacks(
        Resource.CPU_ENGINE, would_run="fc1 of every stage with the fused ReLU against the same product without activation"
    ):
        return
    found, whole = lab.study("fc1 kernels", kernels_study()), lab.arms("tiny")
    stages = range(1, len(STAGES) + 1)
    separate = equivalent(whole, "gelu-separate", "relu")
    claim.decide(
        at_every({f"stage {i}": equivalent(found, f"stage {i} relu", f"stage {i} bare") for i in stages}),
        timed_evidence(
            found,
            "fc1 of Swin-T's four stages on one thread: requantized with ReLU's clamp against requantized without activation, "
            "equivalence within 2 % at every stage",
            Control.refused(
                "the network with a separate GELU must not pass as equivalent to the one with the fused ReLU", separate
            ),
            numbers=tuple(ratio_estimate(found, f"stage {i} {TWIN}", f"stage {i} relu") for i in stages),
        ),
    )


def test_against_the_bare_gemm_on_a_gpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU,
        Resource.GPU_ENGINE,
        would_run="the same equivalence with CUDA events, cold and warm L2 cache",
    )
