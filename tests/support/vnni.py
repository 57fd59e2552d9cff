"""What other runtimes' int8 kernels need of a processor."""

from __future__ import annotations

import pytest

from geluless.bench.environment import isa_flags

# Without VNNI oneDNN, which OpenVINO runs, adds pairs of uint8 x int8 products with vpmaddubsw, which saturates at 16 bits: its
# results are then far off whatever the file says (interop/README.md). Ours widens the bytes first.
needs_vnni = pytest.mark.skipif(
    not any("vnni" in name for name in isa_flags()),
    reason="this processor has no VNNI: OpenVINO's int8 products saturate at 16 bits",
)
