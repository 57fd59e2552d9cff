"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

import os

import pytest

from geluless.peers.gain import SEPARATE
from geluless.peers.gain import TWIN as GAIN_TWIN
from geluless.peers.roster import BASELINE
from geluless.verdicts import ClaimHandle, Control, Resource
from geluless.verdicts.lab import TWIN, Lab, conditions
from geluless.verdicts.latency import at_every, faster, holm_at_every, ratio_estimate
from geluless.verdicts.resources import missing
from geluless.verdicts.timed import timed_evidence


def test_this_cpu_per_isa_and_threads(claim: ClaimHandle, lab: Lab) -> None:
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
    found = {name: lab.study(name, study) for name, study in chosen.items()}
    first = next(iter(found.values()))
    nothing = faster(first, TWIN, "relu")
    claim.decide(
        holm_at_every(found, "relu", "gelu-separate"),
        timed_evidence(
            first,
            f"Swin-T, batch 1: relu against gelu-separate on {', '.join(found)}, Holm-corrected over these",
            Control.refused("relu against its twin must not be faster", nothing),
        ),
    )


def test_other_engines_on_this_cpu(claim: ClaimHandle, lab: Lab, request: pytest.FixtureRequest) -> None:
    """Judged: the ReLU network is faster than the GELU network in every engine, each with the GELU that it chooses itself."""
    would_run = "both networks in our engine, OpenVINO, ONNX Runtime and TorchInductor, interleaved: the gain within each engine"
    if claim.lacks(Resource.CPU_ENGINE, would_run=would_run):
        return
    gain = lab.engines(prepare=request.config.getoption("full")) if missing(Resource.PEERS) is None else None
    if gain is None:
        prepared = Resource.PEERS if missing(Resource.PEERS) else Resource.PREPARED_PEERS
        claim.needs(prepared, would_run=would_run)
        return
    found, twin = gain.found, f"{BASELINE} relu"
    nothing = faster(found, GAIN_TWIN, twin)
    claim.decide(
        at_every({engine: faster(found, f"{engine} relu", f"{engine} gelu") for engine in gain.engines}),
        timed_evidence(
            found,
            f"Swin-T, batch 1, one thread, in {', '.join(gain.engines)}; ours computes GELU from a table here",
            Control.refused("our engine's twin must not be faster", nothing),
            numbers=(ratio_estimate(found, twin, f"{SEPARATE} gelu", label="ours, over FasterTransformer's structure in it"),),
        ),
    )


def test_other_gpus(claim: ClaimHandle) -> None:
    claim.needs(
        Resource.GPU, Resource.GPU_ENGINE, would_run="c06's statistics on whatever NVIDIA GPU is here, named by its sm_ number"
    )
