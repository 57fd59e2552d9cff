"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

import os

import pytest

from geluless.baselines.gain import CONTROL as GAIN_AGAIN
from geluless.baselines.gain import SEPARATE
from geluless.baselines.registry import OURS
from geluless.verdicts import ClaimFixture, Resource
from geluless.verdicts.gain_changes import gains_elsewhere
from geluless.verdicts.latency import at_every, faster, ratio_estimate
from geluless.verdicts.resources import missing
from geluless.verdicts.timed import agreed
from geluless.verdicts.timing_controls import engines_control, timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import RIVALS, TimingSession, conditions


def test_gain_per_isa_and_threads(claim: ClaimFixture, timing_session: TimingSession) -> None:
    """Judged: what relu gains over FasterTransformer's structure on one thread with the best instruction set, it gains on the
    others and on all threads, within 2 %."""
    if claim.lacks(
        Resource.CPU_ENGINE, would_run="relu against gelu-separate for every instruction set and thread count of this machine"
    ):
        return
    from geluless.engine.cpu import native

    every = conditions(len(os.sched_getaffinity(0)), tuple(native().available()))
    chosen = {name: entries for name, entries in every.items() if name.startswith(("isa ", "threads "))}
    if not chosen:
        claim.needs(Resource.CHECK, would_run="another instruction set than the best one, or a second core")
        return
    here = timing_session.variants("tiny")
    elsewhere = {name: timing_session.study(name, entries) for name, entries in chosen.items()}
    claim.decide(
        gains_elsewhere(elsewhere, here=here, rivals=RIVALS),
        timing_evidence(
            next(iter(elsewhere.values())),
            f"Swin-T, batch 1: how the ratio of relu to the faster form of gelu-separate changes from one thread with the best "
            f"instruction set to {', '.join(elsewhere)}",
            timing_control({"one thread": here, **elsewhere}),
        ),
    )


def test_other_engines_on_this_cpu(claim: ClaimFixture, timing_session: TimingSession, request: pytest.FixtureRequest) -> None:
    """Judged: the ReLU network is faster than the GELU network in every engine, each with the GELU that it chooses itself."""
    would_run = "both networks in our engine, OpenVINO, ONNX Runtime and TorchInductor, interleaved: the gain within each engine"
    if claim.lacks(Resource.CPU_ENGINE, would_run=would_run):
        return
    gains = timing_session.gains(prepare=request.config.getoption("full")) if missing(Resource.BASELINES) is None else None
    if gains is None:
        prepared = Resource.BASELINES if missing(Resource.BASELINES) else Resource.PREPARED_BASELINES
        claim.needs(prepared, would_run=would_run)
        return
    relu = f"{OURS} relu"
    claim.decide(
        at_every(
            {
                engine: agreed(
                    gains.timed,
                    lambda found, name, gelu=f"{engine} gelu": faster(found, name, gelu),
                    engines=(relu, GAIN_AGAIN) if engine == OURS else (f"{engine} relu",),
                )
                for engine in gains.engines
            }
        ),
        timing_evidence(
            gains.timed,
            f"Swin-T, batch 1, one thread, in {', '.join(gains.engines)}; ours computes GELU from a table here",
            engines_control(gains.timed, relu=relu, again=GAIN_AGAIN),
            numbers=(
                ratio_estimate(
                    gains.timed.together,
                    relu,
                    f"{SEPARATE} gelu",
                    label="geluless, over FasterTransformer's structure in it",
                ),
            ),
        ),
    )


def test_other_gpus(claim: ClaimFixture) -> None:
    claim.needs(Resource.CHECK, would_run="c06's statistics on whatever NVIDIA GPU is here, named by its sm_ number")
