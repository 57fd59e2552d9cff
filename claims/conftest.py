"""Live evidence for the claims of the embedded tier: a test names what it needs, the pool makes it once, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from geluless.verdicts.exhibits import twin_exhibits
from geluless.verdicts.imagenet import ImageNet
from geluless.verdicts.lab import Lab
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.twins import Task

pytest_plugins = ("geluless.verdicts.pytest_plugin",)

# For trying the machinery only; the report of such a run is marked as partial.
REDUCED = "GELULESS_CLAIM_IMAGES"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "evidence(*tasks): the live evidence this test reads, as 'kind:size'")


@pytest.fixture(scope="session")
def twins(request: pytest.FixtureRequest, announce: Callable[[str], None], exhibits: dict[str, Any]) -> Iterator[EvidencePool]:
    """The evidence of all selected tests, begun at once so that both cores are busy from the start."""
    items = request.session.items
    tasks = {Task.parse(name) for item in items for mark in item.iter_markers("evidence") for name in mark.args}
    images = int(os.environ[REDUCED]) if os.environ.get(REDUCED) else None
    if images is not None:
        exhibits["reduced"] = f"only the first {images} test images ({REDUCED})"
    pool = EvidencePool(tasks, announce=announce, images=images)
    try:
        yield pool
    finally:
        exhibits.update(twin_exhibits(pool.finished()))
        pool.close()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, announce: Callable[[str], None], exhibits: dict[str, Any]) -> Lab:
    """Timing studies; they start when the evidence of all selected tests is made, because nothing else may run meanwhile."""

    def quiet() -> None:
        if any(item.get_closest_marker("evidence") for item in request.session.items):
            pool: EvidencePool = request.getfixturevalue("twins")
            pool.wait()

    return Lab(announce=announce, quiet=quiet, exhibits=exhibits)


@pytest.fixture(scope="session")
def imagenet(announce: Callable[[str], None]) -> ImageNet:
    """The paper's networks on ImageNet, where it is."""
    return ImageNet(announce=announce)


@pytest.fixture(scope="session")
def tier() -> str:
    """The name of the tier, which a reduced run may not bear plainly."""
    return f"embedded, first {os.environ[REDUCED]} images" if os.environ.get(REDUCED) else "embedded"
