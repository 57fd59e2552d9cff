"""Every command a person needs, as a nox session. `nox` alone runs `claims`; `nox --list` shows the others.

One environment for all sessions
--------------------------------
nox gives each session an environment of its own. With torch that would be six gigabytes and several minutes per session,
so the sessions here ask nox for none (`venv_backend="none"`) and share `.venv` in the repository: made by the first
session, never deleted, filled again only when `pyproject.toml` changes (a stamp inside remembers what was installed).
A `.venv` that you made yourself is used as it is and completed.

    GELULESS_PYTHON=/path/to/python nox -s tests    use that interpreter and whatever it has; install nothing
    nox --no-venv -s tests                          the same with the interpreter that runs nox (a prepared image)

torch comes from the index pip is set to: on Linux, PyPI's build with CUDA libraries. To get the CPU build instead, see
"Install size" in the README.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["claims"]
nox.options.default_venv_backend = "none"

HERE = Path(__file__).parent
VENV = HERE / ".venv"
EXTRAS = "test,dev"
OLDEST_PYTHON = (3, 11)


def environment(session: nox.Session) -> str:
    """The interpreter that all sessions use, with the package and its extras installed."""
    if given := os.environ.get("GELULESS_PYTHON"):
        return given
    if "--no-venv" in sys.argv:
        return sys.executable
    if sys.version_info < OLDEST_PYTHON:
        mine = sys.version.split()[0]
        session.error(f"Python {mine} runs nox; geluless needs 3.11 or newer: `pipx run --python python3.11 nox`")
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        # virtualenv is a dependency of nox and brings its own pip: unlike `python -m venv` it needs no python3-venv package.
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(VENV))
    stamp = VENV / "geluless.installed"
    wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes() + f"{EXTRAS} {HERE}".encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        session.log(f"installing geluless[{EXTRAS}] into {VENV}: some minutes and gigabytes the first time (torch)")
        started = time.monotonic()
        pip = (str(python), "-m", "pip", "--disable-pip-version-check")
        quiet = () if sys.stdout.isatty() else ("--quiet",)  # a progress bar for a person, none for a log
        session.run(*pip, "install", *quiet, "--editable", f".[{EXTRAS}]")
        stamp.write_text(wanted)  # only after pip succeeded: an interrupted installation is taken up again
        session.log(f"installed in {time.monotonic() - started:.0f} s")
    return str(python)


@nox.session
def claims(session: nox.Session) -> None:
    """The main job: distil, quantize, run and judge; one verdict per claim. `-- --full`, `-- --claim c06`, `-- --require-all`."""
    python = environment(session)
    partial = any(argument.split("=")[0] in ("--claim", "-k") for argument in session.posargs)
    report = HERE / "report" / "partial" if partial else HERE / "report"  # as geluless.verdicts.pytest_plugin does
    report.mkdir(parents=True, exist_ok=True)
    started = time.time()
    try:
        # Verdicts never come from a cache of an earlier run, pytest's own included.
        arguments = ("-p", "no:cacheprovider", f"--junitxml={report / 'junit.xml'}")
        session.run(python, "-m", "pytest", "claims", *arguments, *session.posargs)
    finally:
        for name in ("claims.html", "claims.md", "claims.json", "junit.xml"):
            path = report / name
            if path.exists() and path.stat().st_mtime >= started - 1:
                session.log(f"report: {path}")


@nox.session
def tests(session: nox.Session) -> None:
    """Unit and property tests with the `ci` number of examples; within 12 minutes on two cores."""
    run_pytest(session, profile="ci")


@nox.session(name="property")
def property_(session: nox.Session) -> None:
    """The property tests alone, with twenty times the examples and fresh random ones each time."""
    run_pytest(session, "-m", "property", profile="nightly")


def run_pytest(session: nox.Session, *arguments: str, profile: str) -> None:
    """pytest over tests/ (or the paths after `--`) with one of the hypothesis profiles of tests/conftest.py."""
    env = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", profile)}
    session.run(environment(session), "-m", "pytest", *arguments, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff over everything, mypy over the package."""
    python = environment(session)
    session.run(python, "-m", "ruff", "check", ".")
    session.run(python, "-m", "mypy")


@nox.session
def fixtures(session: nox.Session) -> None:
    """Make fixtures/ anew: data, teachers (hours; resumes; `-- --model swin_micro_tiny` for one), manifest."""
    python = environment(session)
    session.run(python, "fixtures/make_data.py")
    session.run(python, "fixtures/train_teachers.py", *session.posargs)
    session.run(python, "fixtures/make_manifest.py")  # describes each new teacher on the test images first


@nox.session
def report(session: nox.Session) -> None:
    """Render report/claims.json to Markdown and HTML again, without judging anything anew."""
    session.run(environment(session), "-m", "geluless.cli", "report", *session.posargs)
