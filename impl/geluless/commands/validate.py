"""`geluless validate`: top-1 of an INT8 artifact, and how far it agrees with a float checkpoint on the same images."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geluless.commands.options import (
    add_activation,
    add_batch_size,
    add_common,
    add_data,
    add_model,
    check_isa,
    note,
    notes,
    open_images,
    open_model,
    positive,
    set_threads,
)
from geluless.commands.result import OptionError, Result
from geluless.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

ENOUGH_IMAGES = 50  # to say that top-1 is no better than chance


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("validate", help="accuracy of an INT8 artifact", description=__doc__, allow_abbrev=False)
    add_common(parser)
    parser.add_argument("--artifact", type=Path, required=True, metavar="FILE.int8.safetensors")
    parser.add_argument(
        "--backend", choices=("cpu", "reference", "gpu"), default="cpu", help="default: cpu; the bits are the same"
    )
    parser.add_argument("--isa", metavar="NAME", help="instruction set of the cpu backend (default: the best one here)")
    parser.add_argument(
        "--variant", metavar="NAME", help="how the MLP's activation runs (default: the artifact's own fused variant)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, the same number of each class")
    add_batch_size(parser, default=250)
    add_data(parser, split="val")
    add_model(parser, required=False)
    add_activation(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from tqdm import tqdm

    from geluless.data.balance import balanced_indices
    from geluless.engine.engine import Engine
    from geluless.integer.artifact import load_artifact
    from geluless.models.interface import interface_of
    from geluless.models.swin import create_model

    set_threads(options)
    artifact = load_artifact(options.artifact)
    compare = options.checkpoint is not None or options.pretrained
    options.model = options.model or artifact.plan.model
    check_isa(options)
    engine = Engine(artifact, backend=options.backend, variant=options.variant, threads=options.threads, isa=options.isa)
    if compare:
        model = open_model(options, activation=options.activation)
    else:  # only its preprocessing is wanted: the weights stay random
        model = create_model(options.model, num_classes=options.num_classes, img_size=options.img_size)
    images = open_images(options, model=model)
    if options.limit is not None and options.limit > len(images):
        raise OptionError(f"--limit {options.limit}: {images.name} holds {len(images)} images")
    indices = list(range(len(images))) if options.limit is None else balanced_indices(images.labels, options.limit)
    labels = images.labels[indices]
    predicted, reference = [], []
    started = time.perf_counter()
    batches = images.batches(options.batch_size, indices=indices)
    for batch in tqdm(batches, total=-(-len(indices) // options.batch_size), unit="batch", disable=None, leave=False):
        logits = engine(batch)
        if logits.shape[1] != len(images.class_names):
            raise DataError(
                f"{images.name} has {len(images.class_names)} class folders, the artifact {logits.shape[1]} classes: "
                "labels would not mean the same; give the folder with all classes"
            )
        predicted.append(top(logits, k=min(5, logits.shape[1])))
        if compare:
            reference.append(_float_top1(model, batch))
    ranked = np.concatenate(predicted)  # int64 [N, k]
    data: dict[str, Any] = {
        "model": options.model,
        "artifact": str(options.artifact),
        "content_hash": artifact.content_hash,
        "activation": artifact.activation,
        "backend": engine.backend,
        "isa": engine.isa,
        "variant": engine.variant,
        "images": {"source": images.name, "tier": images.tier, "digest": images.digest},
        "n": len(labels),
        "top1": _percent(ranked[:, 0] == labels),
        "top5": _percent((ranked == labels[:, None]).any(1)),
        "img_size": images.input_size[-1],
        "batch_size": options.batch_size,
        "seconds": round(time.perf_counter() - started, 2),
        "interface": interface_of(model).to_json(),
    }
    if len(labels) >= ENOUGH_IMAGES and np.mean(ranked[:, 0] == labels) <= 1 / len(images.class_names):
        note(options, ["top-1 is not above chance: were the classes in another order in training (--class-order)?"])
    data["notes"] = notes(options)
    if compare:
        data["reference"] = compared(ranked[:, 0], np.concatenate(reference), labels)
    return Result(data, lambda console: _show(console, data))


def top(logits: np.ndarray, *, k: int) -> np.ndarray:
    """int64 [B, k]: the k best classes, best first; among equal logits the lower class, as argmax has it."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def compared(candidate: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Agreement and paired drop of the artifact against the float network, top-1 classes int64 [N] each."""
    from geluless.verdicts.equivalence import paired_drop

    drop = paired_drop(reference == labels, candidate == labels)
    return {
        "top1": _percent(reference == labels),
        "agreement": _percent(candidate == reference),
        "drop_pp": round(drop.drop_pp.value, 4),
        "bounds_pp": [round(drop.drop_pp.low, 4), round(drop.drop_pp.high, 4)],  # each one-sided, 95 %
        "discordant": drop.discordant,
        "mcnemar_p": float(f"{drop.mcnemar_p:.3g}"),
    }


def _float_top1(model: Any, batch: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model(batch).argmax(1).numpy()


def _percent(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 4)


def _show(console: Console, data: dict[str, Any]) -> None:
    """A sentence for the reader, then timm's `--result` line for scripts."""
    source = data["images"]
    console.print(
        f"{data['artifact']} ({data['variant']}, {data['backend']} {data['isa']}): top-1 {data['top1']:.2f} %, "
        f"top-5 {data['top5']:.2f} % on {data['n']} images of {source['source']} ({source['tier']} tier)",
        soft_wrap=True,
    )
    if reference := data.get("reference"):
        low, high = reference["bounds_pp"]
        console.print(
            f"float checkpoint: top-1 {reference['top1']:.2f} %, agreement {reference['agreement']:.2f} %, "
            f"drop {reference['drop_pp']:+.2f} pp [{low:+.2f}, {high:+.2f}]",
            soft_wrap=True,
        )
    console.print(f"--result\n{json.dumps(data, allow_nan=False)}", soft_wrap=True)
