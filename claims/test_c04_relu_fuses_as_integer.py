"""c04: ReLU fuses into the preceding INT8 GEMM as an integer operation, exactly.

Break condition: a fusion that changes a single bit, or that needs a floating-point operation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from geluless.integer.requantization import INT16_MAX, INT16_MIN, Requant, requantize
from geluless.verdicts import ClaimFixture, Control, Evidence, Resource
from geluless.verdicts.integer_code import deliver_integer_code
from geluless.verdicts.micro_networks import ENGINE_CONTROL, SIZES, Kind, Task, TaskResult
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.relu_fusion import count_differences, every_pair_differences, random_gemms

GEMMS = 400
TARGET = "sm_89"  # Ada, the paper's RTX 4090


def test_lower_clamp_is_relu_for_every_value_and_zero_point(claim: ClaimFixture) -> None:
    started = time.perf_counter()
    wrong = every_pair_differences(clamp_offset=0)
    off_by_one = [every_pair_differences(clamp_offset=offset) for offset in (-1, 1)]
    evidence = Evidence(
        ran="max(real, 0) quantized again, against the lower clamp of the integer requantization, for all 256 x 256 pairs of "
        "a stored uint8 value and its zero point",
        tier="any CPU",
        seconds=time.perf_counter() - started,
        control=Control(
            "a clamp one below or one above the zero point must be caught",
            f"{off_by_one[0]:,} and {off_by_one[1]:,} of 65,536 pairs differ",
            min(off_by_one) > 0,
        ),
    )
    deliver(claim, wrong, 65_536, "pairs", evidence)


def test_fused_clamp_equals_gemm_then_relu(claim: ClaimFixture) -> None:
    started = time.perf_counter()
    outputs = wrong = at_output = at_accumulator = 0
    for case in random_gemms(GEMMS, seed=4):
        fused = case.fused()
        outputs += fused.size
        # ReLU where the 16-bit result lies, and ReLU on the int32 accumulator: both must give the fused bits.
        wrong += count_differences(fused, case.relu_after_requantization())
        wrong += count_differences(fused, case.relu_on_accumulator())
        at_output += count_differences(fused, case.relu_after_requantization(clamp_offset=1))
        at_accumulator += count_differences(fused, case.fused(zero_point_offset=1))
    evidence = Evidence(
        ran=f"{GEMMS} random GEMMs (K up to 3,072, extreme weights, all shifts): the fused lower clamp against GEMM then ReLU, "
        "on the int32 accumulator and on the 16-bit result, oracle in int64",
        tier="any CPU",
        seconds=time.perf_counter() - started,
        control=Control(
            "a ReLU at zero point + 1, and a kernel with zero point + 1, must be caught",
            f"{at_output:,} and {at_accumulator:,} of {outputs:,} outputs differ",
            at_output > 0 and at_accumulator > 0,
        ),
    )
    deliver(claim, wrong, 2 * outputs, "outputs", evidence)


def test_negative_accumulators_become_the_zero_point(claim: ClaimFixture) -> None:
    """The monotone law behind the fusion: y(acc) is non-decreasing and y(0) is the zero point, for every multiplier and shift."""
    started = time.perf_counter()
    edges = np.unique(
        np.concatenate([sign * 2 ** np.arange(30) + d for sign in (-1, 1) for d in (-1, 0, 1)] + [np.zeros(1, int)])
    )
    acc = edges.astype(np.int32)[:, None]  # int32 [M, 1]
    cases = wrong = caught = 0
    for shift in range(22):
        for multiplier in (1, 2, 3, 2047, 2048, 4095, 4096, 16384, 32766, 32767):
            for zero_point in (0, 1, 127, 255):
                requant = Requant(
                    np.zeros(1, np.int32), np.array([multiplier], np.int32), np.array([shift], np.uint8), zero_point
                )
                y = requantize(acc, requant, low=INT16_MIN, high=INT16_MAX)[:, 0]
                cases += len(y)
                wrong += (
                    int((np.diff(y) < 0).sum()) + int(y[edges == 0][0] != zero_point) + int((y[edges < 0] > zero_point).sum())
                )
                caught += int((np.diff(-y) < 0).sum())
    evidence = Evidence(
        ran="the requantization over powers of two and their neighbours, 22 shifts, 10 multipliers, 4 zero points",
        tier="any CPU",
        seconds=time.perf_counter() - started,
        control=Control("a decreasing function must be caught by the same law", f"{caught:,} descents found", caught > 0),
    )
    deliver(claim, wrong, cases, "values", evidence)


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.evidence(f"local:{size}")) for size in SIZES])
def test_compiled_engines_give_the_reference_bits(
    claim: ClaimFixture, micro_networks: EvidencePool, tier: str, size: str
) -> None:
    """The whole network, fused on every instruction set of this machine and unfused on the best: no bit of any logit differs."""
    (local,) = micro_networks.get(Task(Kind.LOCAL, size))
    if not local.engines:
        claim.needs(Resource.CPU_ENGINE, would_run="the INT8 ReLU network on every instruction set against the reference")
        return
    compared = ", ".join(f"{name} ({n:,} images)" for name, (_, n) in local.engines.items() if name != ENGINE_CONTROL)
    ran = f"INT8 ReLU micro network {size} on {local.images}: logits of {compared} against the reference engine"
    deliver_logits(claim, local, local.engines, ran=ran, tier=tier, seconds=local.seconds["INT8 ReLU, compiled"])


@pytest.mark.parametrize("size", [pytest.param(size, marks=pytest.mark.evidence(f"local:{size}")) for size in SIZES])
def test_gpu_code_gives_the_reference_bits(claim: ClaimFixture, micro_networks: EvidencePool, size: str) -> None:
    """The whole network as compiled for the paper's GPU, every instruction of its PTX executed on the CPU."""
    (local,) = micro_networks.get(Task(Kind.LOCAL, size))
    if not local.gpu_code:
        claim.needs(Resource.GPU_ENGINE, would_run=f"the INT8 ReLU network compiled for {TARGET}, its PTX executed on this CPU")
        return
    ((name, (_, images)),) = ((name, counts) for name, counts in local.gpu_code.items() if name != ENGINE_CONTROL)
    ran = (
        f"INT8 ReLU micro network {size} on {images} test images: {name}, executed thread by thread on this CPU, against the "
        "reference engine"
    )
    deliver_logits(claim, local, local.gpu_code, ran=ran, tier=TARGET, seconds=local.seconds["INT8 ReLU, PTX"])


