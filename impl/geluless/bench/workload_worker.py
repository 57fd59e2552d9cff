"""The workloads of one revision, in a process that is asked for one sample at a time: a JSON line in, a JSON line out.

The latency gate (ci/gate) runs this module of two revisions side by side. The protocol is what both must share, so it is small:

    {"do": "list"}                                        {"protocol": 1, "isa": ..., "names": [...]}
    {"do": "load", "name": N, "verify": bool}             {"digest": sha256 of the output, "seconds": of one call}
    {"do": "sample", "name": N, "calls": K}               {"seconds": per call, over K calls after one that is not timed}
    anything that fails                                   {"error": one line}

Before the other side is asked this process has answered, and waits: the two never run at the same time.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
from typing import Any

from geluless.bench.workloads import Call, workloads
from geluless.engine.cpu import choose_isa

PROTOCOL = 1
LOOKS = 3  # calls for a rough idea of the time


class Wrong(Exception):
    """An output that is not what was asked for has no speed."""


class Bench:
    """Loaded workloads of this revision on the best instruction set here."""

    def __init__(self) -> None:
        self._isa = choose_isa(None)
        self._known = workloads()
        self._calls: dict[str, Call] = {}

    def list(self) -> dict[str, Any]:
        return {"protocol": PROTOCOL, "isa": self._isa, "names": list(self._known)}

    def load(self, name: str, verify: bool) -> dict[str, Any]:
        """Raises Wrong where `verify` finds that it is; for a network that takes seconds."""
        call = self._known[name].build(self._isa)
        output = call().copy()
        if verify and (problem := self._known[name].problem(self._isa, output)):
            raise Wrong(problem)
        took = []
        for _ in range(LOOKS):
            started = time.perf_counter()
            call()
            took.append(time.perf_counter() - started)
        self._calls[name] = call
        return {"digest": hashlib.sha256(output.tobytes()).hexdigest(), "seconds": min(took)}

    def sample(self, name: str, calls: int) -> dict[str, Any]:
        call = self._calls[name]
        call()  # brings its data back into the caches: the other revision has run meanwhile
        started = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return {"seconds": (time.perf_counter_ns() - started) / 1e9 / calls}


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    gc.disable()  # a collection in the middle of a sample would count
    bench = Bench()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(bench, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
