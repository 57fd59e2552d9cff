"""What the model says about the paper's gain: ratios, with a range that holds everything the model is known not to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geluless.bench.roofline import fastertransformer, ours
from geluless.bench.roofline.devices import Device
from geluless.bench.roofline.work import Parameters, Work, seconds
from geluless.engine.gpu.codegen_check.record import CodegenRecord
from geluless.integer.variants import Variant

PAPER_BOUND = 0.89  # at least 11 % lower latency
GRAPH_GAP = (0.8e-6, 1.5e-6, 3.0e-6)  # seconds between two kernels of a CUDA graph, assumed: FasterTransformer has none
PAIRS_OF_ERRORS = 50  # drawn for each set of parameters

COMPARISONS = ("FasterTransformer without its GELU kernel", "relu / gelu-separate", "relu / gelu-fused", "relu / gelu-lut")
RIVALS = (Variant.GELU_SEPARATE, Variant.GELU_FUSED, Variant.GELU_LUT)


@dataclass(frozen=True)
class Prediction:
    """Time of the first over time of the second, of one comparison on one device: central value and 95 % range."""

    comparison: str
    device: str
    size: str
    batch: int
    value: float
    low: float
    high: float

    @property
    def reaches_bound(self) -> str:
        """Whether the model sees at least 11 %: "yes" or "no" for the whole range, else "open"."""
        if self.high <= PAPER_BOUND:
            return "yes"
        return "no" if self.low > PAPER_BOUND else "open"


def predict(
    device: Device,
    size: str,
    batch: int,
    *,
    record: CodegenRecord,
    central: Parameters,
    spread: Sequence[Parameters],
    errors: Sequence[float],
) -> list[Prediction]:
    """Every comparison that the device can run: our engine's need sm_80.

    `spread`: parameters that other tables and assumptions would have given (fit.resampled). `errors`: logarithms of predicted
    over published time, of entries that the fit had not seen.
    """
    with_gelu = fastertransformer.forward(size, batch, device)
    without = fastertransformer.forward(size, batch, device, gelu=False)
    pairs: list[tuple[str, list[Work], list[Work], bool]] = [(COMPARISONS[0], without, with_gelu, False)]
    if ours.can_run(device):
        relu = ours.forward(size, batch, Variant.RELU, record)
        for name, variant in zip(COMPARISONS[1:], RIVALS, strict=True):
            pairs.append((name, relu, ours.forward(size, batch, variant, record), True))
    results = []
    for name, first, second, graph in pairs:
        coin = np.random.default_rng(0)
        parts = _parts(first, second)
        value = float(_ratio(parts, device, _in_graph(central, graph, None), np.zeros((1, 2)))[0])
        ratios = [
            _ratio(parts, device, _in_graph(p, graph, coin), coin.choice(np.array(errors), (PAIRS_OF_ERRORS, 2))) for p in spread
        ]
        low, high = np.percentile(ratios, (2.5, 97.5))
        results.append(Prediction(name, device.name, size, batch, value, float(min(low, value)), float(max(high, value))))
    return results


def _parts(first: list[Work], second: list[Work]) -> tuple[list[Work], list[Work], list[Work]]:
    """(kernels of both, of the first alone, of the second alone)."""
    in_first, in_second = set(first), set(second)
    only_first = [work for work in first if work not in in_second]
    return [work for work in first if work in in_second], only_first, [work for work in second if work not in in_first]


def _ratio(
    parts: tuple[list[Work], list[Work], list[Work]], device: Device, p: Parameters, errors: NDArray
) -> NDArray[np.float64]:
    """[pairs] ratios under pairs of errors: of what both pipelines do, and of what they do not share. An error of the whole would
    cancel, but nothing says that the model's error is one of the whole."""
    common, first, second = (seconds(works, device, p) for works in parts)
    shared, own = np.exp(-errors).T
    ratios: NDArray[np.float64] = (common * shared + first * own) / (common * shared + second * own)
    return ratios


def _in_graph(parameters: Parameters, graph: bool, coin: np.random.Generator | None) -> Parameters:
    """Our engine's launches form a graph, whose gaps FasterTransformer's table tells nothing about."""
    if not graph:
        return parameters
    return replace(parameters, gap=GRAPH_GAP[1] if coin is None else float(coin.uniform(GRAPH_GAP[0], GRAPH_GAP[2])))


def attribution(size: str, batch: int, device: Device, parameters: Parameters) -> dict[str, float]:
    """What FasterTransformer's GELU kernel costs, as shares of its forward pass: its bytes, and the gap of its launch."""
    works = fastertransformer.forward(size, batch, device)
    gelu = [work for work in works if work.name == "bias, GELU"]
    total, gaps = seconds(works, device, parameters), sum(work.launches for work in gelu) * parameters.gap
    return {"memory traffic": (seconds(gelu, device, parameters) - gaps) / total, "launches": gaps / total}
