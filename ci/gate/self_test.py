"""The gate tested by itself: `python -m ci.gate.self_test --equal 20 --slowdowns 10`, on a quiet machine; a minute per run.

    equal       the working tree against itself, with its code where no noise was recorded: how often is the gate red for nothing?
    slowdowns   against itself with one kernel 5 % slower: is that benchmark REGRESSED, and only that one?
    code        one spill, one float operation more: does the deterministic half fail? With the code only moved: it must not
    renamed     a benchmark that the head calls otherwise: is it MISSING?

Writes report/gate/self_test.json. Exit code 1 where the gate misses what it promises: at most 1 of 20 red for nothing, at least 9
of 10 slowdowns found alone, every injected instruction and every renamed benchmark.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from ci.gate import machine_code, thresholds
from ci.gate.__main__ import HOME, REPORT, REPOSITORY, THRESHOLDS
from ci.gate.fault_injection import FAULTY, inject
from ci.gate.judgement import Judgement, Outcome, judge
from ci.gate.latency import judge_latency
from ci.gate.noise import equal_revisions
from ci.gate.revisions import Revision, build, copy_of, sole_user
from ci.gate.thresholds import Thresholds
from ci.gate.timing import compare
from geluless.bench.environment import cpu_model
from geluless.errors import GelulessError
from geluless.files import atomic_output

CODE_FAULTS = ("spill", "float")  # that the deterministic half must find
SEEDS = 2_000_000
LAYOUTS = (1040, 2080, 3120)  # bytes that the head's code lies further on, in turn: other places than those of the noise


@dataclass
class SelfTest:
    """equal, slowdowns: the failing benchmarks of each run. code: problems by fault. renamed: the outcome."""

    cpu: str = ""
    equal: list[list[str]] = field(default_factory=list)
    slowdowns: list[list[str]] = field(default_factory=list)
    code: dict[str, list[str]] = field(default_factory=dict)
    renamed: str = ""

    def failures(self) -> list[str]:
        """What the gate does not keep of what it promises."""
        red = sum(bool(run) for run in self.equal)
        found = sum(run == [FAULTY] for run in self.slowdowns)
        broken = []
        if red > len(self.equal) / 20:
            broken.append(f"red for nothing in {red} of {len(self.equal)} runs")
        if found < 0.9 * len(self.slowdowns):
            broken.append(f"an injected slowdown was found, and it alone, in {found} of {len(self.slowdowns)} runs")
        for fault, problems in self.code.items():
            if bool(problems) != (fault in CODE_FAULTS):
                broken.append(f"an injected {fault} was {'found, and is none' if problems else 'not found'}")
        if self.renamed != Outcome.MISSING:
            broken.append(f"a renamed benchmark is {self.renamed or 'nothing'}")
        return broken


def run(*, equal: int, slowdowns: int, limits: Thresholds, keep: Callable[[SelfTest], object]) -> SelfTest:
    """`keep` gets what is known after every run."""
    test = SelfTest(cpu=cpu_model())
    base, heads = equal_revisions(REPOSITORY, HOME, LAYOUTS)
    test.renamed = _renamed(base, heads[0])
    _say(f"a renamed benchmark is {test.renamed}")
    for number in range(equal):
        test.equal.append(_failing(base, heads[number % len(heads)], limits, seed=SEEDS + 2 * number))
        keep(test)
        _say(f"equal revisions, run {number + 1} of {equal}: {test.equal[-1] or 'green'}")
    clean = machine_code.disassembled(base.objects)
    test.code["layout"] = [problem for head in heads for problem in _problems(clean, head)]
    for fault in CODE_FAULTS:
        test.code[fault] = _problems(clean, _faulty(heads[0], fault))
        _say(f"injected {fault}: {test.code[fault] or 'not found'}")
    slow = _faulty(heads[0], "slowdown")
    for number in range(slowdowns):
        test.slowdowns.append(_failing(base, slow, limits, seed=2 * SEEDS + 2 * number))
        keep(test)
        _say(f"slowdown, run {number + 1} of {slowdowns}: {test.slowdowns[-1] or 'not found'}")
    return test


def _faulty(tree: Revision, fault: str) -> Revision:
    head = copy_of(tree, "head", HOME / fault[:4])  # names as long as "base", for the process's sake
    inject(head, fault)
    build(head)
    return head


def _failing(base: Revision, head: Revision, limits: Thresholds, *, seed: int) -> list[str]:
    """The failing benchmarks; a run that could not judge is none that was right."""
    try:
        found, judgements = judge_latency(base, head, limits, seed=seed)
    except GelulessError as error:
        return [f"not judged: {error}"]
    if found.disturbed:
        return [f"not judged: {found.disturbed}"]
    return [judgement.name for judgement in judgements.values() if judgement.fails]


def _problems(clean: Mapping[str, machine_code.Counts], head: Revision) -> list[str]:
    """What the deterministic half has against the kernels of `head`, with their place."""
    changes = machine_code.compare(clean, machine_code.disassembled(head.objects))
    return [f"{change.where}: {problem}" for change in changes for problem in change.problems]


def _renamed(base: Revision, head: Revision) -> str:
    """The outcome of a benchmark to which the head has given another name."""
    other = _faulty(head, "renamed")
    names = ["attention/plain", "attentions/plain"]
    judgements: dict[str, Judgement] = judge(compare(base, other, names=names, pairs=1, blocks=1), Thresholds())
    return judgements["attention/plain"].outcome.value


def _keep(test: SelfTest) -> None:
    REPORT.mkdir(parents=True, exist_ok=True)
    with atomic_output(REPORT / "self_test.json") as partial:
        partial.write_text(json.dumps(asdict(test), indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="self_test", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--equal", type=int, default=20)
    parser.add_argument("--slowdowns", type=int, default=10)
    options = parser.parse_args(arguments)
    try:
        with sole_user(HOME):
            test = run(equal=options.equal, slowdowns=options.slowdowns, limits=thresholds.read(THRESHOLDS), keep=_keep)
    except GelulessError as error:
        _say(str(error))
        return 2
    _keep(test)
    for line in test.failures():
        _say(line)
    return int(bool(test.failures()))


def _say(line: str) -> None:
    print(f"self-test: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
