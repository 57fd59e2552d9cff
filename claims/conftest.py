"""Live evidence for the claims of the embedded tier: a test names what it needs, the pool makes it once, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geluless.verdicts.imagenet import ImageNet
from geluless.verdicts.micro_networks import Task
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.protocols import load_protocols
from geluless.verdicts.report_data import micro_network_data
from geluless.verdicts.timing_session import TimingSession

pytest_plugins = ("geluless.pytest_plugin",)

# For trying the machinery only; the report of such a run is marked as partial.
REDUCED = "GELULESS_CLAIM_IMAGES"


@pytest.fixture(scope="session")
def micro_networks(
    request: pytest.FixtureRequest, announce: Callable[[str], None], report_data: dict[str, Any]
) -> Iterator[EvidencePool]:
    """The evidence of all selected tests, begun at once so that both cores are busy from the start."""
    items = request.session.items
    tasks = {Task.parse(name) for item in items for mark in item.iter_markers("evidence") for name in mark.args}
    images = int(os.environ[REDUCED]) if os.environ.get(REDUCED) else None
    if images is not None:
        report_data["reduced"] = f"only the first {images} test images ({REDUCED})"
    pool = EvidencePool(tasks, announce=announce, images=images)
    try:
        yield pool
    finally:
        report_data.update(micro_network_data(pool.finished()))
        pool.close()


@pytest.fixture(scope="session")
def timing_session(request: pytest.FixtureRequest, announce: Callable[[str], None], report_data: dict[str, Any]) -> TimingSession:
    """Timing studies; they start when the evidence of all selected tests is made, because nothing else may run meanwhile."""

    def quiet() -> None:
        if any(item.get_closest_marker("evidence") for item in request.session.items):
            pool: EvidencePool = request.getfixturevalue("micro_networks")
            pool.wait()

    protocols = load_protocols(Path(__file__).with_name("claims.toml"))
    return TimingSession(protocols, announce=announce, quiet=quiet, report_data=report_data)


@pytest.fixture(scope="session")
def imagenet(announce: Callable[[str], None]) -> ImageNet:
    """The paper's networks on ImageNet, where it is."""
    return ImageNet(announce=announce)


@pytest.fixture(scope="session")
def tier() -> str:
    """The name of the tier, which a reduced run may not bear plainly."""
    return f"embedded, first {os.environ[REDUCED]} images" if os.environ.get(REDUCED) else "embedded"
