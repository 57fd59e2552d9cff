"""What every claim about latency says of its evidence."""

from __future__ import annotations

from geluless.verdicts.timed import Timed
from geluless.verdicts.verdict import Control, Estimate, Evidence


def timing_evidence(timed: Timed, ran: str, control: Control, *, numbers: tuple[Estimate, ...] = ()) -> Evidence:
    """Which machine, how many runs, processes and blocks, how restless, how each result was verified."""
    found = timed.together
    per_run = [f"{len(run.samples.processes)} processes with {run.samples.blocks} blocks" for run in timed.runs]
    machine = f"{found.environment['cpu']}, {found.environment['cores']} cores"
    verified = sorted({row.correctness for row in found.rows})
    return Evidence(
        ran=f"{ran}; runs of other processes each: {', then '.join(per_run)}, in random order; Student's interval over the "
        "processes of a run, and a verdict is what both engines of the variant say in every run",
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
