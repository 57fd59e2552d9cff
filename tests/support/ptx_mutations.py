"""Ways to break a compiled kernel: the negative controls of every PTX test. Each must give a wrong result or an error.

A mutation is a function from PTX text to PTX text that ptxas would still accept. It raises PtxError where it finds nothing to
mutate, so that a control cannot pass by doing nothing: a kernel without a loop has no commit in the loop to lose. None is
harmless in kernels that are ragged in every direction.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ptxsim.errors import PtxError

Mutation = Callable[[str], str]
Replacement = str | Callable[[re.Match[str]], str]


def replaced(
    pattern: str, replacement: Replacement, *, first: bool = False, last: bool = False, only: int | None = None
) -> Mutation:
    """Every match of a pattern replaced, or only the first, the last, or the one with that number."""
    compiled = re.compile(pattern, re.MULTILINE)

    def mutate(text: str) -> str:
        matches = list(compiled.finditer(text))
        chosen = matches[:1] if first else matches[-1:] if last else matches
        if only is not None:
            chosen = matches[only : only + 1]
        for match in reversed(chosen):
            new = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            text = text[: match.start()] + new + text[match.end() :]
        if not chosen:
            raise PtxError(f"nothing to mutate: no {pattern!r} in this kernel")
        return text

    return mutate


def plus(group: int, number: int) -> Callable[[re.Match[str]], str]:
    """The match with an integer in it changed."""

    def change(match: re.Match[str]) -> str:
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:start] + str(int(match[group]) + number) + match[0][end:]

    return change


def first_loop(text: str) -> tuple[int, int]:
    """Where the first loop's body begins and ends: behind a label, and before a branch back to it."""
    for label in re.finditer(r"^(\$\w+):", text, re.MULTILINE):
        back = re.compile(rf"bra(?:\.uni)?\s+{re.escape(label[1])};").search(text, label.end())
        if back:
            return label.end(), back.start()
    raise PtxError("nothing to mutate: this kernel has no loop")


def in_loop(mutation: Mutation) -> Mutation:
    """A mutation of the first loop alone."""

    def mutate(text: str) -> str:
        start, end = first_loop(text)
        return text[:start] + mutation(text[start:end]) + text[end:]

    return mutate


def before_loop(mutation: Mutation) -> Mutation:
    """A mutation of what comes before the first loop."""

    def mutate(text: str) -> str:
        start, _ = first_loop(text)
        return mutation(text[:start]) + text[start:]

    return mutate


def swizzles(text: str) -> list[Mutation]:
    """Every exclusive or of a kernel, one at a time, as a plain or: an address that differs for some threads only."""
    return [replaced(r"xor\.b32", "or.b32", only=i) for i in range(len(re.findall(r"xor\.b32", text)))]


REGISTER = r"%\w+"
MMA = rf"(mma\.sync\S+ \{{[^}}]*\}}, \{{ )({REGISTER}), ({REGISTER})(, [^}}]*\}}, \{{ )({REGISTER}), ({REGISTER})( \}})"

MUTATIONS: dict[str, Mutation] = {
    # the pipeline of asynchronous copies
    "wait for one group less": replaced(r"cp\.async\.wait_group\s+([1-9])", plus(1, 1)),
    "waits dropped": replaced(r"cp\.async\.wait_group\s+\d+;", ""),
    "last commit before the loop dropped": before_loop(replaced(r"cp\.async\.commit_group;", "", last=True)),
    "commit in the loop dropped": in_loop(replaced(r"cp\.async\.commit_group;", "", first=True)),
    "copy to the wrong place": replaced(r"(cp\.async\.c[ag]\.shared\.global \[ %r\d+ \+ )0", r"\g<1>16", first=True),
    "copy from the wrong place": replaced(r"(cp\.async\.c[ag]\S+ \[[^]]*\], \[ %rd\d+ \+ )0", r"\g<1>16", first=True),
    # layouts in shared memory
    "ldmatrix from the wrong place": replaced(r"ldmatrix\S+ \{[^}]*\}, \[%r\d+\+(\d+)\]", plus(1, 512), first=True),
    "ldmatrix transposed": replaced(r"(ldmatrix\.sync\.aligned\.m8n8\.x[124])\.shared", r"\1.trans.shared", first=True),
    "swizzle with or": replaced(r"xor\.b32", "or.b32"),
    "bit field one bit higher": replaced(r"bfe\.u32\s+%r\d+, %r\d+, (\d+), \d+", plus(1, 1), first=True),
    # the product
    "operand registers of a swapped": replaced(MMA, r"\1\3, \2\4\5, \6\7", first=True),
    "operand registers of b swapped": replaced(MMA, r"\1\2, \3\4\6, \5\7", first=True),
    "a taken for unsigned": replaced(r"\.s32\.s8\.s8\.s32", ".s32.u8.s8.s32", first=True),
    # the epilogue
    "max for min": replaced(r"max\.s32", "min.s32", first=True),
    "min for max": replaced(r"min\.s(32|64)", r"max.s\1", last=True),
    "shifts to the left": replaced(r"shr\.s(32|64)", r"shl.b\1"),
    "neighbours exchanged": replaced(
        r"(st\.(?:shared|global)\S*\.v[24]\.\S+\s+\[[^]]*\], \{ ?)(%\w+), (%\w+)", r"\1\3, \2", first=True
    ),
    # addresses and masks
    "stride off by one": replaced(r"(?:mul|mad)\.lo\.s32\s+%r\d+, %r\d+, (\d\d+)", plus(1, 1), first=True),
    "edge one further": replaced(r"setp\.lt\.s32(\s+%p\d+, %r\d+, %r\d+;)", r"setp.le.s32\1"),
    "edge in the other direction": replaced(r"setp\.lt\.s32(\s+%p\d+, %r\d+, %r\d+;)", r"setp.gt.s32\1", first=True),
    "store without its mask": replaced(r"@%p\d+ (st\.global)", r"\1", last=True),
    "store with the inverse mask": replaced(r"@(%p\d+ st\.global)", r"@!\1", first=True),
    # sums and maxima over a warp, floating point
    "first step of a reduction left out": replaced(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+, )\d+", r"\g<1>0", first=True),
    "neighbours in a reduction for others": replaced(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+, )1,", r"\g<1>2,"),
    "sum of other products": replaced(
        r"mad\.(wide|lo)\.s(16|64)(\s+%\w+, %\w+, )(%\w+), %\w+;", r"mad.\1.s\2\3\4, 0;", first=True
    ),
    "float maximum for minimum": replaced(r"max\.f32", "min.f32", first=True),
    "one factor of a product doubled": replaced(
        r"(mul\.rn\.f32\s+)(%\w+), (%\w+), (%\w+);", r"\1\2, \3, \4; add.rn.f32 \2, \2, \2;", first=True
    ),
    "square root left out": replaced(r"sqrt\.rn\.f32", "abs.f32", first=True),
    "quotient upside down": replaced(r"(div\.(?:rn|full)\.f32\s+%\w+, )(%\w+), (%\w+);", r"\1\3, \2;", first=True),
    "rounding by another magic number": replaced(r"0f4B400000", "0f4BC00000", first=True),
    "bytes packed in another order": replaced(r"0x3340U", "0x4033U", first=True),
    # barriers
    "barriers dropped": replaced(r"bar\.sync\s+0;", ""),
    "barrier in the loop dropped": in_loop(replaced(r"bar\.sync\s+0;", "", first=True)),
    "last barrier dropped": replaced(r"bar\.sync\s+0;", "", last=True),
}
