"""What every claim about latency says of its evidence."""

from __future__ import annotations

from geluless.bench.harness import Findings
from geluless.verdicts.verdict import Control, Estimate, Evidence


def timing_evidence(found: Findings, ran: str, control: Control, *, numbers: tuple[Estimate, ...] = ()) -> Evidence:
    """Which machine, how many processes and blocks, how restless, how each result was verified."""
    processes, blocks = len(found.samples.processes), found.samples.blocks
    machine = f"{found.environment['cpu']}, {found.environment['cores']} cores"
    verified = sorted({row.correctness for row in found.rows})
    return Evidence(
        ran=f"{ran}; {processes} processes, {blocks} blocks in random order, Student's interval over processes",
        tier=f"this CPU ({found.rows[0].isa})",
        seconds=found.seconds,
        control=control,
        numbers=numbers,
        artifacts={row.name: row.artifact for row in found.rows},
        details=(
            f"{machine}; the peak loop varied by {100 * found.samples.peak_spread:.1f} %",
            f"{found.dropped} blocks dropped because other processes ran",
            *(f"verified: {text}" for text in verified),
        ),
    )
