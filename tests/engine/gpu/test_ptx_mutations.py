"""Shipped kernels, executed from their PTX, equal the reference; the same kernels broken in any of many ways do not.

A mutant counts as caught when it runs to another result or to an error. It must be text that still parses, differ from the
original, and the original must pass: the controls are alive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("triton", reason="compiled kernels need triton: pip install 'geluless[gpu]'")

from ptxsim import Kernel, PtxError, parse
from tests.support.ptx_mutations import MUTATIONS, Mutation, swizzles
from tests.support.ptx_shipped import CASES, Case

# Of MUTATIONS, how many at least find their instruction in each kernel: other releases of triton write other PTX.
AT_LEAST = {"int8_linear": 24, "window_attention": 16, "layer_norm": 12}
EVERY = {"int8_linear": 1, "window_attention": 4, "layer_norm": 1}  # swizzle is tried: attention has four dozen, and is slow


@pytest.mark.parametrize("name", CASES)
def test_shipped_kernels_equal_the_reference_and_their_cases_can_tell(name: str) -> None:
    case = CASES[name]()
    assert (case.run() == case.want).all()
    assert len(np.unique(case.want)) > 190
    ends = np.isin(case.want, (-128, 127)).mean()
    assert ends < 0.02 or (name == "int8_linear" and ends < 0.5), "at an end of the range a wrong value looks like a right one"


def mutants(case: Case, mutations: Mapping[str, Mutation]) -> dict[str, Kernel]:
    """Those that find their instruction, each proved to be PTX and another one than the original."""
    found = {}
    for name, mutate in mutations.items():
        try:
            broken = mutate(case.ptx)
        except PtxError:
            continue
        assert broken != case.ptx
        found[name] = parse(broken)
    return found


def survivors(case: Case, kernels: Mapping[str, Kernel]) -> list[str]:
    names = []
    for name, kernel in kernels.items():
        with contextlib.suppress(PtxError):
            if (case.run(kernel) == case.want).all():
                names.append(name)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_mutant_of_a_shipped_kernel_is_caught(name: str) -> None:
    case = CASES[name]()
    applicable = mutants(case, MUTATIONS)
    assert len(applicable) >= AT_LEAST[name], f"only {', '.join(applicable)} find their instruction"
    assert survivors(case, applicable) == []


@pytest.mark.parametrize("name", CASES)
def test_every_single_swizzle_matters(name: str) -> None:
    """All of them at once would be caught by any one that is looked at."""
    case = CASES[name]()
    chosen = swizzles(case.ptx)[:: EVERY[name]]
    kernels = mutants(case, {str(number): mutate for number, mutate in enumerate(chosen)})
    assert len(kernels) == len(chosen) >= 4
    assert survivors(case, kernels) == []


@pytest.mark.parametrize(
    "name", ["wait for one group less", "waits dropped", "last commit before the loop dropped", "commit in the loop dropped"]
)
def test_a_copy_that_nobody_waits_for_gives_wrong_data(name: str) -> None:
    """Even where races are not looked for."""
    case = CASES["int8_linear"]()
    assert (case.run(parse(MUTATIONS[name](case.ptx)), check_races=False) != case.want).any()


@pytest.mark.parametrize("name", CASES)
def test_only_the_race_check_sees_a_missing_barrier(name: str) -> None:
    """In lock-step the result stays right, which is why accesses are compared between barriers."""
    case = CASES[name]()
    broken = parse(MUTATIONS["barriers dropped"](case.ptx))
    assert (case.run(broken, check_races=False) == case.want).all()
    with pytest.raises(PtxError, match="no barrier between"):
        case.run(broken)


def test_a_mutation_without_its_instruction_raises() -> None:
    for mutate in MUTATIONS.values():
        with pytest.raises(PtxError, match="nothing to mutate"):
            mutate("ret;")
