"""c10 on hardware that is not here: what an emulator or a compiler says is judged, and a run that looked at nothing is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from geluless.verdicts import ClaimFixture
from geluless.verdicts.claim_fixture import ClaimProtocolError
from geluless.verdicts.resources import ARM_PROGRAMS, Resource, missing
from tests.support import neon
from tests.support.claims import claim_module, deliver
from tests.support.neon import Run

REFERENCE, KERNEL = "reference relu", "gemm_u8s8_s32_fixed_relu"
GOOD = {
    "found": Run(0, (KERNEL, REFERENCE), ()),
    "without": Run(1, (), ()),
    "damaged": Run(1, (KERNEL, REFERENCE), (REFERENCE,)),
}


@pytest.fixture
def c10() -> ModuleType:
    return claim_module("c10")


# -------------------------------------------------------------------------------------------------------------------- ARM

LINES = """ok     neon       gemm_u8s8_s32_fixed_relu            130 cases,    12345 values, worst difference 0
FAILED neon       network gelu-lut                   network 0: logits differs
ok     neon       reference relu                        5 images, worst difference 0, allowed 0
ok     portable   reference relu                        5 images, worst difference 0, allowed 0
1 instruction sets compared with portable, 1 checks failed
"""


def test_the_checks_of_neon_are_read_and_no_others() -> None:
    assert neon.read(1, LINES) == Run(1, (KERNEL, "network gelu-lut", REFERENCE), ("network gelu-lut",))
    assert neon.read(0, "left out: neon, which this processor does not report\n") == Run(0, (), ())


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({}, ""),
        ({"found": Run(1, (KERNEL, REFERENCE), (KERNEL,))}, f"{KERNEL} differs"),
        ({"found": Run(0, (KERNEL,), ())}, "ended with 0 after 1 checks"),
        ({"found": Run(-11, (), ())}, "ended with -11"),
        ({"without": Run(0, (KERNEL,), ())}, "cortex-a57"),
        ({"without": Run(1, (KERNEL,), (KERNEL,))}, "cortex-a57"),
        ({"damaged": Run(0, (KERNEL, REFERENCE), ())}, "last bit went unnoticed"),
        ({"damaged": Run(1, (), ())}, "last bit went unnoticed"),
    ],
)
def test_every_way_to_see_nothing_is_a_problem(spoiled: dict[str, Run], words: str) -> None:
    found = neon.problems(**(GOOD | spoiled))
    assert words in "; ".join(found)
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("spoiled", "status"),
    [
        ({}, "REPRODUCED"),
        ({"found": Run(1, (KERNEL, REFERENCE), (KERNEL,))}, "REFUTED"),
        ({"damaged": Run(0, (KERNEL, REFERENCE), ())}, ClaimProtocolError),
        ({"without": Run(0, (KERNEL,), ())}, ClaimProtocolError),
        ({"found": Run(-11, (), ())}, RuntimeError),
    ],
)
def test_what_the_emulator_says_becomes_a_verdict(
    c10: ModuleType, monkeypatch: pytest.MonkeyPatch, spoiled: dict[str, Run], status: Any
) -> None:
    def emulated(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        runs = GOOD | spoiled
        result = {"problems": neon.problems(**runs), **{name: vars(run) for name, run in runs.items()}}
        Path(command[-1]).write_text(json.dumps(result))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ClaimFixture, "lacks", lambda *_, **__: False)
    monkeypatch.setattr(subprocess, "run", emulated)
    if isinstance(status, str):
        assert deliver("c10", "test_neon_gives_the_reference_bits").status == status
    else:
        with pytest.raises(status):
            deliver("c10", "test_neon_gives_the_reference_bits")


def test_an_emulator_that_leaves_no_result_is_an_error(c10: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClaimFixture, "lacks", lambda *_, **__: False)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(RuntimeError, match="were not run"):
        deliver("c10", "test_neon_gives_the_reference_bits")


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    said = missing(Resource.ARM_EMULATOR)
    assert said is not None
    assert all(name in said and package in said for name, package in ARM_PROGRAMS.items())
    for name in ARM_PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert missing(Resource.ARM_EMULATOR) is None


@pytest.mark.nightly
@pytest.mark.skipif(missing(Resource.ARM_EMULATOR) is not None, reason=str(missing(Resource.ARM_EMULATOR)))
def test_the_real_kernels_give_the_reference_bits(c10: ModuleType) -> None:
    assert deliver("c10", "test_neon_gives_the_reference_bits").status == "REPRODUCED"


# -------------------------------------------------------------------------------------------------------------------- AMD


def test_without_triton_amd_is_not_judged(c10: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geluless.verdicts.resources._module_exists", lambda name: False)
    record = deliver("c10", "test_relu_is_integer_code_on_amd_gpus")
    status, sentence = record.status, record.sentence
    assert status in ("NEEDS_AMD_COMPILER", "NEEDS_GPU_ENGINE")
    assert "AMD" in sentence or "triton" in sentence


@pytest.mark.slow
def test_relu_is_integer_on_amd_and_a_float_epilogue_under_its_name_is_refuted(
    c10: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="compiles with triton: pip install 'geluless[gpu]'")
    from geluless.engine.gpu import codegen_check

    record = deliver("c10", "test_relu_is_integer_code_on_amd_gpus")
    status, sentence = record.status, record.sentence
    assert status == "REPRODUCED", sentence
    honest = codegen_check.fc1_machine_code
    under_its_name = {"relu": "gelu-tanh"}
    monkeypatch.setattr(
        codegen_check, "fc1_machine_code", lambda formula, target: honest(under_its_name.get(formula, formula), target)
    )
    assert deliver("c10", "test_relu_is_integer_code_on_amd_gpus").status == "REFUTED"
    monkeypatch.setattr(codegen_check, "fc1_machine_code", lambda formula, target: honest("relu", target))
    with pytest.raises(ClaimProtocolError, match="the control did not hold"):
        deliver("c10", "test_relu_is_integer_code_on_amd_gpus")
