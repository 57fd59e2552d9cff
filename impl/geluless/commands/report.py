"""`geluless report`: render report/claims.json to Markdown and HTML again, write the README's figures, record a run beside past
ones. Nothing is judged anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_common
from geluless.commands.result import OptionError, Result

if TYPE_CHECKING:
    from rich.console import Console


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("report", help="render the verdicts of the last run again", description=__doc__, allow_abbrev=False)
    add_common(parser)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("report"), help="holds claims.json (default: report)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the figures of a whole run between its two marks, too")
    parser.add_argument(
        "--outdated", action="store_true", help="only say above the --readme's figures that they are of other code"
    )
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=Path("claims/history.json"),
        metavar="FILE",
        help="add the ratios of a whole run to those of past runs (default: claims/history.json)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.report import mark_outdated, quote, record, render_folder

    if options.outdated:
        if options.readme is None or options.record is not None:
            raise OptionError("--outdated marks the figures of a --readme and does nothing else")
        mark_outdated(options.readme)
        return _written(None, [str(options.readme)])
    source = options.folder / "claims.json"
    if not source.is_file():
        raise OptionError(f"there is no {source}: `nox -s claims` writes it")
    render_folder(options.folder)
    written = [str(path) for path in sorted(options.folder.glob("claims.*")) if path != source]
    if options.record is not None:
        record(options.folder, options.record)
        written.append(str(options.record))
    if options.readme is not None:
        quote(options.folder, options.readme)
        written.append(str(options.readme))
    return _written(str(source), written)


def _written(source: str | None, written: list[str]) -> Result:
    def show(console: Console) -> None:
        for path in written:
            console.print(path)

    return Result({"source": source, "written": written}, show)
