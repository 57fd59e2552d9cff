"""One PTX instruction at a time: a kernel around it, values for its operands, and an independent arithmetic to judge by."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from ptxsim import GlobalMemory, execute, parse

THREADS = 128
REGISTERS = {1: "%rs", 2: "%rs", 4: "%r", 8: "%rd"}  # by bytes
DECLARATIONS = ".reg .pred %p<20>; .reg .b16 %rs<40>; .reg .b32 %r<80>; .reg .b64 %rd<40>;"


def kernel_text(body: str, *, pointers: int = 0, scalars: Sequence[str] = (), threads: int = THREADS, shared: str = "") -> str:
    """A kernel with pointer parameters k_param_0.. and then scalar ones; pointers are loaded into %rd30 + i."""
    types = ["u64 .ptr .global .align 1"] * pointers + list(scalars)
    parameters = ",\n".join(f".param .{kind} k_param_{i}" for i, kind in enumerate(types))
    loads = "\n".join(f"ld.param.b64 %rd{30 + i}, [k_param_{i}];" for i in range(pointers))
    return f"""
.version 8.8
.target sm_89
.address_size 64
{shared}
.visible .entry k(
{parameters}
)
.reqntid {threads}
{{
{DECLARATIONS}
{loads}
mov.u32 %r79, %tid.x;
{body}
ret;
}}
"""


def run(
    body: str,
    arrays: Sequence[np.ndarray],
    *,
    threads: int = THREADS,
    shared: str = "",
    shared_bytes: int = 0,
    grid: tuple[int, int, int] = (1, 1, 1),
    check_races: bool = True,
    wave_threads: int = 4096,
) -> list[np.ndarray]:
    """The arrays as the kernel leaves them; array i is where %rd30 + i points."""
    kernel = parse(kernel_text(body, pointers=len(arrays), threads=threads, shared=shared))
    memory = GlobalMemory()
    addresses = [memory.put(array) for array in arrays]
    execute(
        kernel,
        memory,
        addresses,
        grid=grid,
        warps=threads // 32,
        shared_bytes=shared_bytes,
        check_races=check_races,
        wave_threads=wave_threads,
    )
    return [memory.get(address, array.shape, array.dtype) for address, array in zip(addresses, arrays, strict=True)]


def load(array: int, register: str, size: int, *, scratch: int = 20) -> str:
    """Element %tid.x of an array."""
    place = f"mad.wide.u32 %rd{scratch}, %r79, {size}, %rd{30 + array};\n"
    return place + f"ld.global.b{8 * size} {{ {register} }}, [ %rd{scratch} + 0 ];\n"


def store(array: int, register: str, size: int, *, scratch: int = 20) -> str:
    place = f"mad.wide.u32 %rd{scratch}, %r79, {size}, %rd{30 + array};\n"
    return place + f"st.global.b{8 * size} [ %rd{scratch} + 0 ], {{ {register} }};\n"


def apply(line: str, sources: Sequence[np.ndarray], result: type | np.dtype) -> np.ndarray:
    """`line` executed by THREADS threads on the elements of `sources`, which it calls {a}, {b}, {c}, {e}; the result is {d}."""
    names, body = {}, ""
    for i, array in enumerate(sources):
        register = f"{REGISTERS[array.itemsize]}{i + 1}"
        names["abce"[i]] = register
        body += load(i, register, array.itemsize)
    out = np.zeros(THREADS, result)
    names["d"] = f"{REGISTERS[out.itemsize]}10"
    body += line.format(**names) + "\n" + store(len(sources), names["d"], out.itemsize)
    return run(body, [*sources, out])[-1]


def integers(rng: np.random.Generator, dtype: type | np.dtype) -> np.ndarray:
    """[THREADS] of the type: the ends of its range and of half its range, powers of two and their neighbours, and any others."""
    kind = np.dtype(dtype)
    bits, low = 8 * kind.itemsize, np.iinfo(kind).min
    nasty = [
        0,
        1,
        2,
        3,
        5,
        7,
        1 << bits // 2,
        (1 << bits // 2) - 1,
        1 << bits - 1,
        (1 << bits - 1) - 1,
        (1 << bits) - 1,
        (1 << bits) - 2,
    ]
    values = [int(rng.choice(len(nasty))) for _ in range(THREADS)]
    chosen = [
        nasty[v] if rng.random() < 0.5 else int.from_bytes(rng.bytes(bits // 8), "little") >> int(rng.integers(bits))
        for v in values
    ]
    return np.array([wrap(value, bits, signed=low < 0) for value in chosen], kind)


def floats(rng: np.random.Generator) -> np.ndarray:
    """float32 [THREADS]: zeros, subnormals, the ends of the range, infinities, NaN, halves, integers, and any bits."""
    nasty = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.17549435e-38, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan]
    nasty += [
        0.5,
        1.0,
        -1.0,
        1.5,
        2.5,
        -2.5,
        0.1,
        3.0,
        16777215.0,
        16777217.0,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        12582912.0,
    ]
    any_bits = np.frombuffer(rng.bytes(4 * THREADS), np.float32)
    near_one = rng.standard_normal(THREADS).astype(np.float32) * np.float32(2.0) ** rng.integers(-30, 30, THREADS).astype(
        np.float32
    )
    kind = rng.integers(0, 3, THREADS)
    return np.where(kind == 0, rng.choice(np.array(nasty, np.float32), THREADS), np.where(kind == 1, any_bits, near_one)).astype(
        np.float32
    )


def wrap(value: int, bits: int, *, signed: bool) -> int:
    """`value` modulo 2^bits, in the type's range."""
    value %= 1 << bits
    return value - (1 << bits) if signed and value >> bits - 1 else value


def nearest_float32(value: Fraction) -> float:
    """Round to nearest, ties to even, by integer arithmetic alone; zero is plus zero."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    steps = magnitude / unit
    whole = steps.numerator // steps.denominator
    rest = steps - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    rounded = whole * unit
    result = math.inf if rounded >= Fraction(2) ** 128 else float(rounded)
    return math.copysign(result, value)


def float32_bits(value: float) -> int:
    """The bit pattern; every NaN is PTX's canonical one."""
    if math.isnan(value):
        return 0x7FFFFFFF
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


INTEGER_TYPES = [f"{kind}{bits}" for kind in "us" for bits in (16, 32, 64)]
DYNAMIC = ".extern .shared .align 16 .b8 global_smem[];"
ZEROS = np.zeros(THREADS, np.uint32)


def numpy_type(name: str) -> np.dtype:
    return np.dtype(f"{ {'u': 'u', 's': 'i', 'b': 'u'}[name[0]] }{int(name[1:]) // 8}")


def as_list(array: np.ndarray) -> list[int]:
    return [int(value) for value in array]


def check_integers(line: str, sources: list[np.ndarray], result: str, law: Callable[..., int]) -> None:
    """`law` gives an integer from the operands' values; it is taken modulo the result's width."""
    kind = numpy_type(result)
    got = as_list(apply(line, sources, kind))
    bits = int(result[1:])
    want = [wrap(law(*values), bits, signed=result[0] == "s") for values in zip(*map(as_list, sources), strict=True)]
    assert got == want, [(i, [s[i] for s in sources], g, w) for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w][:3]
