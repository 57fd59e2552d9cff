"""The workflows' steps, here: `python -m ci.workflow pull-request [JOB]`; without a name, what there is.

Runs what stands behind `run:`, step by step, with the job's environment, and stops at the first step that fails, except for steps
that say `if: always()`. What GitHub alone can do (`uses:`) and what would change this machine (`sudo`) is named and left out.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = REPOSITORY / ".github" / "workflows"
NOX = re.compile(r"pipx run nox==[\d.]+")  # a step begins with it


KNOWN = {"name", "uses", "with", "run", "env", "if"}  # what a step may say
ALWAYS = "always()"


class WorkflowError(Exception):
    """No such workflow or job, or a step that means nothing here."""


@dataclass(frozen=True)
class Step:
    """`command` is None for a step that only GitHub can do, which `text` names."""

    job: str
    text: str
    command: str | None
    environment: Mapping[str, str]
    always: bool


def read(name: str, folder: Path = WORKFLOWS) -> dict[str, Any]:
    """Raises WorkflowError for a name that is none, with those that are."""
    path = folder / f"{name}.yml"
    names = sorted(path.stem for path in folder.glob("*.yml"))
    if name not in names:
        raise WorkflowError(f"no workflow is called {name!r}; there are {', '.join(names)}")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def steps(workflow: Mapping[str, Any], job: str | None = None) -> list[Step]:
    """Of one job or of all, in the order of the file. Raises WorkflowError for an unknown job or expression."""
    jobs = workflow["jobs"]
    if job is not None and job not in jobs:
        raise WorkflowError(f"no job is called {job!r}; there are {', '.join(jobs)}")
    return [step for name in jobs if job in (None, name) for step in _of_job(name, jobs[name])]


def _of_job(name: str, job: Mapping[str, Any]) -> Iterator[Step]:
    for step in job["steps"]:
        if unknown := sorted(set(step) - KNOWN):
            raise WorkflowError(f"{name}: a step says {unknown[0]!r}, which means nothing here: {step}")
        if step.get("if", ALWAYS) != ALWAYS:
            raise WorkflowError(f"{name}: if: {step['if']} cannot be decided here; only {ALWAYS} can")
        command = step.get("run")
        environment = {key: str(value) for key, value in {**job.get("env", {}), **step.get("env", {})}.items()}
        if any("${{" in text for text in (command or "", *environment.values())):
            raise WorkflowError(f"{name}: an expression means nothing here, and in a command it is a way in: {command!r}")
        yield Step(name, command or f"uses {step['uses']}", command, environment, step.get("if") == ALWAYS)


def run(todo: Sequence[Step], nox: str) -> int:
    """The number of jobs that failed."""
    failed: set[str] = set()
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", suffix=".md") as summary:
        for step in todo:
            if step.command is None or step.command.lstrip().startswith("sudo "):
                print(f"[{step.job}] left out: {step.text}", flush=True)
            elif step.job in failed and not step.always:
                print(f"[{step.job}] not reached: {step.text}", flush=True)
            else:
                print(f"[{step.job}] {step.text}", flush=True)
                environment = {**os.environ, **step.environment, "GITHUB_STEP_SUMMARY": summary.name}
                command = ["bash", "-eo", "pipefail", "-c", NOX.sub(lambda _: nox, step.command)]
                if subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode:
                    failed.add(step.job)
        print(summary.read(), end="")
    for job in sorted(failed):
        print(f"failed: {job}", file=sys.stderr)
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="workflow", description=__doc__.split("\n", 1)[0])
    parser.add_argument("workflow", nargs="?")
    parser.add_argument("job", nargs="?")
    parser.add_argument("--nox", default="nox", help="instead of `pipx run nox` (default: nox)")
    options = parser.parse_args(arguments)
    try:
        if options.workflow is None:
            for path in sorted(WORKFLOWS.glob("*.yml")):
                print(f"{path.stem}: {', '.join(read(path.stem)['jobs'])}")
            return 0
        return int(run(steps(read(options.workflow), options.job), options.nox) > 0)
    except WorkflowError as error:
        print(f"workflow: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
