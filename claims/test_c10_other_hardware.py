"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

import os

from geluless.verdicts import ClaimHandle, Control, Resource, Verdict
from geluless.verdicts.lab import TWIN, Lab, conditions
from geluless.verdicts.latency import faster, holm_at_every
from geluless.verdicts.timed import cpu_engine_missing, timed_evidence


def test_this_cpu_per_isa_and_threads(claim: ClaimHandle, lab: Lab) -> None:
    """Judged: relu is faster than FasterTransformer's structure on every instruction set and thread count of this machine."""
    if cpu_engine_missing(claim, "relu against gelu-separate for every instruction set and thread count of this machine"):
        return
    from geluless.engine.cpu import native

    every = conditions(len(os.sched_getaffinity(0)), tuple(native().available()))
    chosen = {name: study for name, study in every.items() if name.startswith("isa ") or name.endswith(" threads")}
    if not chosen:
        claim.needs(Resource.CHECK, would_run="another instruction set than the best one, or a second core")
        return
    found = {name: lab.study(name, study) for name, study in chosen.items()}
    first = next(iter(found.values()))
    nothing = faster(first, TWIN, "relu")
    claim.decide(
        holm_at_every(found, "relu", "gelu-separate"),
        timed_evidence(
            first,
            f"Swin-T, batch 1: relu against gelu-separate on {', '.join(found)}, Holm-corrected over these",
            Control("relu against its twin must not be faster", nothing.sentence, nothing.verdict is not Verdict.REPRODUCED),
        ),
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
