"""The process of Triton's interpreter: whatever goes wrong between a request and its answer, the next request gets its own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")

from geluless.engine.gpu.epilogues import SeparateKernel
from geluless.engine.gpu.executors.interpreter import InterpreterExecutor
from geluless.engine.gpu.program import Launch
from geluless.errors import MissingResource
from tests.support.gpu import builder


def relu(x: np.ndarray) -> tuple[Launch, dict[str, np.ndarray]]:
    """The smallest kernel there is, over int16."""
    build = builder({})
    build.scratch("x", "int16", x.size)
    build.scratch("hidden", "int8", x.size)
    kernel = SeparateKernel("relu_s16", {}, {"zero": 0, "highest": 127}, from_s16=True)
    build.elementwise("activation", kernel, "x", "hidden", 1, x.size)
    return build.launches[0], {"x": x.astype(np.int16), "hidden": np.zeros(x.size, np.int8)}


def asked(executor: InterpreterExecutor, first: int) -> None:
    x = np.arange(first, first + 8)
    assert executor.launch(*relu(x))["hidden"].tolist() == np.clip(x, 0, 127).tolist()


def asked_for_ever(executor: InterpreterExecutor) -> None:
    for first in range(10**6):
        asked(executor, first % 50)


@pytest.fixture(scope="module")
def executor() -> Iterator[InterpreterExecutor]:
    executor = InterpreterExecutor()
    yield executor
    executor.close()


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(
    executor: InterpreterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(executor, 0)
    interrupted = KeyboardInterrupt()

    def interrupt(file: Any) -> None:
        raise interrupted

    with monkeypatch.context() as patch:
        patch.setattr(pickle, "load", interrupt)
        with pytest.raises(KeyboardInterrupt):
            asked(executor, 50)
    asked(executor, 100)


def test_a_timeout_in_the_middle_of_a_request_costs_that_request_alone(executor: InterpreterExecutor) -> None:
    """As pytest's or a user's own: a signal while the process starts and computes."""

    def too_late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeoutError):
            asked_for_ever(executor)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    asked(executor, 100)


def test_half_a_request_is_not_completed_by_the_next_one(executor: InterpreterExecutor) -> None:
    launch, arrays = relu(np.arange(8))

    class Unsendable(np.ndarray):
        def __reduce_ex__(self, protocol: Any) -> Any:
            return np.array, (bytes(1 << 20), {}.keys())  # a megabyte goes out before pickle meets what it cannot send

    with pytest.raises(TypeError, match="dict_keys"):
        executor.launch(launch, {**arrays, "x": arrays["x"].view(Unsendable)})
    asked(executor, 3)


@pytest.mark.parametrize("answer", [b"", b"garbage", pickle.dumps((True, {}))[:-3]], ids=["nothing", "garbage", "half a pickle"])
def test_a_process_that_answers_nonsense_is_replaced(
    executor: InterpreterExecutor, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    start, program = subprocess.Popen, f"import sys; sys.stdin.buffer.read(9); sys.stdout.buffer.write({answer!r})"
    executor.close()

    def nonsense(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", program], **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", nonsense)
        with pytest.raises(MissingResource, match="process of Triton's interpreter ended"):
            asked(executor, 0)
    asked(executor, 0)


def test_an_error_in_a_kernel_is_told_and_costs_no_process(executor: InterpreterExecutor) -> None:
    asked(executor, 0)
    process = executor._process
    launch, arrays = relu(np.arange(8))
    with pytest.raises(RuntimeError, match="Triton's interpreter"):
        executor.launch(launch, {name: array.astype(np.complex64) for name, array in arrays.items()})
    asked(executor, 5)
    assert executor._process is process


def test_an_interrupt_from_the_terminal_is_the_parents_to_handle(executor: InterpreterExecutor) -> None:
    asked(executor, 0)
    assert executor._process is not None
    process = executor._process
    os.kill(process.pid, signal.SIGINT)
    asked(executor, 60)
    assert executor._process is process


def test_closing_waits_for_the_answer_and_ends_the_process(executor: InterpreterExecutor) -> None:
    asked(executor, 0)
    process = executor._process
    threads = [threading.Thread(target=asked, args=(executor, 10 * i)) for i in range(4)]
    for thread in threads:
        thread.start()
    executor.close()
    for thread in threads:
        thread.join()
    assert process is not None
    assert process.poll() is not None
    asked(executor, 0)
