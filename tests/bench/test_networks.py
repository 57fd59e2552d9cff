"""Random artifacts: made once, read afterwards, made anew when the file is damaged or the code has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless.bench import networks
from geluless.bench.networks import default_cache, random_artifact
from geluless.errors import ModelError
from geluless.integer.variants import available_variants

NAME = "swin_micro_tiny"


@pytest.fixture
def no_second(monkeypatch: pytest.MonkeyPatch):
    def forbid() -> None:
        def make(name: str, **_: object) -> None:
            raise AssertionError(f"{name} was made again")

        monkeypatch.setattr(networks, "_make", make)

    return forbid


@pytest.mark.parametrize("relu", [True, False])
def test_a_second_call_reads_what_the_first_one_made(tmp_path: Path, no_second, relu: bool):
    made = random_artifact(NAME, relu=relu, cache=tmp_path)
    assert made.activation == ("relu" if relu else "gelu")
    no_second()
    assert random_artifact(NAME, relu=relu, cache=tmp_path).content_hash == made.content_hash


def test_a_network_without_fc1s_bias_is_another(tmp_path: Path):
    made = random_artifact(NAME, relu=True, drop_bias=True, cache=tmp_path)
    assert available_variants(made.plan)[0] == "relu-nobias"
    assert random_artifact(NAME, relu=True, cache=tmp_path).content_hash != made.content_hash
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_seed_gives_the_same_artifact(tmp_path: Path):
    hashes = [random_artifact(NAME, relu=True, seed=s, cache=tmp_path / str(i)).content_hash for i, s in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_damaged_file_is_made_anew(tmp_path: Path):
    made = random_artifact(NAME, relu=True, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert random_artifact(NAME, relu=True, cache=tmp_path).content_hash == made.content_hash


def test_only_the_file_of_this_version_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for relu in (True, False):
        random_artifact(NAME, relu=relu, cache=tmp_path)
    monkeypatch.setattr(networks, "artifact_sources", lambda: "another")
    random_artifact(NAME, relu=True, cache=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2, names
    assert names[1] == f"{NAME}_relu_0_another.int8.safetensors"


def test_an_unknown_network_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match="swin_gigantic"):
        random_artifact("swin_gigantic", relu=True, cache=tmp_path)


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "geluless"
