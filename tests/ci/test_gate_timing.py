"""Two revisions take turns in processes of their own; what one lacks, gets wrong or cannot do is told by its name."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

import geluless
from ci.gate import timing
from ci.gate.judgement import Outcome, judge
from ci.gate.latency import judge_latency
from ci.gate.revisions import GateError, Revision, base_revision, head_revision
from ci.gate.thresholds import Thresholds
from ci.gate.timing import compare
from geluless.bench import load
from geluless.bench.host import PROTOCOL

HOST = """
from geluless.bench.process import CandidateFailure, Status

NAMES = {names}

class Host:
    def hello(self):
        return {{"protocol": {protocol}, "isa": "{isa}", "workloads": list(NAMES)}}

    def load_workload(self, name, expected):
        if not NAMES[name]:
            raise CandidateFailure(Status.WRONG, "Wrong: 3 of 5 values")
        return NAMES[name][0]

    def roughly(self, name):
        return 1e-3

    def sample(self, name, calls, warm_up):
        if NAMES[name][1] is None:
            raise SystemExit("out of memory")
        return NAMES[name][1], 0.0
"""


def revision(tmp_path: Path, side: str, names: dict[str, object], *, protocol: int = PROTOCOL, isa: str = "avx2") -> Revision:
    """An installed package whose host answers what `names` says: (digest, seconds) by benchmark, None for a wrong one."""
    found = Revision(side, "0" * 40, False, tmp_path / side)
    package = found.site / "geluless" / "bench"
    package.mkdir(parents=True)
    real = Path(str(geluless.__file__)).parent
    for folder, beside in ((package, real / "bench"), (package.parent, real)):
        (folder / "__init__.py").write_text(f"__path__.append({str(beside)!r})  # everything else is the real package's\n")
    (package / "host.py").write_text(HOST.format(names=names, protocol=protocol, isa=isa))
    return found


def run(base: Revision, head: Revision, **options: object) -> timing.Comparison:
    return compare(base, head, **{"pairs": 3, "blocks": 2, **options})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs here: these times are made up."""
    monkeypatch.setattr(load, "busy_seconds", lambda: None)


def test_both_sides_are_sampled_in_every_block(tmp_path: Path) -> None:
    found = run(revision(tmp_path, "base", {"k": ("a", 1.0)}), revision(tmp_path, "head", {"k": ("a", 2.0)}))
    assert found.timed == ["k"]
    assert found.samples is not None
    assert found.samples.processes == (2, 2, 2)
    assert found.samples.seconds["base k"].tolist() == [1.0] * 6
    assert found.samples.seconds["head k"].tolist() == [2.0] * 6
    assert [found.missing, found.new, found.wrong, found.changed] == [[], [], {}, []]


def test_a_renamed_benchmark_is_missing_and_new(tmp_path: Path) -> None:
    names = {"k": ("a", 1.0), "old": ("b", 1.0)}, {"k": ("a", 1.0), "young": ("b", 1.0)}
    found = run(revision(tmp_path, "base", dict(names[0])), revision(tmp_path, "head", dict(names[1])))
    assert (found.missing, found.new, found.timed) == (["old"], ["young"], ["k"])


