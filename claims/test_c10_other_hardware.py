"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

import os

import pytest

from geluless.baselines.gain import CONTROL as GAIN_CONTROL
from geluless.baselines.gain import SEPARATE
from geluless.baselines.registry import OURS
from geluless.verdicts import ClaimFixture, Control, Resource
from geluless.verdicts.latency import at_every, faster, holm_at_every, ratio_estimate
from geluless.verdicts.resources import missing
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import CONTROL, TimingSession, conditions


def test_this_cpu_per_isa_and_threads(claim: ClaimFixture, timing_session: TimingSession) -> None:
    """Judged: relu is faster than FasterTransformer's structure on every instruction set and thread count of this machine."""
    if claim.lacks(
        Resource.CPU_ENGINE, would_run="relu against gelu-separate for every instruction set and thread count of this machine"
    ):
        return
    from geluless.engine.cpu import native

    every = conditions(len(os.sched_getaffinity(0)), tuple(native().available()))
    chosen = {name: study for name, study in every.items() if name.startswith("isa ") or name.endswith(" threads")}
    if not chosen:
        claim.needs(Resource.CHECK, would_run="another instruction set than the best one, or a second core")
        return
    found = {name: timing_session.study(name, study) for name, study in chosen.items()}
    first = next(iter(found.values()))
    nothing = faster(first, CONTROL, "relu")
    claim.decide(
        holm_at_every(found, "relu", "gelu-separate"),
        timing_evidence(
            first,
            f"Swin-T, batch 1: relu against gelu-separate on {', '.join(found)}, Holm-corrected over these",
            Control.refused("relu against its A/A control must not be faster", nothing),
        ),
    )


def test_other_engines_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession, request: pytest.FixtureRequest) -> None:
    """Judged: the ReLU network is faster than the GELU network in every engine, each with the GELU that it chooses itself."""
    would_run = "both networks in our engine, OpenVINO, ONNX Runtime and TorchInductor, interleaved: the gain within each engine"
    if claim.lacks(Resource.CPU_ENGINE, would_run=would_run):
        return
    gain = timing_session.engines(prepare=request.config.getoption("full")) if missing(Resource.BASELINES) is None else None
    if gain is None:
        prepared = Resource.BASELINES if missing(Resource.BASELINES) else Resource.PREPARED_BASELINES
        claim.needs(prepared, would_run=would_run)
        return
    found, relu = gain.found, f"{OURS} relu"
    nothing = faster(found, GAIN_CONTROL, relu)
    claim.decide(
        at_every({engine: faster(found, f"{engine} relu", f"{engine} gelu") for engine in gain.engines}),
        timing_evidence(
            found,
            f"Swin-T, batch 1, one thread, in {', '.join(gain.engines)}; ours computes GELU from a table here",
            Control.refused("our engine's A/A control must not be faster", nothing),
            numbers=(
                ratio_estimate(found, relu, f"{SEPARATE} gelu", label="geluless, over FasterTransformer's structure in it"),
            ),
        ),
    )


def test_other_gpus(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.GPU, Resource.GPU_ENGINE, would_run="c06's statistics on whatever NVIDIA GPU is here, named by its sm_ number"
    )
