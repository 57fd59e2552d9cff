"""Who is compared, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from geluless.baselines.baseline import Baseline
from geluless.baselines.eager import TorchEager
from geluless.baselines.fastertransformer import FasterTransformer
from geluless.baselines.geluless import Geluless
from geluless.baselines.inductor import Inductor
from geluless.baselines.onnxruntime import OnnxRuntime
from geluless.baselines.openvino import OpenVino
from geluless.errors import GelulessError

OURS = "geluless"  # what every ratio is to

BASELINES: tuple[Baseline, ...] = (
    Geluless(OURS),
    Geluless("geluless-gelu-separate", variant="gelu-separate", activation="gelu"),
    OpenVino("openvino", scheme="int8"),
    OpenVino("openvino-smoothquant", scheme="smoothquant"),
    OnnxRuntime("onnxruntime", scheme="static"),
    OnnxRuntime("onnxruntime-dynamic", scheme="dynamic"),
    Inductor("inductor", precision="int8"),
    OpenVino("openvino-fp32", scheme="fp32"),
    OnnxRuntime("onnxruntime-fp32", scheme="fp32"),
    Inductor("torch-compile", precision="fp32"),
    TorchEager(),
    FasterTransformer(),
)


def chosen_baselines(names: Sequence[str]) -> tuple[Baseline, ...]:
    """The baselines of these names in the order of the registry; all for none. Raises GelulessError for an unknown name."""
    known = [baseline.name for baseline in BASELINES]
    if unknown := sorted(set(names) - set(known)):
        raise GelulessError(f"no baseline is called {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(baseline for baseline in BASELINES if not names or baseline.name in names)
