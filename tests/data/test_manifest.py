"""The manifest is the law about the fixtures: any difference between it and the disk stops the load and says what to do."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.data import embedded_images, fixtures_root, teacher_path
from geluless.data.embedded import decode_idx
from geluless.data.manifest import read_fixture, verified_path, verify_fixtures
from geluless.errors import DataError


def write_manifest(root: Path, files: dict[str, bytes]) -> None:
    rows = [
        f'[[file]]\npath = "{path}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\nbytes = {len(content)}\n'
        for path, content in files.items()
    ]
    (root / "MANIFEST.toml").write_text('[about]\npurpose = "test"\n' + "".join(rows))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small fixtures folder with one data file and one teacher, and GELULESS_FIXTURES set to it."""
    files = {"data/a.gz": b"pixels", "teachers/t.safetensors": b"weights"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    write_manifest(tmp_path, files)
    monkeypatch.setenv("GELULESS_FIXTURES", str(tmp_path))
    return tmp_path


def test_the_repository_s_own_fixtures_verify() -> None:
    assert verify_fixtures() >= 5
    assert (fixtures_root() / "data" / "LICENSE").read_text().count("Zalando") >= 1


def test_an_intact_folder_verifies_and_hands_out_its_files(small: Path) -> None:
    assert verify_fixtures() == 2
    assert read_fixture("data/a.gz") == b"pixels"
    assert teacher_path("t") == small / "teachers" / "t.safetensors"


def test_every_changed_byte_is_found(small: Path) -> None:
    path = small / "teachers" / "t.safetensors"
    for position in range(len(b"weights")):
        content = bytearray(b"weights")
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"differs from its sha256.*git checkout"):
            teacher_path("t")


def test_a_file_changed_after_it_was_verified_is_found(small: Path) -> None:
    teacher_path("t")
    (small / "teachers" / "t.safetensors").write_bytes(b"weighty")
    with pytest.raises(DataError, match="differs"):
        teacher_path("t")


@pytest.mark.parametrize("content", [b"", b"pixel", b"pixels!"])
def test_a_cut_or_grown_file_is_found(small: Path, content: bytes) -> None:
    (small / "data" / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match="differs"):
        read_fixture("data/a.gz")


def test_a_missing_file_is_named(small: Path) -> None:
    (small / "data" / "a.gz").unlink()
    with pytest.raises(DataError, match=r"a\.gz is listed in MANIFEST\.toml and missing: `git checkout"):
        verify_fixtures()


def test_an_unlisted_file_is_named(small: Path) -> None:
    (small / "teachers" / "smuggled.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"smuggled\.safetensors is not listed.*make_manifest"):
        teacher_path("t")
    assert read_fixture("data/a.gz") == b"pixels", "the other folder stays usable"


def test_a_dangling_link_counts_as_unlisted(small: Path) -> None:
    (small / "data" / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match="link is not listed"):
        verify_fixtures()


def test_an_unknown_teacher_names_the_known_ones(small: Path) -> None:
    with pytest.raises(DataError, match=r"no teacher 'swin_micro_huge'.*listed: t.*nox -s fixtures"):
        teacher_path("swin_micro_huge")


def test_an_unlisted_path_is_refused(small: Path) -> None:
    with pytest.raises(DataError, match="not listed"):
        verified_path("data/b.gz")


@pytest.mark.parametrize(
    "text",
    ["[[file]]\npath = 1", "[[file]\n", "file = 3", '[[file]]\npath = "data/a"', '[[file]]\npath="../x"\nsha256="0"\nbytes=1\n'],
)
def test_a_damaged_manifest_is_one_error_that_says_what_to_do(small: Path, text: str) -> None:
    (small / "MANIFEST.toml").write_text(text)
    with pytest.raises(DataError, match="git checkout"):
        verify_fixtures()


def test_a_file_listed_twice_is_refused(small: Path) -> None:
    text = (small / "MANIFEST.toml").read_text()
    (small / "MANIFEST.toml").write_text(text + text.partition("\n\n")[2] + text[text.index("[[file]]") :])
    with pytest.raises(DataError, match="twice"):
        verify_fixtures()


def test_an_installation_without_the_repository_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_FIXTURES", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"clone the repository.*GELULESS_FIXTURES"):
        fixtures_root()


def test_a_changed_pixel_file_never_becomes_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "fixtures"
    shutil.copytree(fixtures_root() / "data", copy / "data")
    listed = {f"data/{p.name}": p.read_bytes() for p in (copy / "data").iterdir()}
    write_manifest(copy, listed)
    monkeypatch.setenv("GELULESS_FIXTURES", str(copy))
    embedded_images.cache_clear()
    try:
        assert len(embedded_images("test")) == 10_000
        embedded_images.cache_clear()
        path = copy / "data" / "test-labels.gz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(DataError, match="differs"):
            embedded_images("test")
    finally:
        embedded_images.cache_clear()


@pytest.mark.property
@given(content=st.binary(max_size=64), packed=st.booleans())
def test_arbitrary_bytes_are_no_idx_file(content: bytes, packed: bool) -> None:
    raw = gzip.compress(content, mtime=0) if packed else content
    try:
        array = decode_idx(raw, name="x")
    except DataError:
        return
    assert array.dtype.name == "uint8", "only a well-formed file may pass"
    assert content[:4] in (b"\0\0\x08\x01", b"\0\0\x08\x03")


def test_make_manifest_agrees_with_the_committed_manifest() -> None:
    import subprocess
    import sys

    script = fixtures_root() / "make_manifest.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
