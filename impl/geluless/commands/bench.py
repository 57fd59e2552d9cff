"""`geluless bench`: paired, interleaved timing of two arms (or one alone), each verified against the reference first."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import check_isa, positive
from geluless.commands.output import atomic_output, checked_output
from geluless.commands.result import ExitCode, OptionError, Result

if TYPE_CHECKING:
    from rich.console import Console

    from geluless.ptq.artifact import Artifact

RESTLESS = 0.05  # interquartile range of the peak loop above which the machine counts as disturbed


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("bench", help="time an arm against another", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    source = parser.add_argument_group("what to time")
    given = source.add_mutually_exclusive_group(required=True)
    given.add_argument("--artifact", type=Path, metavar="FILE", help="from geluless quantize")
    given.add_argument("--model", metavar="NAME", help="timm's name: random weights, which take the same time as real ones")
    source.add_argument("--arm", metavar="ARM", help="default: the artifact's own fused arm (with --model: relu)")
    source.add_argument("--against", metavar="ARM", help="a second arm, timed block by block beside the first")
    source.add_argument("--against-artifact", type=Path, metavar="FILE", help="artifact of the other activation, for --against")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    how.add_argument("--batch", type=positive, default=1, metavar="N", help="images per call (default: 1)")
    how.add_argument("--isa", metavar="NAME", help="instruction set (default: the best one here; `geluless doctor` lists them)")
    how.add_argument("--backend", choices=("cpu", "reference"), default="cpu", help="default: cpu")
    how.add_argument("--seconds", type=float, default=10.0, metavar="S", help="time to sample (default: 10)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the images and of the order inside the blocks")
    out = parser.add_argument_group("output")
    out.add_argument("--output", "-o", type=Path, metavar="FILE", help="write all samples as a .bench.json record")
    out.add_argument("--force", action="store_true", help="replace an existing record")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    import numpy as np

    from geluless.bench import intervals
    from geluless.bench.contenders import Contender, prepare
    from geluless.bench.paired import time_paired
    from geluless.bench.record import make_record
    from geluless.bench.work import macs
    from geluless.engine.cpu import native

    if not 0 < options.seconds <= 3600:
        raise OptionError(f"--seconds {options.seconds:g} must lie in (0, 3600]")
    if options.against_artifact and not options.against:
        raise OptionError("--against-artifact needs --against ARM")
    if options.backend == "cpu":
        native()  # MissingResource now rather than the reference's speed under the name of the compiled engine
    check_isa(options)
    output = options.output and checked_output(options.output, suffix=".bench.json", force=options.force)
    first = _artifact(options, options.arm or ("relu" if options.model else None), options.artifact)
    stem = first.plan.stem
    shape = (options.batch, stem.channels, stem.height, stem.width)
    images = np.random.default_rng(options.seed).standard_normal(shape).astype(np.float32)
    how = {"backend": options.backend, "isa": options.isa, "threads": options.threads}
    contenders: list[Contender] = [prepare(first, options.arm, images, **how)]
    if options.against:
        other = _artifact(options, options.against, options.against_artifact or options.artifact)
        contenders.append(prepare(other, options.against, images, **how))
        if contenders[0].name == contenders[1].name:
            contenders[1] = contenders[1].renamed(f"{contenders[1].name} (again)")
    samples = time_paired(
        {c.name: c.call for c in contenders}, seconds=options.seconds, seed=options.seed, peak=contenders[0].peak
    )
    record = make_record(samples, contenders, batch=options.batch, operations=macs(first.plan) * options.batch)
    if output:
        with atomic_output(output) as partial:
            partial.write_text(record.to_json() + "\n", encoding="utf-8")
    wrong = [c for c in contenders if not c.verified]
    data = {
        **record.summary(),
        "ratio": asdict(intervals.ratio(samples, contenders[0].name, contenders[1].name)) if options.against else None,
        "output": str(output) if output else None,
    }
    return Result(data, lambda console: _show(console, data, samples.peak_spread), ExitCode.FAILED if wrong else ExitCode.OK)


def _artifact(options: argparse.Namespace, arm: str | None, path: Path | None) -> Artifact:
    from geluless.bench.networks import random_artifact
    from geluless.ptq.artifact import load_artifact

    if options.model:
        return random_artifact(options.model, relu=(arm or "relu").startswith("relu"))
    assert path is not None  # argparse requires --artifact or --model
    return load_artifact(path)


def _show(console: Console, data: dict[str, Any], spread: float) -> None:
    from rich.table import Table

    table = Table(title=f"{data['model']}, batch {data['batch']}, {data['threads']} thread(s), {data['blocks']} blocks")
    table.add_column("arm")
    table.add_column("isa")
    for heading in ("ms [95 %]", "images/s", "of peak"):
        table.add_column(heading, justify="right")
    for row in data["contenders"]:
        time, share = row["milliseconds"], row["share_of_peak"]
        interval = f"{time['value']:.2f} [{time['low']:.2f}, {time['high']:.2f}]"
        peak = f"{100 * share['value']:.1f} %" if share else "-"
        table.add_row(row["name"], row["isa"], interval, f"{1000 * data['batch'] / time['value']:.1f}", peak)
    console.print(table)
    for row in data["contenders"]:
        console.print(f"{row['name']}: {row['correctness']}", soft_wrap=True)
    if ratio := data["ratio"]:
        first, second = (row["name"] for row in data["contenders"])
        verdict = "cannot be told apart by these samples"
        if ratio["low"] > 1 or ratio["high"] < 1:
            verdict = f"{first} is {'faster' if ratio['high'] < 1 else 'slower'}"
        bounds = f"{ratio['value']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"
        console.print(f"time({first}) / time({second}) = {bounds}: {verdict}", soft_wrap=True)
    if spread > RESTLESS:
        console.print(f"The peak loop varied by {100 * spread:.0f} %: the machine was disturbed; repeat on a quiet one.")
    if data["output"]:
        console.print(f"record: {data['output']}", soft_wrap=True)
