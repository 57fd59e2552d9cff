"""The artifact: plan and tensors of one quantized network, in one safetensors file with one content hash.

The file's only metadata key, `geluless`, holds JSON: {"content_hash": sha256, "plan": {...}}. The hash covers the plan and
every tensor, so accuracy and latency records that carry the same hash speak of the same network. Files are canonical:
loading writes the content again in memory and refuses a file that differs from it in any byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from geluless.errors import ArtifactError
from geluless.files import atomic_output
from geluless.integer.bounds import check_plan, check_tensors
from geluless.integer.plan import Block, Linear, Plan, PlanError, Rounding, decode, encode
from geluless.integer.variants import Variant, choose_variant

METADATA_KEY = "geluless"
SUFFIX = ".int8.safetensors"
MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Artifact:
    """A quantized network. `plan` says what is computed, `tensors` with what; both are validated on construction."""

    plan: Plan
    tensors: Mapping[str, NDArray[Any]] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        try:
            check_plan(self.plan)
            check_tensors(self.plan, self.tensors)
        except PlanError as error:
            raise ArtifactError(f"the artifact contradicts itself: {error}") from error
        for tensor in self.tensors.values():
            tensor.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        return artifact_from_bytes, (self.to_bytes(),)  # pickled as a file is written, and checked as one is read

    def __copy__(self) -> Artifact:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Artifact:
        return self  # nothing in it can change

    @property
    def activation(self) -> str:
        """'gelu' or 'relu'."""
        return self.plan.activation.value

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) over the canonical plan and the name, dtype, shape and bytes of every tensor."""
        digest = hashlib.sha256(_canonical(encode(self.plan)).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The file's content; equal artifacts give equal bytes."""
        metadata = _canonical({"content_hash": self.content_hash, "plan": encode(self.plan)})
        ordered = {name: np.ascontiguousarray(self.tensors[name]) for name in sorted(self.tensors)}
        return save_tensors(ordered, {METADATA_KEY: metadata})

    def save(self, path: str | Path) -> Path:
        """Write atomically: the file appears whole or not at all."""
        path = Path(path)
        if not path.parent.is_dir():
            raise ArtifactError(f"cannot save to {path}: the folder {path.parent} does not exist")
        with atomic_output(path) as partial:
            partial.write_bytes(self.to_bytes())
        return path

    def precision_manifest(self, variant: str | None = None) -> list[dict[str, str]]:
        """What runs in which precision: one row (where, tensor, dtype) per tensor or operation, integers and floats alike.

        `variant` decides about fc1 and the activation; None is the artifact's own fused variant. Raises VariantError for one it
        cannot run.
        """
        chosen, plan = choose_variant(self.plan, variant), self.plan
        rows = [("patch_embed", "image", "uint8"), *_linear_rows("patch_embed", "projection", plan.stem.proj)]
        rows += [("patch_embed", "embedding", "int16"), *_norm_rows("patch_embed")]
        for i, stage in enumerate(plan.stages):
            rows.append((f"layers.{i}", "residual stream", "int16"))
            if stage.merge:
                where = f"layers.{i}.downsample"
                rows += [*_norm_rows(where), (where, "norm", "int8"), *_linear_rows(where, "reduction", stage.merge.reduction)]
            for j, block in enumerate(stage.blocks):
                rows += _block_rows(f"layers.{i}.blocks.{j}", block, chosen)
        rows += [*_norm_rows("head"), ("head", "norm", "int16"), ("head", "pooling sum", "int32"), ("head", "pooled", "int16")]
        rows += [("head", "classifier accumulator", "int32"), ("head", "logits", "float32")]
        return [{"where": where, "tensor": tensor, "dtype": dtype} for where, tensor, dtype in rows]


Row = tuple[str, str, str]  # where, tensor, dtype
FLOAT_VARIANTS = {
    Variant.RELU_FLOAT: "float32",
    Variant.RELU_SEPARATE_INT8: "float32 twice",
    Variant.GELU_FUSED: "float32 with erf",
    Variant.GELU_FUSED_TANH: "float32 with tanh",
    Variant.GELU_POLY: "float32",
    Variant.GELU_SEPARATE: "float32 twice with tanh",
}


def _norm_rows(where: str) -> list[Row]:
    return [(where, "LayerNorm sums", "int64"), (where, "LayerNorm normalisation", "float32")]


def _linear_rows(where: str, name: str, linear: Linear) -> list[Row]:
    step = "float32 twice" if linear.rounding is Rounding.TWO_STAGE else "int32"
    return [(where, f"{name} accumulator", "int32"), (where, f"{name} requantization", step)]


def _block_rows(where: str, block: Block, variant: Variant) -> list[Row]:
    rows: list[Row] = [*_norm_rows(where), (where, "norm1", "int8"), *_linear_rows(where, "qkv", block.qkv)]
    rows += [(where, tensor, "int8") for tensor in ("q", "k", "v")]
    rows += [(where, "scores", "int16"), (where, "softmax weights", "uint8"), (where, "softmax division", "float32")]
    rows += [(where, "context", "int8"), *_linear_rows(where, "proj", block.proj), (where, "norm2", "int8")]
    accumulator, (_, _, step) = _linear_rows(where, "fc1", block.mlp.fc1)
    rows += [accumulator, (where, "fc1 requantization and activation", FLOAT_VARIANTS.get(variant, step))]
    rows += [(where, "hidden", "uint8" if block.mlp.fc2.input_high == 255 else "int8")]
    return rows + _linear_rows(where, "fc2", block.mlp.fc2)


def load_artifact(path: str | Path) -> Artifact:
    """Read and validate an artifact. Raises ArtifactError for anything that is not byte for byte what `save` wrote."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    return artifact_from_bytes(raw, name=str(path))


def artifact_from_bytes(raw: bytes, *, name: str = "artifact") -> Artifact:
    """`load_artifact` for bytes in memory, those of `Artifact.to_bytes`. Raises ArtifactError, which calls them `name`."""
    redo = "make it again with `geluless quantize`, or fetch it again"
    try:
        content = _metadata(raw)
        plan = decode(Plan, content["plan"])
        artifact = Artifact(plan, load_tensors(raw))
        if content["content_hash"] != artifact.content_hash:
            raise PlanError("its content hash does not match its content")
        if artifact.to_bytes() != raw:
            raise PlanError("its bytes are not in the canonical form")
    except ArtifactError as error:
        raise ArtifactError(f"{name} is refused: {error}; {redo}") from error
    except (PlanError, SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ArtifactError(f"{name} is refused: {error}; {redo}") from error
    return artifact


def _metadata(raw: bytes) -> dict[str, Any]:
    """The parsed `geluless` entry of a safetensors header (8 bytes of length, then JSON)."""
    if len(raw) < 8:
        raise PlanError("it is too short to be a safetensors file")
    size = int.from_bytes(raw[:8], "little")
    if size > min(len(raw) - 8, MAX_HEADER_BYTES):
        raise PlanError("its header is cut off or oversized")
    header = json.loads(raw[8 : 8 + size])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or metadata.keys() != {METADATA_KEY} or not isinstance(metadata[METADATA_KEY], str):
        raise PlanError("it is no geluless artifact: the metadata entry is missing")
    content = json.loads(metadata[METADATA_KEY])
    if not isinstance(content, dict) or content.keys() != {"content_hash", "plan"}:
        raise PlanError("its metadata must hold exactly content_hash and plan")
    return content


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
