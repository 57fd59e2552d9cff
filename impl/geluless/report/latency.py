"""What was timed, as plots: every arm against `relu`, and where the time between FasterTransformer's structure and `relu` goes.

Drawn from `exhibits["latency"]`: by study, the samples of all entries, the processes they are of, and rows that say what ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geluless.bench.intervals import Interval, median, ratio_over_processes
from geluless.bench.paired import Samples
from geluless.report.plots import FAINT, INK, MARKERS, SERIES, frame, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_RATIO = 1 / 0.89  # what "11 % lower latency" is as time over relu's
# From FasterTransformer's structure to the fused ReLU, one change at a time.
STEPS = (
    ("FasterTransformer's structure", "gelu-separate"),
    ("GELU fused (erf)", "gelu-fused"),
    ("GELU as a table", "gelu-lut"),
    ("ReLU, float requantization", "relu-float"),
    ("ReLU, integer requantization", "relu"),
    ("ReLU without bias", "relu-nobias without bias"),
)


def samples_of(study: Mapping[str, Any]) -> Samples:
    return Samples({name: np.array(values) for name, values in study["samples"].items()}, {}, processes=tuple(study["processes"]))


def arm_ratios(study: Mapping[str, Any]) -> dict[str, Interval]:
    """time(arm) / time(relu) of every other entry, two-sided at 95 % over processes."""
    samples = samples_of(study)
    return {name: ratio_over_processes(samples, name, "relu") for name in samples.seconds if name != "relu"}


def forest_plot(studies: Mapping[str, Any]) -> str | None:
    """One row per arm, one mark per size; a value right of one is slower than `relu`."""
    sizes = {name: arm_ratios(study) for name, study in studies.items() if "gelu-lut" in study["samples"]}
    if not sizes:
        return None
    first = next(iter(sizes.values()))
    arms = sorted(first, key=lambda arm: first[arm].value)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(1, color=FAINT, linewidth=1)
        axes.axvline(PAPER_RATIO, color=INK, linestyle="--", linewidth=1)
        for index, (size, ratios) in enumerate(sizes.items()):
            values = [ratios[arm] for arm in arms]
            axes.errorbar(
                [v.value for v in values],
                [row + 0.6 * (index - (len(sizes) - 1) / 2) / len(sizes) for row in range(len(arms))],
                xerr=[[v.value - v.low for v in values], [v.high - v.value for v in values]],
                fmt=MARKERS[index % len(MARKERS)],
                color=SERIES[index % len(SERIES)],
                label=f"Swin-{size}",
                markersize=4,
                capsize=2,
            )
        axes.set_yticks(range(len(arms)), arms)
        axes.set_xlabel("time over that of relu; dashed: where relu has 11 % lower latency")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
        frame(axes)

    return svg(draw, height=1.6 + 0.42 * len(arms), salt="forest", label="Time of every arm over that of the fused ReLU, by size")


def waterfall_plot(studies: Mapping[str, Any]) -> str | None:
    """Milliseconds that each change takes off, one panel per size."""
    sizes = {name: study for name, study in studies.items() if all(arm in study["samples"] for _, arm in STEPS)}
    if not sizes:
        return None

    def draw(figure: Figure) -> None:
        for number, (size, study) in enumerate(sizes.items(), start=1):
            axes = figure.add_subplot((len(sizes) + 1) // 2, 2 if len(sizes) > 1 else 1, number)
            samples = samples_of(study)
            times = [1000 * median(samples, arm).value for _, arm in STEPS]
            axes.barh(0, times[0], color=SERIES[0], height=0.6)
            for row, (before, after) in enumerate(pairwise(times), start=1):
                axes.barh(row, after, color=FAINT, height=0.6)
                axes.barh(row, before - after, left=after, color=SERIES[2] if after <= before else SERIES[1], height=0.6)
            axes.set_yticks(range(len(STEPS)), [label for label, _ in STEPS] if number % 2 else [""] * len(STEPS))
            axes.invert_yaxis()
            axes.set_xlim(0.8 * min(times), 1.02 * max(times))
            axes.set_title(f"Swin-{size}", fontsize=9)
            axes.set_xlabel("ms per image")
            frame(axes)

    height = 0.6 + 2.3 * ((len(sizes) + 1) // 2)
    return svg(draw, height=height, salt="waterfall", label="Milliseconds that each change takes off the network's time, by size")


def html_lines(studies: Mapping[str, Any]) -> list[str]:
    """The section of the page; nothing where nothing was timed."""
    figures = (
        (forest_plot, "Every arm against the fused ReLU, all timed in the same blocks, with 95 % intervals over processes."),
        (waterfall_plot, "One change after the other, from FasterTransformer's structure down; the axis does not begin at zero."),
    )
    lines = []
    for plot, caption in figures:
        if drawn := plot(studies):
            lines += [f'<figure class="figure"><div class="scroll">{drawn}</div>']
            lines += [f'<figcaption class="soft">{escape(caption)}</figcaption></figure>']
    if studies:
        lines += _table(studies)
    return ["<h2>Time on this machine</h2>", *lines] if lines else []


def _table(studies: Mapping[str, Any]) -> list[str]:
    lines = [
        '<details class="figure"><summary>Every median that was measured</summary><div class="scroll"><table>',
        "<tr><th>study</th><th>entry</th><th>ms</th><th>low</th><th>high</th><th>over relu</th><th>memory, MB</th></tr>",
    ]
    for name, study in studies.items():
        samples = samples_of(study)
        for row in study["rows"]:
            entry = row["name"]
            time = median(samples, entry)
            over = f"{ratio_over_processes(samples, entry, 'relu').value:.3f}" if "relu" in samples.seconds else "–"
            lines.append(
                f"<tr><td>{escape(name)}</td><td>{escape(entry)}</td><td>{1000 * time.value:.3f}</td>"
                f"<td>{1000 * time.low:.3f}</td><td>{1000 * time.high:.3f}</td><td>{over}</td>"
                f"<td>{row['memory_bytes'] / 1e6:.1f}</td></tr>"
            )
    return [*lines, "</table></div></details>"]
