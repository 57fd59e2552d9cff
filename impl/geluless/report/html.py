"""claims.html: one self-contained page, light or dark as the reader's system is, readable on a phone.

No script, no request: style and plots are inline. Every text of the record passes through `escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from geluless.report.document import headline_text, number_text, rerun_command
from geluless.report.plots import accuracy_plot, agreement_plot, curves_plot

STYLE = """
:root { color-scheme: light dark; --back: #fcfcfa; --card: #fff; --ink: #1c1e21; --soft: #5b626b;
  --line: #dfe1e4; --faint: #b9bec5; --good: #1a7f37; --bad: #c2272d; --unsure: #936300; --need: #0b6b8f;
  --series-1: #2f6fb3; --series-2: #c2571a; --series-3: #3a8a4d; --series-4: #8a4fb0; --series-5: #a08000;
  --series-6: #b0406f; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --card: #1d2024; --ink: #e8e9ea; --soft: #a2a9b1;
  --line: #33373d; --faint: #565c64; --good: #58c273; --bad: #ff7b75; --unsure: #e3b341; --need: #61bfe3;
  --series-1: #79b0ea; --series-2: #f29a5f; --series-3: #7fcf93; --series-4: #c79be6; --series-5: #dcc45a;
  --series-6: #ee8fb6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0; }
a { color: inherit; } p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.board { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); padding: 0; list-style: none; }
.board a { display: block; height: 100%; padding: .6rem .8rem; background: var(--card); border: 1px solid var(--line);
  border-left: .35rem solid var(--tone); border-radius: .4rem; text-decoration: none; }
.board a:focus-visible, .board a:hover { outline: 2px solid var(--tone); }
.word { color: var(--tone); font-weight: 650; font-size: .85rem; letter-spacing: .01em; }
.reproduced { --tone: var(--good); } .refuted, .error { --tone: var(--bad); } .undecided { --tone: var(--unsure); }
.needs { --tone: var(--need); } .notrun { --tone: var(--faint); }
.claim, .figure { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem 1rem;
  margin: .8rem 0; }
.finding { border-left: .2rem solid var(--tone); padding-left: .7rem; margin: .7rem 0; }
.warning { border: 1px solid var(--unsure); border-left-width: .35rem; border-radius: .4rem; padding: .6rem .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .3rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; } }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--back);
  border: 1px solid var(--line); border-radius: .25rem; padding: .05rem .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
svg { display: block; width: 100%; min-width: 26rem; height: auto; max-width: 46rem; margin: 0 auto; }
svg text { font-family: inherit; }
summary { cursor: pointer; } details { margin: .5rem 0; }
"""


def render_html(document: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """The whole page as a string; `more` are lines of HTML for sections that are not about claims."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(_title(document))}</title>",
            f"<style>{STYLE}</style></head><body>",
            *_head(document),
            *_board(document["claims"]),
            *_figures(document["exhibits"].get("twins", {})),
            "<h2>Claims</h2>",
            *(line for row in document["claims"] for line in _claim(row)),
            *more,
            *_environment(document),
            "</body></html>",
            "",
        ]
    )


def _title(document: Mapping[str, Any]) -> str:
    return f"Claims of arXiv 2402.01169: {_totals(document)}"


def _totals(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(document["totals"].items()))


def _head(document: Mapping[str, Any]) -> list[str]:
    lines = [
        "<header><h1>Faster integer Swin without GELU: what holds</h1>",
        "<p>Each claim of arXiv 2402.01169, checked by running it. What could not be measured here says what it needs.</p>",
    ]
    for reason in document["partial"]:
        lines.append(
            f'<p class="warning"><strong>Partial run:</strong> {escape(reason)}. This is no verdict on the whole registry.</p>'
        )
    lines.append(
        f'<p class="soft">{escape(_totals(document))} · {escape(document["created"])} · {document["seconds"] / 60:.1f} min</p>'
        "</header>"
    )
    return lines


