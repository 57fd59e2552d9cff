"""`geluless baselines`: our engine and others on the same network, verified, then timed in one interleaved run."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.baselines.defaults import BATCH, SEED, THREADS, THROUGHPUT_BATCH
from geluless.commands.options import positive, recorded_activation
from geluless.commands.output import checked_output, keep
from geluless.commands.result import OptionError, Result
from geluless.errors import GelulessError

if TYPE_CHECKING:
    from rich.console import Console
    from timm.models.swin_transformer import SwinTransformer

    from geluless.baselines.baseline import Baseline
    from geluless.baselines.comparison import Comparison
    from geluless.baselines.record import BaselinesRecord
    from geluless.baselines.subject_network import SubjectNetwork

ACTIVATIONS = ("gelu", "relu")
FOREIGN = 0.1  # cores busy with other work above which the figures are disturbed
WIDE = 140  # columns that the tables need; a narrower terminal wraps their lines


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("baselines", help="our engine beside others", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    what = parser.add_argument_group("what to run")
    what.add_argument("--model", "-m", required=True, metavar="NAME", help="timm's (random weights) or swin_micro_{tiny,...}")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="float weights; a micro model's GELU network is shipped")
    what.add_argument("--activation", choices=("both", *ACTIVATIONS), default="both", help="default: both, if there are weights")
    what.add_argument("--baselines", type=_names, default=(), metavar="A,B", help="some of them (default: all)")
    what.add_argument("--embedded", action="store_true", help="top-1 on embedded test images too (micro models)")
    what.add_argument("--images", type=positive, default=2000, metavar="N", help="of --embedded, class-balanced (default: 2000)")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=_counts, default=THREADS, metavar="N,M", help="one comparison each (default: 1,2)")
    how.add_argument("--batch", type=positive, default=BATCH, metavar="N", help="images per call, for latency (default: 1)")
    how.add_argument(
        "--throughput-batch", type=positive, default=THROUGHPUT_BATCH, metavar="N", help="on the most threads (default: 8)"
    )
    how.add_argument("--seconds", type=float, default=7.0, metavar="S", help="to sample each comparison (default: 7)")
    how.add_argument("--seed", type=int, default=SEED, metavar="N", help="of random weights, images and the order in the blocks")
    how.add_argument("--cache", type=Path, metavar="DIR", help="of prepared baselines (default: the user's cache folder)")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output", "-o", type=Path, metavar="FILE.baselines.json", help="the record; .md and .svg lie beside it then"
    )
    out.add_argument("--force", action="store_true", help="replace existing files")
    parser.set_defaults(run=run)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def run(options: argparse.Namespace) -> Result:
    from geluless.baselines.record import SUFFIX, make_record
    from geluless.baselines.registry import chosen_baselines
    from geluless.cache import default_cache

    started = time.monotonic()
    _check(options)
    try:
        baselines = chosen_baselines(options.baselines)
    except GelulessError as error:
        raise OptionError(f"--baselines: {error}") from None
    output = options.output and checked_output(options.output, suffix=SUFFIX, force=options.force)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="geluless-baselines-") as name:
        scratch = Path(name)
        subjects = _subjects(options, scratch, notes)
        comparisons = _comparisons(
            options, baselines, subjects, scratch=scratch, cache=options.cache or default_cache() / "baselines"
        )
        record = make_record(
            comparisons,
            subjects,
            baselines,
            batch=options.batch,
            throughput_batch=options.throughput_batch,
            seconds=round(time.monotonic() - started, 1),
            notes=[*notes, *_notes(comparisons)],
        )
    data = record.summary() | {"output": _write(record, output) if output else None}
    return Result(data, lambda console: _show(console, data))


def _check(options: argparse.Namespace) -> None:
    """Raises OptionError for options that contradict each other, before anything is made."""
    from geluless.models.micro import MICRO_CONFIGS

    micro = options.model in MICRO_CONFIGS
    if not 0 < options.seconds <= 3600:
        raise OptionError(f"--seconds {options.seconds:g} must lie in (0, 3600]")
    if options.embedded and not micro:
        raise OptionError(f"--embedded images are grey 28x28, for the micro models, not for {options.model}")
    if options.activation == "relu" and micro and options.checkpoint is None:
        raise OptionError(f"{options.model} ships with GELU: give the ReLU network of `geluless distill` as --checkpoint FILE")


def _subjects(options: argparse.Namespace, scratch: Path, notes: list[str]) -> list[SubjectNetwork]:
    """One per activation for which there are weights."""
    from geluless.baselines.subject_network import make_subject

    subjects = []
    for activation in ACTIVATIONS if options.activation == "both" else (options.activation,):
        found = _network(options, activation)
        if found is None:
            notes.append(f"No {activation.upper()} network of {options.model} was given: --checkpoint FILE of one adds its rows.")
            continue
        model, weights = found
        (folder := scratch / activation).mkdir()
        largest = max(options.batch, options.throughput_batch)
        images = options.images if options.embedded else 0
        subjects.append(
            make_subject(folder, model, name=options.model, weights=weights, batch=largest, test_images=images, seed=options.seed)
        )
    return subjects


def _network(options: argparse.Namespace, activation: str) -> tuple[SwinTransformer, str] | None:
    """The float network and where its weights come from; None where there are none for this activation.

    A checkpoint is of the activation that it says, or of the one that --activation names, or of GELU.
    """
    from geluless.baselines.subject_network import random_network
    from geluless.data.manifest import teacher_path
    from geluless.models import MICRO_CONFIGS, create_model, replace_gelu

    micro = options.model in MICRO_CONFIGS
    path, weights = options.checkpoint, "random"
    if path is not None:
        named = options.activation if options.activation != "both" else "gelu"
        if (recorded_activation(path) or named) == activation:
            weights = str(path)
        elif options.activation != "both":
            raise OptionError(f"{path} is a {recorded_activation(path)} network, not --activation {activation}")
        elif not (micro and activation == "gelu"):
            return None
    if weights == "random" and micro:
        if activation == "relu":
            return None
        path, weights = teacher_path(options.model), "the shipped teacher"
    if weights == "random":
        return random_network(options.model, activation, seed=options.seed), f"random, seed {options.seed}"
    model = create_model(options.model, path)
    if activation == "relu":
        replace_gelu(model)
    return model, weights


def _comparisons(
    options: argparse.Namespace, baselines: Sequence[Baseline], subjects: Sequence[SubjectNetwork], *, scratch: Path, cache: Path
) -> list[Comparison]:
    from tqdm import tqdm

    from geluless.baselines.comparison import Timing, compare, cores_for
    from geluless.baselines.defaults import shapes_of
    from geluless.baselines.preparation import families_of, prepare_all

    most = max(options.threads)
    shapes = shapes_of(options.batch, options.throughput_batch, options.threads)
    count = sum(len(family) for subject in subjects for family in families_of(baselines, subject))
    with tqdm(total=count, desc="preparing baselines", unit="baseline", disable=None, leave=False) as bar:
        prepared = prepare_all(
            subjects, baselines, shapes, cache=cache, scratch=scratch, cores=cores_for(1 << 20), done=bar.update
        )
    plan = [(subject, threads) for subject in subjects for threads in options.threads]
    comparisons = []
    with tqdm(plan, unit="comparison", disable=None, leave=False) as bar:
        for subject, threads in bar:
            large = options.throughput_batch if threads == most else None
            timing = Timing(options.batch, large, threads, options.seconds, options.seed)
            announce = bar.set_description
            cores = cores_for(threads)
            comparisons.append(compare(subject, baselines, prepared, timing, cores=cores, scratch=scratch, announce=announce))
    return comparisons


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader of the numbers must know about them."""
    from geluless.baselines.comparison import cores_for
    from geluless.commands.bench import RESTLESS

    notes = []
    timed = [
        samples for comparison in comparisons for samples in (comparison.latency, comparison.throughput) if samples is not None
    ]
    if timed and (spread := max(samples.peak_spread for samples in timed)) > RESTLESS:
        notes.append(f"The peak loop varied by {100 * spread:.0f} %: the machine was disturbed; repeat on a quiet one.")
    if (foreign := max(comparison.foreign_cores or 0.0 for comparison in comparisons)) > FOREIGN:
        notes.append(f"Other processes kept up to {foreign:.1f} core(s) busy meanwhile: repeat on a quiet machine.")
    threads = max(comparison.timing.threads for comparison in comparisons)
    if (cores := len(cores_for(threads))) < threads:
        notes.append(f"{threads} threads shared {cores} core(s): this is not the time of {threads} threads.")
    return notes


