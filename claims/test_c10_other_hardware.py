"""c10: does the gain hold on other hardware?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from geluless.baselines.gain import CONTROL as GAIN_AGAIN
from geluless.baselines.gain import SEPARATE
from geluless.baselines.registry import OURS
from geluless.files import read_json
from geluless.verdicts import ClaimFixture, Control, Evidence, Resource
from geluless.verdicts.gain_changes import gains_elsewhere
from geluless.verdicts.integer_code import deliver_integer_code
from geluless.verdicts.latency import at_every, faster, ratio_estimate
from geluless.verdicts.resources import missing
from geluless.verdicts.timed import agreed
from geluless.verdicts.timing_controls import engines_control, timing_control
from geluless.verdicts.timing_evidence import timing_evidence
from geluless.verdicts.timing_session import RIVALS, TimingSession, conditions

REPOSITORY = Path(__file__).parents[1]
AMD = ("gfx942", "gfx1100")  # MI300, with matrix instructions; RX 7900


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
                    partial(faster, against=f"{engine} gelu"),
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


def test_neon_gives_the_reference_bits(claim: ClaimFixture) -> None:
    """ARM's instruction set under an emulator: what it computes, not how fast."""
    would_run = "the NEON kernels, cross-compiled and emulated, against portable C++ and the reference's logits"
    if claim.lacks(Resource.ARM_EMULATOR, would_run=would_run):
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "neon.json"), Path(folder, "neon.log")
        with log.open("w", encoding="utf-8") as lines:
            command = [sys.executable, "-m", "tests.support.neon", str(result)]
            done = subprocess.run(command, cwd=REPOSITORY, stdout=lines, stderr=subprocess.STDOUT, check=False)
        if not result.exists():
            raise RuntimeError(f"the NEON kernels were not run (exit code {done.returncode}): {log.read_text()[-2000:]}")
        found = read_json(result)
    checks, failed = found["found"]["checks"], found["found"]["failed"]
    if not checks:
        raise RuntimeError(f"no NEON kernel was checked: {'; '.join(found['problems'])}")
    damaged, without = found["damaged"], found["without"]
    evidence = Evidence(
        ran=f"{would_run}: {sum(name.startswith('reference ') for name in checks)} variants of a network against the reference's "
        f"logits, each kernel on random and extreme input against portable C++",
        tier="NEON with dot products, emulated by qemu-aarch64",
        seconds=time.perf_counter() - started,
        control=Control(
            "a logit of the reference that is off by its last bit must be noticed, a processor without dot products left out",
            f"{len(damaged['failed'])} check failed; {len(without['checks'])} checks were run",
            damaged["code"] == 1 and len(damaged["failed"]) == 1 and without["code"] == 1 and not without["checks"],
        ),
        details=("the one step that a hidden value may be off where GELU is computed in fp32 is allowed, as on x86",),
    )
    if failed or found["problems"]:
        claim.refuted(f"{len(failed)} of {len(checks)} checks differ: {'; '.join(found['problems'])}", evidence)
    else:
        claim.reproduced(f"all {len(checks)} checks hold: integers and logits are bit for bit the reference's", evidence)


def test_relu_is_integer_code_on_amd_gpus(claim: ClaimFixture) -> None:
    """The same kernel that c04 disassembles for NVIDIA, compiled for AMD's GPUs without one."""
    would_run = f"fc1 with ReLU in its epilogue, compiled for {', '.join(AMD)}: every instruction against an allowlist"
    if claim.lacks(Resource.GPU_ENGINE, Resource.AMD_COMPILER, would_run=would_run):
        return
    from geluless.engine.gpu.codegen_check import fc1_machine_code

    started = time.perf_counter()
    relu, gelu = ([code for name in AMD for code in fc1_machine_code(formula, name)] for formula in ("relu", "gelu-erf"))
    deliver_integer_code(
        claim,
        relu,
        gelu,
        ran=f"{would_run} of integer, memory and control instructions, at {len(relu) // len(AMD)} shapes of Swin T/S/B/L",
        tier=", ".join(AMD),
        seconds=time.perf_counter() - started,
    )
