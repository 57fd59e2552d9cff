"""An engine outlives what servers and data loaders do to it: fork, pickle, threads, pools."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

import geluless
from geluless import errors
from geluless.engine.engine import Engine
from geluless.errors import ArtifactError
from geluless.integer.artifact import Artifact
from tests.support.compiled import requires_native
from tests.support.networks import awkward_artifact, awkward_images
from tests.support.scripts import run_script

# Python 3.12 warns of fork beside threads, which is what is tried here.
pytestmark = [requires_native, pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")]

# It prints a word for each child that ends as it should; run_script() notices one that hangs.
PRELUDE = """
import gc, os, sys, threading, warnings
import numpy as np
import geluless

warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from Python 3.12 on
artifact, images, threads = geluless.load_artifact(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
engine = geluless.Engine(artifact, backend="cpu", threads=threads)
expected = geluless.Engine(artifact, backend="reference", threads=1)(images)

def right():
    return (engine(images) == expected).all()

def child(work):
    sys.stdout.flush()
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    else:
        os._exit(0 if work() else 1)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An artifact and images [9, C, H, W]: whole rounds of one image a thread, and one image for all threads."""
    folder = tmp_path_factory.mktemp("fork")
    np.save(folder / "images.npy", awkward_images(9).numpy())
    return awkward_artifact().save(folder / "a.int8.safetensors"), folder / "images.npy"


CHILDREN = {
    "before the first call": "child(right)",
    "after a call": "assert right(); child(right)",
    "twice": "assert right(); child(right); child(right); assert right(); child(right)",
    "in a child of a child": "assert right(); child(lambda: (right(), child(right))[0])",
    "in a thread": """
assert right()
def from_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(right()))
    thread.start(); thread.join()
    return seen == [True]
child(from_thread)""",
    "with an engine of its own": """
assert right()
child(lambda: (geluless.Engine(artifact, "cpu", threads=threads)(images) == expected).all())""",
    "dropped": """
assert right()
def drop():
    global engine
    del engine
    gc.collect()
    return True
child(drop)""",
    "ended as a program ends": """
assert right()
sys.stdout.flush()
if pid := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    sys.exit(0)""",
    "ended after a call": """
assert right()
sys.stdout.flush()
if pid := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    sys.exit(0 if right() else 1)""",
    # fork meets the engine's lock held and its barriers half full
    "while another thread is in a call": """
busy = True
def keep_busy():
    while busy: engine(images)
thread = threading.Thread(target=keep_busy)
thread.start()
for _ in range(20): child(right)
busy = False
thread.join()""",
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("body", CHILDREN.values(), ids=CHILDREN)
def test_a_forked_child_gets_the_parent_s_bits_and_ends(body: str, threads: int, files: tuple[Path, Path]) -> None:
    said = run_script(PRELUDE + body, *files, threads).split()
    assert said, "the script forks"
    assert set(said) == {"0"}


def test_a_child_with_a_wrong_result_would_be_seen(files: tuple[Path, Path]) -> None:
    assert run_script(PRELUDE + "expected = expected + 1; child(right)", *files, 2).split() == ["1"]


def test_fewer_processors_than_threads_change_no_bit(files: tuple[Path, Path]) -> None:
    bound = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(right()); child(right)"
    assert run_script(PRELUDE + bound, *files, 5).split() == ["True", "0"]


def test_threads_that_the_system_does_not_start_are_an_error_and_the_engine_lives_on(files: tuple[Path, Path]) -> None:
    """Each thread takes address space for its stack: a limit on that is the limit on threads that root has, too."""
    body = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), hard))
try:
    right()
except geluless.errors.MissingResource as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
print(right())
"""
    first, second = run_script(PRELUDE + "import geluless.errors\n" + body, *files, 200).splitlines()
    assert first.startswith("200 threads cannot be started (")
    assert first.endswith("give the engine fewer by threads= or GELULESS_THREADS")
    assert second == "True"


# ------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_may_share_an_engine(threads: int) -> None:
    engine = Engine(awkward_artifact(), "cpu", threads=threads)
    batches = [awkward_images(count, seed=count).numpy() for count in (1, 2, 3, 5, 8)] * 4
    expected = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(engine, batches), expected, strict=True):
            assert (got == want).all()


