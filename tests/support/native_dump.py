"""Writes lowered networks with images and the reference's logits for tests/engine/cpu/cpp/check_kernels.cpp, which runs without
Python.

    python -m tests.support.native_dump FILE

check_file.h beside it describes the format: every value is a kind, a count and its elements; a dataclass has a name and a value
for each field. Variants in integers, and relu-float, must give the reference's logits bit for bit. GELU in fp32 may move a hidden
value by one step, so its logits may differ, but by at most a tenth of the largest difference that the exact table (variant
gelu-lut) makes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.cpu.lowering import lower
from geluless.integer import reference
from geluless.integer.variants import Variant
from tests.support.networks import awkward_artifact, awkward_images

MAGIC = b"GELULESS"
IMAGES = 5
VARIANTS = {
    True: (Variant.RELU, Variant.RELU_FLOAT, Variant.RELU_SEPARATE, Variant.RELU_SEPARATE_INT8),
    False: (Variant.GELU_LUT, Variant.GELU_IBERT, Variant.GELU_SHIFT, Variant.GELU_FUSED),
}
KINDS = {"int8": b"b", "uint8": b"B", "int16": b"h", "int32": b"i", "float32": b"f"}


def encode(value: Any) -> bytes:
    """kind, uint32 count, elements; little-endian."""
    match value:
        case None:
            return _value(b"n", 0, b"")
        case bool() | int():
            return _value(b"q", 1, struct.pack("<q", value))
        case float():
            return _value(b"d", 1, struct.pack("<d", value))
        case str():
            return _value(b"s", len(value.encode()), value.encode())
        case tuple() | list():
            return _value(b"(", len(value), b"".join(map(encode, value)))
        case np.ndarray():
            return _value(KINDS[value.dtype.name], value.size, value.astype(value.dtype.newbyteorder("<")).tobytes())
    if not is_dataclass(value):
        raise TypeError(f"no format for {type(value).__name__}")
    named = [encode(field.name) + encode(getattr(value, field.name)) for field in fields(value)]
    return _value(b"{", len(named), b"".join(named))


def _value(kind: bytes, count: int, payload: bytes) -> bytes:
    return kind + struct.pack("<I", count) + payload


def cases() -> Iterator[tuple[Any, ...]]:
    """(name, tolerance, network, images, logits) of each variant of the awkward network."""
    images = awkward_images(IMAGES, seed=12).numpy()
    for relu, variants in VARIANTS.items():
        artifact = awkward_artifact(relu=relu)
        logits: dict[Variant, NDArray[np.float32]] = {}
        for variant in variants:
            logits[variant] = reference.forward(images, artifact.plan, artifact.tensors, variant)
            tolerance = 0.0
            if variant is Variant.GELU_FUSED:
                tolerance = float(np.abs(logits[variant] - logits[Variant.GELU_LUT]).max()) / 10
            yield (
                f"reference {variant.value}",
                tolerance,
                lower(artifact.plan, artifact.tensors, variant),
                images,
                logits[variant],
            )


def write(path: Path, *, last_bit: bool = False) -> None:
    """`last_bit`: one logit of the first case is off by its last bit, which whoever compares must notice."""
    found = list(cases())
    if last_bit:
        logits = found[0][-1]
        logits[0, 0] = np.nextafter(logits[0, 0], np.float32(np.inf))
    path.write_bytes(MAGIC + encode(found))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
