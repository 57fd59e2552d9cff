"""The figures of the page: what each is drawn from, which card holds it, which claims link to it, what its caption says.

A figure lies in the card of the claim it serves best, once; the other claims link to it. A figure whose claim is not on the page,
or that belongs to none, lies in the section "Across the claims".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from geluless.report import pareto, quantization
from geluless.report.latency import forest_caption, forest_plot, waterfall_caption, waterfall_plot
from geluless.report.plots import accuracy_plot, agreement_plot, curves_plot, distillations, finite_drops
from geluless.report.tables import folded, table_lines


@dataclass(frozen=True)
class Sources:
    """Where the figures come from: report_data of the record, and the summaries of baselines' records."""

    networks: Mapping[str, Any]
    latency: Mapping[str, Any]
    baselines: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Figure:
    """`home` is the claim whose card holds it, "" for none; `serves` are claims that link to it."""

    anchor: str
    title: str
    home: str
    serves: tuple[str, ...]
    draw: Callable[[Sources], str | None]
    caption: Callable[[Sources], str]
    tables: Callable[[Sources], list[str]] = lambda _: []


@dataclass(frozen=True)
class Drawn:
    """A figure that has something to show, as lines of HTML."""

    figure: Figure
    lines: tuple[str, ...]


def _accuracy_caption(sources: Sources) -> str:
    counts = sorted({drop["n"] for network in sources.networks.values() for drop in finite_drops(network)})
    n = f"n = {counts[0]:,}" if counts[0] == counts[-1] else f"n from {counts[0]:,} to {counts[-1]:,}"
    return (
        f"Accuracy lost against the FP32 GELU teacher on the same images, in percentage points ({n} test images of the embedded "
        "tier). Bars: from the lower to the upper one-sided 95 % bound of the paired drop. Dashed: 0.5 points."
    )


FIGURES = (
    Figure(
        "fig-pareto",
        "accuracy against latency",
        "",
        ("c03", "c06", "c10", "c12"),
        lambda s: pareto.pareto_plot(s.latency, s.networks, s.baselines),
        lambda s: pareto.caption(s.networks),
    ),
    Figure(
        "fig-accuracy",
        "accuracy lost per size and variant",
        "c03",
        ("c02",),
        lambda s: accuracy_plot(s.networks),
        _accuracy_caption,
    ),
    Figure(
        "fig-agreement",
        "agreement with the teacher, block after block",
        "c02",
        ("c13",),
        lambda s: agreement_plot(s.networks),
        lambda _: (
            "Top-1 agreement with the teacher after each converted block, in per cent of held-out images. "
            "A single run with one seed: no interval."
        ),
    ),
    Figure(
        "fig-curves",
        "distillation curves",
        "c02",
        ("c13",),
        lambda s: curves_plot(s.networks),
        lambda _: "Loss over its first value, against the step; one line per block, the later the stronger. One run, one seed.",
        lambda s: block_tables(s.networks),
    ),
    Figure(
        "fig-forest",
        "every variant against the fused ReLU",
        "c06",
        ("c01", "c05", "c07", "c08", "c12"),
        lambda s: forest_plot(s.latency),
        lambda s: forest_caption(s.latency),
    ),
    Figure(
        "fig-waterfall",
        "where the gain comes from",
        "c09",
        ("c01", "c05", "c06", "c08"),
        lambda s: waterfall_plot(s.latency),
        lambda s: waterfall_caption(s.latency),
    ),
    Figure(
        "fig-quantization",
        "quantization error per layer",
        "c14",
        ("c03",),
        lambda s: quantization.quantization_plot(s.networks),
        lambda _: quantization.CAPTION,
        lambda s: quantization.quantization_tables(s.networks),
    ),
)


def draw_figures(sources: Sources) -> list[Drawn]:
    """Every figure for which there is something to draw."""
    drawn = []
    for figure in FIGURES:
        if svg := figure.draw(sources):
            lines = (
                f'<figure class="figure" id="{figure.anchor}"><div class="scroll">{svg}</div>',
                f'<figcaption class="soft">{escape(figure.caption(sources))}</figcaption>',
                *figure.tables(sources),
                "</figure>",
            )
            drawn.append(Drawn(figure, lines))
    return drawn


MLP_COLUMNS = {"pre-activation mean": "pre_mean", "deviation": "pre_std", "MLP / residual": "mlp_to_residual"}


def block_tables(networks: Mapping[str, Any]) -> list[str]:
    """What the MLPs of each teacher do, folded, and what the distillation warned of."""
    lines: list[str] = []
    for size, network in networks.items():
        if blocks := network.get("blocks"):
            rows = [
                [b["block"], *(_cell(b[key]) for key in MLP_COLUMNS.values()), _cell(b["swap_error"], percent=True)]
                for b in blocks
            ]
            table = table_lines(["block", *MLP_COLUMNS, "GELU to ReLU, relative error"], rows)
            lines += folded(f"What the MLPs of the {size} teacher do, block by block", table)
    for title, run in distillations(networks):
        lines += [f'<p class="warning">{escape(title)}: {escape(str(text))}</p>' for text in run.get("warnings", [])]
    return lines


def _cell(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" if percent else f"{value:.2f}"