def _write(record: BaselinesRecord, output: Path) -> str:
    """The record, and the same as text and as a plot beside it."""
    from geluless.baselines.record import SUFFIX
    from geluless.report.baselines_plot import baselines_plot, standalone
    from geluless.report.render_baselines import markdown_page

    stem = output.name.removesuffix(SUFFIX)
    files = {
        output: record.to_json() + "\n",
        output.with_name(f"{stem}.baselines.md"): markdown_page(record, f"{stem}.baselines.svg"),
    }
    if plot := baselines_plot(record.summary(), salt="baselines"):
        files[output.with_name(f"{stem}.baselines.svg")] = standalone(plot)
    for path, text in files.items():
        keep(path, text.encode())
    return str(output)


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    from geluless.report.baselines import figures, needs, reasons, reference_line, title_line

    console.width = max(console.width, WIDE)
    console.print(title_line(data), soft_wrap=True)
    for activation in data["weights"]:
        for heading, columns, rows in (figures(data, activation), needs(data, activation)):
            table = Table(title=heading, title_justify="left")
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            console.print(table)
    for line in filter(None, [*reasons(data), reference_line(data), *data["notes"]]):
        console.print(line, soft_wrap=True)
    console.print("settings of each baseline and their sources: `--json`, or the record's .md", soft_wrap=True)
    if data["output"]:
        console.print(f"record: {data['output']}", soft_wrap=True)
