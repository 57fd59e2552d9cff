"""Two source trees, each built into a folder of its own by the same compiler with the same flags.

The base is a commit; the head is what lies in the working tree, committed or not. Both folders have names of the same length:
a path in the environment of a process shifts its stack, and that alone can take a percent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geluless.bench.process import THREAD_VARIABLES
from geluless.errors import GelulessError

PARTS = ("impl", "pyproject.toml", "README.md", "LICENSE", "fixtures/data/LICENSE", "ci")  # what a build reads, and the records
BUILT = ("impl", "pyproject.toml", "README.md", "LICENSE")
FLAGS = ("CXX", "CXXFLAGS", "CFLAGS", "LDFLAGS", "CMAKE_ARGS")  # of the environment, which a build reads
BUILDERS = ("scikit-build-core", "nanobind", "cmake", "ninja")
STAMP = "built"
SIDES = ("base", "head")
HERE = Path(__file__).parent


class GateError(GelulessError):
    """The gate cannot judge: a revision does not exist, does not build, or knows nothing of the gate."""


@dataclass(frozen=True)
class Revision:
    """`side` is "base" or "head". source: its tree; site: where it is installed; objects: what was compiled; wheel: a file."""

    side: str
    commit: str
    dirty: bool
    home: Path

    @property
    def source(self) -> Path:
        return self.home / "source"

    @property
    def site(self) -> Path:
        return self.home / "site"

    @property
    def objects(self) -> list[Path]:
        return sorted((self.home / "cmake").glob("CMakeFiles/_native.dir/*.o"))

    @property
    def native(self) -> Path:
        return next(self.site.glob("geluless/engine/cpu/_native*"))

    @property
    def wheel(self) -> Path:
        return next((self.home / "wheel").glob("*.whl"))

    @property
    def artifacts(self) -> list[Path]:
        """What its networks run from, in the cache where its workers find them."""
        return sorted((self.home / "cache" / "geluless").glob("*.safetensors"))

    def __str__(self) -> str:
        return f"{self.commit[:12]}{' with changes' if self.dirty else ''}"


@contextmanager
def sole_user(home: Path) -> Iterator[None]:
    """Raises GateError where another process builds or times in `home`: each would throw away what the other needs."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GateError(f"another gate is at work in {home}: wait for it, or give a folder of its own with --home") from None
        yield


def base_revision(repository: Path, name: str, home: Path) -> Revision:
    """The tree of a commit. Raises GateError where `name` is none."""
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    problem = f"--base {name}: no such commit here (in a shallow clone: `git fetch origin {name}` first)"
    revision = Revision("base", _git(repository, *asked, problem=problem).strip(), False, home / "base")
    command = ["git", "-C", str(repository), "archive", revision.commit, *_existing(repository, revision.commit)]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    _empty(revision.source)
    # Not tarfile: its safe filter is missing from the Python 3.11 of Debian 12.
    subprocess.run(["tar", "--extract", "--directory", str(revision.source)], input=archive, check=True)
    return revision


def head_revision(repository: Path, home: Path) -> Revision:
    """The working tree: files that git tracks or would track, as they are now."""
    commit = _git(repository, "rev-parse", "HEAD", problem="this is no git repository with a commit").strip()
    files = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS)
    listed = _git(repository, *files, problem="git cannot list its files")
    changed = _git(repository, "status", "--porcelain", "--", *PARTS, problem="git has no status")
    revision = Revision("head", commit, bool(changed.strip()), home / "head")
    _empty(revision.source)
    for name in filter(None, listed.split("\0")):
        if (path := repository / name).is_file():  # a file that was deleted is still listed
            target = revision.source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return revision


def copy_of(revision: Revision, side: str, home: Path) -> Revision:
    """The same tree in a folder of its own."""
    _empty(home / "source")
    shutil.copytree(revision.source, home / "source", dirs_exist_ok=True)
    return replace(revision, side=side, home=home)


def build(revision: Revision) -> None:
    """Compile, install and make the artifacts that are timed, unless this very tree was built here before. Raises GateError."""
    stamp, wanted = revision.home / STAMP, _digest(revision)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    for folder in ("site", "wheel", "cmake", "cache"):
        shutil.rmtree(revision.home / folder, ignore_errors=True)
    alone = ("--quiet", "--no-deps", "--no-build-isolation", f"--config-settings=build-dir={revision.home / 'cmake'}")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    _pip(revision, *pip, "wheel", *alone, "--wheel-dir", str(revision.home / "wheel"), str(revision.source))
    _pip(revision, *pip, "install", "--quiet", "--no-deps", "--target", str(revision.site), str(revision.wheel))
    if not revision.objects:
        raise GateError(f"{revision.side} {revision} was built without its CPU engine: it takes a C++20 compiler")
    probe(revision, "artifacts")
    stamp.write_text(wanted)


def command(revision: Revision, *code: str) -> list[str]:
    """Runs a module or a script with this revision's package, in `environment(revision)`."""
    return [sys.executable, str(HERE / "launch.py"), str(revision.site), *code]


def probe(revision: Revision, *arguments: str) -> dict[str, Any]:
    """What probe.py says of it. Raises GateError where it fails."""
    run = command(revision, str(HERE / "probe.py"), *arguments)
    done = subprocess.run(run, capture_output=True, text=True, env=environment(revision), cwd=revision.home, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GateError(f"{revision.side} {revision}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment(revision: Revision) -> dict[str, str]:
    """Of a process that runs this revision, which `launch.py` finds for it. Its cache is its own: two revisions that make
    different artifacts would throw away each other's, and the user's."""
    threads = dict.fromkeys(THREAD_VARIABLES, "1")
    inherited = {name: value for name, value in os.environ.items() if name not in ("GELULESS_NATIVE", "PYTHONPATH")}
    return {**inherited, **threads, "PYTHONSAFEPATH": "1", "XDG_CACHE_HOME": str(revision.home / "cache")}


def sources_digest(revision: Revision) -> str:
    """Of what is built and timed."""
    return _digest(revision)[:12]


def _digest(revision: Revision) -> str:
    tools = [(name, version(name)) for name in BUILDERS]
    flags = [os.environ.get(name) for name in FLAGS]
    digest = hashlib.sha256(repr((sys.version, _compiler(), tools, flags)).encode())
    for name in BUILT:
        root = revision.source / name
        for path in [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(revision.source)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _compiler() -> str:
    """Its release, in its own words."""
    command = [os.environ.get("CXX", "c++"), "--version"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return "no compiler"


def _existing(repository: Path, commit: str) -> list[str]:
    """Of PARTS, what the commit has: git archive refuses a path that is not there."""
    listed = _git(repository, "ls-tree", "--name-only", commit, *PARTS, problem="git ls-tree failed")
    return listed.split()


def _pip(revision: Revision, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-15:]
        raise GateError("\n".join((f"{revision.side} {revision} does not build:", *last)))


def _git(repository: Path, *arguments: str, problem: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GateError(f"{problem}: {done.stderr.strip() or 'git says no more'}")
    return done.stdout


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
