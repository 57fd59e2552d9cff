"""A process that loads what is timed, seen from outside: started bound to its cores, asked with a deadline, stopped while others
are timed.

This is how everything is timed here, but for pytest-benchmark's files and `geluless tune`: the claims' studies, the baselines,
`geluless bench`, the gate and its self-test, and the comparison on an RTX 4090 all start such processes and ask them for one
sample at a time (`harness`).

    first message      the class of the host that answers (`host.Host`, or one of its kind)
    request            (name of one of its methods, arguments...)
    answer             (True, what the method returned), or (False, a CandidateFailure)

Both ends are pickled over a pipe of their own; what a runtime prints goes to the log. Between requests a process can be stopped
by signal: a runtime's idle threads may spin for a while in the hope of more work, and would take a core from whoever is timed
next. So every runtime can keep the waiting policy that is best for itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from multiprocessing import Pipe
from pathlib import Path
from time import perf_counter
from typing import Any

from geluless.bench.load import process_seconds

WORKER = (sys.executable, "-m", "geluless.bench.worker")
EXIT_TIMEOUT = 10.0  # seconds
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # what numerical libraries read
POLITE = {  # for every process: neither downloads nor usage statistics leave this machine
    "HF_HUB_OFFLINE": "1",
    "NNCF_CI": "1",
    "CI": "true",
}


class Status(StrEnum):
    """What became of a candidate. Only MEASURED comes with figures of speed; the others with one line that says why not."""

    MEASURED = "measured"
    WRONG = "wrong"  # its logits are not those of the network, or its int8 kernels did not run
    FAILED = "failed"
    TIMEOUT = "timeout"
    ENDED = "ended"  # its process is gone
    MISSING = "missing"  # a package or a compiler is not installed
    NEEDS_GPU = "needs a GPU"
    UNVERIFIED = "unverified"  # it ran, but nothing says that what it computed is the network


class CandidateFailure(Exception):
    """A candidate that gives no figures, and why."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)  # both, so that the exception survives pickling
        self.status = status
        self.reason = " ".join(reason.split())[:400]

    def __str__(self) -> str:
        return self.reason


class TimingProcess:
    """One process with a host; `log` gets what it prints. Raises CandidateFailure from `ask`; one that ended or did not answer in
    time is gone then."""

    def __init__(
        self,
        host: type,
        log: Path,
        *,
        threads: int = 1,
        cores: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = WORKER,
        folder: Path | None = None,
    ) -> None:
        """`threads` is what numerical libraries are told; `cores` what the process is bound to, none means wherever this one may
        run. `command` runs geluless.bench.worker, in `folder` and with `environment` as its whole environment (default: this
        process's own)."""
        self._log = log
        self._connection, theirs = Pipe()
        self.started = perf_counter()
        arguments = (f"{theirs.fileno():06d}", ",".join(map(str, cores)), str(os.getpid()))
        counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
        with log.open("wb") as stream, theirs:
            self._process = subprocess.Popen(
                [*command, *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # an interrupt is for the command, which then ends its workers
                env={**(os.environ if environment is None else environment), **POLITE, **counts},
                cwd=folder,
            )
        self._stopped = False
        with suppress(ConnectionError):  # where it has ended already the first request tells why
            self._connection.send(host)

    def ask(self, name: str, *arguments: Any, timeout: float) -> Any:
        """The answer of the host's method. `timeout` in seconds."""
        self._resume()
        try:
            self._connection.send((name, *arguments))
            if not self._connection.poll(timeout):
                self.close()
                raise CandidateFailure(Status.TIMEOUT, f"no answer to {name!r} within {timeout:.0f} s")
            good, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):  # a runtime may hang as it ends
                self._process.wait(EXIT_TIMEOUT)
            self.kill()
            self._process.wait()
            raise CandidateFailure(Status.ENDED, f"its process ended ({self._ending()}): {self._last_line()}") from None
        except (AttributeError, ImportError, pickle.UnpicklingError) as error:  # of another revision
            self.close()
            raise CandidateFailure(Status.FAILED, f"its answer to {name!r} cannot be read: {error}") from error
        if not good:
            assert isinstance(answer, CandidateFailure)
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
        """End the process, from whatever thread; who waits for its answer gets a CandidateFailure."""
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
