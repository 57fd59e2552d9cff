"""The board: what became of the paper's own statement, and apart from it, what was judged here.

Two cells for each claim. The first is filled by checks of kind "paper" alone. A stand-in, a transfer or exact arithmetic, however
often reproduced, leaves it at what it needs, and a transfer that does not hold here refutes nothing. So it is with the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geluless.verdicts.registry import KINDS, Claim
from geluless.verdicts.resources import Resource
from geluless.verdicts.verdict import Record

Cell = dict[str, Any]  # JSON: "status", "tiers", "needs" and "counts" of some checks
PAPER = "The paper's own statement"
HERE = "What was judged here"
NOT_HERE = "NOT HERE"  # how a transfer that is REFUTED is shown: it is, where it ran, and the paper's statement is not
ASKED, OURS, NOT_RUN = "ASKED", "OURS", "NOT RUN"
UNSTATED = {ASKED: "asked, not stated", OURS: "not in the paper"}
WORST_FIRST = ("ERROR", "REFUTED", "UNDECIDED", "REPRODUCED")


def paper_cell(row: Claim, records: Sequence[Record]) -> Cell:
    """What became of the paper's own statement in these records of the row.

    "status" is ASKED or OURS where the paper states nothing; NEEDS where there is no check, or one of them lacks something; else
    the verdict: one refutation refutes, and REPRODUCED takes all. NOT RUN: nothing of it was chosen.
    """
    own = [record for record in records if record.kind == "paper"]
    cell = _cell(own)
    if row.stance != "stated":
        cell["status"] = {"asked": ASKED, "ours": OURS}[row.stance]
    elif records and all(kind != "paper" for _, kind in row.kinds):
        cell |= {"status": "NEEDS", "needs": [Resource.CHECK.status]}
    elif cell["needs"] and cell["status"] not in ("ERROR", "REFUTED"):
        cell["status"] = "NEEDS"
    return cell


def here_cells(records: Sequence[Record]) -> dict[str, Cell]:
    """By kind, all but "paper": the verdict of what was measured of it, and what is missing beside it."""
    return {kind: _cell([record for record in records if record.kind == kind]) for kind in _beside(records)}


def _beside(records: Sequence[Record]) -> list[str]:
    """The kinds of the records but for "paper", in the order of KINDS."""
    return sorted({record.kind for record in records} - {"paper"}, key=list(KINDS).index)


def _cell(records: Sequence[Record]) -> Cell:
    statuses = [record.status for record in records]
    needs = sorted({status for status in statuses if status.startswith("NEEDS_")})
    verdict = next((word for word in WORST_FIRST if word in statuses), "NEEDS" if needs else NOT_RUN)
    tiers = sorted({record.evidence.tier for record in records if record.evidence is not None})
    return {"status": verdict, "tiers": tiers, "needs": needs, "counts": dict(Counter(statuses))}


def shown(status: str, kind: str) -> str:
    """The word for a status of a check of this kind."""
    return NOT_HERE if kind == "transfer" and status == "REFUTED" else status


def paper_text(cell: Mapping[str, Any]) -> str:
    """'REPRODUCED (imagenet)', 'NEEDS_IMAGENET (of 4 checks 1 REPRODUCED)', 'asked, not stated'."""
    status, counts = str(cell["status"]), cell["counts"]
    if status in UNSTATED:
        return UNSTATED[status]
    if status == "NEEDS":
        judged = {word: count for word, count in counts.items() if not word.startswith("NEEDS_")}
        part = f" (of {sum(counts.values())} checks {_counted(judged)})" if judged else ""
        return ", ".join(cell["needs"]) + part
    tiers = f" ({', '.join(cell['tiers'])})" if cell["tiers"] else ""
    return f"{status}{tiers}" + (f" + {', '.join(cell['needs'])}" if cell["needs"] else "")


def here_text(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """'stand-in: REPRODUCED, embedded; ours: NEEDS_CHECK', a part for each kind."""
    return "; ".join(f"{kind}: {_here(kind, cell)}" for kind, cell in cells.items()) or "nothing"


def _here(kind: str, cell: Mapping[str, Any]) -> str:
    if cell["status"] == "NEEDS":
        return ", ".join(cell["needs"])
    text = ", ".join([shown(cell["status"], kind), *cell["tiers"]])
    return f"{text} + {', '.join(cell['needs'])}" if cell["needs"] else text


def tone(status: str, kind: str = "paper") -> str:
    """The class that colours a status on the page. Green is kept for the paper's own statement: what is reproduced beside it is
    plain, and a transfer that does not hold is a caution, no refutation."""
    word = "needs" if status.startswith("NEEDS") else status.lower().replace(" ", "")
    if kind != "paper" and word == "reproduced":
        return "held"
    if kind == "transfer" and word == "refuted":
        return "undecided"
    return word if word in ("reproduced", "refuted", "undecided", "needs", "error") else "notrun"


def totals(rows: Iterable[Claim], records: Sequence[Record]) -> dict[str, Any]:
    """{"paper": claims by the word of their first cell, "here": by kind, checks by status}."""
    cells = [paper_cell(row, [record for record in records if record.claim == row.id]) for row in rows]
    words = [", ".join(cell["needs"]) if cell["status"] == "NEEDS" else cell["status"] for cell in cells]
    here = {kind: dict(Counter(record.status for record in records if record.kind == kind)) for kind in _beside(records)}
    return {"paper": dict(Counter(words)), "here": here}


def paper_totals(totals: Mapping[str, Any]) -> str:
    """'of 8 claims that the paper states, judged: 1 (1 REFUTED), not judged: 7 (7 NEEDS_GPU); others: 4 asked, 2 ours'."""
    counts = dict(totals["paper"])
    asked, ours = counts.pop(ASKED, 0), counts.pop(OURS, 0)
    judged = {word: count for word, count in counts.items() if word in ("REPRODUCED", "REFUTED", "UNDECIDED")}
    others = {word: count for word, count in counts.items() if word not in judged}
    done, left = (f"{sum(some.values())}{f' ({_counted(some)})' if some else ''}" for some in (judged, others))
    text = f"of {sum(counts.values())} claims that the paper states, judged: {done}, not judged: {left}"
    return f"{text}; others: {asked} asked, {ours} ours"


def here_totals(totals: Mapping[str, Any]) -> str:
    """'arithmetic: 14 REPRODUCED; transfer: 2 NOT HERE, 20 REPRODUCED', in checks."""
    kinds = {kind: {shown(word, kind): n for word, n in counts.items()} for kind, counts in totals["here"].items()}
    return "; ".join(f"{kind}: {_counted(counts)}" for kind, counts in kinds.items()) or "nothing"


def totals_lines(totals: Mapping[str, Any]) -> tuple[str, str]:
    """Both counts, each a sentence that says of what it counts."""
    return f"{PAPER}: {paper_totals(totals)}.", f"{HERE}, in checks: {here_totals(totals)}."


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
