"""`geluless quantize`: a float checkpoint and calibration images in, one INT8 artifact out."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from geluless.commands.options import (
    add_activation,
    add_batch_size,
    add_common,
    add_data,
    add_model,
    add_output,
    note,
    notes,
    open_images,
    open_model,
    positive,
    set_threads,
)
from geluless.commands.output import checked_output, keep
from geluless.commands.result import OptionError, Result

if TYPE_CHECKING:
    from rich.console import Console

SUFFIX = ".int8.safetensors"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("quantize", help="make the INT8 artifact", description=__doc__, allow_abbrev=False)
    add_common(parser)
    add_model(parser, required=True)
    add_activation(parser)
    add_data(parser, split="train")
    parser.add_argument(
        "--profile", default="per-channel", metavar="NAME", help="per-channel (default), ft1 or ft2 (FasterTransformer's)"
    )
    parser.add_argument("--calibration-images", type=positive, default=256, metavar="N", help="class-balanced (default: 256)")
    add_batch_size(parser, default=64)
    add_output(parser, suffix=SUFFIX)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.data.balance import balanced_indices
    from geluless.errors import CalibrationError
    from geluless.models.interface import interface_of
    from geluless.ptq.profiles import resolve_profile
    from geluless.ptq.quantize import quantize

    try:
        profile = resolve_profile(options.profile)
    except CalibrationError as error:
        raise OptionError(str(error)) from None
    output = checked_output(options.output, suffix=SUFFIX, force=options.force)
    set_threads(options)
    model = open_model(options, activation=options.activation)
    images = open_images(options, model=model)
    if (there := len(images.class_names)) != model.num_classes:
        note(options, [f"{images.name} has {there} classes, the network {model.num_classes}: its labels only balance the choice"])
    chosen = balanced_indices(images.labels, options.calibration_images)
    batches = images.batches(options.batch_size, indices=chosen)
    artifact = quantize(model, batches, profile=profile, name=options.model)
    keep(output, artifact.to_bytes())
    precisions = Counter(row["dtype"] for row in artifact.precision_manifest())
    data = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "content_hash": artifact.content_hash,
        "model": options.model,
        "activation": artifact.activation,
        "profile": options.profile,
        "interface": interface_of(model).to_json(),
        "calibration": {"source": images.name, "digest": images.digest, "images": len(chosen)},
        "precision_counts": dict(precisions),
        "notes": notes(options),
    }

    def show(console: Console) -> None:
        console.print(
            f"{output}: {data['bytes'] / 1e6:.2f} MB, {data['activation']}, profile {options.profile}, "
            f"{len(chosen)} calibration images of {images.name}\nimages: {interface_of(model)}\n"
            f"content hash {artifact.content_hash}",
            soft_wrap=True,
        )

    return Result(data, show)
