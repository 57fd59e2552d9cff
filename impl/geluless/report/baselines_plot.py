"""Latency of every engine as a plot: inline for the page, and as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geluless.report.baselines import threads_text
from geluless.report.plots import frame, interval_marks, log_axis, svg
from geluless.report.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def baselines_plot(data: Mapping[str, Any], *, salt: str) -> str | None:
    """Latency of each engine that was measured, one panel per activation, one mark per number of threads; None without any.

    `data` is a summary of geluless.baselines.record.
    """
    measured = [row for row in data["rows"] if row["latency_ms"] is not None]
    if not measured:
        return None
    engines = list(dict.fromkeys(row["baseline"] for row in measured))
    activations = list(dict.fromkeys(row["activation"] for row in measured))
    counts = sorted({row["threads"] for row in measured})

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(activations), sharey=True, squeeze=False)[0]
        for axes, activation in zip(panels, activations, strict=True):
            for index, threads in enumerate(counts):
                offset = 0.15 * (2 * index - len(counts) + 1)
                own = [
                    (engines.index(row["baseline"]) + offset, row["latency_ms"])
                    for row in measured
                    if (row["activation"], row["threads"]) == (activation, threads)
                ]
                interval_marks(axes, own, series=index, label=threads_text(threads))
            log_axis(axes)
            axes.set_title(activation.upper(), fontsize=9)
            axes.set_xlabel(f"ms per call, batch {data['batch']}")
            frame(axes)
        panels[0].set_yticks(range(len(engines)), engines)
        panels[0].invert_yaxis()
        panels[0].legend(loc="best", frameon=False)

    label = f"Latency of each engine on {data['model']}"
    return svg(draw, height=1.2 + 0.32 * len(engines), salt=salt, label=label)


def standalone(inline: str) -> str:
    """An inline plot as a file: in the page's light colours, on white."""
    light: dict[str, str] = {}
    for name, colour in re.findall(r"--([\w-]+): (#\w+)", STYLE):
        light.setdefault(name, colour)  # the dark ones follow
    text = re.sub(r"var\(--([\w-]+)\)", lambda match: light[match[1]], inline).replace("currentColor", light["ink"])
    return text.replace("<svg", '<svg style="background: #fff; font-family: sans-serif"', 1) + "\n"
