"""`geluless compare`: an exported file in a runtime against the reference, layer by layer; names the first that differs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_data, notes, open_images, positive
from geluless.commands.result import ExitCode, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from geluless.integer.artifact import Artifact


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("compare", help="an exported file, layer by layer", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="from geluless export")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime", help="default: onnxruntime")
    parser.add_argument("--isolated", action="store_true", help="each layer gets the reference's inputs: its own error alone")
    parser.add_argument("--images", type=positive, default=8, metavar="N", help="default: 8")
    add_data(parser, split="val", required=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.interop.compare import compare_layers
    from geluless.interop.onnx_export import import_own
    from geluless.interop.runtimes import RUNTIMES

    exported = import_own(options.model)
    images = _images(options, exported.artifact)
    found = compare_layers(exported, images, RUNTIMES[options.runtime], isolated=options.isolated)
    agreement = float((found.logits.argmax(1) == found.expected.argmax(1)).mean())
    layers = [{"name": x.name, "values": x.values, "moved": x.moved, "largest": x.largest} for x in found.layers]
    data: dict[str, Any] = {
        "model": str(options.model),
        "runtime": options.runtime,
        "dialect": exported.dialect.value,
        "images": len(images),
        "first": found.first.name if found.first else None,
        "top1_agreement": agreement,
        "largest_logit_error": float(abs(found.logits - found.expected).max()),
        "layers": layers,
        "notes": notes(options),
    }
    # An exact file promises the bits where a runtime has float64, which is what is checked; others are only reported.
    broken = exported.dialect == "exact" and options.runtime == "onnxruntime" and found.first is not None
    return Result(data, lambda console: _show(console, data), ExitCode.FAILED if broken else ExitCode.OK)


def _images(options: argparse.Namespace, artifact: Artifact) -> NDArray[np.float32]:
    """float32 [N, C, H, W]: of --embedded or --data-dir, or random."""
    import numpy as np

    from geluless.models import create_model

    stem = artifact.plan.stem
    if not (options.embedded or options.data_dir):
        shape = (options.images, stem.channels, stem.height, stem.width)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    options.model = artifact.plan.model
    source = open_images(options, model=create_model(options.model))
    chosen = np.linspace(0, len(source) - 1, min(options.images, len(source))).astype(int).tolist()
    return np.concatenate([batch.numpy() for batch in source.batches(8, indices=chosen)])


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("layer")
    for heading in ("values", "moved", "ppm", "steps at most"):
        table.add_column(heading, justify="right")
    for layer in data["layers"]:
        share = 1e6 * layer["moved"] / layer["values"]
        table.add_row(layer["name"], f"{layer['values']:,}", f"{layer['moved']:,}", f"{share:.1f}", str(layer["largest"]))
    console.print(table)
    first = f"the first layer that differs is {data['first']}" if data["first"] else "no layer differs"
    console.print(
        f"{data['runtime']}, dialect {data['dialect']}, {data['images']} images: {first}; top-1 agreement "
        f"{100 * data['top1_agreement']:.2f} %, logits off by at most {data['largest_logit_error']:.3g}",
        soft_wrap=True,
    )
