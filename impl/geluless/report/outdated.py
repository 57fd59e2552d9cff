"""Are the README's figures of this code? Figures of other code must say so, and figures of this code must not.

The head line of the figures holds the digest of the code they are of. `problem` is what a test asks of the README;
`mark_outdated` puts the notice there, with the number of files that have changed.
"""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from geluless.files import atomic_output
from geluless.report.readme import DIGITS, ReadmeError, split
from geluless.sources import ONLY_SHOW, SUFFIXES, code_sources

HEAD = re.compile(
    r"^.*\b\d{4}-\d\d-\d\d, revision ([0-9a-f]{7,40}|none)( with local changes)?(?:, code ([0-9a-f]+))?, .*$", re.MULTILINE
)
NOTICE = re.compile(r"^> \*\*Figures of revision (\S+)\*\* \(another code than this one.*$", re.MULTILINE)
PATHS = ("impl/geluless", "claims", "fixtures/MANIFEST.toml")


def code() -> str:
    """The digest of this code as the README shows it."""
    return code_sources()[:DIGITS]


def problem(text: str, *, this: str) -> str:
    """What is wrong with the figures of a README in view of the code whose digest is `this`, and the remedy; empty: nothing."""
    try:
        _, block, _ = split(text)
    except ReadmeError as error:
        return str(error)
    heads, notices = list(HEAD.finditer(block)), list(NOTICE.finditer(block))
    if len(heads) != 1:
        return "the figures need one line that says which revision they are of: `nox -s report -- --readme README.md` writes it"
    revision, _, digest = heads[0].groups()
    if digest == this:
        return "the figures are of this code, and the notice says they are not: write them again" if notices else ""
    if [notice.group(1) for notice in notices] != [revision]:
        return (
            f"the figures are of revision {revision}, another code than this one ({digest or 'no digest'}, now {this}): "
            "`nox -s claims` and `nox -s report -- --readme README.md` write new ones, and until then "
            "`nox -s report -- --readme README.md --outdated` says so above them"
        )
    return ""


def mark_outdated(path: Path) -> None:
    """Put the notice above the head line, in place of an older one. Raises ReadmeError where the figures are of this code."""
    before, block, after = split(path.read_text(encoding="utf-8"))
    head = HEAD.search(block)
    if head is None:
        raise ReadmeError(f"{path}: the figures have no line that says which revision they are of")
    revision, dirty, digest = head.groups()
    if digest == code():
        raise ReadmeError(f"the figures of {path} are of this very code: there is nothing to say above them")
    changed = None if dirty else changed_files(path.parent, revision)
    count = f"; {changed} files that decide verdicts had changed by {datetime.now(UTC):%Y-%m-%d}" if changed else ""
    notice = f"> **Figures of revision {revision}** (another code than this one{count}); run `nox -s claims` again."
    marked = f"\n\n{notice}\n\n{NOTICE.sub('', block).strip()}\n\n"
    with atomic_output(path) as partial:
        partial.write_text(before + marked + after, encoding="utf-8")


def changed_files(repository: Path, revision: str) -> int | None:
    """How many files that decide verdicts are other than in a revision, new, moved, or gone; None where git cannot tell."""
    command = ("git", "diff", "--name-only", "-M", "-z", revision, "--", *PATHS)
    try:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return sum(map(decides_verdicts, done.stdout.split("\0")))


def decides_verdicts(name: str) -> bool:
    """As `code_sources` chooses its files, for a path from the root of the repository."""
    path = PurePosixPath(name)
    if path.suffix not in SUFFIXES:
        return False
    inside = path.parts[:2] == ("impl", "geluless") and path.parts[2] not in ONLY_SHOW
    return inside or path.parts[0] == "claims" or name == "fixtures/MANIFEST.toml"
