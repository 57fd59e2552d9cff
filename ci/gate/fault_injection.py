"""Faults for testing the gate: patches in faults/, each applied to a copy of a revision's sources before it is built.

slowdown    5 % in one kernel, gelu-poly's (FAULTY)
spill       one vector spill around that kernel
float       one float operation around it
layoutN     no fault: every kernel behind the portable ones lies 1024 + N bytes further on
renamed     a benchmark with another name
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ci.gate.revisions import GateError, Revision

FOLDER = Path(__file__).with_name("faults")
FAULTY = "epilogue/fp32_gelu_poly"  # the benchmark of the kernel that the first three change


def inject(revision: Revision, fault: str) -> None:
    """Patch the sources of `revision`. Raises GateError where the patch no longer fits them."""
    stem, size = re.fullmatch(r"([a-z]+)(\d*)", fault).groups()  # type: ignore[union-attr]
    patch = (FOLDER / f"{stem}.patch").read_text(encoding="utf-8").replace("@BYTES@", size)
    # The copy may lie in the folder of a repository, whose files are not meant.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(revision.source.resolve().parent)}
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(command, input=patch, cwd=revision.source, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GateError(f"{FOLDER.name}/{stem}.patch no longer fits the sources, make it anew: {done.stderr.strip()}")
