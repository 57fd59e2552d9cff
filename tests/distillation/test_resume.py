"""A distillation killed at any moment and started again ends with the weights of an uninterrupted one, bit for bit.

GELULESS_KILLS sets how many random moments are tried (default 2; ten are tried before a release).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from geluless.distillation import distill
from geluless.distillation.checkpoints import FILE
from geluless.errors import CheckpointError
from tests.distillation.test_distillation import LOCAL, PAPER
from tests.support.networks import MemoryImages, awkward_swin

KILLS = int(os.environ.get("GELULESS_KILLS", "2"))
ROOT = Path(__file__).parents[2]

CHILD = """
import sys, torch
torch.set_num_threads(1)
from geluless.distillation import distill
from tests.support.networks import MemoryImages, awkward_swin
from tests.distillation.test_distillation import LOCAL, PAPER
recipe = {"local": LOCAL, "paper": PAPER}[sys.argv[2]]
print("start", flush=True)
result = distill(awkward_swin(), MemoryImages(120), recipe=recipe, checkpoint_dir=sys.argv[1])
torch.save(result.student.state_dict(), sys.argv[1] + "/student.pt")
"""


def start(folder: Path, recipe: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), recipe]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "start\n"
    return child


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["local", "paper"])
def test_killed_runs_resume_to_the_same_bits(recipe, tmp_path):
    whole = tmp_path / "whole"
    began = time.monotonic()
    with start(whole, recipe) as child:
        assert child.wait() == 0
    duration = time.monotonic() - began
    expected = torch.load(whole / "student.pt", weights_only=True)

    moments = random.Random(recipe)
    interrupted = tmp_path / "interrupted"
    killed = 0
    for _ in range(KILLS):
        with start(interrupted, recipe) as child:
            time.sleep(moments.uniform(0.02, 0.6) * duration)
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                killed += 1
        if (interrupted / "student.pt").exists():
            (interrupted / "student.pt").unlink()
            (interrupted / FILE).unlink()
    assert killed > 0, "no run was killed: the moments must lie inside the run"
    with start(interrupted, recipe) as child:
        assert child.wait() == 0
    resumed = torch.load(interrupted / "student.pt", weights_only=True)
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_a_finished_run_is_read_back_and_not_repeated(tmp_path):
    images = MemoryImages(120)
    first = distill(awkward_swin(), images, recipe=PAPER, checkpoint_dir=tmp_path)
    repeated = []
    second = distill(awkward_swin(), images, recipe=PAPER, checkpoint_dir=tmp_path, on_block=repeated.append)
    assert repeated == []
    assert second.records == first.records
    assert all(torch.equal(v, first.student.state_dict()[k]) for k, v in second.student.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"recipe": PAPER}, "recipe")]
    + [({name: value}, "recipe") for name, value in (("drop_bias", True), ("blocks", 1), ("shuffled", True))],
)
def test_the_checkpoint_of_another_run_is_refused(change, named, tmp_path):
    images = MemoryImages(120)
    distill(awkward_swin(), images, recipe=LOCAL, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=f"another {named}.*delete"):
        distill(awkward_swin(), images, **{"recipe": LOCAL, "checkpoint_dir": tmp_path, **change})


def test_the_checkpoint_of_another_teacher_is_refused(tmp_path):
    images = MemoryImages(120)
    distill(awkward_swin(), images, recipe=LOCAL, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="another teacher"):
        distill(awkward_swin(seed=3), images, recipe=LOCAL, checkpoint_dir=tmp_path)


def test_the_checkpoint_of_other_images_is_refused(tmp_path):
    images = MemoryImages(120)
    distill(awkward_swin(), images, recipe=LOCAL, checkpoint_dir=tmp_path)
    images.digest = "1" * 64
    with pytest.raises(CheckpointError, match="another images"):
        distill(awkward_swin(), images, recipe=LOCAL, checkpoint_dir=tmp_path)


def test_the_checkpoint_of_another_number_of_threads_is_refused(tmp_path):
    threads = torch.get_num_threads()
    distill(awkward_swin(), MemoryImages(120), recipe=LOCAL, checkpoint_dir=tmp_path)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(CheckpointError, match=rf"begun with --threads {threads}, .* continue it with that .*, or delete"):
            distill(awkward_swin(), MemoryImages(120), recipe=LOCAL, checkpoint_dir=tmp_path)
    finally:
        torch.set_num_threads(threads)


def test_a_damaged_checkpoint_is_refused_with_a_way_out(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"cannot be read.*delete"):
        distill(awkward_swin(), MemoryImages(120), recipe=LOCAL, checkpoint_dir=tmp_path)
