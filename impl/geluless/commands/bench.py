"""`geluless bench`: paired, interleaved timing of two variants (or one alone), each verified against the reference first."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import check_isa, positive
from geluless.commands.output import checked_output
from geluless.commands.result import OptionError, Result
from geluless.errors import GelulessError, VariantError
from geluless.files import atomic_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from geluless.bench.candidates import Candidate
    from geluless.bench.record import Record
    from geluless.integer.artifact import Artifact

RESTLESS = 0.05  # interquartile range of the peak loop above which the machine counts as disturbed
WIDE = 0.05  # width of an interval, relative to its value, above which it says little


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("bench", help="time a variant against another", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    source = parser.add_argument_group("what to time")
    given = source.add_mutually_exclusive_group(required=True)
    given.add_argument("--artifact", type=Path, metavar="FILE", help="from geluless quantize")
    given.add_argument("--model", metavar="NAME", help="timm's name: random weights, which take the same time as real ones")
    source.add_argument("--variant", metavar="VARIANT", help="default: the artifact's own fused variant (with --model: relu)")
    source.add_argument("--against", metavar="VARIANT", help="a second variant, timed block by block beside the first")
    source.add_argument("--against-artifact", type=Path, metavar="FILE", help="artifact of the other activation, for --against")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    how.add_argument("--batch", type=positive, default=1, metavar="N", help="images per call (default: 1)")
    how.add_argument("--isa", metavar="NAME", help="instruction set (default: the best one here; `geluless doctor` lists them)")
    how.add_argument("--backend", choices=("cpu", "gpu", "reference"), default="cpu", help="default: cpu")
    how.add_argument("--eager", action="store_true", help="backend gpu: launch by launch instead of one CUDA graph")
    how.add_argument("--cold", action="store_true", help="backend gpu: overwrite the level-2 cache before each sample")
    how.add_argument("--seconds", type=float, default=10.0, metavar="S", help="time to sample (default: 10)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the images and of the order inside the blocks")
    how.add_argument("--no-verify", action="store_true", help="do not compare with the reference; nothing is kept then")
    out = parser.add_argument_group("output")
    out.add_argument("--output", "-o", type=Path, metavar="FILE", help="write all samples as a .bench.json record")
    out.add_argument("--force", action="store_true", help="replace an existing record")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from tqdm import tqdm

    from geluless.bench.networks import random_images
    from geluless.bench.paired import time_paired
    from geluless.bench.record import make_record
    from geluless.bench.telemetry import Telemetry
    from geluless.bench.work import macs
    from geluless.engine.cpu import native

    _check(options)
    if options.backend == "cpu":
        native()  # MissingResource now rather than the reference's speed under the name of the compiled engine
    check_isa(options)
    output = options.output and checked_output(options.output, suffix=".bench.json", force=options.force)
    artifacts = _artifacts(options)
    images = random_images(artifacts[0], options.batch, seed=options.seed)
    candidates = _candidates(options, artifacts, images)
    telemetry = Telemetry() if options.backend == "gpu" else None

    def watch(elapsed: float) -> None:
        bar.update(min(elapsed, options.seconds) - bar.n)

    clock = "{desc}: {n:.0f} of {total:.0f} s |{bar}|"
    bar = tqdm(total=options.seconds, desc="timing", bar_format=clock, disable=None, leave=False)
    with bar, telemetry or nullcontext():
        samples = time_paired(
            {c.name: c.call for c in candidates},
            seconds=options.seconds,
            seed=options.seed,
            peak=candidates[0].peak,
            watch=watch,
            stopwatch=candidates[0].stopwatch,
        )
    record = make_record(samples, candidates, batch=options.batch, operations=macs(artifacts[0].plan) * options.batch)
    if telemetry:
        how = {"graph": not options.eager, "cold_l2": options.cold, "tiles": {c.name: c.tiles for c in candidates}}
        record.environment["gpu"] = telemetry.record() | how
    if output:
        with atomic_output(output) as partial:
            partial.write_text(record.to_json() + "\n", encoding="utf-8")
    data = record.summary()
    ratios = data.pop("ratios")
    notes = _notes(record)
    if telemetry and telemetry.throttled:
        notes.append("The device held its clocks down while it was timed: see environment.gpu.throttle_reasons.")
    if telemetry and telemetry.missing:
        notes.append(f"Nothing, or not everything, is known of the device's clocks: {telemetry.missing}.")
    data |= {"ratio": ratios[0] if ratios else None, "notes": notes, "output": str(output) if output else None}
    return Result(data, lambda console: _show(console, data))


def _check(options: argparse.Namespace) -> None:
    """Raises OptionError for options that contradict each other, VariantError for a variant that does not exist."""
    from geluless.integer.variants import Variant

    if not 0 < options.seconds <= 3600:
        raise OptionError(f"--seconds {options.seconds:g} must lie in (0, 3600]")
    if (options.eager or options.cold) and options.backend != "gpu":
        raise OptionError("--eager and --cold are about a CUDA device: they need --backend gpu")
    if options.against_artifact and not options.against:
        raise OptionError("--against-artifact needs --against VARIANT")
    if options.against_artifact and options.model:
        raise OptionError("--model makes the artifact of the other activation by itself: leave out --against-artifact")
    if options.no_verify and options.output:
        raise OptionError("a record is kept of verified engines only: leave out --no-verify, or --output")
    for variant in (options.variant, options.against):
        if variant is not None and variant not in list(Variant):
            raise VariantError(f"no variant is called {variant!r}; there are {', '.join(Variant)}")


def _artifacts(options: argparse.Namespace) -> list[Artifact]:
    """One per candidate. Raises OptionError for two networks whose times are not those of two variants."""
    from tqdm import tqdm

    from geluless.bench.networks import random_artifact
    from geluless.bench.work import macs
    from geluless.integer.artifact import load_artifact

    if options.model:
        variants = [options.variant or "relu", *([options.against] if options.against else [])]
        bar = tqdm(variants, desc=f"{options.model} with random weights", unit="artifact", disable=None, leave=False)
        return [
            random_artifact(options.model, relu=variant.startswith("relu"), drop_bias=variant == "relu-nobias") for variant in bar
        ]
    first = load_artifact(options.artifact)
    if not options.against:
        return [first]
    second = load_artifact(options.against_artifact) if options.against_artifact else first
    if first.plan.stem.channels != second.plan.stem.channels or macs(first.plan) != macs(second.plan):
        sizes = " and ".join(f"{macs(artifact.plan) / 1e9:.2f}" for artifact in (first, second))
        raise OptionError(f"two different networks ({sizes} GMAC per image) are no two variants: time each by itself")
    return [first, second]


def _candidates(options: argparse.Namespace, artifacts: list[Artifact], images: NDArray[np.float32]) -> list[Candidate]:
    """Verified, unless --no-verify. Raises VariantError for an artifact of the other activation, GelulessError for wrong
    logits."""
    from tqdm import tqdm

    from geluless.bench.candidates import prepare
    from geluless.bench.gpu_timing import GpuTiming

    gpu = GpuTiming(graph=not options.eager, cold=options.cold) if options.backend == "gpu" else None
    candidates: list[Candidate] = []
    wanted = (("--artifact", options.variant), ("--against-artifact", options.against))[: len(artifacts)]
    pairs = zip(artifacts, wanted, strict=True)
    for artifact, (option, variant) in tqdm(
        pairs, total=len(artifacts), desc="verifying", unit="variant", disable=None, leave=False
    ):
        try:
            made = prepare(
                artifact,
                variant,
                images,
                backend=options.backend,
                isa=options.isa,
                threads=options.threads,
                verify=not options.no_verify,
                gpu=gpu,
            )
        except VariantError as error:
            hint = "" if options.model else f"; give {option} FILE that runs it"
            raise VariantError(f"{error}{hint}") from None
        if not (made.verified or options.no_verify):
            raise GelulessError(
                f"{made.name} on {made.isa} is not timed: {made.correctness}. This is a defect of the engine on this "
                "processor: please report it with the output of `geluless doctor`, and try another --isa meanwhile"
            )
        taken = any(made.name == other.name for other in candidates)
        candidates.append(made.renamed(f"{made.name} (again)") if taken else made)
    return candidates


def _notes(record: Record) -> list[str]:
    """What a reader of the numbers must know about them."""
    notes = []
    if not all(row["verified"] for row in record.candidates):
        notes.append("Not verified: nothing says that these are the times of right results.")
    if (cores := record.environment["cores"]) < record.threads:
        notes.append(f"{record.threads} threads shared {cores} core(s): this is not the time of {record.threads} threads.")
    if record.peak_spread > RESTLESS:
        spread = 100 * record.peak_spread
        notes.append(f"The peak loop varied by {spread:.0f} %: the machine was disturbed; repeat on a quiet one.")
    intervals = record.ratios or [row["milliseconds"] for row in record.candidates]
    if (width := max((interval["high"] - interval["low"]) / interval["value"] for interval in intervals)) > WIDE:
        notes.append(f"The interval is {100 * width:.0f} % wide: take more --seconds, or a quieter machine.")
    return notes


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    title = f"{data['model']}, batch {data['batch']}, {data['threads']} thread(s), {data['blocks']} blocks"
    console.print(title, soft_wrap=True)
    table = Table()
    table.add_column("variant")
    table.add_column("isa")
    for heading in ("ms [95 %]", "images/s", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in data["candidates"]:
        time, share = row["milliseconds"], row["share_of_peak"]
        interval = f"{time['value']:.2f} [{time['low']:.2f}, {time['high']:.2f}]"
        peak = f"{100 * share['value']:.1f} %" if share else "-"
        table.add_row(row["name"], row["isa"], interval, f"{1000 * data['batch'] / time['value']:.1f}", peak)
    console.print(table)
    for row in data["candidates"]:
        console.print(f"{row['name']}: {row['correctness']}", soft_wrap=True)
    if ratio := data["ratio"]:
        first, second = ratio["of"], ratio["to"]
        verdict = "includes 1: these samples cannot tell them apart"
        if ratio["low"] > 1 or ratio["high"] < 1:
            verdict = f"excludes 1: {first} is {'faster' if ratio['high'] < 1 else 'slower'}"
        bounds = f"{ratio['value']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"
        console.print(f"time({first}) / time({second}) = {bounds}; the interval {verdict}", soft_wrap=True)
    for note in data["notes"]:
        console.print(note, soft_wrap=True)
    if data["output"]:
        console.print(f"record: {data['output']}", soft_wrap=True)
