"""What a run of baselines leaves behind: every row, every sample, the settings, the machine, and the code it was made with."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from geluless.baselines.baseline import Baseline
from geluless.baselines.comparison import Comparison
from geluless.baselines.fastertransformer import PUBLISHED
from geluless.baselines.subject_network import SubjectNetwork
from geluless.bench.environment import environment_record
from geluless.bench.networks import SIZES
from geluless.bench.paired import Samples
from geluless.errors import GelulessError
from geluless.files import read_json
from geluless.sources import comparison_sources

SCHEMA = "geluless.baselines/1"
SUFFIX = ".baselines.json"
FASTERTRANSFORMER = "FasterTransformer 5.3, docs/swin_guide.md, INT8 C++ path; other hardware, by its makers, not comparable"


@dataclass(frozen=True)
class BaselinesRecord:
    """JSON values.

    rows: one per activation, number of threads and baseline; see comparison. comparisons: for each activation and number of
    threads the samples that the rows' intervals follow from, in seconds per call, with the peak loop (multiply-accumulates per
    second) and the order inside the blocks. published: FasterTransformer's latencies of this network, in milliseconds.
    """

    schema: str
    code: str  # geluless.sources.comparison_sources
    made: str  # UTC, ISO 8601
    seconds: float  # that the whole run took
    model: str
    weights: dict[str, str]  # by activation, in words
    calibration: str
    batch: int
    throughput_batch: int
    baselines: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    published: dict[str, Any]
    notes: list[str]
    environment: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def summary(self) -> dict[str, Any]:
        """Everything but the samples themselves."""
        data = asdict(self)
        for comparison in data["comparisons"]:
            for part in ("latency", "throughput"):
                comparison.pop(part)
        return data


def make_record(
    comparisons: Sequence[Comparison],
    subjects: Sequence[SubjectNetwork],
    baselines: Sequence[Baseline],
    *,
    batch: int,
    throughput_batch: int,
    seconds: float,
    notes: Sequence[str],
) -> BaselinesRecord:
    return BaselinesRecord(
        schema=SCHEMA,
        code=comparison_sources(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        model=subjects[0].model,
        weights={subject.activation: subject.weights for subject in subjects},
        calibration=subjects[0].calibration,
        batch=batch,
        throughput_batch=throughput_batch,
        baselines={baseline.name: _described(baseline) for baseline in baselines},
        rows=[row for comparison in comparisons for row in comparison.rows],
        comparisons=[_comparison(comparison) for comparison in comparisons],
        published=_published(subjects[0].model),
        notes=list(notes),
        environment=environment_record(),
    )


def read_record(path: Path) -> BaselinesRecord:
    """The record in `path`. Raises GelulessError for a file that holds none, or one of other code or packages: its figures are
    not about what is here."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        if content.keys() != {field.name for field in fields(BaselinesRecord)}:
            raise ValueError("its fields are not those of a record")
        record = BaselinesRecord(**content)
        for comparison in record.comparisons:
            for part in ("latency", "throughput"):
                timed(comparison[part])
    except OSError as error:
        raise GelulessError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise GelulessError(f"{path} is no record: {error}; measure again with `nox -s baselines`") from error
    if record.code != comparison_sources():
        raise GelulessError(
            f"{path} was made by other code or with other packages ({record.code[:12]}, now {comparison_sources()[:12]}): "
            "measure again with `nox -s baselines`"
        )
    return record


def _described(baseline: Baseline) -> dict[str, Any]:
    return {
        "precision": baseline.precision,
        "activation": baseline.activation,
        "settings": [asdict(setting) for setting in baseline.settings],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    parts = {"latency": comparison.latency, "throughput": comparison.throughput}
    return {
        "activation": comparison.activation,
        "threads": comparison.timing.threads,
        "peak_spread": max((samples.peak_spread for samples in parts.values() if samples is not None), default=0.0),
        "foreign_cores": comparison.foreign_cores,
        **{name: None if samples is None else _written(samples) for name, samples in parts.items()},
    }


def _written(samples: Samples) -> dict[str, Any]:
    return {
        "unit": "seconds",
        "blocks": samples.blocks,
        "seconds": {name: values.tolist() for name, values in samples.seconds.items()},
        "peak": {name: values.tolist() for name, values in samples.peak.items()},
        "order": samples.order.tolist(),
    }


def timed(part: Mapping[str, Any] | None) -> Samples | None:
    """The samples as written, for other statistics. Raises ValueError or KeyError when they contradict each other."""
    if part is None:
        return None
    seconds, peak = ({name: np.array(values, np.float64) for name, values in part[key].items()} for key in ("seconds", "peak"))
    return Samples(seconds, peak, np.array(part["order"], np.intp))


def _published(model: str) -> dict[str, Any]:
    """FasterTransformer's own figures for the paper's four networks: {"source", "milliseconds": {device: {batch: ms}}}."""
    lines = [line for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    milliseconds: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(lines):
        if SIZES[row["size"]] == model:
            milliseconds.setdefault(row["device"], {})[row["batch"]] = float(row["milliseconds"])
    return {"source": FASTERTRANSFORMER, "milliseconds": milliseconds} if milliseconds else {}
