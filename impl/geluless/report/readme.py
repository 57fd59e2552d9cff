"""The figures of the README, between two marks, from the records of the last full run alone, and beside its intervals how far
past runs differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geluless.errors import GelulessError
from geluless.files import atomic_output
from geluless.report.baselines import Found
from geluless.report.board import totals_lines
from geluless.report.history import PastRun, legend, ratio_name, spread, with_this
from geluless.report.markdown import escape

BEGIN = "<!-- figures: begin (`nox -s report -- --readme README.md` writes what stands between the marks) -->"
END = "<!-- figures: end -->"
SIZES = {"tiny": "T", "small": "S", "base": "B", "large": "L"}
RIVALS = {
    "`relu` over FasterTransformer's structure": "gelu-separate",
    "over fused erf": "gelu-fused",
    "over a table": "gelu-lut",
}
NONE = "–"
DIGITS = 12  # of the digest of the code


class ReadmeError(GelulessError):
    """The README has no place for figures, or the record is none to quote."""


def update_readme(
    path: Path,
    document: Mapping[str, Any],
    baselines: Found,
    harness: Mapping[str, Any] | None,
    history: Sequence[PastRun] = (),
) -> None:
    """Replace what stands between BEGIN and END. Raises ReadmeError; the file is replaced as a whole or not at all."""
    if document["partial"]:
        raise ReadmeError(f"{path} quotes whole runs only, and this one was partial ({'; '.join(document['partial'])})")
    before, _, after = split(path.read_text(encoding="utf-8"))
    with atomic_output(path) as partial:
        lines = figures(document, baselines, harness, with_this(history, document))
        partial.write_text("\n".join([before, *lines, after]), encoding="utf-8")


def split(text: str) -> tuple[str, str, str]:
    """What stands up to the end of BEGIN, between the marks, and from END on. Raises ReadmeError."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReadmeError(f"the README needs the two marks once each, in this order:\n{BEGIN}\n{END}")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:begin], text[begin:end], text[end:]


def figures(
    document: Mapping[str, Any], baselines: Found, harness: Mapping[str, Any] | None, runs: Sequence[PastRun] = ()
) -> list[str]:
    """Markdown lines; `runs` are whole runs, this one among them."""
    return [
        "",
        head(document),
        "",
        *(line for text in totals_lines(document["totals"]) for line in (text, "")),
        *_sizes(document, runs),
        *_engines(document),
        *_baselines(baselines),
        *_harness(harness),
        "",
    ]


def head(document: Mapping[str, Any]) -> str:
    """Machine, day, revision and digest of the code: by these geluless.report.outdated knows what the figures are of."""
    environment = document["environment"]
    git = environment["git"]
    revision = (git["revision"] or "none")[:10] + (" with local changes" if git["dirty"] else "")
    return (
        f"{escape(environment['cpu'])}, {environment['cores']} cores, {document['created'][:10]}, revision {revision}, "
        f"code {document['code'][:DIGITS]}, {document['seconds'] / 60:.0f} minutes."
    )


def _sizes(document: Mapping[str, Any], runs: Sequence[PastRun]) -> list[str]:
    records = {(row["id"], record["item"]): record for row in document["claims"] for record in row["records"]}
    lines = [
        f"| Swin | accuracy lost, INT8 ReLU against FP32 GELU (micro networks, points) | {' | '.join(RIVALS)} |",
        "|---|---|---|---|---|",
    ]
    for size, letter in SIZES.items():
        wanted = {size, "fp32-gelu", "absolute"}
        lost = [n for (claim, item), r in records.items() if claim == "c03" and wanted <= _parts(item) for n in r["numbers"][:1]]
        item = f"transfer_to_this_cpu[{size}]"
        times = records.get(("c06", item), {"numbers": []})["numbers"]
        over = [next((number for number in times if f" over {rival}" in number["name"]), None) for rival in RIVALS.values()]
        cells = [_cell([*lost, None][0]), *(_cell(number, runs, "c06", item) for number in over)]
        lines.append(f"| {letter} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        (
            "Ratios of latency at batch 1 on one thread, below 1 is faster; brackets: one-sided 95 % bounds. Accuracy is that of "
            "the micro networks, latency that of the full-size networks; the paper's own claim is about ImageNet and an RTX 4090."
        ),
        *(["", legend(runs)] if len(runs) > 1 else []),
    ]


def _parts(item: str) -> set[str]:
    """ "name[a-fp32-gelu-b]" -> {"a", "fp32-gelu", "b", ...}: pytest joins parameters by hyphens that they may hold too."""
    inside = item.partition("[")[2].rstrip("]")
    known = [word for word in ("fp32-gelu", "int8-gelu") if word in inside]
    return {*known, *re.split("-", inside)}


def _cell(number: Mapping[str, Any] | None, runs: Sequence[PastRun] = (), claim: str = "", item: str = "") -> str:
    """'0.890 [0.889, 0.891]', and where other runs measured it, too, '; 3 runs 0.890 to 0.892'."""
    if number is None or number["value"] is None:
        return NONE
    text = f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"
    if (found := spread(runs, ratio_name(claim, item, number["name"]))) is None:
        return text
    count, least, greatest = found
    return f"{text}; {count} runs {least:.3f} to {greatest:.3f}"


def _engines(document: Mapping[str, Any]) -> list[str]:
    row = next((row for row in document["claims"] if row["id"] == "c10"), None)
    found = [record for record in (row["records"] if row else []) if record["item"].startswith("other_engines")]
    if not found or not found[0]["numbers"]:
        return []
    names = (escape(number["name"].removeprefix("time of ")) for number in found[0]["numbers"])
    gains = ", ".join(f"{name} {_cell(number)}" for name, number in zip(names, found[0]["numbers"], strict=True))
    return ["", f"ReLU against GELU within each engine: {gains}."]


def _baselines(baselines: Found) -> list[str]:
    lines: list[str] = []
    for record in baselines.records:
        rows = [row for row in record["rows"] if row["threads"] == 1 and row["latency_ms"] is not None]
        by_baseline: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            by_baseline.setdefault(row["baseline"], {})[row["activation"]] = row
        if not by_baseline:
            continue
        activations = sorted({row["activation"] for row in rows})
        lines += ["", f"`{record['model']}`, batch {record['batch']}, one thread, ms (and times geluless):", ""]
        lines += [f"| engine | runs in | {' | '.join(activations)} |", f"|---|---|{'---|' * len(activations)}"]
        for baseline, found in by_baseline.items():
            precision = next(iter(found.values()))["precision"]
            lines.append(f"| {baseline} | {precision} | {' | '.join(_latency(found.get(name)) for name in activations)} |")
    return lines


def _latency(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NONE
    ratio = row["ratio_to_geluless"]
    return f"{row['latency_ms']['value']:.1f}" + (f" ({ratio['value']:.2f})" if ratio else "")


def _harness(harness: Mapping[str, Any] | None) -> list[str]:
    if harness is None:
        return []
    planted = ", ".join(f"{row['percent']:g} % in {row['found']} of {row['pairs']}" for row in harness["planted"])
    different = f"{harness['false_positives']} of {harness['pairs']} pairs of equal engines were called different"
    when = harness["created"][:10]
    return ["", f"Self-test of the timing harness ({when}): {different}; planted slowdowns were claimed: {planted}."]