def _board(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ['<nav aria-label="verdicts"><ul class="board">']
    for row in rows:
        lines.append(
            f'<li class="{_tone(row["headline"]["status"])}"><a href="#{escape(row["id"], quote=True)}">'
            f"<strong>{escape(row['id'])}</strong> {escape(row['title'])}<br>"
            f'<span class="word">{escape(headline_text(row["headline"]))}</span></a></li>'
        )
    return [*lines, "</ul></nav>"]


def _tone(status: str) -> str:
    word = "needs" if status.startswith("NEEDS") else status.lower().replace(" ", "")
    return word if word in ("reproduced", "refuted", "undecided", "needs", "error") else "notrun"


def _claim(row: Mapping[str, Any]) -> list[str]:
    lines = [
        f'<section class="claim {_tone(row["headline"]["status"])}" id="{escape(row["id"], quote=True)}">',
        f"<h3>{escape(row['id'])} · {escape(row['title'])}</h3>",
        f'<p class="word">{escape(headline_text(row["headline"]))}</p>',
        f"<p>{escape(row['claim'])}</p><dl>",
        f"<dt>source</dt><dd>{escape(row['source'])} ({escape(', '.join(row['covers']))})</dd>",
        f"<dt>decided by</dt><dd>{escape(row['statistic'])}</dd>",
    ]
    if row["break_condition"]:
        lines.append(f"<dt>breaks if</dt><dd>{escape(row['break_condition'])}</dd>")
    if row["expected"]:
        lines.append(f"<dt>expected</dt><dd>{escape(row['expected'])}</dd>")
    for name, text in row["expected_items"]:
        lines.append(f"<dt>expected of {escape(name)}</dt><dd>{escape(text)}</dd>")
    lines += [
        f"<dt>control</dt><dd>{escape(row['negative_control'])}</dd>",
        f"<dt>again</dt><dd><code>{escape(rerun_command(row['id']))}</code></dd></dl>",
    ]
    if row["records"]:
        lines.append(f"<details open><summary>{len(row['records'])} findings</summary>")
        lines += [line for record in row["records"] for line in _finding(record)]
        lines.append("</details>")
    return [*lines, "</section>"]


def _finding(record: Mapping[str, Any]) -> list[str]:
    word = f'<span class="word">{escape(record["status"])}</span> <strong>{escape(record["item"])}</strong>'
    lines = [f'<div class="finding {_tone(record["status"])}">{word}<br>{escape(record["sentence"])}<dl>']
    for number in record["numbers"]:
        lines.append(f"<dt>number</dt><dd>{escape(number_text(number))}</dd>")
    if record["n_needed"]:
        lines.append(f"<dt>would decide</dt><dd>about {record['n_needed']:,} samples</dd>")
    if record["would_run"]:
        lines.append(f"<dt>would run</dt><dd>{escape(record['would_run'])}</dd>")
    if evidence := record["evidence"]:
        control = evidence["control"]
        lines.append(f"<dt>ran</dt><dd>{escape(evidence['ran'])} ({escape(evidence['tier'])}, {record['seconds']:.0f} s)</dd>")
        lines.append(f"<dt>control</dt><dd>{escape(control['what'])}: {escape(control['observed'])}</dd>")
        for name, digest in evidence["artifacts"].items():
            lines.append(f"<dt>{escape(name)}</dt><dd><code>{escape(digest[:16])}</code></dd>")
        lines += [f"<dt>detail</dt><dd>{escape(detail)}</dd>" for detail in evidence["details"]]
    return [*lines, "</dl></div>"]


def _figures(twins: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for plot, caption in (
        (
            accuracy_plot,
            "Accuracy lost against the FP32 GELU teacher on the same images, with one-sided 95 % bounds; dashed: 0.5 points.",
        ),
        (agreement_plot, "Top-1 agreement with the teacher on held-out images, after each converted block."),
        (curves_plot, "Learning curves; one line per block, the later the stronger."),
    ):
        if svg := plot(twins):
            lines.append(f'<figure class="figure"><div class="scroll">{svg}</div>')
            lines.append(f'<figcaption class="soft">{escape(caption)}</figcaption></figure>')
    for size, twin in twins.items():
        if twin.get("blocks"):
            lines += _blocks(size, twin["blocks"])
        for recipe, run in twin.get("distillation", {}).items():
            lines += [
                f'<p class="warning">{escape(size)}, {escape(recipe)}: {escape(str(text))}</p>'
                for text in run.get("warnings", [])
            ]
    return ["<h2>Evidence of the embedded tier</h2>", *lines] if lines else []


def _blocks(size: str, blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f'<details class="figure"><summary>What the MLPs of the {escape(size)} teacher do, block by block</summary>',
        '<div class="scroll"><table><tr><th>block</th><th>pre-activation mean</th><th>deviation</th><th>MLP / residual</th>',
        "<th>GELU to ReLU, relative error</th></tr>",
    ]
    for block in blocks:
        lines.append(
            f"<tr><td>{escape(block['block'])}</td><td>{block['pre_mean']:.2f}</td>"
            f"<td>{block['pre_std']:.2f}</td><td>{block['mlp_to_residual']:.2f}</td>"
            f"<td>{100 * block['swap_error']:.0f} %</td></tr>"
        )
    return [*lines, "</table></div></details>"]


def _environment(document: Mapping[str, Any]) -> list[str]:
    environment = document["environment"]
    git = environment["git"]
    facts = {
        "processor": f"{environment['cpu']} ({', '.join(environment['isa']) or 'no vector extension known to us'})",
        "cores": environment["cores"],
        "system": environment["system"],
        "python": environment["python"],
        **environment["packages"],
        "git": (git["revision"] or "no repository") + (" with local changes" if git["dirty"] else ""),
        "data": "; ".join(document["exhibits"].get("data", [])) or "none",
        "seed": document["exhibits"].get("seed", "none"),
    }
    lines = ["<h2>Where this ran</h2><dl>"]
    lines += [f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()]
    return [*lines, "</dl>"]
