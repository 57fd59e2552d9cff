"""Who is compared, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from geluless.errors import GelulessError
from geluless.peers.eager import TorchEager
from geluless.peers.fastertransformer import FasterTransformer
from geluless.peers.inductor import Inductor
from geluless.peers.onnxruntime import OnnxRuntime
from geluless.peers.openvino import OpenVino
from geluless.peers.ours import Ours
from geluless.peers.peer import Peer

BASELINE = "ours"  # what every ratio is to

PEERS: tuple[Peer, ...] = (
    Ours(BASELINE),
    Ours("ours-gelu-separate", arm="gelu-separate", activation="gelu"),
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


def chosen_peers(names: Sequence[str]) -> tuple[Peer, ...]:
    """The peers of these names in the order of the roster; all for none. Raises GelulessError for an unknown name."""
    known = [peer.name for peer in PEERS]
    if unknown := sorted(set(names) - set(known)):
        raise GelulessError(f"no peer is called {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(peer for peer in PEERS if not names or peer.name in names)
