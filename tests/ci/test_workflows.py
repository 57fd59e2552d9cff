"""The workflows keep their promises: pinned actions, no privileges, nothing from outside on the self-hosted machine, only nox."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ci.workflow import WORKFLOWS, Step, WorkflowError, main, read, run, steps

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.yml"))
STEP = re.compile(  # one line, one command; nothing may follow it
    r'pipx run nox==[\d.]+ -s [a-z0-9 ]+( -- [\w./=^ -]+)?|cat report/[\w/.]+ >> "\$GITHUB_STEP_SUMMARY"'
    r"|sudo apt-get update && sudo apt-get install --yes --no-install-recommends [\w+ -]+"
)
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")


def triggers(workflow: dict[str, Any]) -> set[str]:
    return set(workflow[True])  # YAML reads the key `on` as a truth value


def test_the_workflows_that_there_are() -> None:
    assert NAMES == ["nightly", "pull-request", "rtx4090"]


@pytest.mark.parametrize("name", NAMES)
def test_privileges_are_least_and_actions_pinned(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert job["timeout-minutes"] > 0
        for step in job["steps"]:
            if "uses" in step:
                assert PINNED.fullmatch(step["uses"]), step["uses"]
                assert "checkout" not in step["uses"] or step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", NAMES)
def test_the_self_hosted_machine_never_runs_a_pull_request(name: str) -> None:
    workflow = read(name)
    elsewhere = {job: body["runs-on"] for job, body in workflow["jobs"].items() if body["runs-on"] != "ubuntu-24.04"}
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
        command = step.command
        if command is not None:
            assert STEP.fullmatch(command), command


def test_the_machine_that_measures_does_not_judge_itself() -> None:
    jobs = read("rtx4090")["jobs"]
    assert jobs["judge"]["needs"] == "measure"
    assert jobs["judge"]["runs-on"].startswith("ubuntu-")


def step(command: str | None, *, job: str = "one", always: bool = False) -> Step:
    return Step(job, str(command), command, {}, always)


def test_steps_run_here_until_one_fails(capfd: pytest.CaptureFixture[str]) -> None:
    todo = [step("echo first"), step(None), step("false"), step("echo second"), step("echo third", always=True)]
    assert run([*todo, step("echo other", job="two"), step("sudo echo fourth")], "nox") == 1
    out = capfd.readouterr().out.splitlines()
    assert [line for line in out if not line.startswith("[")] == ["first", "third", "other"]
    assert "[one] not reached: echo second" in out
    assert "[one] left out: sudo echo fourth" in out


def test_what_a_step_writes_for_githubs_page_is_shown_here(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([step('echo "## green" >> "$GITHUB_STEP_SUMMARY"')], "nox") == 0
    assert "## green" in capfd.readouterr().out


def test_nox_is_the_one_that_runs_already(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([step("pipx run nox==2026.10.20 -s lint")], "echo this-nox") == 0
    assert "this-nox -s lint" in capfd.readouterr().out


@pytest.mark.parametrize(
    "jobs",
    [
        {"a": {"steps": [{"run": "echo ${{ github.head_ref }}"}]}},
        {"a": {"steps": [{"run": "true", "env": {"X": "${{ secrets.X }}"}}]}},
        {"a": {"env": {"X": "${{ secrets.X }}"}, "steps": [{"run": "true"}]}},
    ],
)
def test_a_step_never_runs_with_a_hole_in_it(jobs: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError, match="a way in"):
        steps({"jobs": jobs})


@pytest.mark.parametrize("step", [{"run": "true", "shell": "sh"}, {"run": "true", "if": "failure()"}])
def test_what_cannot_be_done_here_is_refused(step: dict[str, str]) -> None:
    with pytest.raises(WorkflowError, match="here"):
        steps({"jobs": {"a": {"steps": [step]}}})


def test_unknown_names_are_told_with_the_known_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["no-such"]) == 2
    assert "nightly, pull-request, rtx4090" in capsys.readouterr().err
    assert main(["nightly", "no-such"]) == 2
    assert "claims" in capsys.readouterr().err
    assert main([]) == 0
    assert "pull-request: lint, tests" in capsys.readouterr().out
