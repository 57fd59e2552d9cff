"""How many threads by default: the processors that this process may use, by affinity and quota, or as many as its user says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import geluless
from geluless import cli, processors
from geluless.errors import SettingError
from geluless.processors import cpu_quota, default_threads, usable_processors
from tests.support.networks import awkward_artifact
from tests.support.scripts import run_script

V1 = "{n} 25 0:31 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "{n} 25 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n31 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(root: Path, *, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A folder with the files that Linux shows a process."""
    content = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINES: dict[str, tuple[str, str, dict[str, str], float | None]] = {
    # a systemd machine: the limit is one of a slice around the process
    "version 2, no limit": (
        "0::/user.slice/a.scope\n",
        V2.format(n=30, root="/"),
        {"user.slice/a.scope/cpu.max": "max 100000\n"},
        None,
    ),
    "version 2": ("0::/user.slice/a.scope\n", V2.format(n=30, root="/"), {"user.slice/a.scope/cpu.max": "250000 100000\n"}, 2.5),
    "version 2, of the group around": (
        "0::/user.slice/a.scope\n",
        V2.format(n=30, root="/"),
        {"user.slice/cpu.max": "150000 100000\n", "user.slice/a.scope/cpu.max": "400000 100000\n"},
        1.5,
    ),
    "version 2, in a container": ("0::/\n", V2.format(n=30, root="/"), {"cpu.max": "200000 100000\n"}, 2.0),
    "version 2, a group beside the mounted one": ("0::/../../b\n", V2.format(n=30, root="/"), {"cpu.max": "50000 100000\n"}, 0.5),
    "version 1": (
        "4:cpu,cpuacct:/docker/1f\n3:memory:/docker/1f\n",
        V1.format(n=30, root="/"),
        {"cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n"},
        3.0,
    ),
    "version 1, in a container that sees its own group only": (
        "4:cpu,cpuacct:/docker/1f\n",
        V1.format(n=30, root="/docker/1f"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
        3.0,
    ),
    "version 1, no limit": (
        "4:cpu,cpuacct:/\n",
        V1.format(n=30, root="/"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "both: processors by version 1": (
        "4:cpu,cpuacct:/\n0::/init.scope\n",
        V1.format(n=30, root="/") + V2.format(n=40, root="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n", "unified/cgroup.procs": ""},
        1.0,
    ),
    "something else in the file": ("0::/\n", V2.format(n=30, root="/"), {"cpu.max": "plenty\n"}, None),
    "a period of nothing": ("0::/\n", V2.format(n=30, root="/"), {"cpu.max": "100000 0\n"}, None),
    "nonsense in /proc": ("::::\n\n0\n", "x\n - \n1 2 - cgroup2\n", {"cpu.max": "100000 100000\n"}, None),
    "only other controllers": ("3:memory:/docker/1f\n", V1.format(n=30, root="/"), {"cpu,cpuacct/cpu.cfs_quota_us": "1\n"}, None),
}


@pytest.mark.parametrize(("groups", "mounts", "files", "quota"), MACHINES.values(), ids=MACHINES)
def test_the_tightest_quota_around_the_process_is_found(
    tmp_path: Path, groups: str, mounts: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, groups=groups, mounts=OTHER + mounts, files=files)) == quota


def test_where_linux_shows_nothing_nothing_is_limited(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/\xff\n")
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "usable"), [(None, 4), (8.0, 4), (3.99, 3), (1.5, 1), (0.25, 1)])
def test_a_quota_is_rounded_down_and_leaves_one(monkeypatch: pytest.MonkeyPatch, quota: float | None, usable: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5, 9})
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    assert usable_processors() == usable


def test_a_machine_with_many_processors_of_which_few_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GELULESS_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert default_threads() == usable_processors() <= len(os.sched_getaffinity(0))
    assert geluless.Engine(awkward_artifact()).threads == default_threads()


def test_a_bound_process_takes_what_it_is_bound_to() -> None:
    script = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from geluless.processors import default_threads
print(default_threads())
"""
    assert run_script(script, environment={"GELULESS_THREADS": ""}) == "1\n"


def test_more_threads_than_an_engine_takes_are_not_taken_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GELULESS_THREADS", raising=False)
    monkeypatch.setattr(processors, "usable_processors", lambda: 2048)
    assert default_threads() == processors.MAX_THREADS


@pytest.mark.parametrize(("text", "threads"), [("1", 1), (" 7 ", 7), ("1024", 1024)])
def test_the_user_s_word_counts_for_every_engine(monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setenv("GELULESS_THREADS", text)
    assert geluless.Engine(awkward_artifact()).threads == threads
    assert geluless.Engine(awkward_artifact(), threads=2).threads == 2


@pytest.mark.parametrize("text", ["0", "-1", "1025", "many", "2.5", "1e3", "0x2", "²", "1_0"])
def test_a_wrong_word_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GELULESS_THREADS", text)
    with pytest.raises(SettingError, match=r"GELULESS_THREADS='.*' is no number of threads: set it to 1\.\.1024"):
        geluless.Engine(awkward_artifact())


def test_a_wrong_word_is_one_line_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GELULESS_THREADS", "all")
    artifact = awkward_artifact().save(tmp_path / "a.int8.safetensors")
    assert cli.main(["validate", "--artifact", str(artifact), "--embedded"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "GELULESS_THREADS='all'" in line


@pytest.mark.parametrize("text", ["0", "1025", "many"])
def test_a_wrong_option_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--threads", text]) == 2
    assert "--threads" in capsys.readouterr().err
