"""Plants in what is timed: one engine slowed or favoured, one lucky run, a rival in its slow form, a machine that says
nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from geluless.verdicts.timed import AGAIN, RELU, SLOWED
from tests.redteam.judging import NEVER, Truth, honest, session
from tests.support.claims import outcome


class Check(NamedTuple):
    claim: str
    test: str
    arguments: dict[str, Any]


SHARE = Check("c01", "test_share_of_time_on_this_cpu", {"size": "tiny", "variant": "gelu-fused"})
FREE = Check("c05", "test_against_the_bare_gemm_on_this_cpu", {})
ELEVEN = Check("c06", "test_transfer_to_this_cpu", {"size": "large"})
TABLE = Check("c07", "test_time_against", {"variant": "gelu-lut"})
BIAS = Check("c08", "test_latency_with_and_without_bias", {"size": "tiny"})
FACTORS = Check("c09", "test_factorial_on_this_cpu", {"size": "tiny"})
SIZES = Check("c12", "test_gain_against_size_batch_and_resolution", {})
EVERY = (SHARE, FREE, ELEVEN, TABLE, BIAS, FACTORS, SIZES)


def status(check: Check, truth: Truth = honest, **machine: Any) -> str:
    return outcome(check.claim, check.test, timing_session=session(truth, **machine), **check.arguments).status


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.claim)
def test_what_is_true_is_reproduced(check: Check) -> None:
    """Else the plants below would show nothing."""
    assert status(check) == "REPRODUCED"


def scaled(factor: float, *names: str, run: int | None = None) -> Truth:
    """What is honest, but for these entries (of this run)."""

    def truth(name: str, number: int) -> float:
        return honest(name, number) * (factor if name in names and run in (None, number) else 1.0)

    return truth


def all_but_relu_slowed(name: str, run: int) -> float:
    """By 1 %, with a GELU table that in truth costs what ReLU costs."""
    return (1.0 if name == "gelu-lut" else honest(name, run)) * (1.0 if name == RELU else 1.01)


def kernel_slowed(factor: float, *kernels: str) -> Truth:
    def truth(name: str, run: int) -> float:
        return honest(name, run) * (factor if name.endswith(kernels) else 1.0)

    return truth


def _removing_earns_less(name: str, run: int) -> float:
    """In truth the fusion earns more; one of two engines of the separate ReLU says otherwise."""
    truth = {"gelu-fused-tanh": 1.02, "relu-separate-int8 in strips": 0.9, "relu-separate-int8 in strips again": 1.17}
    return truth.get(name, honest(name, run))


PLANTS: dict[str, tuple[Check, Truth]] = {
    "everything but relu slowed by 1 %": (TABLE, all_but_relu_slowed),
    "relu's engine favoured by 12 %, its like not": (ELEVEN, lambda name, run: 0.88 if name == RELU else _nine(name, run)),
    "the rival slow in one of its forms only": (ELEVEN, scaled(1.08 / 1.18, "gelu-separate in strips")),
    "the rival slow in the other form only": (ELEVEN, scaled(1.08 / 1.2, "gelu-separate")),
    "a gain of 9 %": (ELEVEN, lambda name, run: _nine(name, run)),
    "11 % in the first run only": (ELEVEN, lambda name, run: honest(name, run) if run == 0 else _nine(name, run)),
    "11 % in the second run only": (ELEVEN, lambda name, run: honest(name, run) if run == 1 else _nine(name, run)),
    "equal engines of relu that differ": (SHARE, scaled(1.05, AGAIN)),
    "the planted slowdown was not planted": (SHARE, scaled(1 / 1.03, SLOWED)),
    "GELU costs nothing": (SHARE, scaled(1 / 1.12, "gelu-fused")),
    "the activation costs 5 % in the kernel": (FREE, kernel_slowed(1.05, " relu", " relu again", SLOWED)),
    "a bare product that is not itself": (FREE, kernel_slowed(1.05, "bare again")),
    "a bare product slowed down, ReLU faster than nothing": (FREE, kernel_slowed(1.05, " bare", "bare again")),
    "the bias costs 4 %": (BIAS, scaled(0.96, "relu-nobias without bias")),
    "fusing GELU earns more than removing it": (FACTORS, scaled(1.02 / 1.12, "gelu-fused-tanh")),
    "an engine of the separate ReLU favoured by 23 %": (FACTORS, _removing_earns_less),
}


def _nine(name: str, run: int) -> float:
    return 1 / 0.91 if name.startswith("gelu-separate") else honest(name, run)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_falsehood_is_never_reproduced(plant: str) -> None:
    check, truth = PLANTS[plant]
    assert status(check, truth) in NEVER


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.claim)
def test_a_machine_too_restless_to_tell_reproduces_nothing(check: Check) -> None:
    assert status(check, layout=0.15) in NEVER


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.claim)
def test_two_processes_reproduce_nothing(check: Check) -> None:
    """They say nothing about the next one."""
    assert status(check, processes=2) == "ERROR"
