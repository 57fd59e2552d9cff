"""What was timed: every variant against `relu`, what each step from FasterTransformer's structure to `relu` saves, all medians.

Drawn from `report_data["latency"]`: by study, the samples of all entries, the processes they are of, and rows that say what ran.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geluless.bench.intervals import Interval, median, ratio_over_processes
from geluless.bench.paired import Samples
from geluless.report.plots import FAINT, INK, SERIES, frame, interval_marks, panel_rows, panels, svg
from geluless.report.tables import table_lines
from geluless.verdicts.latency import PAPER_RATIO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER_LINE = 1 / PAPER_RATIO  # "11 % lower latency" as time over relu's
# From FasterTransformer's structure to the fused ReLU, one change at a time.
STEPS = (
    ("FasterTransformer's structure", "gelu-separate"),
    ("GELU fused (erf)", "gelu-fused"),
    ("GELU as a table", "gelu-lut"),
    ("ReLU, float requantization", "relu-float"),
    ("ReLU, integer requantization", "relu"),
    ("ReLU without bias", "relu-nobias without bias"),
)
MIN_PROCESSES = 3  # fewer say nothing about the next one


def drawable(studies: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The studies whose samples are all times, of enough processes for an interval."""
    return {name: study for name, study in studies.items() if _is_drawable(study["samples"], study["processes"])}


def _is_drawable(samples: Mapping[str, Sequence[float | None]], processes: Sequence[int]) -> bool:
    if not samples or len(processes) < MIN_PROCESSES or any(len(times) != sum(processes) for times in samples.values()):
        return False
    return all(time is not None and math.isfinite(time) and time > 0 for times in samples.values() for time in times)


def samples_of(study: Mapping[str, Any]) -> Samples:
    seconds = {name: np.array(values, np.float64) for name, values in study["samples"].items()}
    return Samples(seconds, {}, processes=tuple(study["processes"]))


def variant_ratios(study: Mapping[str, Any]) -> dict[str, Interval]:
    """time(variant) / time(relu) of every other entry, two-sided at 95 % over processes."""
    samples = samples_of(study)
    return {name: ratio_over_processes(samples, name, "relu") for name in samples.seconds if name != "relu"}


def forest_plot(studies: Mapping[str, Any]) -> str | None:
    """One row per variant, one mark per size; a value right of one is slower than `relu`."""
    sizes = {name: variant_ratios(study) for name, study in _networks(studies).items()}
    if not sizes:
        return None
    variants = list(dict.fromkeys(variant for ratios in sizes.values() for variant in ratios))
    variants.sort(key=lambda variant: max(ratios[variant].value for ratios in sizes.values() if variant in ratios))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(1, color=FAINT, linewidth=1)
        axes.axvline(PAPER_LINE, color=INK, linestyle="--", linewidth=1)
        for index, (size, ratios) in enumerate(sizes.items()):
            offset = 0.6 * ((len(sizes) - 1) / 2 - index) / len(sizes)
            own = [(row + offset, vars(ratios[variant])) for row, variant in enumerate(variants) if variant in ratios]
            interval_marks(axes, own, series=index, label=f"Swin-{size}", size=4)
        axes.set_yticks(range(len(variants)), variants)
        axes.set_xlabel("time over that of relu; dashed: where relu has 11 % lower latency")
        axes.legend(loc="lower right", frameon=False)
        frame(axes)

    label = "Time of every variant over that of the fused ReLU, by size"
    return svg(draw, height=1.2 + 0.42 * len(variants), salt="forest", label=label)


def forest_caption(studies: Mapping[str, Any]) -> str:
    return (
        "Time of every variant over that of the fused ReLU, a ratio without unit: above one is slower. All of a size were timed "
        f"in the same blocks ({_counts(studies)}); batch 1, one thread. Bars: two-sided 95 % intervals for a process yet to "
        "come (Student's, over the processes). “relu again” is the control: it must lie on one."
    )


