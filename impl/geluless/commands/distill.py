"""`geluless distill`: a GELU teacher in, a ReLU student out, block by block; a killed run resumes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_common, add_data, add_model, add_output, notes, open_images, open_model, set_threads
from geluless.commands.output import checked_folder, checked_output
from geluless.commands.result import OptionError, Result
from geluless.files import atomic_output

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
        "--checkpoint-dir", type=Path, metavar="DIR", help="keep progress here: the same command continues a killed run"
    )
    add_output(parser, suffix=SUFFIX)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.distillation import RECIPES, BlockRecord, distill, format_record
    from geluless.models.interface import interface_of

    if options.recipe not in RECIPES:
        raise OptionError(f"no recipe is called {options.recipe!r}; choose one of {', '.join(RECIPES)}")
    output = checked_output(options.output, suffix=SUFFIX, force=options.force)
    progress = checked_folder(options.checkpoint_dir, option="--checkpoint-dir") if options.checkpoint_dir else None
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
    _save(done.student, output, metadata=facts | {"interface": json.dumps(interface)})
    for warning in done.warnings:
        print(f"geluless: warning: {warning}", file=sys.stderr)

    def show(console: Console) -> None:
        console.print(f"{output}: ReLU student of {options.model}, recipe {options.recipe}", soft_wrap=True)

    data = {"output": str(output), **facts, "seed": options.seed, "interface": interface, "notes": notes(options)}
    return Result({**data, "distillation": done.to_json()}, show)


def _save(student: Any, output: Path, *, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    with atomic_output(output) as temporary:
        save_file(weights, temporary, metadata=metadata)
