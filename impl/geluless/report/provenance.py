"""The section "Where this ran": machine, versions, digests of all that was run, durations, and the self-test of the timing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from scipy.stats import binomtest

from geluless.report.tables import folded, table_lines


def provenance_lines(document: Mapping[str, Any]) -> list[str]:
    """The whole section; parts without data are left out."""
    report_data = document["report_data"]
    return [
        '<section id="environment"><h2>Where this ran</h2>',
        *_facts(document),
        *_harness(report_data.get("harness")),
        *_studies(report_data.get("latency", {})),
        *_artifacts(document),
        *_durations(report_data.get("durations", {})),
        "</section>",
    ]


def _facts(document: Mapping[str, Any]) -> list[str]:
    environment, report_data = document["environment"], document["report_data"]
    git = environment["git"]
    facts = {
        "processor": f"{environment['cpu']} ({', '.join(environment['isa']) or 'no vector extension known to us'})",
        "cores": environment["cores"],
        "clock": _clock(report_data.get("latency", {})),
        "system": environment["system"],
        "python": environment["python"],
        **environment["packages"],
        "git": (git["revision"] or "no repository") + (" with local changes" if git["dirty"] else ""),
        "test images": "; ".join(report_data.get("data", [])) or "none",
        "seed": report_data.get("seed", "none"),
        "whole run": f"{document['seconds'] / 60:.1f} min, ended {document['created']}",
    }
    return [
        '<dl class="facts">',
        *(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()),
        "</dl>",
    ]


def _clock(studies: Mapping[str, Any]) -> str:
    """How steady the clock was while something was timed: the spread of the peak loop beside the samples."""
    spreads = [study["peak_spread"] for study in studies.values() if study.get("peak_spread") is not None]
    if not spreads:
        return "nothing was timed"
    span = f"{100 * min(spreads):.1f} to {100 * max(spreads):.1f} %"
    return f"the peak loop beside the samples spread by {span} (interquartile range over median, by study)"


def _harness(harness: Mapping[str, Any] | None) -> list[str]:
    """False positives of a variant against itself, and how often a planted slowdown was found."""
    if not harness:
        return []
    rows = [("a variant against itself: called different", harness["false_positives"], harness["pairs"])]
    rows += [(f"slowed down by {p['percent']:g} %: found", p["found"], p["pairs"]) for p in harness["planted"]]
    cells = [(what, f"{hits} of {pairs}", *_share(hits, pairs)) for what, hits, pairs in rows if pairs]
    when = f"{harness['created']} on {harness['cpu']}"
    return [
        '<div class="figure" id="harness"><h3>Self-test of the timing harness</h3>',
        *table_lines(("pairs timed", "how many", "share, %", "95 % interval"), cells),
        f'<p class="soft">Clopper–Pearson intervals; a run of its own, {escape(when)}.</p></div>',
    ]


def _share(hits: int, pairs: int) -> tuple[str, str]:
    interval = binomtest(hits, pairs).proportion_ci(method="exact")
    return f"{100 * hits / pairs:.1f}", f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _studies(studies: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, study in studies.items():
        spread, seconds, processes = study.get("peak_spread"), study.get("seconds"), study["processes"]
        counts = (str(len(processes)), str(sum(processes)), str(study.get("dropped", "–")))
        quiet = "–" if spread is None else f"{100 * spread:.1f}"
        rows.append((name, quiet, *counts, "–" if seconds is None else f"{seconds:.0f}"))
    if not rows:
        return []
    header = ("study", "spread of the peak loop, %", "processes", "blocks", "dropped", "s")
    return folded("Timing studies: how quiet the machine was", table_lines(header, rows), kind="figure")


def _artifacts(document: Mapping[str, Any]) -> list[str]:
    """Content hashes: networks and inputs that were timed, networks, and what each claim's evidence names."""
    rows: dict[tuple[str, str], None] = {}
    for study in document["report_data"].get("latency", {}).values():
        for row in study["rows"]:
            activation = "GELU" if str(row.get("variant", "")).startswith("gelu") else "ReLU"
            if row.get("artifact"):
                rows[f"timed: {row.get('model')}, {activation}", str(row["artifact"])] = None
            if row.get("input"):
                rows[f"input of {row.get('model')}, batch {row.get('batch')}", str(row["input"])] = None
    for size, network in document["report_data"].get("micro_networks", {}).items():
        if network.get("teacher_sha256"):
            rows[f"micro network {size}: teacher's weights", str(network["teacher_sha256"])] = None
        for name, digest in network.get("artifacts", {}).items():
            rows[f"micro network {size}: {name}", str(digest)] = None
    for claim in document["claims"]:
        for record in claim["records"]:
            for name, digest in (record["evidence"] or {"artifacts": {}})["artifacts"].items():
                if not any(known == digest for _, known in rows):
                    rows[f"{claim['id']}: {name}", str(digest)] = None
    if not rows:
        return []
    return folded("Digests of networks and inputs", table_lines(("what", "SHA-256"), rows, kind="digests"), kind="figure")


def _durations(durations: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    rows = []
    for task, steps in durations.items():
        known = {step: seconds for step, seconds in steps.items() if seconds is not None}
        rows.append((task, f"{sum(known.values()):.0f}", "; ".join(f"{step} {seconds:.0f}" for step, seconds in known.items())))
    if not rows:
        return []
    return folded("Durations of the tasks, in seconds", table_lines(("task", "s", "steps"), rows, kind="wide"), kind="figure")
