"""An optional second opinion on races: sentryward, a static verifier of PTX that looks at every schedule of a launch.

`races` looks at one schedule, of every thread block, in every test. The verifier (https://github.com/gpu-verifier/sentryward,
Apache-2.0) proves more of less: all schedules, global memory included, of kernels whose branches follow from the launch's
numbers. Window attention branches on the pixels of a padded image and is answered "unsupported".
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geluless.engine.gpu.compiler import Compiled
from geluless.errors import MissingResource

SCHEMA = "spverify.kernel-input/v1"
VERSION = "0.1.1"  # the package is young: other versions may speak another language
SECONDS = 600


@dataclass(frozen=True)
class Proof:
    """`result`: race_free, potential_race, unsupported, timeout, ... `checks`: passed, failed or not_run of each kind."""

    result: str
    checks: Mapping[str, str]
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.result == "race_free"


def prove(compiled: Compiled, ptx: str, scalars: Mapping[str, int], *, blocks: tuple[int, int, int] = (1, 1, 1)) -> Proof:
    """Ask about `blocks` thread blocks of a compiled kernel, whose text `ptx` may be another one than was compiled.

    `scalars` are its integer arguments. Raises MissingResource without sentryward.
    """
    try:
        verify = importlib.import_module("sentryward.api").verify
    except ImportError as error:
        raise MissingResource(f"a race proof needs sentryward: pip install --no-deps sentryward=={VERSION}") from error
    question = question_of(compiled, scalars, blocks)
    with tempfile.TemporaryDirectory() as folder:
        text, configuration = Path(folder, "kernel.ptx"), Path(folder, "input.json")
        text.write_text(ptx)
        configuration.write_text(json.dumps(question))
        answer = verify(text, input=configuration, timeout_seconds=SECONDS)
    reasons = tuple(str(found.get("message") or found.get("code")) for found in answer.get("diagnostics", []))
    return Proof(str(answer["result"]), dict(answer.get("checks", {})), reasons)


def question_of(compiled: Compiled, scalars: Mapping[str, int], blocks: tuple[int, int, int]) -> dict[str, Any]:
    """A kernel, its launch and its integer arguments in the verifier's words; pointers and floats stay symbols."""
    from geluless.engine.gpu.kernels import KERNELS

    source = compiled.source
    types = dict(source.signature)
    names = [name for name in KERNELS[source.kernel].arg_names if name in types]
    arguments = []
    for i, name in enumerate(names):
        if types[name] in ("i32", "i64"):
            bits = int(types[name][1:])
            value = scalars[name] % (1 << bits)
            arguments.append({"parameter": f"{source.kernel}_param_{i}", "type": f"u{bits}", "value": value})
    launch = {
        "grid_dim": list(blocks),
        "block_dim": [32 * compiled.warps, 1, 1],
        "dynamic_shared_bytes": compiled.shared_bytes,
    }
    return {"schema": SCHEMA, "entry": source.kernel, "launch": launch, "arguments": arguments}
