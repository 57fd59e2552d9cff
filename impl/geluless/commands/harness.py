"""`geluless harness`: the self-test of the timing harness, with equal engines and slowed ones; wants a quiet machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import positive
from geluless.commands.output import checked_folder, checked_output, keep
from geluless.commands.result import ExitCode, Result

if TYPE_CHECKING:
    from rich.console import Console


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("harness", help="what the timing is worth", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--studies", type=positive, default=10, metavar="N", help="of ten pairs, two minutes each (default: 10)")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE.json", help="the record; replaced where it exists")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    import sys

    from geluless.verdicts.harness import run_self_test

    output = options.output
    if output is not None:  # now, rather than after the hours that the test takes
        checked_folder(output.parent, option="--output")
        checked_output(output, suffix=".json", force=True)
    test = run_self_test(studies=options.studies, announce=lambda line: print(line, file=sys.stderr, flush=True))
    data = test.record()
    failures = test.failures()
    if output is not None:
        keep(output, f"{json.dumps(data, indent=1, allow_nan=False)}\n".encode())
    return Result(data, lambda console: _show(console, data, failures), ExitCode.FAILED if failures else ExitCode.OK)


def _show(console: Console, data: dict[str, Any], failures: list[str]) -> None:
    from rich.table import Table

    table = Table(title=f"{data['cpu']}: {data['model']}, {data['processes']} processes of {data['blocks']} blocks")
    table.add_column("engines")
    for heading in ("pairs", "called different", "%"):
        table.add_column(heading, justify="right")
    rows = [("equal", data["pairs"], data["false_positives"], data["false_positive_rate"])]
    rows += [(f"one slower by {p['percent']:g} %", p["pairs"], p["found"], p["rate"]) for p in data["planted"]]
    for name, pairs, called, rate in rows:
        table.add_row(name, str(pairs), str(called), f"{rate['value']:.0f} [{rate['low']:.0f}, {rate['high']:.0f}]")
    console.print(table)
    for failure in failures:
        console.print(failure)
