"""ld, st, atom and red of global and shared memory. PTX ISA 8.8, sections 9.7.9.8 to 9.7.9.13 and 9.7.13.

Cache operators, eviction priorities and memory orders are accepted and change nothing: one wave runs at a time, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptxsim.errors import PtxError
from ptxsim.memory import Offsets, Space
from ptxsim.moves import load_parameter
from ptxsim.operands import Operands
from ptxsim.races import Access
from ptxsim.scalars import SCALARS, U64, Row, Scalar, untyped
from ptxsim.steps import Decoder, Mask, Step, active, count
from ptxsim.syntax import Instruction
from ptxsim.wave import Wave

TYPES = [f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)] + ["f32"]
ORDERS = {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys"}
CACHES = {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt"}
L1_HINTS = {f"L1::{hint}" for hint in ("evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate")}
L2_HINTS = {f"L2::{hint}" for hint in ("evict_first", "evict_last", "evict_normal", "64B", "128B", "256B", "cache_hint")}
HINTS = ORDERS | CACHES | L1_HINTS | L2_HINTS


@dataclass(frozen=True)
class Form:
    """What the modifiers of a memory instruction say."""

    shared: bool
    kind: Scalar
    vector: int  # elements
    policy: bool  # a cache policy is the last operand

    @property
    def size(self) -> int:
        """Bytes per thread."""
        return self.kind.bytes * self.vector


def form_of(instruction: Instruction, *, extra: str = "") -> tuple[Form, list[str]]:
    """(form, modifiers among `extra` that occurred). Raises PtxError for state spaces and modifiers that are not known."""
    *others, name = instruction.modifiers or ("",)
    if name not in TYPES:
        raise PtxError(f"{instruction.mnemonic} is not known for type .{name}")
    spaces = [other for other in others if other in ("global", "shared", "shared::cta")]
    vectors = [int(other[1:]) for other in others if other in ("v2", "v4")]
    special = [other for other in others if other in extra.split()]
    unknown = set(others) - set(spaces) - {"v2", "v4"} - set(special) - HINTS
    if unknown or len(spaces) != 1 or len(vectors) > 1:
        raise PtxError(f"not known: {', '.join(sorted(unknown)) or 'this state space or vector'}")
    form = Form(spaces[0] != "global", SCALARS[name], vectors[0] if vectors else 1, "L2::cache_hint" in others)
    if form.size > 16:
        raise PtxError(f"{form.size} bytes at once are too many")
    return form, special


def locate(
    wave: Wave, instruction: Instruction, shared: bool, threads: NDArray[np.intp], row: int, offset: int, size: int
) -> tuple[Space, Offsets]:
    """(memory, checked offsets) of the addresses in `row`, plus `offset`, of some threads."""
    # Unsigned 64-bit addresses beyond 2^63 become negative ones, which are as illegal.
    addresses = wave.spread(wave.rows[row].astype(np.int64) + offset)
    if len(threads) != wave.threads:
        addresses = addresses[threads]
    return wave.shared if shared else wave.memory, wave.locate(instruction, threads, addresses, size, shared=shared)


def note(wave: Wave, instruction: Instruction, threads: NDArray[np.intp], offsets: Offsets, size: int, *, writes: bool) -> None:
    """Tell the race log, if there is one, of an access to shared memory."""
    if wave.races:
        wave.races.note(Access(instruction, threads, offsets, size, writes))


def check_policy(operands: Operands, form: Form, policy: list[str]) -> None:
    if form.policy:
        operands.read(policy[0], U64)


def load(instruction: Instruction, operands: Operands) -> Step:
    """ld: bytes are extended to wider registers by the sign of the type."""
    if instruction.modifiers[:1] == ("param",):
        return load_parameter(instruction, operands)
    form, _ = form_of(instruction)
    destination, source, *policy = count(instruction, 3 if form.policy else 2)
    check_policy(operands, form, policy)
    row, offset = operands.address(source)
    outs = []
    for name in operands.vector(destination):
        bits = form.kind.bits if name == "_" else operands.kind(name).bits
        if bits < form.kind.bits or (bits > form.kind.bits and form.kind.kind == "f"):
            raise PtxError(f"{name} has {bits} bits, {form.kind.bits} are loaded")
        outs.append(operands.write(name, SCALARS[f"{'s' if form.kind.signed else 'u'}{bits}"]))
    if len(outs) != form.vector:
        raise PtxError(f"{form.vector} registers are needed, not {len(outs)}")
    loaded = SCALARS[f"s{form.kind.bits}"].dtype if form.kind.signed else None

    def step(wave: Wave, mask: Mask) -> None:
        threads = active(wave, mask)
        space, offsets = locate(wave, instruction, form.shared, threads, row, offset, form.size)
        values = space.gather(offsets, form.kind.bytes, form.vector)
        if loaded:
            values = values.view(loaded)
        for i, out in enumerate(outs):
            if mask is None:
                wave.rows[out][...] = values[:, i]
            else:
                wave.rows[out][threads] = values[:, i]
        if form.shared:
            note(wave, instruction, threads, offsets, form.size, writes=False)

    return step


def sources_of(operands: Operands, names: list[str], kind: Scalar) -> list[int]:
    """Rows of the values to store, whose registers may be wider than `kind`."""
    rows = []
    for name in names:
        if not operands.is_register(name):
            rows.append(operands.read(name, kind if kind.kind == "f" else untyped(kind.bits)))
            continue
        row, width = operands.read_whole(name)
        if width.bits < kind.bits or (width.bits > kind.bits and kind.kind == "f"):
            raise PtxError(f"{name} has {width.bits} bits, {kind.bits} are stored")
        rows.append(row)
    return rows


def store(instruction: Instruction, operands: Operands) -> Step:
    """st: the low bytes of the registers. Two threads that store different values in one place raise."""
    form, _ = form_of(instruction)
    destination, source, *policy = count(instruction, 3 if form.policy else 2)
    check_policy(operands, form, policy)
    row, offset = operands.address(destination)
    sources = sources_of(operands, operands.vector(source), form.kind)
    if len(sources) != form.vector:
        raise PtxError(f"{form.vector} values are needed, not {len(sources)}")
    dtype = np.dtype(f"u{form.kind.bytes}")

    def step(wave: Wave, mask: Mask) -> None:
        threads = active(wave, mask)
        space, offsets = locate(wave, instruction, form.shared, threads, row, offset, form.size)
        values = np.empty((len(threads), form.vector), dtype)
        for i, source in enumerate(sources):
            value = wave.rows[source].view(f"u{wave.rows[source].itemsize}")
            values[:, i] = value if mask is None or len(value) == 1 else value[threads]
        space.scatter(offsets, values)
        if wave.races:
            different = (space.gather(offsets, form.kind.bytes, form.vector) != values).any(1)
            if different.any():
                thread = int(threads[np.flatnonzero(different)[0]])
                raise wave.fault(instruction, thread, "another thread stores another value in the same place")
        if form.shared:
            note(wave, instruction, threads, offsets, form.size, writes=True)

    return step


Combine = Callable[[int, int], int]
# In Python's integers, cut to the type afterwards.
ATOMIC: dict[str, Combine] = {
    "add": lambda old, new: old + new,
    "min": min,
    "max": max,
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
    "xor": lambda old, new: old ^ new,
    "exch": lambda old, new: new,
}


def atomic(instruction: Instruction, operands: Operands) -> Step:
    """atom and red on global memory, one thread after the other in their order. cas compares with its first operand."""
    form, special = form_of(instruction, extra=" ".join((*ATOMIC, "cas")))
    returns, kind = instruction.mnemonic == "atom", form.kind
    if form.shared or form.vector > 1 or form.policy or len(special) != 1 or kind.kind == "f" or kind.bits < 32:
        raise PtxError("only scalar integer atomics of global memory are known")
    (operation,) = special
    swaps = operation == "cas"
    names = list(count(instruction, 2 + returns + swaps))
    out = operands.write(names.pop(0), kind) if returns else None
    row, offset = operands.address(names.pop(0))
    rows: list[int] = [operands.read(name, kind) for name in names]

    def step(wave: Wave, mask: Mask) -> None:
        threads = active(wave, mask)
        space, offsets = locate(wave, instruction, False, threads, row, offset, form.size)
        values: list[Row] = [wave.spread(wave.rows[i])[threads] for i in rows]
        for i, thread in enumerate(threads):
            place = offsets[i : i + 1]
            old = int(space.gather(place, kind.bytes)[:, 0].view(kind.dtype)[0])
            if swaps:
                new = int(values[1][i]) if old == int(values[0][i]) else old
            else:
                new = ATOMIC[operation](old, int(values[0][i]))
            space.scatter(place, np.array([[new % (1 << kind.bits)]], f"u{kind.bytes}"))
            if out is not None:
                wave.rows[out][thread] = old

    return step


def fence(instruction: Instruction, operands: Operands) -> Step:
    """membar and fence order what is in order already."""
    if not set(instruction.modifiers) <= {"gl", "cta", "sys", "gpu", "sc", "acq_rel", "acquire", "release"}:
        raise PtxError("this fence is not known")
    count(instruction, 0)
    return lambda wave, mask: None


ACCESS_DECODERS: dict[str, Decoder] = {"ld": load, "st": store, "atom": atomic, "red": atomic, "membar": fence, "fence": fence}
