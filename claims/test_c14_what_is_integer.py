"""c14: post-training quantization alone makes the MLP's path integer; what stays in floating point is listed.

FasterTransformer rounds after the GEMM and again after the bias. One rounding should be closer to FP32.
"""

from __future__ import annotations

import pytest

from geluless.verdicts import ClaimFixture, Control, Estimate, Evidence, Verdict
from geluless.verdicts.equivalence import ratio_above_one
from geluless.verdicts.micro_networks import ROUNDING_SIZE, Kind, Task
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.statistics import deal_at_random, mean_ratio

TASK = Task(Kind.LOCAL, ROUNDING_SIZE)
MLP_PATH = ("norm2", "fc1", "hidden", "fc2")


@pytest.mark.evidence(str(TASK))
def test_the_mlp_path_is_integer(claim: ClaimFixture, micro_networks: EvidencePool, tier: str) -> None:
    (local,) = micro_networks.get(TASK)
    manifest = local.manifests["int8-relu"]
    on_path = [row for row in manifest if row["tensor"].split()[0] in MLP_PATH]
    floats = [row for row in on_path if "float" in row["dtype"]]
    control = [row for row in local.manifests["two-stage"] if row["tensor"].split()[0] in MLP_PATH and "float" in row["dtype"]]
    elsewhere = sorted({f"{row['tensor']} {row['dtype']}" for row in manifest if "float" in row["dtype"]})
    evidence = Evidence(
        ran=f"precision manifest of the INT8 ReLU artifact ({TASK.size}): {len(on_path)} entries from MLP input to output",
        tier=tier,
        seconds=local.seconds["INT8 ReLU"],
        control=Control(
            "the manifest of the artifact that rounds twice must show floating point on the same path",
            f"{len(control)} floating-point entries",
            len(control) > 0,
        ),
        artifacts={"INT8 ReLU": local.artifacts["int8-relu"]},
        details=(f"floating point elsewhere: {', '.join(elsewhere)}",),
    )
    if floats or not on_path:
        claim.refuted(f"{len(floats)} of {len(on_path)} entries of the MLP's path are floating point", evidence)
    else:
        claim.reproduced(f"none of {len(on_path)} entries of the MLP's path is floating point", evidence)


@pytest.mark.evidence(str(TASK))
def test_one_rounding_is_closer_than_two(claim: ClaimFixture, micro_networks: EvidencePool, tier: str) -> None:
    (local,) = micro_networks.get(TASK)
    errors = local.errors
    single = errors["one-stage"]
    identical = bool((errors["one-stage again"] == single).all())
    # At 99.9 % instead of 95 %: a sound check may raise a false alarm once in a thousand data sets, not once in twenty.
    dealt = ratio_above_one(
        *deal_at_random(errors["two-stage"], single, seed=14), name="error ratio of randomly dealt variants", confidence=0.999
    )
    beside = []
    for name in ("ft1", "ft2"):
        ratio = mean_ratio(errors[name], single)
        beside.append(Estimate(f"error of profile {name} over best", ratio.value, ratio.low, ratio.high, "ratio", len(single)))
    claim.decide(
        ratio_above_one(errors["two-stage"], single, name="mean squared logit error, two roundings over one"),
        Evidence(
            ran=f"the distilled micro network {TASK.size} quantized twice with profile per-channel, only the rounding of "
            f"every linear layer being different; squared logit error to FP32, {len(single):,} test images, paired bootstrap",
            tier=tier,
            seconds=sum(value for step, value in local.seconds.items() if step.startswith("rounding")),
            control=Control(
                "A/A: the same artifact made and run twice must be identical, randomly dealt roundings must show no difference",
                f"{'identical' if identical else 'NOT identical'}; {dealt.sentence}",
                identical and dealt.verdict is not Verdict.REPRODUCED,
            ),
            artifacts={name: local.artifacts[name] for name in ("one-stage", "two-stage", "ft1", "ft2")},
            numbers=tuple(beside),
        ),
    )
