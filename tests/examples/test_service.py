"""The example of a service, really served: right answers under load, errors for what is no photo, workers that die and come back.

GELULESS_REQUESTS sets how many requests the load test sends to the micro network (default 300; ten thousand before a release).
"""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import geluless
from geluless.data.folders import folder_images
from geluless.models.micro import MICRO_MEAN, MICRO_STD, create_micro
from geluless.ptq.quantize import quantize
from tests.support.compiled import requires_native
from tests.support.networks import awkward_artifact

REQUESTS = int(os.environ.get("GELULESS_REQUESTS", "300"))
SERVICE = Path(__file__).parents[2] / "impl" / "examples" / "service.py"
GREY = {"mean": (MICRO_MEAN,), "std": (MICRO_STD,), "crop": 1.0}  # how the micro networks take a photo


@pytest.fixture(scope="module")
def service() -> ModuleType:
    spec = importlib.util.spec_from_file_location("service", SERVICE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(seed: int, *, size: tuple[int, int] = (60, 40), mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """Smooth noise, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_micro("swin_micro_tiny").eval()
    with torch.no_grad():
        model.head.fc.weight.mul_(20)  # so that photos differ in their answers
    made = quantize(model, [torch.randn(16, 1, 28, 28)], name="swin_micro_tiny")
    return made.save(tmp_path_factory.mktemp("service") / "micro.int8.safetensors")


class Plan:
    """As much of an artifact as says what images it takes."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.plan = self.stem = self
        self.height, self.width, self.channels = height, width, channels


def asked(application: Callable[..., Any], body: bytes, method: str = "POST") -> tuple[str, dict[str, Any]]:
    """Status and answer, without a server."""
    said: list[str] = []
    content = application(
        {"REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)},
        lambda status, headers: said.append(status),
    )
    return said[0], json.loads(b"".join(content))


# ------------------------------------------------------------------------------------------------ without a server


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (257, 256), (224, 224), (1000, 35), (31, 999)], ids=str)
def test_a_photo_is_prepared_as_for_validation(size: tuple[int, int], service: ModuleType, tmp_path: Path) -> None:
    """timm's own transform gives the same pixels, to the bit; seen through what the engine is given."""
    model = geluless.create_model("swin_tiny_patch4_window7_224")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.png").write_bytes(photo(1, size=size, kind="PNG"))
    expected = next(folder_images(tmp_path, model=model).batches(1)).numpy()
    seen: list[np.ndarray] = []

    class Engine:
        artifact = Plan(224, 224, 3)

        def __call__(self, images: np.ndarray) -> np.ndarray:
            seen.append(images)
            return np.zeros((1, 1000), np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geluless, "load_artifact", lambda path: None, raising=False)
        patch.setattr(geluless, "Engine", lambda *_, **__: Engine(), raising=False)
        application = service.application("x")
    asked(application, photo(1, size=size, kind="PNG"))
    assert seen[0].dtype == np.float32
    assert np.array_equal(seen[0], expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1", "I;16"])
def test_every_kind_of_picture_is_answered(mode: str, service: ModuleType, tmp_path: Path) -> None:
    path = awkward_artifact().save(tmp_path / "a.int8.safetensors")
    application = service.application(str(path), classes=tuple("abcdefg"))
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    status, answer = asked(application, photo(2, mode=mode, kind=kind))
    assert status == "200 OK"
    assert len(answer["classes"]) == 5
    assert {row["class"] for row in answer["classes"]} < set("abcdefg")
    odds = [row["probability"] for row in answer["classes"]]
    assert odds == sorted(odds, reverse=True)
    assert sum(odds) <= 1


NO_PHOTOS = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "half a photo": photo(3)[:200],
    "a png's first bytes": b"\x89PNG\r\n\x1a\n",
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("body", NO_PHOTOS.values(), ids=NO_PHOTOS)
def test_what_is_no_photo_is_a_bad_request(body: bytes, service: ModuleType, artifact: Path) -> None:
    status, answer = asked(service.application(str(artifact), **GREY), body)
    assert status == "400 Bad Request"
    assert answer["error"].startswith("this is no photo that can be decoded (")


def test_too_large_a_body_and_another_method_are_refused(service: ModuleType, artifact: Path) -> None:
    application = service.application(str(artifact), **GREY)
    assert asked(application, bytes(service.LARGEST + 1))[0] == "413 Request Entity Too Large"
    assert asked(application, b"", method="GET") == ("405 Method Not Allowed", {"error": "POST a photo"})


# ------------------------------------------------------------------------------------------------ served


@dataclass
class Served:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[int]:
        """The processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in children.read_text().split()]

    def post(self, body: bytes, timeout: float = 60) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@contextmanager
def served(artifact: Path, options: dict[str, Any], *, workers: int, folder: Path) -> Iterator[Served]:
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("needs gunicorn: pip install 'geluless[test]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    log = folder / "gunicorn.log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(workers), "--bind", f"127.0.0.1:{port}"]
    command += ["--timeout", "120", "--worker-tmp-dir", str(folder), f"service:application({str(artifact)!r}{arguments})"]
    with log.open("wb") as stream:
        home = {**os.environ, "HOME": str(folder)}  # where gunicorn's newer releases put a socket
        process = subprocess.Popen(command, cwd=SERVICE.parent, env=home, stdout=stream, stderr=subprocess.STDOUT)
    running = Served(port, process, log)
    try:
        deadline = time.monotonic() + 120
        while log.read_bytes().count(b"Booting worker") < workers:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"the server does not end: {log.read_text()}") from None
    assert process.returncode == 0, log.read_text()


@dataclass
class Load:
    """What came of a number of requests."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # by a connection that broke, or a status above 499
    lock: threading.Lock = field(default_factory=threading.Lock)


def send(server: Served, photos: list[bytes], expected: list[dict[str, Any]], *, requests: int, concurrency: int) -> Load:
    load = Load()

    def one(number: int) -> None:
        which = number % len(photos)
        try:
            status, answer = server.post(photos[which])
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            with load.lock:
                load.refused.append(type(error).__name__)
            return
        with load.lock:
            if status >= 500:
                load.refused.append(str(status))
            elif status == 200 and answer == expected[which]:
                load.right += 1
            else:
                load.wrong.append(f"{status} {answer}, expected {expected[which]}")

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(one, range(requests)))
    return load


@contextmanager
def killer(server: Served, *, seconds: float) -> Iterator[list[int]]:
    """Kills a random worker every so many seconds, by turns at once and politely; yields those that it killed."""
    killed: list[int] = []
    stop = threading.Event()
    choice = random.Random(0)

    def work() -> None:
        while not stop.wait(seconds):
            if workers := server.workers():
                killed.append(choice.choice(workers))
                try:
                    os.kill(killed[-1], signal.SIGTERM if len(killed) % 3 == 0 else signal.SIGKILL)
                except ProcessLookupError:
                    killed.pop()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@requires_native
@pytest.mark.slow
def test_no_answer_is_wrong_while_workers_are_killed(service: ModuleType, artifact: Path, tmp_path: Path) -> None:
    photos = [photo(seed) for seed in range(20)]
    application = service.application(str(artifact), **GREY)
    expected = [asked(application, body)[1] for body in photos]
    assert len({str(answer) for answer in expected}) == len(photos), "an answer to another photo would be noticed"
    with served(artifact, GREY, workers=4, folder=tmp_path) as server:
        assert len(server.workers()) == 4
        quiet = send(server, photos, expected, requests=40, concurrency=8)
        assert (quiet.right, quiet.wrong, quiet.refused) == (40, [], [])
        assert server.post(b"no photo")[0] == 400
        started = set(server.workers())
        sent, killed_in_all, refused = 0, 0, 0
        while sent < REQUESTS or killed_in_all < 5:
            with killer(server, seconds=0.2) as killed:
                load = send(server, photos, expected, requests=100, concurrency=32)
            assert load.wrong == []
            assert load.right + len(load.refused) == 100
            sent, killed_in_all, refused = sent + 100, killed_in_all + len(killed), refused + len(load.refused)
        assert refused < sent / 2, "most requests meet a living worker"
        deadline = time.monotonic() + 60
        while len(set(server.workers()) - started) == 0 or len(server.workers()) < 4:
            assert time.monotonic() < deadline, "killed workers come back"
            time.sleep(0.1)
        after = send(server, photos, expected, requests=40, concurrency=8)
        assert (after.right, after.wrong, after.refused) == (40, [], [])
        assert "Traceback" not in server.log.read_text()


@requires_native
@pytest.mark.nightly
@pytest.mark.serial
def test_ten_thousand_requests_to_swin_t_lose_little_of_the_engine_s_throughput(service: ModuleType, tmp_path: Path) -> None:
    """Decoding, HTTP and processes cost at most 15 % of what bare engines answer on as many processors, workers being killed."""
    from geluless.bench.networks import random_artifact
    from geluless.processors import usable_processors

    path = random_artifact("swin_tiny_patch4_window7_224", relu=True).save(tmp_path / "swin.int8.safetensors")
    photos = [photo(seed, size=(320, 240)) for seed in range(16)]
    application = service.application(str(path))
    expected = [asked(application, body)[1] for body in photos]
    requests = int(os.environ.get("GELULESS_REQUESTS", "10000"))
    with served(path, {}, workers=4, folder=tmp_path) as server:
        send(server, photos, expected, requests=64, concurrency=32)
        before = bare_throughput(path, processes=usable_processors())
        started = time.perf_counter()
        with killer(server, seconds=5) as killed:
            load = send(server, photos, expected, requests=requests, concurrency=32)
        seconds = time.perf_counter() - started
    after = bare_throughput(path, processes=usable_processors())
    share = load.right / seconds / ((before + after) / 2)
    print(f"{load.right} right, {len(load.refused)} refused, {len(killed)} workers killed, {seconds:.0f} s, share {share:.3f}")
    assert load.wrong == []
    assert load.right + len(load.refused) == requests
    assert len(load.refused) <= 32 * len(killed), "only who meets a dying worker is refused"
    assert share >= 0.85


BARE = """
import sys, time
import numpy as np
import geluless
engine = geluless.Engine(geluless.load_artifact(sys.argv[1]), backend="cpu", threads=1)
stem = engine.artifact.plan.stem
images = np.random.default_rng(0).standard_normal((16, 1, stem.channels, stem.height, stem.width)).astype(np.float32)
for image in images: engine(image)
print("ready", flush=True)
sys.stdin.readline()
started, count = time.perf_counter(), 0
while time.perf_counter() - started < 10:
    engine(images[count % len(images)])
    count += 1
print(count / (time.perf_counter() - started))
"""


def bare_throughput(path: Path, *, processes: int) -> float:
    """Images a second of engines with one thread each, side by side, on images in memory."""
    command = [sys.executable, "-c", BARE, str(path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running)