def waterfall_plot(studies: Mapping[str, Any]) -> str | None:
    """Milliseconds that each change takes off, one panel per size."""
    sizes = {name: study for name, study in drawable(studies).items() if all(variant in study["samples"] for _, variant in STEPS)}
    if not sizes:
        return None

    def draw(figure: Figure) -> None:
        titled = panels(figure, [f"Swin-{size}" for size in sizes])
        for number, (axes, study) in enumerate(zip(titled, sizes.values(), strict=True)):
            samples = samples_of(study)
            _waterfall(axes, [1000 * median(samples, variant).value for _, variant in STEPS])
            axes.set_yticks(range(len(STEPS)), [label for label, _ in STEPS] if number % 2 == 0 else [""] * len(STEPS))
            axes.set_xlabel("ms per image")

    label = "Milliseconds that each change takes off the network's time, by size"
    return svg(draw, height=0.6 + 2.3 * panel_rows(list(sizes)), salt="waterfall", label=label)


def _waterfall(axes: Axes, times: list[float]) -> None:
    """What is left after each change, with what the change took off (or added) coloured and named in per cent of the first."""
    axes.barh(0, times[0], color=SERIES[0], height=0.6)
    widest = max(times)
    room = 0.02 * (widest - min(times)) or 0.02 * widest
    axes.text(times[0] + room, 0, f"{times[0]:.1f} ms", va="center", fontsize=7)
    for row, (before, after) in enumerate(pairwise(times), start=1):
        axes.barh(row, min(before, after), color=FAINT, height=0.6)
        axes.barh(row, before - after, left=after, color=SERIES[2] if after <= before else SERIES[1], height=0.6)
        change = f"{100 * (after - before) / times[0]:+.1f} %".replace("-", "−")
        axes.text(max(before, after) + room, row, change, va="center", fontsize=7)
    axes.invert_yaxis()
    spread = widest - min(times) or widest
    axes.set_xlim(max(0.0, min(times) - 0.5 * spread), widest + 0.35 * spread)
    frame(axes)


def waterfall_caption(studies: Mapping[str, Any]) -> str:
    return (
        "One change after the other, from FasterTransformer's structure down: median milliseconds per image, batch 1, one thread "
        f"({_counts(studies)}), and the change in per cent of the first bar; green is saved, orange is added. The axis does not "
        "begin at zero. Intervals of the medians are in the table of all medians, those of the ratios in the forest plot."
    )


def latency_table(studies: Mapping[str, Any]) -> list[str]:
    """Every median with its interval; of a study that is not `drawable`, a line that says so."""
    if not studies:
        return []
    sound, rows = drawable(studies), []
    for name, study in sound.items():
        samples = samples_of(study)
        for row in study["rows"]:
            time = median(samples, row["name"])
            over = f"{ratio_over_processes(samples, row['name'], 'relu').value:.3f}" if "relu" in samples.seconds else "–"
            times = [f"{1000 * seconds:.3f}" for seconds in (time.value, time.low, time.high)]
            rows.append([name, row["name"], *times, over, str(samples.blocks), f"{row['memory_bytes'] / 1e6:.1f}"])
    return [
        '<details class="figure" id="medians"><summary>Every median that was measured</summary>',
        *table_lines(("study", "entry", "ms", "low", "high", "over relu", "n", "memory, MB"), rows),
        '<p class="soft">Low, high: two-sided 95 % interval of the median, resampling processes, then blocks; n: blocks.</p>',
        *(
            f'<p class="warning">{escape(name)}: left out, too few processes or samples that are no times</p>'
            for name in studies
            if name not in sound
        ),
        "</details>",
    ]


def _networks(studies: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The studies of whole networks with every variant, by size."""
    return {name: study for name, study in drawable(studies).items() if {"relu", "gelu-lut"} <= study["samples"].keys()}


def _counts(studies: Mapping[str, Any]) -> str:
    """'5 processes × 80 blocks in all', where studies differ the range."""
    networks = list(_networks(studies).values()) or list(drawable(studies).values())
    processes = sorted({len(study["processes"]) for study in networks})
    blocks = sorted({sum(study["processes"]) for study in networks})
    return f"{_range(processes)} processes, n = {_range(blocks)} blocks per size"


def _range(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"
