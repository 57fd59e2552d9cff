"""What the machine code of each kernel must look like, as rules with names. A broken rule is a red build without a GPU.

Bounds are maxima measured with triton 3.8.0 for sm_80, sm_86, sm_89, sm_90 and sm_120 over the kernels of `coverage`, and MARGIN
on top: room for another release of the compiler, none for another kind of code. What a release changes within them is seen by
comparing records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geluless.engine.gpu.codegen_check.machine_code import ASYNC_COPY, FRAGMENT, PERMUTE, SPILL, TENSOR, MachineCode, macs
from geluless.engine.gpu.compiler import Source, Target
from geluless.engine.gpu.tiles import ARCHITECTURES, RESERVED

INTEGER_EPILOGUES = frozenset({"s8", "relu", "s16", "residual", "lut", "s32"})
WARP = 32
MARGIN = 1.15
REGISTER_UNIT = 8  # a thread's registers are allocated in multiples of this

# While some warps wait for memory others compute: two blocks, and three warps for each of the four schedulers.
RESIDENT_BLOCKS, RESIDENT_WARPS = 2, 12
# Where eight warps must do, for want of registers: a table's addresses, and ShiftGELU's divisions.
EIGHT_WARPS = {"lut": (90, 120), "gelu-shift": (80, 86, 120)}

# Instructions that prepare addresses and masks, whatever the tile, and per output of a thread those of the epilogue.
# Saturating specializations have SATURATING more (two clamps; one beside ReLU's).
OUTSIDE = 220
PER_OUTPUT = {
    "s32": 4.0,
    "s8": 9.0,
    "relu": 8.9,
    "s16": 8.0,
    "residual": 11.0,
    "lut": 12.2,
    "relu-float": 9.3,
    "after-gemm": 8.0,
    "two-stage-s8": 17.9,
    "two-stage-s16": 16.3,
    "two-stage-residual": 20.8,
    "gelu-polynomial": 20.8,
    "gelu-tanh": 26.4,
    "gelu-erf": 42.4,
    "gelu-shift": 72.7,
}
SATURATING = 2.2
# Byte permutations per output, all of them behind the loop: 8-bit results are packed by fours.
PERMUTES = {"s32": 0.0, "s16": 0.5, "two-stage-s16": 0.5, "lut": 0.75, "residual": 1.5, "two-stage-residual": 1.5}
PERMUTES_OF_BYTES = 2.5
LOOP_OVERHEAD = 43  # instructions of a step that are neither products, fragment loads nor copies: addresses, waits, the branch

# (registers, instructions, byte permutations) of the others.
SMALL_KERNELS = {
    "classifier": (53, 210, 32),
    "gelu_after_gemm": (24, 261, 8),
    "layer_norm": (96, 928, 105),
    "pool": (45, 296, 32),
    "quantize_patches": (40, 621, 136),
    "relu_after_gemm": (34, 133, 8),
    "relu_s16": (22, 99, 16),
    "window_attention": (117, 2638, 342),
}


@dataclass(frozen=True)
class Violation:
    """A rule that a kernel breaks."""

    kernel: str  # the source's key
    rule: str
    found: str

    def __str__(self) -> str:
        return f"{self.kernel}: {self.rule}: {self.found}"


@dataclass(frozen=True)
class Rule:
    """`check` returns what is wrong, or None."""

    name: str
    applies: Callable[[Source, Target], bool]
    check: Callable[[Source, Target, MachineCode], str | None]


def epilogue_of(source: Source) -> str | None:
    """Of a linear kernel; None for others."""
    value = dict(source.constants).get("EPILOGUE")
    return None if value is None else str(value)


def is_integer_kernel(source: Source) -> bool:
    """Whether nothing in this kernel may be floating point."""
    return source.kernel in ("pool", "relu_s16") or epilogue_of(source) in INTEGER_EPILOGUES


def constant(source: Source, name: str) -> int:
    value = dict(source.constants)[name]
    assert isinstance(value, int)
    return value


def outputs_per_thread(source: Source, warp_size: int) -> float:
    """Of a linear kernel's tile."""
    return constant(source, "BLOCK_M") * constant(source, "BLOCK_N") / (warp_size * source.warps)


