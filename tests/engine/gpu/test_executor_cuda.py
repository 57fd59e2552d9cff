"""The CUDA executor without a CUDA device: whose constants a program gets, what stays loaded, and several threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")

from geluless.engine import gpu
from geluless.engine.gpu import GpuNetwork
from geluless.engine.gpu.compiler import ALIGNMENT, source_of
from geluless.engine.gpu.epilogues import gpu_variants
from geluless.engine.gpu.executors import device as devices
from geluless.engine.gpu.executors import ptx
from geluless.engine.gpu.executors.cuda import CudaExecutor
from geluless.engine.gpu.executors.launch_args import argument_values
from geluless.engine.gpu.executors.ptx import PtxExecutor
from geluless.engine.gpu.kernels import KERNELS
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.errors import MissingResource
from geluless.integer import reference
from geluless.integer.artifact import Artifact
from geluless.integer.variants import Variant
from tests.support.gpu import FakeDevice, small_artifact, small_images
from tests.support.networks import awkward_artifact


def network(executor: CudaExecutor, artifact: Artifact, variant: Variant) -> GpuNetwork:
    return GpuNetwork(artifact.plan, artifact.tensors, variant, executor=executor)


def expected(artifact: Artifact, variant: Variant, images: np.ndarray) -> np.ndarray:
    return reference.forward(images, artifact.plan, artifact.tensors, variant)


# ----------------------------------------------------------------------------------------------------------- constants


@pytest.mark.slow
def test_programs_of_other_artifacts_and_variants_have_constants_of_their_own() -> None:
    """Their names are the same: relu's multipliers are integers, relu-float's scales are not, and other weights are others."""
    executor, images = CudaExecutor(FakeDevice()), small_images(1)
    cases = [
        (small_artifact(relu=True), Variant.RELU),
        (small_artifact(relu=True), Variant.RELU_FLOAT),
        (small_artifact(relu=False), Variant.GELU_LUT),
        (small_artifact(relu=True, profile="ft1"), Variant.RELU_SEPARATE),
        (small_artifact(relu=True, seed=1), Variant.RELU),
    ]
    networks = [network(executor, *case) for case in cases]
    results = [[each.run(images) for each in networks] for _ in range(2)]
    for of_a_round in results:
        for case, logits in zip(cases, of_a_round, strict=True):
            assert (logits == expected(*case, images)).all(), case[1]
    assert not (results[0][0] == results[0][4]).all(), "control: the two networks differ"


def test_constants_with_the_same_contents_lie_on_the_device_once() -> None:
    device = FakeDevice()
    executor, artifact = CudaExecutor(device), small_artifact()
    one, two = network(executor, artifact, Variant.RELU), network(executor, artifact, Variant.RELU)
    first, second = one.program(1), two.program(2)
    executor.load(first)
    constants = device.alive - sum(buffer.data is None for buffer in first.buffers.values())
    executor.load(second)
    scratch = sum(buffer.data is None for program in (first, second) for buffer in program.buffers.values())
    assert device.alive == constants + scratch


def test_what_no_program_uses_leaves_the_device() -> None:
    device = FakeDevice()
    executor = CudaExecutor(device)
    kept, forgotten = network(executor, small_artifact(), Variant.RELU), network(executor, small_artifact(seed=1), Variant.RELU)
    executor.load(kept.program(1))
    alone = device.alive
    executor.load(forgotten.program(1))
    assert device.alive > 1.5 * alone, "the other network has other weights"
    executor.forget(forgotten.program(1))
    assert device.alive == alone
    executor.load(forgotten.program(1))
    del forgotten
    assert device.alive == alone, "nobody holds its program"
    executor.load(kept.program(1))
    assert device.alive == alone, "what is loaded is not loaded again"


def test_programs_of_batch_sizes_beyond_the_last_few_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "KEPT_PROGRAMS", 2)
    device = FakeDevice()
    of_one = network(CudaExecutor(device), small_artifact(), Variant.RELU)
    counts = []
    for batch in (1, 2, 3, 4, 3, 5):
        of_one.executor.load(of_one.program(batch))
        counts.append(device.alive)
    assert counts[0] < counts[1] == counts[2] == counts[5]


# ----------------------------------------------------------------------------------------------------- forward passes


def test_a_graph_is_captured_once_and_traced_passes_see_every_tensor() -> None:
    device, images = FakeDevice(), small_images(2)
    artifact = small_artifact()
    of_one, seen, wanted = network(CudaExecutor(device), artifact, Variant.RELU), {}, {}
    images.setflags(write=False)  # of which torch would warn
    want = reference.forward(images, artifact.plan, artifact.tensors, Variant.RELU, wanted.__setitem__)
    for _ in range(3):
        assert (of_one.run(images) == want).all()
    assert device.captures == 1
    assert (of_one.trace(images, seen.__setitem__) == want).all()
    assert seen.keys() == wanted.keys()
    assert all((seen[name] == wanted[name].reshape(seen[name].shape)).all() for name in wanted)


def in_threads(work: Callable[[int], object], count: int) -> list[object]:
    """The results of work(0), work(1), ... begun at once, with Python changing threads as often as it can."""
    ready, interval = threading.Barrier(count), sys.getswitchinterval()

    def begin(i: int) -> object:
        ready.wait()
        return work(i)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(begin, range(count)))
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_share_an_executor_get_their_own_logits() -> None:
    executor, artifact = CudaExecutor(FakeDevice()), small_artifact()
    of_one, images = network(executor, artifact, Variant.RELU), small_images(4)
    want = expected(artifact, Variant.RELU, images)
    assert len({row.tobytes() for row in want}) == 4, "control: every image has logits of its own"
    for _ in range(2):
        results = in_threads(lambda i: of_one.run(images[i : i + 1]), 4)
        assert (np.concatenate(results) == want).all()


def test_threads_that_ask_for_many_batch_sizes_get_the_programs_they_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = small_artifact()
    monkeypatch.setattr(gpu, "lower", lambda *_, batch, tiles: Program(batch, {}, (), {}))
    idle = SimpleNamespace(architecture="interpreter")
    of_one = GpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, executor=idle)
    in_threads(lambda i: [asked(of_one, 1 + (i + step) % 7) for step in range(2000)], 4)


def asked(of_one: GpuNetwork, batch: int) -> None:
    assert of_one.program(batch).batch == batch


def test_threads_that_share_the_ptx_executor_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, artifact, images = PtxExecutor(), small_artifact(), small_images(3)
    of_one = GpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, executor=executor)
    inside, execute = threading.Lock(), ptx.execute

    def alone(*arguments: Any, **options: Any) -> Any:
        assert inside.acquire(blocking=False), "two launches at once"
        try:
            return execute(*arguments, **options)
        finally:
            inside.release()

    monkeypatch.setattr(ptx, "execute", alone)
    of_one.run(images[:1])
    once = dict(executor.instructions)
    results = in_threads(lambda i: of_one.run(images[i : i + 1]), 3)
    assert (np.concatenate(results) == expected(artifact, Variant.RELU, images)).all()
    assert dict(executor.instructions) == {opcode: 4 * count for opcode, count in once.items()}


# ------------------------------------------------------------------------------------------------------------- triton


def launches() -> list[tuple[Launch, Program]]:
    """One launch of every kernel with every set of parameters that is present, for all variants."""
    found: dict[object, tuple[Launch, Program]] = {}
    for artifact in (awkward_artifact(relu=r, profile=profile) for r in (True, False) for profile in ("per-channel", "ft1")):
        for variant in gpu_variants(artifact.plan):
            program = lower(artifact.plan, artifact.tensors, variant, batch=1, tiles=Tiles(ARCHITECTURES["sm_89"]))
            for launch in program.launches:
                given = tuple(name for name, value in launch.arguments.items() if value is not None)
                found.setdefault((launch.kernel, launch.constants.get("EPILOGUE"), given), (launch, program))
    return list(found.values())


@pytest.mark.parametrize("value", [1, 16, 7])
def test_a_device_compiles_the_code_that_was_checked_whatever_the_numbers(value: int) -> None:
    """At run time triton makes special code for scalars that are 1 or divisible by 16, unless it is told not to. Ahead of time
    the compiler knows no values: what is checked would not be what runs."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", 89, 32))
    kernels = set()
    for launch, program in launches():
        function = KERNELS[launch.kernel]
        bind = create_function_from_signature(function.signature, function.params, backend)
        tensors = {name: torch.zeros(b.shape, dtype=getattr(torch, b.dtype)) for name, b in program.buffers.items()}
        arguments = argument_values(launch, tensors)
        for name, argument in arguments.items():
            if isinstance(argument, (int, float)):
                arguments[name] = type(argument)(value)
        _, specialised, _ = bind(**arguments, **launch.constants)
        at_run_time = dict(zip(function.arg_names, specialised, strict=True))
        for name, kind in source_of(launch, program.buffers).signature:
            pointer = kind.startswith("*")
            assert at_run_time[name] == (kind, "D" if pointer else None), f"{launch.kernel}: {name}"
            assert not pointer or tensors[str(launch.arguments[name])].data_ptr() % ALIGNMENT == 0
        kernels.add(launch.kernel)
    assert kernels == KERNELS.keys()


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 0), "sm_80"), ((8, 7), "sm_86"), ((8, 9), "sm_89"), ((10, 0), "sm_90"), ((12, 1), "sm_120")]
)
def test_a_device_gets_the_table_of_the_newest_architecture_it_is_no_older_than(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert devices.require_device().name == name
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(MissingResource, match="sm_75"):
        devices.require_device()
