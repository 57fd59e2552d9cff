"""The workflows keep their promises: pinned actions, no privileges, nothing from outside on the self-hosted machine, only nox."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = REPOSITORY / ".github" / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.yml"))
HOSTED = {"ubuntu-24.04", "ubuntu-24.04-arm"}
STEP = re.compile(  # one line, one command; nothing may follow it
    r'pipx run nox==[\d.]+ -s [a-z0-9 ]+( -- [\w./=^ -]+)?|cat report/[\w/.]+ >> "\$GITHUB_STEP_SUMMARY"'
    r"|sudo apt-get update && sudo apt-get install --yes --no-install-recommends [\w+ -]+"
)
SESSIONS = re.compile(r"\bnox\S* -s ([a-z0-9 ]+?) *(?: -- .*)?$", re.MULTILINE)
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))
    return workflow


def steps(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def triggers(workflow: dict[str, Any]) -> set[str]:
    return set(workflow[True])  # YAML reads the key `on` as a truth value


@cache
def noxfile() -> dict[str, Any]:
    """Its constants."""
    pytest.importorskip("nox", reason="the sessions are nox's: pip install 'geluless[dev]'")
    return runpy.run_path(str(REPOSITORY / "noxfile.py"))


def nox_sessions() -> frozenset[str]:
    """The names that `nox -s` knows."""
    noxfile()
    import nox

    return frozenset(nox.registry.get())


def unknown_sessions(text: str) -> set[str]:
    named = {name for match in SESSIONS.finditer(text) for name in match[1].split()}
    assert named, "no step runs nox"
    return named - nox_sessions()


def test_the_workflows_that_there_are() -> None:
    assert NAMES == ["nightly", "pull-request", "rtx4090", "wheels"]


@pytest.mark.parametrize("name", NAMES)
def test_privileges_are_least_and_actions_pinned(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert job["timeout-minutes"] > 0
    for step in steps(workflow):
        if "uses" in step:
            assert PINNED.fullmatch(step["uses"]), step["uses"]
            assert "checkout" not in step["uses"] or step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", NAMES)
def test_the_self_hosted_machine_never_runs_a_pull_request(name: str) -> None:
    workflow = read(name)
    elsewhere = {job: body["runs-on"] for job, body in workflow["jobs"].items() if str(body["runs-on"]) not in HOSTED}
    if name != "rtx4090":
        assert elsewhere == {}
        return
    assert elsewhere == {"measure": ["self-hosted", "gpu", "rtx4090"]}
    assert triggers(workflow) == {"push", "schedule", "workflow_dispatch"}
    assert workflow[True]["push"] == {"branches": ["main"]}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert workflow["jobs"]["measure"]["if"] == "github.ref == 'refs/heads/main'"


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_a_nox_session_or_shows_a_summary(name: str) -> None:
    for step in steps(read(name)):
        assert set(step) <= {"uses", "with", "run", "env", "if"}, step
        assert step.get("if", "always()") == "always()", "any other condition holds on GitHub alone"
        assert "run" not in step or STEP.fullmatch(step["run"]), step["run"]


@pytest.mark.parametrize("name", NAMES)
def test_no_expression_reaches_a_shell(name: str) -> None:
    """GitHub pastes `${{ }}` into the command: whoever names a branch or a pull request could write commands."""
    workflow = read(name)
    for place in (workflow, *workflow["jobs"].values(), *steps(workflow)):
        texts = (place.get("run", ""), *place.get("env", {}).values())
        assert not any("${{" in str(text) for text in texts), texts


@pytest.mark.parametrize("path", [*(f".github/workflows/{name}.yml" for name in NAMES), ".ci/run"])
def test_every_session_that_is_named_exists(path: str) -> None:
    assert unknown_sessions((REPOSITORY / path).read_text(encoding="utf-8")) == set()


def test_a_session_that_does_not_exist_is_found() -> None:
    assert unknown_sessions("      - run: pipx run nox==2026.10.20 -s lint tset -- --every\n") == {"tset"}


def test_the_machine_that_measures_does_not_judge_itself() -> None:
    jobs = read("rtx4090")["jobs"]
    assert jobs["judge"]["needs"] == "measure"
    assert jobs["judge"]["runs-on"].startswith("ubuntu-")
    assert "transfer" in jobs["judge"]["name"], "FasterTransformer does not run there"


def test_the_measurement_has_the_time_that_ci_readme_adds_up() -> None:
    """Records and processes are those of `nox -s gpu`, hours are seconds times how often, and the limit lies above their sum."""
    text = (REPOSITORY / "ci" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w ]+): .* \| ([\d.]+) s \| ([\d,]+) \| ([\d.]+) h \|$", text, re.MULTILINE)
    counts = {name: int(count.replace(",", "")) for name, _, count, _ in rows}
    records = len(noxfile()["GPU_PAIRS"])
    assert counts["processes"] == records * int(noxfile()["GPU_PROCESSES"])
    assert counts["verification"] == records
    assert all(float(hours) == pytest.approx(float(each) * counts[name] / 3600, abs=0.06) for name, each, _, hours in rows)
    (total,) = re.findall(r"^\| together \| \| \| ([\d.]+) h \|$", text, re.MULTILINE)
    assert float(total) == pytest.approx(sum(float(hours) for *_, hours in rows), abs=0.06)
    minutes = read("rtx4090")["jobs"]["measure"]["timeout-minutes"]
    assert 60 * float(total) < minutes < 120 * float(total)
