"""`geluless predict`: what a model of GPUs says about the paper's gain. A prediction, with its error; no measurement."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.audit import read_audit
from geluless.commands.options import positive
from geluless.commands.result import Result

if TYPE_CHECKING:
    from rich.console import Console

RESAMPLES = 40
DEVICES = ("RTX 4090", "A100", "H100", "T4", "A10")
SIZES = ("tiny", "small", "base", "large")


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("predict", help="a model's prediction of the GPU gain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--device", default="RTX 4090", choices=DEVICES, help="default: RTX 4090")
    parser.add_argument("--size", action="append", choices=SIZES, help="repeat for more; default: all four")
    parser.add_argument("--batch", action="append", type=positive, metavar="N", help="repeat for more; default: 1, 8, 32, 64")
    parser.add_argument(
        "--audit",
        type=Path,
        default=Path("ci/sm_89.audit.json"),
        metavar="FILE",
        help="instruction counts, from geluless audit",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.bench.roofline.devices import DEVICES as KNOWN
    from geluless.bench.roofline.fit import fit, held_out, published, resampled
    from geluless.bench.roofline.predict import attribution, predict

    record, table = read_audit(options.audit), published()
    device, central = KNOWN[options.device], fit(table)
    spread = resampled(table, RESAMPLES)
    errors = [*held_out(table, lambda entry: entry.device), *held_out(table, lambda entry: entry.size)]
    rows: list[dict[str, Any]] = []
    for size in dict.fromkeys(options.size or SIZES):
        for batch in dict.fromkeys(options.batch or (1, 8, 32, 64)):
            for made in predict(device, size, batch, record=record, central=central, spread=spread):
                rows.append({**asdict(made), "at_least_11_percent": made.reaches_bound})
    data = {
        "kind": "prediction of a model, not a measurement",
        "device": device.name,
        "parameters": asdict(central),
        "model_error": [asdict(error) for error in errors],
        "predictions": rows,
        "gelu_kernel": {
            f"{size} batch {batch}": attribution(size, batch, device, central)
            for size in dict.fromkeys(options.size or SIZES)
            for batch in dict.fromkeys(options.batch or (1, 8, 32, 64))
        },
    }
    return Result(data, lambda console: _show(console, data))


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    worst = max(data["model_error"], key=lambda error: error["median"])
    largest = max(data["model_error"], key=lambda error: error["worst"])
    console.print(f"PREDICTION of a roofline model for the {data['device']}. Nothing here was measured.", soft_wrap=True)
    console.print(
        f"Fitted to FasterTransformer's published INT8 latencies (T4, A10, A100). On entries it has not seen it is off "
        f"by {100 * worst['median']:.0f} % in the median of the worst group ({worst['group']}), {100 * largest['worst']:.0f} % "
        f"at most ({largest['group']}). Ranges hold the fit's uncertainty and that of what had to be assumed (overlap, issue "
        "rate, gaps in a graph), not errors that both times of a ratio share.",
        soft_wrap=True,
    )
    comparisons = list(dict.fromkeys(row["comparison"] for row in data["predictions"]))
    for comparison in comparisons:
        table = Table(title=f"time ratio, {comparison}", title_justify="left")
        for name in ("size", "batch", "ratio [range]", "at least 11 %?"):
            table.add_column(name, no_wrap=True)
        for row in (row for row in data["predictions"] if row["comparison"] == comparison):
            interval = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            table.add_row(row["size"], str(row["batch"]), interval, row["at_least_11_percent"])
        console.print(table)
