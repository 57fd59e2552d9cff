"""What lies in a release's files: `python -m ci.release.contents dist` prints sizes and what is missing or has no place there."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

PACKAGES = ("geluless", "ptxsim")
LICENCES = ("LICENSE", "fixtures/data/LICENSE")
SOURCES = (".cpp", ".h", ".o", ".txt")  # of the compiled engine; .txt is CMake's
CPU = "impl/geluless/engine/cpu"
NEEDED_TO_BUILD = ("pyproject.toml", "README.md", f"{CPU}/CMakeLists.txt", f"{CPU}/bindings.cpp")


def wrong_in_wheel(names: Iterable[str]) -> list[str]:
    """What is wrong with a wheel that has files of these names."""
    files = [PurePosixPath(name) for name in names if not name.endswith("/")]
    wrong = []
    for file in files:
        metadata = file.parts[0].endswith((".dist-info", ".libs"))
        if not metadata and file.parts[0] not in PACKAGES:
            wrong.append(f"{file} belongs to no package of ours")
        if not metadata and (file.suffix in SOURCES or "tests" in file.parts or file.name.startswith(("test_", "bench_"))):
            wrong.append(f"{file} is of no use to who installs it")
    present = {str(PurePosixPath(*file.parts[1:])) for file in files if file.parts[0].endswith(".dist-info")}
    wrong += [f"{licence} is missing" for licence in LICENCES if f"licenses/{licence}" not in present]
    if "geluless/py.typed" not in map(str, files):
        wrong.append("geluless/py.typed is missing: type checkers would ignore the annotations")
    if not any(str(file).startswith("geluless/engine/cpu/_native") for file in files):
        wrong.append("the compiled engine is missing")
    return wrong


def wrong_in_sdist(names: Iterable[str]) -> list[str]:
    """What is wrong with a source distribution that has files of these names, each below one folder."""
    present = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in names}
    return [f"{name} is missing" for name in (*NEEDED_TO_BUILD, *LICENCES) if name not in present]


def main(arguments: Sequence[str] | None = None) -> int:
    """The number of files with something wrong in them; also 1 where there is no wheel or no source distribution."""
    [folder] = sys.argv[1:] if arguments is None else arguments
    bad = 0
    wheels, sources = sorted(Path(folder).glob("*.whl")), sorted(Path(folder).glob("*.tar.gz"))
    for path in (*sources, *wheels):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                names, unpacked = archive.namelist(), sum(member.file_size for member in archive.infolist())
            wrong = wrong_in_wheel(names)
        else:
            with tarfile.open(path) as tar:
                members = tar.getmembers()
            names, unpacked = [member.name for member in members], sum(member.size for member in members)
            wrong = wrong_in_sdist(names)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {unpacked / 1e6:.2f} MB unpacked, {len(names)} files")
        for problem in wrong:
            print(f"  {problem}", file=sys.stderr)
        bad += bool(wrong)
    if not (wheels and sources):
        print(f"{folder}: {len(wheels)} wheels and {len(sources)} source distributions", file=sys.stderr)
    return bad or int(not (wheels and sources))


if __name__ == "__main__":
    sys.exit(main())
