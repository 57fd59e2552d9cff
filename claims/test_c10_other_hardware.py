"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

from geluless.verdicts import ClaimHandle, Resource


def test_this_cpu_per_isa_and_threads(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.CPU_ENGINE,
        would_run="c06's statistics for every instruction set this processor has and for 1, 2, ... threads, Holm-corrected",
    )


def test_other_engines_on_this_cpu(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.PEERS,
        Resource.CPU_ENGINE,
        would_run="the same GELU and ReLU networks exported to OpenVINO and ONNX Runtime: ratio within each engine, per size",
    )


def test_other_gpus(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU, Resource.GPU_ENGINE, would_run="c06's statistics on whatever NVIDIA GPU is here, named by its sm_ number"
    )
