"""Run evidence tasks in worker processes, the longest first, each worker on one thread.

A claim waits only for the tasks it names. A worker's failure is raised in every claim that waits for its task, with the
worker's message; the other claims go on.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

from geluless.bench.process import THREAD_VARIABLES
from geluless.errors import GelulessError
from geluless.verdicts.micro_networks import Task, TaskResult
from geluless.verdicts.worker import run_task

POLL_SECONDS = 0.5

_lines: Any = None  # the queue of this worker's progress lines


class EvidenceError(GelulessError):
    """A task of live evidence failed; the claims that need it cannot be judged."""


def _start_worker(lines: Any) -> None:
    global _lines
    _lines = lines
    import torch

    torch.set_num_threads(1)


def _run_in_worker(task: Task, images: int | None) -> TaskResult:
    return run_task(task, images=images, report=_lines.put)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children read these when they load their maths libraries; the parent's own values come back afterwards."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class EvidencePool:
    """Live evidence for one run. `announce` receives progress lines, always on the thread that waits.

    `images` limits the test images for tests of the machinery; reports made from it say so.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        announce: Callable[[str], None],
        workers: int | None = None,
        images: int | None = None,
        run: Callable[[Task, int | None], TaskResult] = _run_in_worker,
    ) -> None:
        context = get_context("spawn")
        self.images = images
        self._announce = announce
        self._lines = context.Queue()
        ordered = sorted(set(tasks), key=lambda task: (-task.expected_seconds, str(task)))
        workers = workers or max(1, min(len(ordered), len(os.sched_getaffinity(0))))
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(self._lines,))
        before = set(active_children())
        with _one_thread_each():
            self._futures: dict[Task, Future[TaskResult]] = {task: self._executor.submit(run, task, images) for task in ordered}
        self._children = set(active_children()) - before
        if ordered:
            announce(f"evidence: {len(ordered)} tasks on {workers} processes, longest first: {', '.join(map(str, ordered))}")

    def get(self, *tasks: Task) -> tuple[TaskResult, ...]:
        """Wait for these tasks, printing progress of all. Raises EvidenceError with the worker's message."""
        for task in tasks:
            if task not in self._futures:
                raise EvidenceError(f"{task} was not asked for at the start: mark the test with evidence({str(task)!r})")
        waiting = {self._futures[task] for task in tasks}
        while wait_for(waiting, timeout=POLL_SECONDS).not_done:
            self._drain()
        self._drain()
        return tuple(self._result(task) for task in tasks)

    def wait(self) -> None:
        """Until every task has ended, well or not, printing progress: from then on no worker keeps a core busy."""
        waiting = set(self._futures.values())
        while waiting and wait_for(waiting, timeout=POLL_SECONDS).not_done:
            self._drain()
        self._drain()

    def finished(self) -> dict[Task, TaskResult]:
        """The results of all tasks that ended well so far, without waiting."""
        return {task: f.result() for task, f in self._futures.items() if f.done() and not f.cancelled() and f.exception() is None}

    def close(self) -> None:
        """Stop every task, those at work included."""
        unfinished = [future for future in self._futures.values() if not future.done()]
        for future in unfinished:
            future.cancel()
        if unfinished:
            for child in self._children:
                child.terminate()
        self._executor.shutdown(cancel_futures=True)
        self._drain()
        self._lines.close()

    def _result(self, task: Task) -> TaskResult:
        try:
            return self._futures[task].result()
        except Exception as error:
            raise EvidenceError(f"evidence {task} failed: {type(error).__name__}: {error}") from error

    def _drain(self) -> None:
        while True:
            try:
                self._announce(self._lines.get_nowait())
            except queue.Empty:
                return
