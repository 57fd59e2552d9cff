"""What the gate found, in Markdown for a pull request, and its history as a plot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci.gate.footprint import Weight
from ci.gate.gpu_code import KernelChange
from ci.gate.judgement import Judgement, Outcome
from ci.gate.machine_code import Change
from ci.gate.record import Point
from geluless.report.baselines_plot import standalone
from geluless.report.plots import FAINT, SERIES, frame, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = (Outcome.REGRESSED, Outcome.WRONG, Outcome.MISSING, Outcome.UNDECIDED, Outcome.IMPROVED, Outcome.NEW, Outcome.PASS)
LONG = 25  # rows of a table beyond which it is folded


@dataclass
class Findings:
    """Everything that one run of the gate has to say; what was not asked for is None."""

    base: str
    head: str
    latency: dict[str, Judgement] | None = None
    code: list[Change] | None = None
    gpu: list[KernelChange] | None = None
    weights: list[Weight] | None = None
    notes: list[str] = field(default_factory=list)
    disturbed: str = ""  # why not everything was judged

    @property
    def failures(self) -> list[str]:
        """One line each; the gate is red where there is any."""
        lines = [f"{j.outcome}: {j.name}{_ratio(j)}" for j in (self.latency or {}).values() if j.fails]
        lines += [f"code: {change.where}: {problem}" for change in self.code or () for problem in change.problems]
        lines += [f"GPU code, {c.target}: {c.kernel}: {problem}" for c in self.gpu or () for problem in c.problems]
        return lines + [f"{weight.name} {weight.problem}" for weight in self.weights or () if weight.problem]

    @property
    def verdict(self) -> str:
        return "RED" if self.failures else "NOT JUDGED" if self.disturbed else "green"


def markdown(found: Findings) -> str:
    failures = found.failures
    lines = [
        f"## Gate: {found.verdict}",
        "",
        f"head {found.head} against base {found.base}, on one machine.",
    ]
    lines += ["", *(f"- **{failure}**" for failure in failures)] if failures else []
    for section in (_latency(found.latency), _code(found.code), _gpu(found.gpu), _weights(found.weights)):
        lines += ["", *section] if section else []
    if found.notes:
        lines += ["", *(f"> {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def _latency(latency: Mapping[str, Judgement] | None) -> list[str]:
    if latency is None:
        return []
    counts = Counter(judgement.outcome for judgement in latency.values())
    summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome])
    rows = sorted(latency.values(), key=lambda judgement: ORDER.index(judgement.outcome))
    table = [
        "| benchmark | outcome | head / base | threshold | |",
        "|---|---|---:|---:|---|",
        *(f"| `{j.name}` | {j.outcome} | {_interval(j)} | {1 + j.threshold / 100:.3f} | {j.note} |" for j in rows),
    ]
    return [f"### Latency: {summary}", "", *_folded(table, f"all {len(rows)} benchmarks")]


def _code(code: Sequence[Change] | None) -> list[str]:
    if code is None:
        return []
    bad = [change for change in code if change.problems]
    if not code:
        return ["### CPU machine code: unchanged"]
    table = [
        "| function | instructions | vector spills | floats | |",
        "|---|---:|---:|---:|---|",
        *(f"| `{_short(change.where)}` | {_columns(change)} | {'; '.join(change.problems)} |" for change in code),
    ]
    return [f"### CPU machine code: {len(code)} functions changed, {len(bad)} for the worse", "", *_folded(table, "all of them")]


def _gpu(gpu: Sequence[KernelChange] | None) -> list[str]:
    if gpu is None:
        return []
    if not gpu:
        return ["### GPU machine code: nothing became worse"]
    rows = [f"| {c.target} | `{c.kernel}` | {'; '.join(c.problems)} |" for c in gpu]
    return [
        f"### GPU machine code: {len(gpu)} kernels became worse",
        "",
        *_folded(["| target | kernel | |", "|---|---|---|", *rows], "all"),
    ]


def _weights(weights: Sequence[Weight] | None) -> list[str]:
    if weights is None:
        return []
    rows = [f"| {w.name} | {_figure(w.before, w.unit)} | {_figure(w.after, w.unit)} | {w.problem} |" for w in weights]
    return ["### Weight", "", "| | base | head | |", "|---|---:|---:|---|", *rows]


def _folded(table: list[str], title: str) -> list[str]:
    return table if len(table) <= LONG else [f"<details><summary>{title}</summary>", "", *table, "", "</details>"]


def _interval(judgement: Judgement) -> str:
    if judgement.ratio is None:
        return "–"
    return f"{judgement.ratio.value:.3f} [{judgement.ratio.low:.3f}, {judgement.ratio.high:.3f}]"


def _ratio(judgement: Judgement) -> str:
    return f" ({judgement.note})" if judgement.ratio is None else f", head / base {_interval(judgement)}"


def _columns(change: Change) -> str:
    return " | ".join(_count(change, what) for what in ("instructions", "spills", "floats"))


def _count(change: Change, what: str) -> str:
    before, after = ("–" if counts is None else str(getattr(counts, what)) for counts in (change.before, change.after))
    return before if before == after else f"{before} → {after}"


def _short(where: str) -> str:
    where = where.replace("(anonymous namespace)::", "").replace("geluless::", "").replace("|", "\\|")
    return where if len(where) <= 100 else f"{where[:97]}..."


def _figure(value: float, unit: str) -> str:
    return f"{value:.3f} {unit}" if unit == "s" else f"{value:,.0f} {unit}".strip()


def history_plot(points: Sequence[Point]) -> str | None:
    """Median time of each kind of benchmark relative to the first run on the same machine, as a standalone SVG; None for fewer
    than two runs."""
    lines = list(_lines(points))
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(1, color=FAINT, linewidth=1)
        for index, (label, places, values) in enumerate(lines):
            axes.plot(places, values, "o-", markersize=3, linewidth=1, color=SERIES[index % len(SERIES)], label=label)
        axes.set_xticks(range(len(points)), [point.commit[:7] for point in points], rotation=90, fontsize=7)
        axes.set_ylabel("time / first run on that machine")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, frameon=False)
        frame(axes)

    return standalone(svg(draw, height=4.2, salt="history", label="Time of each kind of benchmark over the runs of the gate"))


def _lines(points: Sequence[Point]) -> Iterator[tuple[str, list[int], list[float]]]:
    """(label, places of the runs, values): geometric means over benchmarks, each relative to its first run on that machine."""
    first: dict[tuple[str, str], float] = {}
    found: dict[str, tuple[list[int], list[float]]] = {}
    several = len({point.machine for point in points}) > 1
    for place, point in enumerate(points):
        logs: dict[str, list[float]] = {}
        for name, seconds in point.medians.items():
            start = first.setdefault((point.machine, name), seconds)
            logs.setdefault(name.split("/", 1)[0], []).append(math.log(seconds / start))
        for kind, values in logs.items():
            label = f"{kind}, {point.machine}" if several else kind
            places, ratios = found.setdefault(label, ([], []))
            places.append(place)
            ratios.append(math.exp(sum(values) / len(values)))
    return ((label, *found[label]) for label in sorted(found) if len(found[label][0]) > 1)
