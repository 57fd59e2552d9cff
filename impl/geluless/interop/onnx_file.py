"""An ONNX file parsed, and errors that name the file: the first step for our own files and for those of other quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from geluless.errors import ArtifactError, ExportError, MissingResource, VariantError
from geluless.integer.plan import PlanError

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**31 - 1  # protobuf's own limit


def parse_onnx(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of a file and the model that they are; references to other files are not followed.

    Raises ArtifactError, and MissingResource without the onnx package.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingResource("reading ONNX files needs the package onnx: pip install 'geluless[export]'") from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError("it is larger than an ONNX file can be (2 GiB)")
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"it cannot be read: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise ArtifactError("it is no ONNX model, or was cut off: fetch it again") from error
    return raw, model


@contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """ArtifactErrors with the path in front."""
    try:
        yield
    except (PlanError, ArtifactError, VariantError, ExportError) as error:
        raise ArtifactError(f"{path} is refused: {error}") from error
