"""A network under another one's name is refused wherever it would be timed or judged, and so are unequal amounts of work."""

from __future__ import annotations

import dataclasses
import shutil
from functools import lru_cache
from pathlib import Path

import pytest

from geluless.baselines.baseline import Shape as CallShape
from geluless.baselines.geluless import ARTIFACT, Geluless
from geluless.baselines.subject_network import make_subject, random_network
from geluless.bench import entries
from geluless.bench.entries import Entry, Verified
from geluless.bench.harness import Row, StudyError
from geluless.bench.identity import RANDOM, Shape, problem_of, require_network, shape_of, shape_of_model
from geluless.bench.kernels import KernelEntry
from geluless.bench.networks import random_artifact
from geluless.bench.process import CandidateFailure, Status
from geluless.bench.study import Study, run_study
from geluless.bench.work import macs
from geluless.engine.gpu.codegen_check.shapes import swin_plan
from geluless.errors import ArtifactError
from geluless.integer.artifact import Artifact, load_artifact
from geluless.integer.plan import Activation
from geluless.ptq.quantize import quantize
from tests.support.compiled import requires_native
from tests.support.networks import awkward_images, awkward_swin

TINY, BASE = "swin_micro_tiny", "swin_micro_base"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    for name in (TINY, BASE):
        random_artifact(name, relu=True, cache=folder)
    return folder


def of(cache: Path, name: str) -> Path:
    (path,) = cache.glob(f"{name}_relu_0_*")
    return path


@lru_cache
def renamed(name: str) -> Artifact:
    """The awkward network under another one's name."""
    return quantize(awkward_swin(relu=True), [awkward_images(32)], name=name)


# -------------------------------------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize(("image", "window"), [(224, 7), (384, 12)])
def test_the_papers_networks_have_the_shape_that_timm_makes(size: str, image: int, window: int) -> None:
    """By their numbers, against timm for the smallest. Their plans have two blocks per stage: they tell widths and images."""
    name = f"swin_{size}_patch4_window{window}_{image}"
    found, plan = shape_of_model(name), shape_of(swin_plan(size, Activation.RELU, image=image))
    assert (found.widths, found.image) == (plan.widths, plan.image)
    assert found.depths == ((2, 2, 6, 2) if size == "tiny" else (2, 2, 18, 2))
    if (size, image) == ("tiny", 224):
        made = random_network(name, "gelu", seed=0)
        blocks = [stage.blocks for stage in made.layers]
        assert found == Shape(tuple(map(len, blocks)), tuple(stage[0].dim for stage in blocks), made.patch_embed.img_size)


def test_a_network_that_is_no_papers_is_made_to_be_asked(cache: Path) -> None:
    assert shape_of_model(TINY) == shape_of(load_artifact(of(cache, TINY)).plan)
    assert shape_of_model(BASE) != shape_of_model(TINY)


@pytest.mark.parametrize(
    ("artifact", "model", "activation", "words"),
    [
        (TINY, BASE, "relu", f"an artifact of {TINY} in place of one of {BASE}"),
        (TINY, TINY, "gelu", "with relu in place of one with gelu"),
        ("awkward", TINY, "relu", "has the shape"),
        ("awkward", "swin_tiny_patch4_window7_224", "relu", "has the shape"),
    ],
)
def test_another_network_is_refused(cache: Path, artifact: str, model: str, activation: str, words: str) -> None:
    made = renamed(f"{model}{RANDOM}") if artifact == "awkward" else load_artifact(of(cache, artifact))
    with pytest.raises(ArtifactError, match=words):
        require_network(made, model, activation=activation)


def test_the_right_network_passes(cache: Path) -> None:
    for name in (TINY, BASE):
        require_network(load_artifact(of(cache, name)), name, activation="relu")


# --------------------------------------------------------------------------------------------------- where it would be used


def test_a_file_of_another_network_in_the_cache_is_made_anew(cache: Path, tmp_path: Path) -> None:
    shutil.copy(of(cache, BASE), tmp_path / of(cache, TINY).name)
    assert random_artifact(TINY, relu=True, cache=tmp_path).content_hash == load_artifact(of(cache, TINY)).content_hash


