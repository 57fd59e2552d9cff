"""The command `geluless`: parses, runs one verb, prints its result, and turns errors into one line and an exit code.

Exit codes: 0 ok, 1 failed check or unusable input, 2 usage, 3 missing resource, 130 interrupted, 143 terminated. Set
GELULESS_TRACEBACK=1 to see where an error came from.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

from geluless.commands import (
    baselines,
    bench,
    codegen,
    compare,
    distill,
    doctor,
    export,
    harness,
    import_,
    quantize,
    report,
    tune,
    validate,
)
from geluless.commands.result import ExitCode, OptionError, Result
from geluless.errors import GelulessError, MissingResource

# The packages of the extra `claims`: only verbs that judge, draw or quote an interval import them.
STATISTICS = ("matplotlib", "pandas", "pytest", "scipy", "statsmodels")
VERBS = (doctor, distill, quantize, validate, export, import_, compare, bench, harness, baselines, tune, codegen, report)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="geluless",
        description="GELU to ReLU in INT8 Swin Transformers: distil, quantize, validate, time, judge.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text in the terminal's encoding, or in any
    try:
        options = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or the usage
        return int(stop.code or 0)
    try:
        # With --json stdout belongs to the one object at the end; whatever a library prints goes to stderr.
        with termination_as_exception(), redirect_stdout(sys.stderr) if options.json else nullcontext():
            result: Result = options.run(options)
        return _print(result, as_json=options.json)
    except (GelulessError, OSError) as error:
        return _fail(error, as_json=options.json)
    except ModuleNotFoundError as error:
        if (package := (error.name or "").partition(".")[0]) not in STATISTICS:
            raise
        missing = MissingResource(f"{options.verb} needs {package}: pip install 'geluless[claims]'")
        return _fail(missing, as_json=options.json)
    except Terminated:
        print("geluless: terminated", file=sys.stderr)
        return ExitCode.TERMINATED
    except KeyboardInterrupt:
        print("geluless: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send before they kill: as an exception it lets half-written files and processes be removed."""


@contextmanager
def termination_as_exception() -> Iterator[None]:
    """Where nobody else handles the signal, and in the main thread, which alone can."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print(result: Result, *, as_json: bool) -> ExitCode:
    try:
        if as_json:
            print(json.dumps(result.data, indent=1, allow_nan=False))
        else:
            from rich.console import Console

            result.show(Console(markup=False, highlight=False))  # a file name may hold what looks like markup
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would try once more, and complain, as it ends
        if not isinstance(error, BrokenPipeError):  # who closed the pipe has seen enough
            print(f"geluless: error: cannot write the result to standard output ({error.strerror})", file=sys.stderr)
        return ExitCode.FAILED
    return result.code


def _fail(error: GelulessError | OSError, *, as_json: bool) -> ExitCode:
    if os.environ.get("GELULESS_TRACEBACK") == "1":
        raise error
    message = " ".join(str(error).split()) or type(error).__name__  # always one line
    if as_json:
        print(json.dumps({"error": {"kind": type(error).__name__, "message": message}}))
    print(f"geluless: error: {message}", file=sys.stderr)
    if isinstance(error, OptionError):
        return ExitCode.USAGE
    return ExitCode.MISSING_RESOURCE if isinstance(error, MissingResource) else ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
