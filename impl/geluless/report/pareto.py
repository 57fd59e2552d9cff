"""Accuracy against latency over sizes, variants and engines.

The two are not of one network: latency is that of the full-size Swin (timed with random weights, which takes the same time),
accuracy that of the micro network of the same size. The caption says so. A variant gets the accuracy of the artifact that it
runs: all GELU variants here run one artifact, and differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geluless.bench.intervals import median
from geluless.report.latency import drawable, samples_of
from geluless.report.plots import FAINT, INK, MARKERS, SERIES, frame, interval_marks, log_axis, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Legend, the entry that was timed, the predictions of the micro network. gelu-poly and gelu-shift compute another function, whose
# accuracy was not measured: they are left out.
VARIANTS = (
    ("GELU separate, INT8", "gelu-separate", "base int8-gelu"),
    ("GELU fused (erf), INT8", "gelu-fused", "base int8-gelu"),
    ("GELU as a table, INT8", "gelu-lut", "base int8-gelu"),
    ("ReLU fused, distilled, INT8", "relu", "local int8-relu"),
    ("ReLU fused, naive swap, INT8", "relu", "base int8-naive"),
)
BASELINES_MODEL = "swin_tiny_patch4_window7_224"


@dataclass(frozen=True)
class Point:
    """One variant of one size: milliseconds per image and top-1 in per cent."""

    variant: str
    size: str
    milliseconds: float
    top1: float


def points(studies: Mapping[str, Any], networks: Mapping[str, Any]) -> list[Point]:
    """Every variant of every size of which both latency and accuracy are known."""
    found = []
    for size, study in drawable(studies).items():
        top1 = networks.get(size, {}).get("top1", {})
        samples = samples_of(study)
        for variant, entry, predictions in VARIANTS:
            if entry in samples.seconds and top1.get(predictions) is not None:
                found.append(Point(variant, size, 1000 * median(samples, entry).value, top1[predictions]))
    return found


def pareto_front(among: Sequence[Point]) -> list[Point]:
    """Points that no other beats in latency without losing accuracy, from the fastest on."""
    front: list[Point] = []
    for point in sorted(among, key=lambda p: (p.milliseconds, -p.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def pareto_plot(studies: Mapping[str, Any], networks: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> str | None:
    """Top-1 against latency with the front; below it, on the same axis, other engines on Swin-T. None without a point."""
    among = points(studies, networks)
    if not among:
        return None
    others = baseline_rows(baselines)
    engines = list(dict.fromkeys(row["baseline"] for row in others))

    def draw(figure: Figure) -> None:
        heights = [3.4, 0.4 + 0.2 * len(engines)] if engines else [3.4]
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        _accuracy_panel(panels[0], among, others)
        if engines:
            _engines_panel(panels[1], engines, others)
        log_axis(panels[-1])
        panels[-1].set_xlabel("latency at batch 1 on one thread, ms (full-size network)")

    label = "Top-1 accuracy of the micro networks against latency of the full-size networks, with the Pareto front"
    return svg(draw, height=4.4 + (0.6 + 0.2 * len(engines) if engines else 0), salt="pareto", label=label)


def _accuracy_panel(axes: Axes, among: Sequence[Point], others: Sequence[Mapping[str, Any]]) -> None:
    front = pareto_front(among)
    axes.step([p.milliseconds for p in front], [p.top1 for p in front], where="post", color=FAINT, linewidth=1.5, zorder=1)
    for index, (variant, _, _) in enumerate(VARIANTS):
        own = [point for point in among if point.variant == variant]
        if own:
            times, top1 = [point.milliseconds for point in own], [point.top1 for point in own]
            axes.plot(times, top1, MARKERS[index], color=SERIES[index], markersize=6, label=variant)
    tested = [row for row in others if row.get("test")]
    if tested:
        times, top1 = [row["latency_ms"]["value"] for row in tested], [row["test"]["top1"] for row in tested]
        axes.plot(times, top1, "P", color=INK, markerfacecolor="none", label="other engines, their own test")
    for size in dict.fromkeys(point.size for point in among):
        highest = max((p for p in among if p.size == size), key=lambda p: p.top1)
        where = (highest.milliseconds, highest.top1)
        axes.annotate(size, where, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.margins(y=0.12)
    axes.set_ylabel("top-1 of the micro network, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False, columnspacing=1, handletextpad=0.2)
    frame(axes)


def _engines_panel(axes: Axes, engines: Sequence[str], others: Sequence[Mapping[str, Any]]) -> None:
    for index, activation in enumerate(dict.fromkeys(row["activation"] for row in others)):
        own = [(engines.index(row["baseline"]), row["latency_ms"]) for row in others if row["activation"] == activation]
        interval_marks(axes, own, series=index, colour=SERIES[(0, 3)[index % 2]], label=activation.upper(), size=4)
    axes.set_yticks(range(len(engines)), engines, fontsize=8)
    axes.invert_yaxis()
    axes.set_title("engines on Swin-T, accuracy not measured there", fontsize=8, loc="left")
    axes.legend(loc="best", frameon=False)
    frame(axes)


def baseline_rows(baselines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Latencies of other engines on the full-size Swin-T at batch 1 on one thread, from the records of `nox -s baselines`."""
    records = [data for data in baselines if data["model"] == BASELINES_MODEL and data["batch"] == 1]
    return [row for data in records for row in data["rows"] if row["threads"] == 1 and row["latency_ms"] is not None]


def caption(networks: Mapping[str, Any]) -> str:
    """Units, counts, and that the two axes are of two networks."""
    counts = sorted({network["images"] for network in networks.values() if network.get("images")})
    images = f"n = {counts[-1]:,} test images" if counts else "its test images"
    return (
        "Latency: median milliseconds of one image on one thread, full-size Swin-T, S, B and L in our engine, random weights. "
        f"Accuracy: top-1 in per cent of the micro network of the same size ({images} of the embedded tier, not ImageNet). Two "
        "networks, then: within a size the heights compare variants, and nothing here is an accuracy on ImageNet. Line: Pareto "
        "front, no variant is faster without being less accurate. Intervals: of the medians in the table of all medians, of the "
        "accuracies as paired drops in the accuracy plot."
    )
