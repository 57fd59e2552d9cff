"""The runtime part against a stub of TensorRT's API that computes on the processor: which calls are made when, and with which
addresses. That TensorRT accepts them, and what its kernels compute, only a GPU shows."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="exports need onnx: pip install 'geluless[export]'")

from geluless.bench.paired import time_paired
from geluless.errors import DataError, ExportError, MissingResource
from geluless.interop.tensorrt import Flavour, Settings, Target, TensorRTEngine
from geluless.interop.tensorrt.library import Library
from geluless.interop.tensorrt.records import FORMAT, EngineKey, Record, write_engine

HERE = Target("sm_89", "NVIDIA GeForce RTX 4090")
IMAGE, CLASSES = (1, 4, 6), 3
MIXER = np.random.default_rng(0).integers(-8, 9, (24, CLASSES)).astype(np.float32)


def expected(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the stub's network computes."""
    return images.reshape(len(images), -1) @ MIXER


def images(count: int, *, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(-8, 9, (count, *IMAGE)).astype(np.float32)  # exact in any order of summation


def memory(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)


class StubContext:
    """As TensorRT: nothing runs before every address and shape is set, and one thread at a time."""

    def __init__(self, engine: StubEngine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] | None = None
        self.busy = threading.Lock()

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in ("images", "logits")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profile
        fits = name == "images" and least[0] <= shape[0] <= most[0] and shape[1:] == IMAGE
        self.shape = shape if fits else None
        return fits

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == StubCuda.stream, "the stream that everything else is enqueued on"
        assert self.busy.acquire(blocking=False), "two threads in one execution context"
        try:
            if self.shape is None or self.addresses.keys() != {"images", "logits"} or self.engine.broken:
                return False
            logits = memory(self.addresses["logits"], (self.shape[0], CLASSES))
            logits[:] = expected(memory(self.addresses["images"], self.shape))
            self.engine.passes += 1
            return True
        finally:
            self.busy.release()


class StubEngine:
    def __init__(self, profile: tuple[int, int, int]) -> None:
        self.profile = tuple((batch, *IMAGE) for batch in profile)
        self.passes, self.broken = 0, False
        self.contexts: list[StubContext] = []

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("images", 0)
        return list(self.profile)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"images": (-1, *IMAGE), "logits": (-1, CLASSES)}[name]

    def create_runtime_config(self) -> Any:
        return type("RuntimeConfig", (), {"cuda_graph_strategy": None})()

    def create_execution_context(self, config: Any = None) -> StubContext:
        self.contexts.append(StubContext(self, config))
        return self.contexts[-1]


class StubTRT:
    """The module."""

    class ILogger:
        pass

    class CudaGraphStrategy:
        WHOLE_GRAPH_CAPTURE, DISABLED = "whole graph", "disabled"

    def __init__(self, profile: tuple[int, int, int] = (2, 3, 4), *, loads: bool = True) -> None:
        self.engine = StubEngine(profile) if loads else None

    def Runtime(self, logger: Any) -> Any:
        logger.log(type("Severity", (), {"name": "ERROR"})(), "serialization  version mismatch")
        return type("Runtime", (), {"deserialize_cuda_engine": lambda _self, _content: self.engine})()


class StubCuda:
    """A device whose work is done at once."""

    stream = 7

    def __init__(self, target: Target = HERE) -> None:
        self.target = target
        self.depth, self.captures, self.replays = threading.local(), 0, 0

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth.value = getattr(self.depth, "value", 0) + 1
        try:
            yield
        finally:
            self.depth.value -= 1

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        assert self.depth.value, "made on the engine's own device"
        return torch.full(shape, 77.0)

    def synchronize(self) -> None:
        assert self.depth.value

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        work()
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def time_ms(self, work: Callable[[], object], *, before: Callable[[], object] | None, ahead: bool) -> float:
        assert self.depth.value, "on the engine's own stream"
        if before is not None:
            before()
        work()
        return 2.5 if ahead else 5.0


def engine_file(
    folder: Path,
    *,
    target: Target = HERE,
    flavour: Flavour = Flavour.TENSORRT,
    version: str = "10.3.0",
    content: bytes = b"engine",
) -> Path:
    key = EngineKey(
        "awkward", IMAGE, "0" * 64, "1" * 64, "tensorrt", "relu", None, flavour, version, "Linux x86_64", target, Settings()
    )
    record = Record(FORMAT, key, hashlib.sha256(content).hexdigest(), len(content), 1.0, (), None)
    write_engine(folder / "x.engine", content, record)
    return folder / "x.engine"


