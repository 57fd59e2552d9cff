"""The process that loads what is timed: answers requests over a pipe until the other end closes. See `process`.

python -m geluless.bench.worker DESCRIPTOR CORES PARENT
"""

from __future__ import annotations

import sys

from geluless.bench.process_setup import bind

if __name__ == "__main__":
    bind([int(core) for core in sys.argv[2].split(",") if core], int(sys.argv[3]))

import os
import traceback
from multiprocessing.connection import Connection
from typing import Any

from geluless.bench.process import CandidateFailure, Status
from geluless.errors import MissingResource


def serve(connection: Connection) -> None:
    host = connection.recv()()
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = True, getattr(host, name)(*arguments)
        except Exception as error:
            answer = False, failure_of(error)
        connection.send(answer)


def failure_of(error: Exception) -> CandidateFailure:
    """The error as a row can tell it; the traceback goes to standard error."""
    traceback.print_exception(error)
    if isinstance(error, CandidateFailure):
        return error
    missing = isinstance(error, ImportError | MissingResource)
    return CandidateFailure(Status.MISSING if missing else Status.FAILED, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    os.dup2(2, 1)  # whatever prints must not look like an answer of the command that started this
    serve(Connection(int(sys.argv[1])))
