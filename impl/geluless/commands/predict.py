"""`geluless predict`: what a model of GPUs says about the paper's gain. A prediction, with its error; no measurement."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.codegen import read_codegen
from geluless.commands.options import positive
from geluless.commands.result import Result
from geluless.errors import DataError
from geluless.sizes import SIZES

if TYPE_CHECKING:
    from rich.console import Console

RESAMPLES = 40
DEVICES = ("RTX 4090", "A100", "H100", "T4", "A10")
BATCHES = (1, 8, 32, 64)


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("predict", help="a model's prediction of the GPU gain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--device", default="RTX 4090", choices=DEVICES, help="default: RTX 4090")
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="repeat for more; default: all four")
    batches = ", ".join(map(str, BATCHES))
    parser.add_argument("--batch", action="append", type=positive, metavar="N", help=f"repeat for more; default: {batches}")
    parser.add_argument(
        "--codegen",
        type=Path,
        metavar="FILE",
        help="instruction counts, from geluless codegen (default: the device's own in ci/, or sm_89's)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.bench.roofline.devices import DEVICES as KNOWN
    from geluless.bench.roofline.fit import ASSUMED, FITTED, at_bounds, fit, held_out, published, resampled
    from geluless.bench.roofline.predict import attribution, predict
    from geluless.engine.gpu.tiles import ARCHITECTURES

    device = KNOWN[options.device]
    path = options.codegen or own_record(device.capability)
    record, table = read_codegen(path), published()
    if record.target not in ARCHITECTURES:
        raise DataError(f"{path} is a record of {record.target}, whose tiles are not known: write one of sm_89")
    central = fit(table)
    spread = resampled(table, RESAMPLES)
    unseen_device, unseen_size = held_out(table, lambda entry: entry.device), held_out(table, lambda entry: entry.size)
    errors = [error for group in unseen_device for error in group.logarithms]  # a device is what a prediction is new in
    configurations = [
        (size, batch) for size in dict.fromkeys(options.size or SIZES) for batch in dict.fromkeys(options.batch or BATCHES)
    ]
    predictions = [
        prediction
        for size, batch in configurations
        for prediction in predict(device, size, batch, record=record, central=central, spread=spread, errors=errors)
    ]
    data = {
        "kind": "prediction of a model, not a measurement",
        "device": device.name,
        "caveats": caveats(device.name, device.capability, record.target),
        "fitted": {name: getattr(central, name) for name in FITTED},
        "at_bounds": at_bounds(central),
        "assumed": {name: asdict(assumed) for name, assumed in ASSUMED.items()},
        "model_error": [
            {"group": group.group, "entries": group.entries, "median": group.median, "worst": group.worst}
            for group in (*unseen_device, *unseen_size)
        ],
        "predictions": [{**asdict(made), "at_least_11_percent": made.reaches_bound} for made in predictions],
        "gelu_kernel": {f"{size} batch {batch}": attribution(size, batch, device, central) for size, batch in configurations},
    }
    return Result(data, lambda console: _show(console, data))


def own_record(capability: int) -> Path:
    """The record of the device's architecture where there is one: no code is compiled for those that cannot run our engine."""
    own = Path("ci", f"sm_{capability}.codegen.json")
    return own if own.exists() else Path("ci", "sm_89.codegen.json")


def caveats(device: str, capability: int, target: str) -> list[str]:
    """What a reader of these numbers must know about the device."""
    from geluless.bench.roofline.ours import OLDEST

    if capability < OLDEST:
        return [f"{device} is an sm_{capability}, our engine needs sm_{OLDEST}: only FasterTransformer's kernels are predicted"]
    if target != f"sm_{capability}":
        own = f"its own: geluless codegen --arch sm_{capability} --output FILE, then predict --codegen FILE"
        return [
            f"our engine's tiles and instruction counts are those of {target} code, the {device} is an sm_{capability} ({own})"
        ]
    return []


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    worst = max(data["model_error"], key=lambda error: error["median"])
    largest = max(data["model_error"], key=lambda error: error["worst"])
    console.print(f"PREDICTION of a roofline model for the {data['device']}. Nothing here was measured.", soft_wrap=True)
    for caveat in data["caveats"]:
        console.print(f"NOTE: {caveat}.", soft_wrap=True)
    assumed = ", ".join(f"{name} {a['low']:g} to {a['high']:g}" for name, a in data["assumed"].items())
    console.print(
        f"Fitted to FasterTransformer's published INT8 latencies (T4, A10, A100). On entries it has not seen it is off "
        f"by {100 * worst['median']:.0f} % in the median of the worst group ({worst['group']}), {100 * largest['worst']:.0f} % "
        f"at most ({largest['group']}). Assumed, for the table does not determine them: {assumed}. Ranges hold the fit's "
        "uncertainty, the assumptions', and the error on unseen devices, once for what two pipelines share and once for what "
        "they do not.",
        soft_wrap=True,
    )
    if data["at_bounds"]:
        console.print(f"At a bound, so not determined either: {', '.join(data['at_bounds'])}.", soft_wrap=True)
    comparisons = list(dict.fromkeys(row["comparison"] for row in data["predictions"]))
    for comparison in comparisons:
        table = Table(title=f"time ratio, {comparison}", title_justify="left")
        for name in ("size", "batch", "ratio [range]", "at least 11 %?"):
            table.add_column(name, no_wrap=True)
        for row in (row for row in data["predictions"] if row["comparison"] == comparison):
            interval = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            table.add_row(row["size"], str(row["batch"]), interval, row["at_least_11_percent"])
        console.print(table)