def test_no_float_opcode_in_the_gpu_kernel(claim: ClaimFixture) -> None:
    if claim.lacks(
        Resource.GPU_ENGINE,
        would_run=f"the fused kernel compiled for {TARGET} without a GPU; every opcode of its machine code against an "
        "allowlist of integer, memory and control instructions; the erf-GELU kernel must fail it",
    ):
        return
    from geluless.engine.gpu.codegen_check import fc1_machine_code

    started = time.perf_counter()
    relu, gelu = (fc1_machine_code(formula, TARGET) for formula in ("relu", "gelu-erf"))
    deliver_integer_code(
        claim,
        relu,
        gelu,
        ran=f"fc1 with ReLU in its epilogue, compiled for {TARGET} at the {len(relu)} shapes of Swin T/S/B/L and disassembled: "
        "every opcode against an allowlist of integer, memory and control instructions",
        tier=TARGET,
        seconds=time.perf_counter() - started,
    )


def test_relu_adds_no_instruction_to_the_gpu_kernel(claim: ClaimFixture) -> None:
    if claim.lacks(
        Resource.GPU_ENGINE,
        would_run=f"fc1 with ReLU and fc1 requantized without activation, compiled for {TARGET}: instructions per shape; "
        "FasterTransformer's tanh-GELU must add some",
    ):
        return
    from geluless.engine.gpu.codegen_check import fc1_machine_code

    started = time.perf_counter()
    formulas = ("int8", "relu", "gelu-tanh")
    bare, relu, gelu = ([len(kernel.opcodes) for kernel in fc1_machine_code(formula, TARGET)] for formula in formulas)
    added = [with_relu - without for with_relu, without in zip(relu, bare, strict=True)]
    control = [with_gelu - without for with_gelu, without in zip(gelu, bare, strict=True)]
    evidence = Evidence(
        ran=f"fc1 with ReLU against fc1 requantized without activation, compiled for {TARGET} at {len(bare)} shapes: static "
        f"instructions ({sum(relu):,} against {sum(bare):,})",
        tier=TARGET,
        seconds=time.perf_counter() - started,
        control=Control(
            "FasterTransformer's tanh-GELU in the same place must add instructions at every shape",
            f"{min(control):,} to {max(control):,} instructions more",
            min(control) > 0,
        ),
    )
    if max(added) > 0:
        claim.refuted(f"ReLU adds up to {max(added)} instructions to the kernel", evidence)
    else:
        claim.reproduced(f"ReLU adds no instruction at any of {len(bare)} shapes ({min(added)} to {max(added)})", evidence)


def deliver_logits(
    claim: ClaimFixture, local: TaskResult, found: Mapping[str, tuple[int, int]], *, ran: str, tier: str, seconds: float
) -> None:
    """`found`: images that differ and images compared, by engine, ENGINE_CONTROL among them."""
    differences = dict(found)
    caught, images = differences.pop(ENGINE_CONTROL)
    evidence = Evidence(
        ran=ran,
        tier=tier,
        seconds=seconds,
        control=Control(
            "one weight of the classifier changed by one step must be caught",
            f"{caught:,} of {images:,} images differ",
            caught > 0,
        ),
        artifacts={"INT8 ReLU": local.artifacts["int8-relu"], "teacher": local.teacher_sha256},
    )
    wrong, cases = (sum(counts) for counts in zip(*differences.values(), strict=True))
    deliver(claim, wrong, cases, "logit vectors", evidence)


def deliver(claim: ClaimFixture, wrong: int, cases: int, unit: str, evidence: Evidence) -> None:
    if wrong:
        claim.refuted(f"{wrong:,} of {cases:,} {unit} differ", evidence)
    else:
        claim.reproduced(f"all {cases:,} {unit} are bit for bit the same", evidence)
