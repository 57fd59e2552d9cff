"""`geluless distill`: a GELU teacher in, a ReLU student out, block by block; a killed run resumes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_common, add_data, add_model, add_output, notes, open_images, open_model, set_threads
from geluless.commands.output import checked_folder, checked_output, keep
from geluless.commands.result import OptionError, Result
from geluless.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

SUFFIX = ".safetensors"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("distill", help="GELU teacher in, ReLU student out", description=__doc__, allow_abbrev=False)
    add_common(parser)
    add_model(parser, required=True)
    add_data(parser, split="train")
    parser.add_argument("--recipe", default="local+kd", metavar="NAME", help="paper, local, or local+kd (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        metavar="DIR",
        help="keep progress here: the same command continues a killed run, with as many threads as that had",
    )
    add_output(parser, suffix=SUFFIX)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.distillation import RECIPES, BlockRecord, distill, format_record
    from geluless.distillation.student_file import student_file
    from geluless.models.interface import interface_of

    if options.recipe not in RECIPES:
        raise OptionError(f"no recipe is called {options.recipe!r}; choose one of {', '.join(RECIPES)}")
    output = checked_output(options.output, suffix=SUFFIX, force=options.force)
    progress = checked_folder(options.checkpoint_dir, option="--checkpoint-dir") if options.checkpoint_dir else None
    continue_with_its_threads(options, progress)
    set_threads(options)
    teacher = open_model(options)
    images = open_images(options, model=teacher)

    def announce(record: BlockRecord) -> None:
        print(format_record(record), flush=True)

    done = distill(teacher, images, recipe=options.recipe, seed=options.seed, checkpoint_dir=progress, on_block=announce)
    facts = {
        "model": options.model,
        "activation": "relu",
        "recipe": options.recipe,
        "seed": str(options.seed),
        "images": images.digest,
    }
    interface = interface_of(teacher).to_json()
    try:
        keep(output, *student_file(done.student, facts | {"interface": json.dumps(interface)}))
    except OutputError as error:
        if progress is None:
            raise
        raise OutputError(f"{error}. The run is whole in {progress}: the same command writes the file from there") from None
    for warning in done.warnings:
        print(f"geluless: warning: {warning}", file=sys.stderr)

    def show(console: Console) -> None:
        console.print(f"{output}: ReLU student of {options.model}, recipe {options.recipe}", soft_wrap=True)

    data = {"output": str(output), **facts, "seed": options.seed, "interface": interface, "notes": notes(options)}
    return Result({**data, "distillation": done.to_json()}, show)


def continue_with_its_threads(options: argparse.Namespace, progress: Path | None) -> None:
    """The order of float additions depends on the threads: a run goes on with those that it began with, wherever it goes on."""
    from geluless.distillation.checkpoints import threads_begun_with

    if progress is None or options.threads is not None or (begun := threads_begun_with(progress)) is None:
        return
    options.threads = begun
    print(f"geluless: {progress} was begun with --threads {begun} and goes on with that", file=sys.stderr)
