"""`geluless import`: an ONNX file, our own or of another quantizer, as an artifact that our engines run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_data, notes, positive
from geluless.commands.output import checked_output
from geluless.commands.result import Result

if TYPE_CHECKING:
    import torch
    from rich.console import Console

SUFFIX = ".int8.safetensors"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("import", help="an ONNX QDQ file as an artifact", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("file", type=Path, metavar="FILE.onnx", help="from geluless export, ONNX Runtime, NNCF or ModelOpt")
    parser.add_argument("--model", "-m", metavar="NAME", help="timm's, for the preprocessing of --data-dir (default: by size)")
    parser.add_argument("--calibration-images", type=positive, default=256, metavar="N", help="default: 256")
    add_data(parser, split="train", required=False)
    parser.add_argument("--output", "-o", type=Path, required=True, metavar=f"FILE{SUFFIX}")
    parser.add_argument("--force", action="store_true", help="replace the output file if it exists")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.interop.onnx_export import import_own, is_own

    output = checked_output(options.output, suffix=SUFFIX, force=options.force)
    data: dict[str, Any] = {"output": str(output)}
    if is_own(options.file):
        exported = import_own(options.file)
        artifact, report = exported.artifact, f"exported by geluless, dialect {exported.dialect.value}"
        data["own"] = True
    else:
        from geluless.interop.onnx_import import import_onnx

        artifact, found = import_onnx(options.file, batches=_batches(options), name=options.model)
        data |= {"own": False, "report": found.as_dict()}
        report = str(found)
    artifact.save(output)
    data |= {"content_hash": artifact.content_hash, "notes": notes(options)}

    def show(console: Console) -> None:
        console.print(f"{output}: content hash {artifact.content_hash}", soft_wrap=True)
        console.print(report, soft_wrap=True)

    return Result(data, show)


def _batches(options: argparse.Namespace) -> Iterator[torch.Tensor] | None:
    """Calibration images of --embedded or --data-dir, or None where neither is given."""
    if not (options.embedded or options.data_dir):
        return None
    from geluless.commands.options import open_images
    from geluless.data.balance import balanced_indices
    from geluless.models import create_model

    options.model = options.model or ("swin_micro_tiny" if options.embedded else "swin_tiny_patch4_window7_224")
    source = open_images(options, model=create_model(options.model))
    return source.batches(64, indices=balanced_indices(source.labels, min(options.calibration_images, len(source))))