def loop_trips(source: Source, code: MachineCode) -> int:
    """How often a linear kernel repeats its loop, from the multiplications it must do. Raises ValueError if no number fits."""
    steps = -(-constant(source, "INPUTS") // constant(source, "BLOCK_K"))
    step = constant(source, "BLOCK_M") * constant(source, "BLOCK_N") * constant(source, "BLOCK_K") // source.warps
    inside = macs(code.loop)
    missing = step * steps - (macs(code.opcodes) - inside)
    if not inside and not missing:
        return 1  # unrolled as a whole
    if not inside or missing % inside or missing <= 0:
        raise ValueError(f"a warp has {steps} times {step} products to do; {macs(code.opcodes)} are there, {inside} in a loop")
    return missing // inside


def _integer_only(source: Source, target: Target, code: MachineCode) -> str | None:
    return ", ".join(f"{count} {opcode}" for opcode, count in sorted(code.floating_point.items())) or None


def _no_spills(source: Source, target: Target, code: MachineCode) -> str | None:
    spills = code.count(SPILL)
    return f"{code.stack_bytes} bytes of stack, {spills} accesses" if code.stack_bytes or spills else None


def _tensor_cores(source: Source, target: Target, code: MachineCode) -> str | None:
    return None if code.count(TENSOR) else "no integer matrix instruction"


def _whole_product(source: Source, target: Target, code: MachineCode) -> str | None:
    """Loop and what was taken out of it do exactly the tile's multiplications: nothing is computed twice, no loop was missed.

    On AMD, whose matrix instructions are larger than the narrowest tiles, some are: no tile was chosen for AMD.
    """
    try:
        loop_trips(source, code)
    except ValueError as error:
        return str(error)
    return None


def _asynchronous(source: Source, target: Target, code: MachineCode) -> str | None:
    return None if code.count(ASYNC_COPY) else "no asynchronous copy into shared memory"


def _permutes(source: Source, target: Target, code: MachineCode) -> str | None:
    """A tile whose bytes are rearranged in registers costs more than the product: weights must be loaded as [BLOCK_N, BLOCK_K]
    and transposed in the dot product."""
    in_loop, total = code.count(PERMUTE, in_loop=True), code.count(PERMUTE)
    if in_loop:
        return f"{in_loop} byte permutations per step"
    most = MARGIN * outputs_per_thread(source, WARP) * PERMUTES.get(epilogue_of(source) or "", PERMUTES_OF_BYTES)
    return f"{total} byte permutations, {most:.0f} are enough" if total > most else None


def _lean_loop(source: Source, target: Target, code: MachineCode) -> str | None:
    """A fragment load (16 bytes for each of 32 threads) feeds two matrix instructions or more; smaller tiles share less."""
    if not code.loop:
        return None
    products, loads = code.count(TENSOR, in_loop=True), code.count(FRAGMENT, in_loop=True)
    copies = code.count(ASYNC_COPY, in_loop=True)
    rest = len(code.loop) - products - loads - copies
    if loads > products / 2 + 5 or rest > MARGIN * LOOP_OVERHEAD:
        return f"{len(code.loop)} instructions per step: {products} products, {loads} loads, {copies} copies, {rest} others"
    return None


def _lean_epilogue(source: Source, target: Target, code: MachineCode) -> str | None:
    per_output = PER_OUTPUT[epilogue_of(source) or ""] + (SATURATING if constant(source, "SATURATE") else 0.0)
    outputs = outputs_per_thread(source, WARP)
    outside, most = len(code.opcodes) - len(code.loop), MARGIN * (OUTSIDE + per_output * outputs)
    return f"{outside} instructions outside the loop for {outputs:.0f} outputs, {most:.0f} are enough" if outside > most else None


def _small(source: Source, target: Target, code: MachineCode) -> str | None:
    found = (code.registers, len(code.opcodes), code.count(PERMUTE))
    names = ("registers", "instructions", "byte permutations")
    too_many = [
        f"{count} {name} of {MARGIN * most:.0f}"
        for name, count, most in zip(names, found, SMALL_KERNELS[source.kernel], strict=True)
        if count > MARGIN * most
    ]
    return ", ".join(too_many) or None


def _occupancy(source: Source, target: Target, code: MachineCode) -> str | None:
    limits = ARCHITECTURES[f"sm_{target.architecture}"]
    registers = -(-code.registers // REGISTER_UNIT) * REGISTER_UNIT * WARP * source.warps
    by_shared = limits.shared // (code.shared_bytes + RESERVED)
    blocks = min(limits.registers // registers, by_shared, limits.resident_warps // source.warps)
    few = target.architecture in EIGHT_WARPS.get(epilogue_of(source) or "", ())
    wanted = (1, 8) if few else (RESIDENT_BLOCKS, RESIDENT_WARPS)
    if blocks < wanted[0] or blocks * source.warps < wanted[1]:
        return f"{blocks} blocks of {source.warps} warps fit: {code.registers} registers, {code.shared_bytes} bytes shared"
    return None


def _cuda_linear(source: Source, target: Target) -> bool:
    return target.backend == "cuda" and source.kernel == "int8_linear"


def _wide_linear(source: Source, target: Target) -> bool:
    """With rows that start where 16 bytes can be copied at once, for a GPU that copies asynchronously."""
    return _cuda_linear(source, target) and constant(source, "INPUTS") % 16 == 0


def _bounded(source: Source, target: Target) -> bool:
    """Bounds were measured where a warp multiplies by itself (mma.sync). On sm_90 four do together, in other loops."""
    return _wide_linear(source, target) and target.architecture != 90


RULES = (
    Rule("integer instructions only", lambda source, target: is_integer_kernel(source), _integer_only),
    Rule("no spills", lambda source, target: True, _no_spills),
    Rule("matrix instructions", lambda source, target: source.kernel in ("int8_linear", "window_attention"), _tensor_cores),
    Rule("the whole product", _cuda_linear, _whole_product),
    Rule("asynchronous copies", _wide_linear, _asynchronous),
    Rule("few byte permutations", _bounded, _permutes),
    Rule("lean loop", _bounded, _lean_loop),
    Rule("lean epilogue", _bounded, _lean_epilogue),
    Rule("small kernels", lambda source, target: source.kernel in SMALL_KERNELS and target.backend == "cuda", _small),
    Rule("occupancy", lambda source, target: f"sm_{target.architecture}" in ARCHITECTURES, _occupancy),
)


def violations(source: Source, target: Target, code: MachineCode) -> list[Violation]:
    """Every rule that this kernel breaks on this target."""
    broken = []
    for rule in RULES:
        if rule.applies(source, target) and (found := rule.check(source, target, code)):
            broken.append(Violation(source.key, rule.name, found))
    return broken
