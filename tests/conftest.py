"""How the tests run: how many examples, how many threads, which ones, and no network."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Kernels have no deadline: the first call of a process may compile or page in weights.
settings.register_profile("fast", max_examples=10, deadline=None, derandomize=True)
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Before timm is imported: a test that would download weights must fail at once, not after a timeout.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is: pytest-xdist starts a process per processor, so each has one thread, and the processes it starts as well.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="few examples of every law; no test marked slow or serial")
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly too")
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu; they fail, not skip, without a CUDA device")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "evidence(*tasks): what claims/conftest.py says of it; some tests load the claims' checks")
    if config.getoption("--fast"):
        settings.load_profile("fast")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the options leave out is deselected, which the summary counts, rather than skipped."""
    unwanted = [mark for mark in ("gpu", "nightly") if not config.getoption(f"--{mark}")]
    if config.getoption("--fast"):
        unwanted += ["slow", "serial"]
    for mark in unwanted:
        if left_out := [item for item in items if item.get_closest_marker(mark)]:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker(mark)]
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes: files with slow tests first
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _torch_threads() -> None:
    """As many threads as this process may use: on a shared machine torch counts cores that are not ours."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores)))
