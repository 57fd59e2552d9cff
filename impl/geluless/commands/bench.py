"""`geluless bench`: two variants (or one alone) timed in fresh processes, block by block, each verified against the reference."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import check_isa, positive
from geluless.commands.output import checked_output, keep
from geluless.commands.result import OptionError, Result
from geluless.errors import GelulessError, VariantError

if TYPE_CHECKING:
    from rich.console import Console

    from geluless.bench.entries import Entry
    from geluless.bench.harness import Findings
    from geluless.bench.record import Record
    from geluless.bench.telemetry import Telemetry
    from geluless.integer.artifact import Artifact

RESTLESS = 0.05  # interquartile range of the peak loop above which the machine counts as disturbed
BLOCKS = 4  # of each process at least
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
    how.add_argument("--blocked", action="store_true", help="backend cpu: a pass of its own (*-separate) in strips of rows")
    how.add_argument("--eager", action="store_true", help="backend gpu: launch by launch instead of one CUDA graph")
    how.add_argument("--cold", action="store_true", help="backend gpu: overwrite the level-2 cache before each sample")
    how.add_argument("--seconds", type=float, default=10.0, metavar="S", help="to sample, in all (default: 10)")
    how.add_argument(
        "--processes",
        type=positive,
        default=5,
        metavar="N",
        help="fresh processes (default: 5; the interval takes 3)",
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the images and of the order inside the blocks")
    how.add_argument("--no-verify", action="store_true", help="do not compare with the reference; nothing is kept then")
    out = parser.add_argument_group("output")
    out.add_argument("--output", "-o", type=Path, metavar="FILE", help="write all samples as a .bench.json record")
    out.add_argument("--force", action="store_true", help="replace an existing record")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.bench.record import make_record
    from geluless.bench.telemetry import Telemetry
    from geluless.bench.work import macs
    from geluless.engine.cpu import native
    from geluless.engine.gpu.executors.device import require_device

    _check(options)
    if options.backend == "cpu":
        native()  # MissingResource now rather than the reference's speed under the name of the compiled engine
    if options.backend == "gpu":
        require_device()
    check_isa(options)
    output = options.output and checked_output(options.output, suffix=".bench.json", force=options.force)
    artifacts = _artifacts(options)
    entries = _entries(options, artifacts)
    telemetry = Telemetry() if options.backend == "gpu" else None
    found = _timed(options, entries, telemetry)
    record = make_record(found, operations=macs(artifacts[0].plan) * options.batch)
    if telemetry:
        how = {"graph": not options.eager, "cold_l2": options.cold}
        record.environment["gpu"] = telemetry.record() | how
    if output:
        keep(output, f"{record.to_json()}\n".encode())
    data = record.summary()
    ratios = data.pop("ratios")
    notes = _notes(record)
    if telemetry and telemetry.throttled:
        notes.append("The device held its clocks down while it was timed: see environment.gpu.throttle_reasons.")
    if telemetry and telemetry.missing:
        notes.append(f"Nothing, or not everything, is known of the device's clocks: {telemetry.missing}.")
    data |= {"ratio": ratios[0] if ratios else None, "notes": notes, "output": str(output) if output else None}
    return Result(data, lambda console: _show(console, data))


def _timed(options: argparse.Namespace, entries: list[Entry], telemetry: Telemetry | None) -> Findings:
    from tqdm import tqdm

    from geluless.bench import study
    from geluless.bench.harness import StudyError
    from geluless.bench.process import Status

    how_much = {"processes": options.processes, "blocks": BLOCKS, "seconds": options.seconds / options.processes}
    wanted = study.Study(tuple(entries), **how_much, seed=options.seed, strict=False)
    try:
        with tqdm(total=options.processes, desc="verifying and timing", unit="process", disable=None, leave=False) as bar:
            watched = nullcontext if telemetry is None else lambda: telemetry
            return study.run_study(wanted, announce=lambda line: bar.update(), around=watched)
    except StudyError as error:
        if getattr(error.__cause__, "status", None) is not Status.WRONG:
            raise
        raise GelulessError(
            f"{error}. This is a defect of the engine on this processor: please report it with the output of `geluless doctor`, "
            "and try another --isa meanwhile"
        ) from None


def _check(options: argparse.Namespace) -> None:
    """Raises OptionError for options that contradict each other, VariantError for a variant that does not exist."""
    from geluless.integer.variants import Variant

    if not 0 < options.seconds <= 3600:
        raise OptionError(f"--seconds {options.seconds:g} must lie in (0, 3600]")
    if (options.eager or options.cold) and options.backend != "gpu":
        raise OptionError("--eager and --cold are about a CUDA device: they need --backend gpu")
    if options.blocked and options.backend != "cpu":
        raise OptionError("--blocked is about the compiled CPU engine: it needs --backend cpu")
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


def _entries(options: argparse.Namespace, artifacts: list[Artifact]) -> list[Entry]:
    """Raises VariantError for an artifact of the other activation, and where --blocked has no pass to be about."""
    from geluless.bench.entries import Entry
    from geluless.integer.variants import SEPARATE, choose_variant

    files = (options.artifact, options.against_artifact or options.artifact)
    wanted = (("--artifact", options.variant), ("--against-artifact", options.against))
    entries: list[Entry] = []
    for artifact, file, (option, variant) in zip(artifacts, files, wanted, strict=False):
        try:
            chosen = choose_variant(artifact.plan, variant)
        except VariantError as error:
            hint = "" if options.model else f"; give {option} FILE that runs it"
            raise VariantError(f"{error}{hint}") from None
        blocked = options.blocked and chosen in SEPARATE
        name = f"{chosen} blocked" if blocked else chosen.value
        again = any(name == entry.name for entry in entries)
        entries.append(
            Entry(
                name=f"{name} (again)" if again else name,
                model=options.model or "",
                variant=chosen.value,
                drop_bias=chosen.value == "relu-nobias",
                artifact=file,
                backend=options.backend,
                isa=options.isa,
                threads=options.threads,
                batch=options.batch,
                seed=options.seed,
                verify=not options.no_verify,
                graph=not options.eager,
                cold=options.cold,
                blocked=blocked,
            )
        )
    if options.blocked and not any(entry.blocked for entry in entries):
        names = ", ".join(sorted(SEPARATE))
        raise VariantError(f"--blocked is about an activation that is a pass of its own: time one of {names}")
    return entries


def _notes(record: Record) -> list[str]:
    """What a reader of the numbers must know about them."""
    notes = []
    if not all(row["verified"] for row in record.candidates):
        notes.append("Not verified: nothing says that these are the times of right results.")
    if (cores := record.environment["cores"]) < record.threads:
        notes.append(f"{record.threads} threads shared {cores} core(s): this is not the time of {record.threads} threads.")
    if record.disturbed:
        notes.append(f"Other processes ran during {record.disturbed} of {record.blocks} blocks: repeat on a quiet machine.")
    if record.peak_spread > RESTLESS:
        spread = 100 * record.peak_spread
        notes.append(f"The peak loop varied by {spread:.0f} %: the machine was disturbed; repeat on a quiet one.")
    intervals = record.ratios or [row["milliseconds"] for row in record.candidates]
    if (width := max((interval["high"] - interval["low"]) / interval["value"] for interval in intervals)) > WIDE:
        notes.append(f"The interval is {100 * width:.0f} % wide: take more --seconds, or a quieter machine.")
    return notes


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    title = f"{data['model']}, batch {data['batch']}, {data['threads']} thread(s)"
    title += f", {data['blocks']} blocks of {len(data['processes'])} process(es)"
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
