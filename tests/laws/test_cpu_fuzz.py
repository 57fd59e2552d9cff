"""Forged artifacts and the compiled engine: whatever loads runs, without crashing, and gives the bits of the reference.

The limits that plan.py sets are the ones a file may use, so values come from their ends as well as from between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from geluless.engine.cpu import CpuNetwork
from geluless.errors import ArtifactError
from geluless.integer import plan as p
from geluless.integer.artifact import Artifact, artifact_from_bytes
from geluless.integer.bounds import check_plan
from geluless.integer.schema import INT32_MAX, MAX_FACTOR, SCALES, TensorSpec, named_linears, tensor_schema
from geluless.integer.variants import available_variants
from tests.laws.strategies import any_of, random_artifact, random_images, seeds, share, uniform_tensor
from tests.support.compiled import (
    ISAS,
    assert_same_in_every_variant,
    each_isa,
    first_difference,
    requires_native,
    tensors_of_reference,
)
from tests.support.networks import awkward_artifact

pytestmark = [pytest.mark.property, requires_native]


def honest_artifact(rng: np.random.Generator) -> Artifact:
    """Something to start from: quantized by any profile, or of any geometry."""
    if rng.random() < 0.5:
        return random_artifact(rng)
    return awkward_artifact(relu=bool(rng.integers(2)), profile=str(rng.choice(["per-channel", "ft1"])))


# ------------------------------------------------------------------------------------------------------------- tensors


def forged_tensor(rng: np.random.Generator, spec: TensorSpec, honest: NDArray) -> NDArray:
    """Other values within the schema: any, one end, both ends, zero, one element, or floats of any exponent."""
    anything = uniform_tensor(rng, spec)
    if spec.dtype == "float32":
        assert spec.high is not None
        low, high = spec.low, spec.high
        exponents = np.exp2(rng.uniform(-149, np.log2(spec.high), spec.shape))
        scattered = (rng.choice([-1.0, 1.0], spec.shape) * exponents).astype(np.float32)
        typed = np.float32
    else:
        info = np.iinfo(spec.dtype)
        low, high = (info.min if spec.low is None else spec.low), (info.max if spec.high is None else spec.high)
        scattered, typed = anything, np.dtype(spec.dtype).type
    one = honest.copy()
    one.reshape(-1)[rng.integers(one.size)] = rng.choice([typed(low), typed(high)])
    ends = rng.choice(np.array([low, high], typed), spec.shape)
    choices = [anything, scattered, ends, np.full_like(honest, low), np.full_like(honest, high), np.zeros_like(honest), one]
    return choices[int(rng.integers(len(choices)))]


def with_fitting_biases(plan: p.Plan, tensors: dict[str, NDArray]) -> dict[str, NDArray]:
    """Biases cut so that no accumulator can overflow, up to the last unit of what the artifact may hold."""
    fitting = dict(tensors)
    for name, linear in named_linears(plan):
        reach = max(-linear.input_low, linear.input_high + 1)  # as ptq.artifact bounds it
        products = np.abs(tensors[f"{name}.weight"].astype(np.int64)).sum(1) * reach
        room = INT32_MAX - 2**29 - products
        fitting[f"{name}.bias"] = np.clip(tensors[f"{name}.bias"], -room, room).astype(np.int32)
    return fitting


def forge_tensors(rng: np.random.Generator, artifact: Artifact) -> Artifact:
    """A loaded artifact with one tensor in it replaced, or some, or nearly all."""
    schema = tensor_schema(artifact.plan)
    share_of_tensors = rng.choice([0.0, 0.1, 0.9])
    chosen = [name for name in schema if rng.random() < share_of_tensors] or [str(rng.choice(list(schema)))]
    forged = {name: forged_tensor(rng, schema[name], artifact.tensors[name]) for name in chosen}
    tensors = with_fitting_biases(artifact.plan, {**artifact.tensors, **forged})
    return artifact_from_bytes(Artifact(artifact.plan, tensors).to_bytes())


@each_isa
@share(4)
@given(seed=seeds)
def test_forged_tensors_give_the_bits_of_the_reference(isa, seed):
    rng = np.random.default_rng(seed)
    artifact = forge_tensors(rng, honest_artifact(rng))
    image = random_images(rng, artifact.plan, 1)
    assert_same_in_every_variant(isa, artifact, image)


@share(10)
@given(seed=seeds)
def test_forged_tensors_give_the_same_bits_on_several_threads(seed):
    rng = np.random.default_rng(seed)
    artifact = forge_tensors(rng, honest_artifact(rng))
    images, variant = random_images(rng, artifact.plan, 3), available_variants(artifact.plan)[0]
    single = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=ISAS[0]).run(images)
    assert (CpuNetwork(artifact.plan, artifact.tensors, variant, isa=ISAS[0], threads=3).run(images) == single).all()


def test_forged_tensors_reach_the_network():
    """Control: a forger who changed nothing would prove nothing."""
    reached = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        honest = awkward_artifact()
        forged, image = forge_tensors(rng, honest), random_images(rng, honest.plan, 1)
        variant = available_variants(honest.plan)[0]
        reached += first_difference(
            tensors_of_reference(honest, variant, image), tensors_of_reference(forged, variant, image)
        ) != ("", 0)
    assert reached >= 15


# ---------------------------------------------------------------------------------------------------------- the plan


INTEGERS = (-(2**15), -129, -128, -1, 0, 1, 2, 3, 4, 29, 30, 127, 128, 255, 256, 2**15 - 1, 2**16, 2**31 - 1, 2**52 - 1)
REALS = (SCALES[0], 1e-6, 0.013, 0.5, 1.0, 1.5, 300.0, MAX_FACTOR, SCALES[1], 1e-300, 1e300)
# What a file can change without contradicting its tensors.
FREE = (
    *("zero_point", "epsilon_term", "factor", "shift", "input_scale", "input_zero_point", "pool_multiplier", "pool_shift"),
    *("hidden_scale", "hidden_zero_point", "pre_scale", "pre_zero_point", "after_gemm_scale", "residual_scale"),
)


def numbers(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every number in an encoded plan."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from numbers(child, (*path, key))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path


def forge_plan(rng: np.random.Generator, artifact: Artifact) -> Artifact | None:
    """A loaded artifact with one to three numbers of its plan replaced; None when it is refused."""
    encoded = p.encode(artifact.plan)
    paths = list(numbers(encoded))
    free = [path for path in paths if any(key in FREE for key in path[-2:])]
    for _ in range(int(rng.integers(1, 4))):
        pool = free if rng.random() < 0.95 else paths
        *parents, last = pool[int(rng.integers(len(pool)))]
        node = encoded
        for key in parents:
            node = node[key]
        node[last] = any_of(rng, *(INTEGERS if isinstance(node[last], int) else REALS))
    try:
        check_plan(p.decode(p.Plan, encoded))  # most are refused here, before anything is hashed
        return artifact_from_bytes(Artifact(p.decode(p.Plan, encoded), artifact.tensors).to_bytes())
    except (ArtifactError, p.PlanError):
        return None


@each_isa
@share(4)
@given(seed=seeds)
def test_forged_plans_are_refused_or_give_the_bits_of_the_reference(isa, seed):
    """Zero points, shifts of windows, scales and factors at the ends of what plan.check_plan lets pass; five attempts each."""
    rng = np.random.default_rng(seed)
    honest = honest_artifact(rng)
    artifact = next(filter(None, (forge_plan(rng, honest) for _ in range(5))), None)
    if artifact is None:
        return
    image = random_images(rng, artifact.plan, 1)
    assert_same_in_every_variant(isa, artifact, image)


def test_many_forged_plans_are_accepted():
    """Control: were nearly all refused, the law above would hold for want of examples."""
    accepted = sum(forge_plan(np.random.default_rng(seed), awkward_artifact()) is not None for seed in range(60))
    assert 10 <= accepted < 60


@share(4)
@given(seed=seeds)
def test_blocks_that_round_differently_in_fc1_are_refused(seed):
    """A variant is one for the whole network: half of the blocks would have no tensors for it."""
    rng = np.random.default_rng(seed)
    plan = random_artifact(rng).plan
    last = plan.stages[-1].blocks[-1]
    other = p.Rounding.TWO_STAGE if last.mlp.fc1.rounding is p.Rounding.SINGLE else p.Rounding.SINGLE
    mlp = replace(last.mlp, fc1=replace(last.mlp.fc1, rounding=other))
    stage = replace(plan.stages[-1], blocks=(*plan.stages[-1].blocks, replace(last, mlp=mlp)))
    with pytest.raises(p.PlanError, match=r"mlp"):
        check_plan(replace(plan, stages=(*plan.stages[:-1], stage)))
    stage = replace(stage, blocks=(*plan.stages[-1].blocks, last))
    check_plan(replace(plan, stages=(*plan.stages[:-1], stage)))
