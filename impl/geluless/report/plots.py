"""Plots as inline SVG that follow the page's colours: light or dark is the reader's choice, not the plot's.

matplotlib draws with placeholder colours, which are then replaced by the page's CSS variables; text stays text in the
page's font. What is drawn comes from `report_data["micro_networks"]`, by size:

    drops         [{variant, value, low, high, n}]  pp against FP32 GELU on the same images
    distillation  {recipe: Distillation.to_json()}, whose records hold block, phase, agreement, curve [[step, loss], ...]
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # becomes currentColor
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")  # become var(--series-1) ...
FAINT = "#010221"  # becomes var(--faint)
ALARM = "#010222"  # becomes var(--bad)
MARGIN_PP = 0.5
MARKERS = "os^Dvp"
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2, "frameon": False}  # of a legend


def accuracy_plot(networks: Mapping[str, Any]) -> str | None:
    """Drop in pp with intervals per size, one mark per variant, the 0.5 pp bound as a line; None when there is nothing to
    draw."""
    drops = {size: finite_drops(network) for size, network in networks.items()}
    sizes = [size for size, rows in drops.items() if rows]
    if not sizes:
        return None
    variants = list(dict.fromkeys(drop["variant"] for size in sizes for drop in drops[size]))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=FAINT, linewidth=1)
        axes.axvline(MARGIN_PP, color=ALARM, linestyle="--", linewidth=1.2)
        for index, variant in enumerate(variants):
            offset = 0.7 * (index - (len(variants) - 1) / 2) / len(variants)
            own = [(row + offset, d) for row, size in enumerate(sizes) for d in drops[size] if d["variant"] == variant]
            interval_marks(axes, own, series=index, label=variant)
        axes.set_yticks(range(len(sizes)), sizes)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy lost against FP32 GELU, percentage points")
        axes.legend(**BELOW)
        frame(axes)

    label = "Accuracy lost per size and variant, with the 0.5 point bound"
    return svg(draw, height=1.6 + 0.75 * len(sizes), salt="accuracy", label=label)


def finite_drops(network: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The drops of a micro network that can be drawn: value and both bounds are numbers."""
    return [drop for drop in network.get("drops", []) if None not in (drop["value"], drop["low"], drop["high"])]


def distillations(networks: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """('tiny, local', Distillation.to_json()) of every size and recipe."""
    for size, network in networks.items():
        for recipe, run in network.get("distillation", {}).items():
            yield f"{size}, {recipe}", run


def agreement_plot(networks: Mapping[str, Any]) -> str | None:
    """Held-out agreement with the teacher after each block, one line per size and recipe."""
    lines = [
        (title, points)
        for title, run in distillations(networks)
        if len(points := [r["agreement"] for r in run.get("records", []) if r.get("agreement") is not None]) > 1
    ]
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (label, points) in enumerate(lines):
            style = ("-", "--", ":")[index // len(SERIES) % 3]
            axes.plot(range(1, len(points) + 1), [100 * p for p in points], style, color=SERIES[index % len(SERIES)], label=label)
        axes.set_xlabel("blocks converted to ReLU")
        axes.set_ylabel("held-out agreement, %")
        axes.legend(**BELOW)
        frame(axes)

    label = "Agreement with the teacher, block after block"
    return svg(draw, height=3.9 + 0.2 * (len(lines) // 2), salt="agreement", label=label)


def curves_plot(networks: Mapping[str, Any]) -> str | None:
    """Learning curves: loss relative to its first value against the step, one panel per size and recipe, one line per block."""
    runs = [
        (title, curves)
        for title, run in distillations(networks)
        if (curves := [points for r in run.get("records", []) if len(points := finite_points(r.get("curve"))) > 1])
    ]
    if not runs:
        return None

    def draw(figure: Figure) -> None:
        for axes, (_, curves) in zip(panels(figure, [title for title, _ in runs]), runs, strict=True):
            for index, curve in enumerate(curves):
                steps, losses = zip(*curve, strict=True)
                first = losses[0]
                # From the first block (faint) to the last (full colour).
                strength = min(1.0, 0.2 + 0.8 * (index + 1) / len(curves))  # the sum may exceed one by a rounding
                axes.plot(steps, [loss / first for loss in losses], color=SERIES[0], alpha=strength, linewidth=1)
            axes.set_xlabel("step")
            axes.set_ylabel("loss / first loss")
            frame(axes)

    return svg(draw, height=2.4 * panel_rows(runs), salt="curves", label="Learning curves of the distillation, block by block")


def finite_points(curve: Sequence[Sequence[Any]] | None) -> list[tuple[float, float]]:
    """(step, loss) pairs without those that diverged (null in JSON); empty when the first loss is zero."""
    points = [(step, loss) for step, loss in curve or () if loss is not None]
    return points if points and points[0][1] else []


def interval_marks(
    axes: Axes, marks: Sequence[tuple[float, Mapping[str, Any]]], *, series: int, label: str, size: int = 5, colour: str = ""
) -> None:
    """One series of horizontal intervals, each a place on the y axis and {value, low, high}."""
    values, lows, highs = ([interval[key] for _, interval in marks] for key in ("value", "low", "high"))
    axes.errorbar(
        values,
        [place for place, _ in marks],
        xerr=[[v - low for v, low in zip(values, lows, strict=True)], [h - v for v, h in zip(values, highs, strict=True)]],
        fmt=MARKERS[series % len(MARKERS)],
        color=colour or SERIES[series % len(SERIES)],
        label=label,
        markersize=size,
        capsize=size - 2,
    )


def panel_rows(panels: Sequence[Any]) -> int:
    return (len(panels) + 1) // 2


def panels(figure: Figure, titles: Sequence[str], *, sharey: bool = False) -> list[Axes]:
    """Axes with these titles in two columns, a lone one in one."""
    columns = 2 if len(titles) > 1 else 1
    every = figure.subplots(panel_rows(titles), columns, sharey=sharey, squeeze=False).flatten().tolist()
    for axes in every[len(titles) :]:
        axes.set_visible(False)
    for axes, title in zip(every, titles, strict=False):
        axes.set_title(title, fontsize=9)
    return every[: len(titles)]


def frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color=FAINT, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)


def log_axis(axes: Axes, which: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis of plain numbers, few enough not to run into each other."""
    from matplotlib.ticker import LogLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    axes.tick_params(axis=which, which="both", labelsize=8)


def svg(draw: Callable[[Figure], None], *, height: float, salt: str, label: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,  # stable ids, and no two plots of one page share one
        "font.size": 9,
        "legend.fontsize": 8,
        "text.parse_math": False,  # a dollar sign in a label is a dollar sign
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(stream.getvalue(), salt=salt, label=label)


def _themed(svg: str, *, salt: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns:xlink|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family:[^;\"']*|font: ([\d.]+px)[^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", svg)
    # ids are unique within a plot; the prefix makes them unique within the page.
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = svg.replace("url(#", f"url(#{salt}-").replace('href="#', f'href="#{salt}-')
    for index, colour in enumerate(SERIES, start=1):
        svg = svg.replace(colour, f"var(--series-{index})")
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)").replace(ALARM, "var(--bad)")
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)