def test_a_file_without_fc1s_bias_in_place_of_one_with_it_is_made_anew(cache: Path, tmp_path: Path) -> None:
    random_artifact(TINY, relu=True, drop_bias=True, cache=tmp_path)
    (other,) = tmp_path.iterdir()
    other.rename(tmp_path / of(cache, TINY).name)
    assert random_artifact(TINY, relu=True, cache=tmp_path).content_hash == load_artifact(of(cache, TINY)).content_hash


@requires_native
def test_an_entry_of_another_network_has_no_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, and from a cache that gives the wrong one."""
    with pytest.raises(CandidateFailure, match=f"relu is not timed: an artifact of {BASE}") as caught:
        Entry("relu", TINY, "relu", artifact=of(cache, BASE)).load(None, Verified())
    assert caught.value.status is Status.FAILED
    monkeypatch.setattr(entries, "_random", lambda *_: load_artifact(of(cache, BASE)))
    with pytest.raises(CandidateFailure, match="in place of one of"):
        Entry("relu", TINY, "relu").load(None, Verified())


@requires_native
def test_a_row_says_what_it_is_of_and_how_much_it_multiplies(cache: Path) -> None:
    artifact = load_artifact(of(cache, TINY))
    row = Entry("relu", TINY, "relu", artifact=of(cache, TINY)).load(None, Verified()).row
    assert (row.artifact, row.macs, row.group) == (artifact.content_hash, macs(artifact.plan), "")
    kernel = KernelEntry("bare", "fixed_s8", 49, 64, 16, repeats=2).load(None, Verified()).row
    assert (kernel.macs, kernel.group) == (2 * 49 * 64 * 16, "49x64x16")


def test_our_engine_among_the_baselines_refuses_other_weights(tmp_path: Path) -> None:
    """Of the same shape and under the same name: what was prepared for another network."""
    subjects = []
    for seed in (0, 1):
        (folder := tmp_path / str(seed)).mkdir()
        model = random_network(TINY, "relu", seed=seed)
        subjects.append(make_subject(folder, model, name=TINY, weights="random", batch=1, test_images=0, seed=0))
    ours, shape = Geluless("ours"), CallShape(1, 1)
    ours.prepare(subjects[0], tmp_path, (shape,))
    assert (tmp_path / ARTIFACT).exists()
    ours.load(subjects[0], tmp_path, shape, "")
    with pytest.raises(ArtifactError, match="of other weights"):
        ours.load(subjects[1], tmp_path, shape, "")
    with pytest.raises(ArtifactError, match="of other weights"):
        ours.load(dataclasses.replace(subjects[0], activation="gelu"), tmp_path, shape, "")


# ------------------------------------------------------------------------------------------------------------- equal work


def row(name: str, *, work: int = 1000, artifact: str = "ab", group: str = "", model: str = "swin") -> Row:
    return Row(name, name, model, artifact, "equal to the reference", macs=work, group=group)


def test_equal_work_is_compared_and_unequal_work_named() -> None:
    assert problem_of([row("relu"), row("gelu-lut"), row("kernel", work=7, group="1x7x1")]) is None
    problem = problem_of([row("relu"), row("gelu-lut", work=1001, model="swin-large")])
    assert problem == (
        "different numbers of multiply-accumulates are not compared: relu (swin: 1,000) and gelu-lut (swin-large: 1,001)"
    )
    assert "kernel" in str(problem_of([row("kernel", work=7, group="1x7x1"), row("bare", work=14, group="1x7x1")]))
    assert problem_of([]) is None


def test_a_row_that_names_no_artifact_is_named() -> None:
    assert "relu names no artifact" in str(problem_of([row("relu", artifact="")]))


@requires_native
@pytest.mark.slow
def test_a_study_of_unequal_networks_has_no_result(cache: Path) -> None:
    pair = (Entry("relu", TINY, "relu", artifact=of(cache, TINY)), Entry("other", BASE, "relu", artifact=of(cache, BASE)))
    with pytest.raises(StudyError, match="different numbers of multiply-accumulates are not compared"):
        run_study(Study(pair, processes=1, blocks=1))
    stolen = Entry("relu", TINY, "relu", artifact=of(cache, BASE))
    with pytest.raises(StudyError, match=f"an artifact of {BASE} in place of one of {TINY}"):
        run_study(Study((stolen,), processes=1, blocks=1))
