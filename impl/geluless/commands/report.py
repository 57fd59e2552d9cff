"""`geluless report`: render report/claims.json to Markdown and HTML again, and the README's figures; nothing is judged anew."""

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
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.report import quote, render_folder

    source = options.folder / "claims.json"
    if not source.is_file():
        raise OptionError(f"there is no {source}: `nox -s claims` writes it")
    render_folder(options.folder)
    written = [str(path) for path in sorted(options.folder.glob("claims.*")) if path != source]
    if options.readme is not None:
        quote(options.folder, options.readme)
        written.append(str(options.readme))

    def show(console: Console) -> None:
        for path in written:
            console.print(path)

    return Result({"source": str(source), "written": written}, show)
