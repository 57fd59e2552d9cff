"""One process of a study: reads a request from standard input, writes one JSON line. See `study` for the protocol."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.kernels import KernelEntry, kernel_call
from geluless.bench.load import ForeignLoad
from geluless.bench.networks import random_artifact, random_images
from geluless.bench.paired import time_paired
from geluless.bench.study import WARM_UP, Entry
from geluless.bench.verification import verify_call
from geluless.engine.cpu import CpuNetwork
from geluless.engine.engine import Engine
from geluless.integer.artifact import Artifact


def answer(request: dict[str, Any]) -> dict[str, Any]:
    artifacts: dict[tuple[str, bool, bool], Artifact] = {}
    verified: Verified = {}
    calls: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict[str, Any]] = {}
    names = [fields["name"] for fields in request["entries"]]
    for place in building_order(request["entries"], seed=[request["seed"], request["number"]]):
        fields = {**request["entries"][place]}
        if fields.pop("kernel"):
            kernel = KernelEntry(**fields)
            calls[kernel.name], rows[kernel.name] = kernel_call(kernel, seed=request["seed"])
            continue
        entry = Entry(**fields)
        key = (entry.model, entry.variant.startswith("relu"), entry.drop_bias)
        if key not in artifacts:
            artifacts[key] = random_artifact(entry.model, relu=key[1], drop_bias=entry.drop_bias)
        engine = Engine(artifacts[key], "cpu", variant=entry.variant, threads=entry.threads, isa=entry.isa)
        if not isinstance(engine.network, CpuNetwork):
            raise SystemExit("the compiled engine is missing: nothing would be timed but numpy")
        images = inputs(artifacts[key], entry.batch, seed=request["seed"])
        calls[entry.name], row = candidate(entry, engine, images, request["expected"], verified)
        rows[entry.name] = {**row, "memory_bytes": engine.network.bytes}
    calls = {name: calls[name] for name in names}
    warm_up(calls)
    return timed(calls, [rows[name] for name in names], request)


def building_order(entries: list[dict[str, Any]], *, seed: list[int]) -> list[int]:
    """Places of the entries, in the order in which this process builds them: drawn anew for every process.

    Where an entry's memory comes to lie can take several per cent, and depends on what was built before. So it is noise between
    processes and no property of a variant. Kernels of one shape stay together: they share their buffers.
    """
    groups: dict[object, list[int]] = {}
    for place, entry in enumerate(entries):
        shape = (entry["rows"], entry["outputs"], entry["inputs"]) if entry["kernel"] else place
        groups.setdefault(shape, []).append(place)
    coin = np.random.default_rng(seed)
    shapes = list(groups.values())
    return [place for index in coin.permutation(len(shapes)) for place in coin.permutation(shapes[index]).tolist()]


def inputs(artifact: Artifact, batch: int, *, seed: int) -> NDArray[np.float32]:
    """float32 [B, C, H, W], the same in every process."""
    images = random_images(artifact, batch, seed=seed)
    if not 0.5 < images.std() < 2:
        raise SystemExit("the inputs are degenerate")
    return images


Verified = dict[tuple[str, str, str], str]  # by artifact, variant and logits: how this process verified them


def candidate(
    entry: Entry, engine: Engine, images: NDArray[np.float32], expected: dict[str, str] | None, verified: Verified
) -> tuple[Callable[[], object], dict[str, Any]]:
    """The call to time and what it is. Ends the process when its logits are wrong: a wrong result has no speed."""
    logits = engine(images)
    digest = hashlib.sha256(logits.tobytes()).hexdigest()
    key = (engine.artifact.content_hash, engine.variant, digest)
    if expected is None and key in verified:  # an A/A control: the very logits that the reference confirmed
        correctness, good = verified[key], True
    elif expected is None:
        correctness, good = verify_call(engine, images, lambda: engine(images))
        verified[key] = correctness
    else:
        good = digest == expected[entry.name]
        correctness = "the logits verified in the first process" if good else "WRONG: other logits than in the first process"
    if not good:
        raise SystemExit(f"{entry.name} is not timed: {correctness}")
    row = {
        "name": entry.name,
        "variant": engine.variant,
        "isa": engine.isa,
        "threads": entry.threads,
        "batch": entry.batch,
        "artifact": engine.artifact.content_hash,
        "input": hashlib.sha256(images.tobytes()).hexdigest(),
        "logits": digest,
        "correctness": correctness,
        "model": entry.model,
    }
    if not entry.handicap:
        return lambda: engine(images), row
    return handicapped(lambda: engine(images), entry.handicap), row


def handicapped(call: Callable[[], object], share: float) -> Callable[[], object]:
    """The call, and then a loop without purpose for `share` of the time it usually takes."""
    took = []
    for _ in range(9):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    pause = share * float(np.median(took))

    def slower() -> None:
        call()
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            pass

    return slower


def warm_up(calls: dict[str, Callable[[], object]]) -> None:
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        for call in calls.values():
            call()


def timed(calls: dict[str, Callable[[], object]], rows: list[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    from geluless.engine.cpu import choose_isa, peak_rate

    isa = choose_isa(None)
    load, foreign = ForeignLoad(), []
    samples = time_paired(
        calls,
        seconds=0.0,
        min_blocks=request["blocks"],
        seed=request["seed"] * 1000 + request["number"],
        peak=lambda: peak_rate(isa, repetitions=50_000),
        watch=lambda elapsed: foreign.append(load.look() or 0.0),
    )
    return {
        "rows": rows,
        "times": {name: values.tolist() for name, values in samples.seconds.items()},
        "peak": {name: values.tolist() for name, values in samples.peak.items()},
        "order": samples.order.tolist(),
        "foreign": foreign,
        "seconds": float(sum(values.sum() for values in samples.seconds.values())),
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.stdin.read()))))
