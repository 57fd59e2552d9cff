"""What the model says about the paper's gain: ratios with the range that the fit's uncertainty leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geluless.bench.roofline import fastertransformer, ours
from geluless.bench.roofline.devices import Device
from geluless.bench.roofline.work import Parameters, Work, seconds
from geluless.engine.arms import Arm
from geluless.engine.gpu.audit.record import AuditRecord

PAPER_BOUND = 0.89  # at least 11 % lower latency

# Assumed, not fitted, for FasterTransformer's table tells nothing about them: (low, central, high).
GRAPH_GAP = (0.8e-6, 1.5e-6, 3.0e-6)  # seconds between two kernels of a CUDA graph
OVERLAP = (0.5, 0.75, 1.0)
ISSUE_SHARE = (0.4, 0.65, 0.9)

COMPARISONS = ("FasterTransformer without its GELU kernel", "relu / gelu-separate", "relu / gelu-fused", "relu / gelu-lut")


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
    device: Device, size: str, batch: int, *, record: AuditRecord, central: Parameters, spread: Sequence[Parameters]
) -> list[Prediction]:
    """Every comparison. `spread` are parameters that other tables would have given (fit.resampled)."""
    relu = ours.forward(size, batch, Arm.RELU, record)
    pairs: list[tuple[str, list[Work], list[Work], bool]] = [
        (
            COMPARISONS[0],
            fastertransformer.forward(size, batch, device, gelu=False),
            fastertransformer.forward(size, batch, device),
            False,
        )
    ]
    for name, arm in zip(COMPARISONS[1:], (Arm.GELU_SEPARATE, Arm.GELU_FUSED, Arm.GELU_LUT), strict=True):
        pairs.append((name, relu, ours.forward(size, batch, arm, record), True))
    results = []
    for name, first, second, graph in pairs:
        coin = np.random.default_rng(0)
        assumed = [_assume(central, graph, None), *(_assume(parameters, graph, coin) for parameters in spread)]
        ratios = [seconds(first, device, p) / seconds(second, device, p) for p in assumed]
        low, high = np.percentile(ratios, (2.5, 97.5))
        value = ratios[0]
        results.append(Prediction(name, device.name, size, batch, value, float(min(low, value)), float(max(high, value))))
    return results


def _assume(parameters: Parameters, graph: bool, coin: np.random.Generator | None) -> Parameters:
    """With the assumptions' central values, or with values between their ends."""
    gap, overlap, issue = (x[1] if coin is None else float(coin.uniform(x[0], x[2])) for x in (GRAPH_GAP, OVERLAP, ISSUE_SHARE))
    return replace(parameters, gap=gap if graph else parameters.gap, overlap=overlap, issue_share=issue)


def attribution(size: str, batch: int, device: Device, parameters: Parameters) -> dict[str, float]:
    """What FasterTransformer's GELU kernel costs, as shares of its forward pass: its bytes, and the gap of its launch."""
    works = fastertransformer.forward(size, batch, device)
    gelu = [work for work in works if work.name == "bias, GELU"]
    total, gaps = seconds(works, device, parameters), sum(work.launches for work in gelu) * parameters.gap
    return {"memory traffic": (seconds(gelu, device, parameters) - gaps) / total, "launches": gaps / total}
