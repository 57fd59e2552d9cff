"""What the section "Beside other engines" says: lines and tables, from the records in the report's folder `baselines`.

A record is a measurement of its own, made by `nox -s baselines` and not by the run that judged the claims: the section says
when and from which revision, and a record of other code is refused with a line that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.errors import GelulessError

if TYPE_CHECKING:
    from geluless.baselines.record import BaselinesRecord

TITLE = "Beside other engines"
EXPLANATION = (
    "Every engine ran the same float network in a process of its own, the int8 ones quantized by their own tools on the same "
    "images, and all were timed in one interleaved run. × geluless: time relative to our engine, above 1 is slower. Intervals "
    "hold 95 % of what resampling the blocks of one process gives; the next process may differ by another percent or two."
)
Data = Mapping[str, Any]  # of BaselinesRecord.summary()
Table = tuple[str, list[str], list[list[str]]]  # heading, columns, rows
NONE = "–"


@dataclass(frozen=True)
class Found:
    """Records that can be shown, the newest of each network, and a line for each file that cannot."""

    records: tuple[dict[str, Any], ...] = ()
    refused: tuple[str, ...] = ()


def find_records(folder: Path) -> Found:
    """What lies in `folder`; nothing where it does not exist."""
    from geluless.baselines.record import SUFFIX, read_record

    newest: dict[str, BaselinesRecord] = {}
    refused = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            record = read_record(path)
        except GelulessError as error:
            refused.append(str(error))
            continue
        if record.model not in newest or newest[record.model].made < record.made:
            newest[record.model] = record
    return Found(tuple(newest[model].summary() for model in sorted(newest)), tuple(refused))


def threads_text(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def title_line(data: Data) -> str:
    weights = "; ".join(f"{activation.upper()}: {text}" for activation, text in data["weights"].items())
    return f"{data['model']} ({weights}); calibrated on {data['calibration']}"


def provenance(data: Data) -> str:
    """When, where and by which code, and that none of it is a verdict."""
    git, environment = data["environment"]["git"], data["environment"]
    revision = (git["revision"] or "no revision")[:12] + (" with local changes" if git["dirty"] else "")
    where = f"{environment['cpu']}, {environment['cores']} cores"
    return f"Measured {data['made']} at {revision} on {where}, in {data['seconds']:.0f} s; not judged in this run."


def reference_line(data: Data) -> str:
    """FasterTransformer's published figures, where there are any for this network."""
    if not data["published"]:
        return ""
    at_one = {device: by_batch["1"] for device, by_batch in data["published"]["milliseconds"].items() if "1" in by_batch}
    times = ", ".join(f"{device} {milliseconds:.2f} ms" for device, milliseconds in at_one.items())
    return f"For reference, batch 1: {times} ({data['published']['source']})."


def figures(data: Data, activation: str) -> Table:
    """Speed: one row per baseline, two columns per number of threads."""
    counts = sorted({row["threads"] for row in data["rows"]})
    columns = ["engine", "runs in"]
    for threads in counts:
        columns += [f"ms, {threads_text(threads)}", "× geluless"]
    columns.append(f"images/s, batch {data['throughput_batch']}")
    rows = []
    for baseline, by_threads in _by_baseline(data, activation).items():
        chosen = list(dict.fromkeys(row["configuration"] for row in by_threads.values() if row.get("pilot")))
        cells = [baseline, " + ".join([data["baselines"][baseline]["precision"], *chosen])]
        for threads in counts:
            row = by_threads.get(threads)
            measured = row is not None and row["latency_ms"] is not None
            cells += (
                [_interval(row["latency_ms"]), _interval(row["ratio_to_geluless"])] if row and measured else [_status(row), NONE]
            )
        rates = [row["images_per_second"] for row in by_threads.values() if row["images_per_second"]]
        cells.append(_interval(rates[0]) if rates else NONE)
        rows.append(cells)
    heading = f"{activation.upper()}: latency at batch {data['batch']}, throughput on {threads_text(max(counts))}"
    return heading, columns, rows


def needs(data: Data, activation: str) -> Table:
    """What else there is to know of each baseline that was measured: how near it is, what ran, what it takes."""
    tested = any("test" in row for row in data["rows"])
    columns = ["engine", "off float", "same best class", "int8 kernels", "memory MB (in all)", "start s (load)", "disk MB"]
    if tested:
        columns[3:3] = ["top-1 % (float)"]
    rows = []
    for baseline, by_threads in _by_baseline(data, activation).items():
        known = [row for row in by_threads.values() if "memory" in row]
        if not known:
            continue
        row = known[0]
        memory, start, close = row["memory"], row["start_up"], row["closeness"][str(data["batch"])]
        cells = [baseline, f"{close['distance']:.1g}", f"{100 * close['agreement']:.0f} %", _kernels(row)]
        cells += [f"{memory['above_imports'] / 1e6:.0f} ({memory['peak'] / 1e6:.0f})"]
        cells += [f"{start['to_first_logits']:.1f} ({start['load']:.2f})", f"{row['disk'] / 1e6:.1f}"]
        if tested:
            test = next((other["test"] for other in known if "test" in other), None)
            cells[3:3] = [f"{test['top1']:.2f} ({test['float_top1']:.2f})" if test else NONE]
        rows.append(cells)
    return f"{activation.upper()}: what it takes, batch {data['batch']}", columns, rows


def _by_baseline(data: Data, activation: str) -> dict[str, dict[int, dict[str, Any]]]:
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in data["rows"]:
        if row["activation"] == activation:
            rows.setdefault(row["baseline"], {})[row["threads"]] = row
    return rows


def _interval(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return NONE
    digits = 0 if interval["value"] >= 100 else 1 if interval["value"] >= 20 else 2
    return f"{interval['value']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"


def _status(row: Mapping[str, Any] | None) -> str:
    return NONE if row is None else str(row["status"])


def _kernels(row: Mapping[str, Any]) -> str:
    executed = row["executed"]
    if executed is None or row["precision"] != "int8":
        return NONE
    return f"{executed['int8']} of {executed['int8'] + executed['floating']}"


def pilots(data: Data) -> list[str]:
    """One line per baseline that had a choice, with the figures that it was made by."""
    lines = []
    for row in data["rows"]:
        if row.get("pilot"):
            where = f"{row['activation']}, {threads_text(row['threads'])}"
            times = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in row["pilot"].items())
            lines.append(f"{row['baseline']} ({where}): a pilot took {times}; {row['configuration']} was timed")
    return lines


def remarks(data: Data) -> list[str]:
    """All that is said below the tables."""
    return [line for line in (*reasons(data), *pilots(data), reference_line(data), *data["notes"]) if line]


def reasons(data: Data) -> list[str]:
    """One line per baseline and reason that gave no figures."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in data["rows"]:
        if row["status"] != "measured":
            where = f"{row['activation']}, {threads_text(row['threads'])}"
            reasons.setdefault((row["baseline"], f"{row['status']}: {row['reason']}"), []).append(where)
    return [f"{baseline} ({'; '.join(where)}): {reason}" for (baseline, reason), where in reasons.items()]
