"""The NEON kernels against portable C++ and the reference's logits: cross-compiled, and run under an emulator.

    python -m tests.support.neon [--headers] [RESULT.json]

`nox -s neon` and the claim about ARM (c10) run this; --headers also compiles every header alone. What a processor with dot
products gives must be right to the last bit, a processor without them must be left out, and a logit of the reference that is off
by its last bit must be noticed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from geluless.verdicts.resources import Resource, find_program, missing
from tests.support.native_dump import write

ROOT = Path(__file__).parents[2]
SOURCES, BUILD = ROOT / "tests" / "engine" / "cpu" / "cpp", ROOT / ".build" / "neon"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
WITHOUT_DOT_PRODUCTS = "cortex-a57"
CHECK = re.compile(r"^(ok|FAILED)\s+neon\s+(.+?)\s{2,}", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of check_kernels. `checks`, `failed`: names of the checks of NEON."""

    code: int
    checks: tuple[str, ...]
    failed: tuple[str, ...]


def build(*more: str) -> Path:
    """check_kernels for ARM, and `more` targets. Raises CalledProcessError."""
    cmake = str(find_program("cmake"))
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
    options = ("-DCMAKE_EXE_LINKER_FLAGS=-static", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={find_program('ninja')}")
    subprocess.run([cmake, "-G", "Ninja", "-S", str(SOURCES), "-B", str(BUILD), *target, *options], check=True)
    subprocess.run([cmake, "--build", str(BUILD), "--target", "check_kernels", *more], check=True)
    return BUILD / "check_kernels"


def run(program: Path, dump: Path, *options: str) -> Run:
    """Under the emulator, which takes `options`; the program's lines are printed."""
    command = [str(find_program(EMULATOR)), *options, str(program), str(dump)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return read(done.returncode, done.stdout)


def read(code: int, output: str) -> Run:
    found = [(line[1] == "ok", line[2]) for line in CHECK.finditer(output)]
    return Run(code, tuple(name for _, name in found), tuple(name for good, name in found if not good))


def problems(found: Run, without: Run, damaged: Run) -> list[str]:
    """What is wrong with the kernels, or with the two runs that must not pass."""
    wrong = [f"{name} differs" for name in found.failed]
    if found.code or not any(name.startswith("reference ") for name in found.checks):
        wrong.append(f"check_kernels ended with {found.code} after {len(found.checks)} checks of NEON")
    if without.code != 1 or without.checks:
        wrong.append(f"NEON was run on a {WITHOUT_DOT_PRODUCTS}, which has no dot products")
    if damaged.code != 1 or len(damaged.failed) != 1:
        wrong.append("a reference's logit that is off by its last bit went unnoticed")
    return wrong


def main(*arguments: str) -> int:
    if lacking := missing(Resource.ARM_EMULATOR):
        print(lacking, file=sys.stderr)
        return 2
    program = build(*(["check_headers"] if "--headers" in arguments else []))
    dump, changed = BUILD / "awkward.bin", BUILD / "damaged.bin"
    write(dump)
    write(changed, last_bit=True)
    runs = {
        "found": run(program, dump),
        "without": run(program, dump, "-cpu", WITHOUT_DOT_PRODUCTS),
        "damaged": run(program, changed),
    }
    wrong = problems(**runs)
    for path in set(arguments) - {"--headers"}:
        result = {"problems": wrong, **{name: asdict(one) for name, one in runs.items()}}
        Path(path).write_text(json.dumps(result), encoding="utf-8")
    print("\n".join(wrong) or f"NEON: all of {len(runs['found'].checks)} checks hold, and both controls fail as they must")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