def test_a_wrong_result_is_not_timed(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": ("a", 1.0), "m": ("b", 1.0)})
    found = run(base, revision(tmp_path, "head", {"k": None, "m": ("b", 1.0)}))
    assert found.timed == ["m"]
    assert found.wrong["k"].startswith("head: Wrong")


def test_another_output_is_noticed(tmp_path: Path) -> None:
    found = run(revision(tmp_path, "base", {"k": ("a", 1.0)}), revision(tmp_path, "head", {"k": ("z", 1.0)}))
    assert found.changed == ["k"]


def test_some_benchmarks_alone(tmp_path: Path) -> None:
    names: dict[str, object] = {"k": ("a", 1.0), "m": ("b", 1.0)}
    base, head = (revision(tmp_path, side, names) for side in ("base", "head"))
    assert run(base, head, names=["m"]).timed == ["m"]
    with pytest.raises(GateError, match="no workload is called 'x'"):
        run(base, head, names=["x"])


def test_a_head_that_mends_what_the_base_got_wrong_is_not_wrong(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": None, "m": ("b", 1.0)})
    found = run(base, revision(tmp_path, "head", {"k": ("a", 1.0), "m": ("b", 1.0)}))
    assert (found.timed, found.wrong) == (["m"], {})
    assert found.mended["k"].startswith("base: Wrong")
    judgement = judge(found, Thresholds())["k"]
    assert judgement.outcome is Outcome.NEW
    assert "base: Wrong" in judgement.note


def test_a_base_that_gets_everything_wrong_is_no_base(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": None})
    with pytest.raises(GateError, match="the base computes nothing rightly"):
        run(base, revision(tmp_path, "head", {"k": ("a", 1.0)}))


def test_another_instruction_set_is_told(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": ("a", 1.0)})
    assert run(base, revision(tmp_path, "head", {"k": ("a", 1.0)}, isa="neon")).isa == "avx2 -> neon"


def test_a_worker_of_another_protocol_is_refused(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": ("a", 1.0)})
    with pytest.raises(GateError, match="speaks protocol 99"):
        run(base, revision(tmp_path, "head", {"k": ("a", 1.0)}, protocol=99))


def test_a_process_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": ("a", 1.0)})
    with pytest.raises(GateError, match=r"head 000000000000: its process ended \(exit code 1\): out of memory"):
        run(base, revision(tmp_path, "head", {"k": ("a", None)}))


def test_a_revision_from_before_the_gate_is_told(tmp_path: Path) -> None:
    base = revision(tmp_path, "base", {"k": ("a", 1.0)})
    for path in base.site.rglob("__init__.py"):
        path.write_text("")  # alone, and so without a worker
    with pytest.raises(GateError, match="older than the gate"):
        run(base, revision(tmp_path, "head", {"k": ("a", 1.0)}))


def test_a_renamed_benchmark_is_missing_on_a_busy_machine_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(load, "busy_seconds", lambda: float(next(seconds)))
    base = revision(tmp_path, "base", {"k": ("a", 1.0), "old": ("b", 1.0)})
    found, judged = judge_latency(base, revision(tmp_path, "head", {"k": ("a", 1.0)}), Thresholds(), pairs=3, blocks=2)
    assert found.disturbed
    assert {name: judgement.outcome for name, judgement in judged.items()} == {"old": Outcome.MISSING}


def test_a_busy_machine_is_no_place_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(load, "busy_seconds", lambda: float(next(seconds)))
    names: dict[str, object] = {"k": ("a", 1.0)}
    base, head = (revision(tmp_path, side, names) for side in ("base", "head"))
    found = run(base, head)
    assert found.disturbed == "other processes disturbed 6 of 6 blocks: nothing can be timed here while they run"
    assert found.samples is None


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of a package, whose working tree has moved on."""
    root = tmp_path / "repository"
    (root / "impl").mkdir(parents=True)
    (root / "impl" / "kept.py").write_text("old")
    (root / "impl" / "deleted.py").write_text("old")
    (root / "pyproject.toml").write_text("")
    script = """
        git init --quiet && git config user.email a@b && git config user.name n && git add .
        git -c commit.gpgsign=false commit --quiet --message one
    """
    subprocess.run(["bash", "-ec", textwrap.dedent(script)], cwd=root, check=True)
    (root / "impl" / "kept.py").write_text("new")
    (root / "impl" / "added.py").write_text("new")
    (root / "impl" / "deleted.py").unlink()
    return root


def test_base_is_the_commit_and_head_the_working_tree(repository: Path, tmp_path: Path) -> None:
    base = base_revision(repository, "HEAD", tmp_path / "gate")
    head = head_revision(repository, tmp_path / "gate")
    assert sorted(path.name for path in (base.source / "impl").iterdir()) == ["deleted.py", "kept.py"]
    assert (base.source / "impl" / "kept.py").read_text() == "old"
    assert sorted(path.name for path in (head.source / "impl").iterdir()) == ["added.py", "kept.py"]
    assert (head.source / "impl" / "kept.py").read_text() == "new"
    assert (base.dirty, head.dirty) == (False, True)
    assert base.commit == head.commit
    assert len(str(base.site)) == len(str(head.site))  # a longer path shifts a process's stack


@pytest.mark.parametrize("name", ["no-such-branch", "--upload-pack=x", ""])
def test_a_base_that_is_no_commit_is_told(repository: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(GateError, match="no such commit"):
        base_revision(repository, name, tmp_path / "gate")
