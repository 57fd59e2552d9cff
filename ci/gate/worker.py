"""One revision's process, which loads workloads and answers with one sample at a time (geluless.bench.workload_worker)."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ci.gate.revisions import GateError, Revision, command, environment
from geluless.bench.load import process_seconds

MODULE = "geluless.bench.workload_worker"
PROTOCOL = 1
ANSWER = 180.0  # seconds; verifying a network takes the longest


class Worker:
    """One revision's process. Raises GateError from `ask` where it ends or does not answer."""

    def __init__(self, revision: Revision, log: Path) -> None:
        self.revision, self._log = revision, log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command(revision, MODULE),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment(revision),
                cwd=revision.home,  # paths of the same length for both
                text=True,
                bufsize=1,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer, which holds "error" where the request failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise GateError(self._ended()) from None
        if not select.select([self._process.stdout], [], [], ANSWER)[0]:
            raise GateError(f"{self.revision.side} {self.revision}: no answer to {do} within {ANSWER:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise GateError(self._ended())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_seconds(self) -> float:
        return process_seconds(self._process.pid)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ended(self) -> str:
        self._process.wait()
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "no message"
        if "No module named" in last and "workload" in last:
            last = "it is older than the gate and has no workloads to time: choose a younger base"
        return f"{self.revision.side} {self.revision}: {last}"


@contextmanager
def pair_of_workers(base: Revision, head: Revision) -> Iterator[dict[str, Worker]]:
    """Both processes by side, on the last core; this one elsewhere, if there is an elsewhere."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        os.sched_setaffinity(0, cores[-1:])  # a child inherits it
        stack.callback(os.sched_setaffinity, 0, cores)
        workers = {}
        for revision in (base, head):
            workers[revision.side] = Worker(revision, revision.home / "worker.log")
            stack.callback(workers[revision.side].close)
        os.sched_setaffinity(0, cores[:-1] or cores)
        yield workers