def test_threads_may_trace_one_engine(files: tuple[Path, Path]) -> None:
    """A trace calls Python in the middle of its pass, and another thread may come in between: neither waits for the other."""
    body = """
sys.setswitchinterval(1e-5)
def trace():
    for _ in range(5): engine.trace(images[:1], lambda name, values: None)
tracing = [threading.Thread(target=trace) for _ in range(3)]
for thread in tracing: thread.start()
for thread in tracing: thread.join()
print(right())"""
    assert run_script(PRELUDE + body, *files, 2).split() == ["True"]


# ------------------------------------------------------------------------------------------------ pickle and pools


def test_an_artifact_is_pickled_as_its_bytes() -> None:
    artifact = awkward_artifact()
    again = pickle.loads(pickle.dumps(artifact))
    assert again.to_bytes() == artifact.to_bytes()
    assert geluless.artifact_from_bytes(artifact.to_bytes()).content_hash == artifact.content_hash
    assert copy.deepcopy(artifact) is artifact
    assert copy.copy(artifact) is artifact


def test_a_pickle_that_was_altered_is_refused() -> None:
    raw = pickle.dumps(awkward_artifact())
    at = len(raw) - 200
    with pytest.raises(ArtifactError, match="refused"):
        pickle.loads(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "reference"},
        {"backend": "cpu"},
        {"backend": "cpu", "threads": 2, "isa": "portable", "variant": "relu-float"},
        {"backend": "cpu", "variant": "relu-separate-int8", "blocked": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_an_engine_is_made_again_from_its_artifact_and_options(options: dict[str, object], again: object) -> None:
    images = awkward_images(3).numpy()
    engine = Engine(awkward_artifact(), **options)  # type: ignore[arg-type]
    other = again(engine)  # type: ignore[operator]
    assert other is not engine
    about = ("backend", "isa", "variant", "threads", "blocked")
    assert [getattr(other, name) for name in about] == [getattr(engine, name) for name in about]
    assert (other(images) == engine(images)).all()


def test_threads_that_were_not_chosen_are_chosen_again_where_the_engine_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_THREADS", "3")
    given, default = (pickle.dumps(Engine(awkward_artifact(), "cpu", threads=threads)) for threads in (2, None))
    monkeypatch.setenv("GELULESS_THREADS", "1")
    assert [pickle.loads(raw).threads for raw in (given, default)] == [2, 1]


@pytest.mark.parametrize(
    "name", sorted(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception))
)
def test_every_error_reaches_the_process_that_waits_for_it(name: str) -> None:
    assert str(pickle.loads(pickle.dumps(getattr(errors, name)("what to do")))) == "what to do"


def run_artifact(artifact: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return Engine(artifact, "cpu", threads=2)(images)


def run_engine(engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return engine(images)


FRESH = [pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver")]  # each process imports torch


@pytest.mark.parametrize("method", ["fork", *FRESH])
def test_a_pool_of_processes_gets_artifacts_and_engines(method: str) -> None:
    images = awkward_images(3).numpy()
    engine = Engine(awkward_artifact(), "cpu", threads=2)
    expected = engine(images)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        futures = [pool.submit(run_artifact, engine.artifact, images), pool.submit(run_engine, engine, images)]
        assert all((future.result(120) == expected).all() for future in futures)


class Features(Dataset[NDArray[np.float32]]):
    """Whose items an engine computes, in whatever process asks for them."""

    def __init__(self, engine: Engine, images: NDArray[np.float32]) -> None:
        self._engine, self._images = engine, images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self._engine(self._images[index : index + 1])[0]


@pytest.mark.parametrize("method", ["fork", FRESH[0]])
def test_the_workers_of_a_data_loader_run_the_engine_that_they_are_given(method: str) -> None:
    images = awkward_images(8).numpy()
    engine = Engine(awkward_artifact(), "cpu", threads=2)
    expected = torch.from_numpy(engine(images))
    loader = DataLoader(Features(engine, images), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=120)
    batches: Iterator[torch.Tensor] = iter(loader)
    assert torch.equal(torch.cat(list(batches)), expected)


def test_the_reference_survives_a_fork_too(files: tuple[Path, Path]) -> None:
    body = "engine = geluless.Engine(artifact, 'reference', threads=2); assert right(); child(right)"
    assert run_script(PRELUDE + body, *files, 2).split() == ["0"]
