"""Run by `launch.py` in a revision: one JSON line about what it weighs. `probe.py import CODE` or `probe.py artifacts`.

CODE is executed as Python; the answer holds how many modules it loaded and the processor time it took.
"""

import json
import sys
import time


def imported(code: str) -> dict[str, object]:
    before, started = set(sys.modules), time.process_time()
    exec(code, {})
    took = time.process_time() - started
    return {"modules": len(set(sys.modules) - before), "torch": "torch" in sys.modules, "seconds": took}


def artifacts() -> dict[str, object]:
    """Into the revision's cache: what its networks are timed with."""
    from geluless.bench.networks import SIZES, random_artifact

    return {kind: random_artifact(SIZES["tiny"], relu=kind == "relu").content_hash for kind in ("relu", "gelu")}


if __name__ == "__main__":
    print(json.dumps(imported(sys.argv[2]) if sys.argv[1] == "import" else artifacts()))
