"""Plants in how a verdict is made: checks that return early or skip, controls that always hold, a float epilogue, a graph on
one side, stale records, an artifact of another network. What each needs is set up by the tests of the part in question."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless.bench.entries import Entry
from geluless.bench.harness import StudyError
from geluless.bench.networks import random_artifact
from geluless.bench.study import Study, run_study
from geluless.engine.cpu import lowering
from geluless.errors import GelulessError
from geluless.integer.plan import Mlp
from geluless.integer.variants import Variant
from geluless.verdicts import runner_records
from geluless.verdicts.rtx4090 import judged as judged_race
from geluless.verdicts.verdict import Verdict
from tests.redteam.judging import NEVER
from tests.support.claims import claim_module
from tests.support.compiled import requires_native
from tests.verdicts.test_mlp_path import needs_listing, on_cpu, verdict
from tests.verdicts.test_pytest_plugin import Suite
from tests.verdicts.test_rtx4090_claim import CARD, Measured, example, races
from tests.verdicts.test_runner_records import measured

pytest_plugins = ("pytester",)

BODIES = (
    "silent",  # returns before it judges
    "skips",
    "xfails",
    "raises",
    "twice",  # the second verdict to replace the first
    "control",  # its control did not hold
    "unclear",  # its control could not tell
    "written down",  # its control always holds
)


@pytest.mark.parametrize("body", BODIES)
def test_a_check_that_does_not_check_is_never_reproduced(pytester: pytest.Pytester, body: str) -> None:
    suite = Suite(pytester)
    suite.run(body)
    assert set(suite.statuses()) <= NEVER


def test_a_graph_on_one_side_alone_is_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geluless.bench.harness.TOO_MUCH", 1e9)
    build = example(tmp_path, f"echo 'Device {CARD}'; echo \"FT-CPP-time 10.0$(date +%N | cut -c9) ms\"")
    judgement, _ = judged_race(races(build, Measured(10.0, separate=10.0, graph=8.5)))
    assert judgement.verdict is Verdict.REFUTED


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the runner leaves, of a gain of 20 %."""
    monkeypatch.setattr(runner_records, "SIZES", {"tiny": "swin", "large": "swin-large"})
    monkeypatch.setattr(runner_records, "BATCHES", (1,))
    measured(tmp_path, 0.8)
    return tmp_path


def test_the_runners_records_are_reproduced(records: Path) -> None:
    assert runner_records.judged(records, "tiny")[0].verdict is Verdict.REPRODUCED


@pytest.mark.parametrize("stale", ["timing_sources", "card"])
def test_a_stale_record_is_no_evidence(records: Path, monkeypatch: pytest.MonkeyPatch, stale: str) -> None:
    if stale == "timing_sources":
        monkeypatch.setattr(runner_records, "timing_sources", lambda: "f" * 64)
    else:
        monkeypatch.setattr(runner_records, "CARD", "NVIDIA GeForce RTX 5090")
    with pytest.raises(GelulessError, match="no evidence"):
        runner_records.judged(records, "tiny")


@requires_native
def test_an_artifact_of_another_network_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny micro network under the small one's name: it would be twice as fast."""
    monkeypatch.setattr("geluless.bench.harness.TOO_MUCH", 1e9)
    file = tmp_path / "tiny.int8.safetensors"
    random_artifact("swin_micro_tiny", relu=True).save(file)
    with pytest.raises(StudyError, match="swin_micro_small"):
        run_study(Study((Entry("relu", "swin_micro_small", "relu", artifact=file),), processes=3, blocks=1))


@requires_native
@needs_listing
def test_floating_point_under_relus_name_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, artifact and manifest say what they said; what is lowered is the float epilogue."""
    honest = lowering.lower_fc1

    def floating(name: str, mlp: Mlp, tensors: lowering.Tensors, variant: Variant) -> object:
        return honest(name, mlp, tensors, Variant.RELU_FLOAT if variant is Variant.RELU else variant)

    c14 = claim_module("c14")
    assert verdict(c14, on_cpu())[0] == "REPRODUCED"
    monkeypatch.setattr(lowering, "lower_fc1", floating)
    assert verdict(c14, on_cpu())[0] == "REFUTED"
