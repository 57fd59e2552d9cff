"""A baseline's process seen from outside: started bound to its cores, asked with a deadline, stopped while others are timed.

A runtime's idle threads may spin for a while in the hope of more work, and would take a core from whoever is timed next. So
between its own requests a process is stopped by signal, which no spinning survives, and every runtime can keep the waiting
policy that is best for itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from time import perf_counter
from typing import Any

from geluless.baselines.baseline import BaselineFailure, Status
from geluless.bench.load import process_seconds

POLITE = {  # for every process: neither downloads nor usage statistics leave this machine
    "HF_HUB_OFFLINE": "1",
    "NNCF_CI": "1",
    "CI": "true",
}


class BaselineProcess:
    """One worker; `log` gets what it prints. Raises BaselineFailure from `ask`, after which the process is gone."""

    def __init__(self, log: Path, *, cores: Sequence[int], threads: int, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._connection, theirs = Pipe()
        self.started = perf_counter()
        arguments = (str(theirs.fileno()), ",".join(map(str, cores)), str(os.getpid()))
        with log.open("wb") as stream, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "geluless.baselines.worker", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # an interrupt is for the command, which then ends its workers
                env={**os.environ, **POLITE, "OMP_NUM_THREADS": str(threads), **(environment or {})},
            )
        self._stopped = False

    def ask(self, name: str, *arguments: Any, timeout: float) -> Any:
        """The answer of `worker.Host`'s method. `timeout` in seconds."""
        self._resume()
        try:
            self._connection.send((name, *arguments))
            if not self._connection.poll(timeout):
                self.close()
                raise BaselineFailure(Status.TIMEOUT, f"no answer to {name!r} within {timeout:.0f} s")
            good, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.wait()
            raise BaselineFailure(Status.FAILED, f"its process ended ({self._ending()}): {self._last_line()}") from None
        if not good:
            assert isinstance(answer, BaselineFailure)
            raise answer
        return answer

    def pause(self) -> None:
        """Stop it until the next request."""
        if self._process.poll() is None and not self._stopped:
            self._process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def cpu_seconds(self) -> float:
        """What it has used of all cores together; 0 where the kernel does not say, or it has ended."""
        return process_seconds(self._process.pid)

    def kill(self) -> None:
        """End the process, from whatever thread; who waits for its answer gets a BaselineFailure."""
        if self._process.poll() is None:
            self._process.kill()  # also ends a stopped one

    def close(self) -> None:
        """End the process and forget it; more than once is fine."""
        self._connection.close()
        self.kill()
        self._process.wait()

    def _resume(self) -> None:
        if self._stopped:
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    def _ending(self) -> str:
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")