def engine(
    folder: Path, trt: StubTRT | None = None, *, cuda: StubCuda | None = None, flavour: Flavour = Flavour.TENSORRT
) -> TensorRTEngine:
    library = Library(flavour, "10.3.0", trt or StubTRT())
    return TensorRTEngine(engine_file(folder, flavour=flavour), library=library, cuda=cuda or StubCuda())


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_any_number_of_images_gets_its_own_logits(count: int, tmp_path: Path) -> None:
    """In pieces of at most four; a piece below the two that the engine takes at least is made up."""
    trt = StubTRT()
    of_one = engine(tmp_path, trt)
    for seed in (1, 2):
        batch = images(count, seed=seed)
        assert np.allclose(of_one(batch), expected(batch), rtol=1e-6)
    assert trt.engine is not None
    assert trt.engine.passes == 2 * -(-count // 4)


def test_logits_of_an_earlier_call_never_pass_for_those_of_a_failed_one(tmp_path: Path) -> None:
    trt = StubTRT()
    of_one = engine(tmp_path, trt)
    of_one(images(2))
    assert trt.engine is not None
    trt.engine.broken = True
    with pytest.raises(ExportError, match="refuses the pass itself: serialization version mismatch"):
        of_one(images(2))


def test_threads_that_share_an_engine_get_their_own_logits(tmp_path: Path) -> None:
    of_one, ready = engine(tmp_path), threading.Barrier(8)

    def work(seed: int) -> bool:
        batch = images(1 + seed % 5, seed=seed)
        ready.wait()
        return all(np.allclose(of_one(batch), expected(batch), rtol=1e-6) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_read_only_images_are_left_as_they_are(tmp_path: Path) -> None:
    batch = images(3)
    batch.setflags(write=False)
    assert np.allclose(engine(tmp_path)(batch), expected(batch), rtol=1e-6)


@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("graph", [True, False])
def test_a_timed_pass_is_verified_and_timed_on_the_device(flavour: Flavour, graph: bool, tmp_path: Path) -> None:
    """TensorRT's passes are captured here, TensorRT-RTX captures its own."""
    trt, cuda, batch, flushed = StubTRT(), StubCuda(), images(3), []
    of_one = engine(tmp_path, trt, cuda=cuda, flavour=flavour)
    call, stopwatch = of_one.timed(batch, cuda.time_ms, graph=graph, before=lambda: flushed.append(1))
    assert np.allclose(call.logits(), expected(batch), rtol=1e-6)
    samples = time_paired({"tensorrt": call}, seconds=0, min_blocks=4, stopwatch=stopwatch)
    assert (samples.seconds["tensorrt"] == (0.0025 if graph else 0.005)).all()
    assert len(flushed) == 4
    captured = graph and flavour is Flavour.TENSORRT
    assert cuda.captures == captured
    assert (cuda.replays > 0) == captured
    assert trt.engine is not None
    own, timed = trt.engine.contexts
    assert own is not timed, "other calls set other shapes"
    if flavour is Flavour.RTX:
        assert own.config.cuda_graph_strategy == "disabled"
        assert timed.config.cuda_graph_strategy == ("whole graph" if graph else "disabled")
    other = images(2, seed=9)
    assert np.allclose(of_one(other), expected(other), rtol=1e-6)
    assert np.allclose(call.logits(), expected(batch), rtol=1e-6), "another call in between changes nothing"


def test_a_batch_that_is_no_single_pass_is_not_timed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="up to 4"):
        engine(tmp_path).timed(images(5), StubCuda().time_ms)


@pytest.mark.parametrize(
    "batch",
    [np.zeros((2, 1, 4, 5), np.float32), np.zeros((0, *IMAGE), np.float32), np.zeros(IMAGE, np.float32), np.zeros((2, *IMAGE))],
)
def test_other_images_are_refused(batch: NDArray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images of"):
        engine(tmp_path)(batch)


@pytest.mark.parametrize(
    "built_for", [Target("sm_89", "NVIDIA L40S"), Target("sm_120", "NVIDIA GeForce RTX 5090"), Target("sm_86", None)]
)
def test_an_engine_of_another_gpu_is_not_loaded(built_for: Target, tmp_path: Path) -> None:
    path = engine_file(tmp_path, target=built_for)
    with pytest.raises(ExportError, match="build it again here"):
        TensorRTEngine(path, library=Library(Flavour.TENSORRT, "10.3.0", StubTRT()), cuda=StubCuda())


def test_an_engine_built_ahead_of_time_runs_on_every_gpu_of_its_architecture(tmp_path: Path) -> None:
    path = engine_file(tmp_path, target=Target("sm_89", None), flavour=Flavour.RTX, version="1.7.1")
    of_one = TensorRTEngine(path, library=Library(Flavour.RTX, "1.7.1", StubTRT()), cuda=StubCuda())
    assert np.allclose(of_one(images(1)), expected(images(1)), rtol=1e-6)


def test_an_engine_of_another_version_or_without_its_record_is_not_loaded(tmp_path: Path) -> None:
    path = engine_file(tmp_path)
    newer = Library(Flavour.TENSORRT, "10.4.0", StubTRT())
    with pytest.raises(ExportError, match=r"built by TensorRT 10\.3\.0, installed is TensorRT 10\.4\.0"):
        TensorRTEngine(path, library=newer, cuda=StubCuda())
    path.write_bytes(b"another engine")
    with pytest.raises(ExportError, match="is not the engine that"):
        TensorRTEngine(path, library=newer, cuda=StubCuda())


def test_what_tensorrt_cannot_load_is_refused_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="serialization version mismatch"):
        engine(tmp_path, StubTRT(loads=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_an_engine_says_that_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="no CUDA device"):
        TensorRTEngine(engine_file(tmp_path), library=Library(Flavour.TENSORRT, "10.3.0", StubTRT()))
