"""Interval plots: the numbers of a claim, a line for each with its interval and its bound, on one scale per unit.

They are written by hand, not drawn by matplotlib: positions are per cent of the width, so a line fits a phone and a screen
alike, and its text stays HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from geluless.report.board import tone
from geluless.report.document import interval_text, number_text, value_text

Number = Mapping[str, Any]  # JSON value of an Estimate: floats that are not finite are None
PAD = 0.04  # of the scale, at both ends


@dataclass(frozen=True)
class Scale:
    """Where a value lies, in per cent of the width."""

    low: float
    high: float

    def at(self, value: float) -> str:
        return f"{min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))):.2f}%"


def interval_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One group per unit, one line per number: name, drawing, value. Numbers without a value are left out."""
    groups: dict[str, list[tuple[str, Mapping[str, Any], Number]]] = {}
    for record in records:
        for number in record["numbers"]:
            if number["value"] is not None:
                groups.setdefault(number["unit"], []).append((_label(record["item"], number["name"]), record, number))
    lines: list[str] = []
    for unit, rows in groups.items():
        scale = scale_of([number for _, _, number in rows])
        lines.append(f'<div class="intervals"><p class="soft">{escape(_legend(unit, rows))}</p>')
        for label, record, number in rows:
            lines += [f'<div class="interval{_tone(record, number)}"><span>{escape(label)}</span>', _drawing(number, scale)]
            lines.append(f"<span>{escape(interval_text(number))}, n = {number['n']:,}</span></div>")
        ends = f"<span>{value_text(scale.low)}</span><span>{value_text(scale.high)}</span>"
        lines += [f'<div class="interval"><span class="ends">{ends}</span></div>', "</div>"]
    return lines


def scale_of(numbers: Sequence[Number]) -> Scale:
    """From the least to the greatest of values, bounds of intervals and margins, with some room at both ends."""
    points = [n[key] for n in numbers for key in ("value", "low", "high", "margin") if n[key] is not None]
    low, high = min(points), max(points)
    room = PAD * (high - low) or 0.05 * abs(low) or 1.0  # a lone exact number still needs a scale
    return Scale(low - room, high + room)


def _label(item: str, name: str) -> str:
    """'tiny: drop' of the test item 'drop_of_int8[tiny]'."""
    parameter = item.partition("[")[2].removesuffix("]")
    return f"{parameter}: {name}" if parameter else name


def _legend(unit: str, rows: Sequence[tuple[str, Mapping[str, Any], Number]]) -> str:
    margins = dict.fromkeys(f"{n['margin']:g}" for _, _, n in rows if n["margin"] is not None)
    text = f"{unit or 'number'}; line: from the lower to the upper one-sided 95 % bound"
    return text + (f"; dashed: what the claim is judged by ({', '.join(margins)})" if margins else "")


def _tone(record: Mapping[str, Any], number: Number) -> str:
    """The verdict's colour for a number that decided it; none for those that a record shows beside one with a margin."""
    beside = number["margin"] is None and any(other["margin"] is not None for other in record["numbers"])
    return "" if beside else f" {tone(record['status'], record['kind'])}"


def _drawing(number: Number, scale: Scale) -> str:
    middle, label = "50%", escape(number_text(number), quote=True)
    low = scale.low if number["low"] is None else number["low"]  # unbounded: to the end of the line
    high = scale.high if number["high"] is None else number["high"]
    parts = [f'<line x1="0%" x2="100%" y1="{middle}" y2="{middle}" stroke="var(--line)"/>']
    if number["margin"] is not None:
        at = scale.at(number["margin"])
        parts.append(f'<line x1="{at}" x2="{at}" y1="0%" y2="100%" stroke="var(--ink)" stroke-dasharray="3 2"/>')
    ends = f'x1="{scale.at(low)}" x2="{scale.at(high)}" y1="{middle}" y2="{middle}"'
    parts.append(f'<line {ends} stroke="currentColor" stroke-width="3"/>')
    parts.append(f'<circle cx="{scale.at(number["value"])}" cy="{middle}" r="4" fill="currentColor"/>')
    return f'<svg role="img" aria-label="{label}">{"".join(parts)}</svg>'
