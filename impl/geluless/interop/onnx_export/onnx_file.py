"""Artifacts as ONNX files, and our own files back as the same artifact.

Weights are the file's int8 initializers. What DequantizeLinear cannot say (multipliers and shifts as integers, tables, the plan)
lies beside them in the file's metadata. Reading a file back writes its artifact again and compares node by node: a changed scale
is noticed as a changed weight is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from geluless.errors import ArtifactError, ExportError, VariantError
from geluless.files import atomic_output
from geluless.integer.artifact import Artifact
from geluless.integer.plan import Plan, PlanError, decode, encode
from geluless.integer.schema import tensor_schema
from geluless.integer.variants import Variant
from geluless.interop.onnx_export.dialects import Dialect, exported_variant
from geluless.interop.onnx_export.exact import ExactWriter
from geluless.interop.onnx_export.graph import Graph
from geluless.interop.onnx_export.real import RealWriter

FORMAT = 1  # of the graphs that this version writes; others are not compared
PLAN_KEY, TENSORS_KEY = "geluless", "geluless.tensors"
MAX_FILE_BYTES = 2**31 - 1  # of protobuf


@dataclass(frozen=True, eq=False)
class Exported:
    """An artifact in one dialect: its graph, and the file's content."""

    artifact: Artifact
    dialect: Dialect
    variant: Variant
    batch: int | None  # None: any

    @cached_property
    def graph(self) -> Graph:
        plan, tensors = self.artifact.plan, self.artifact.tensors
        if self.dialect is Dialect.EXACT:
            return ExactWriter(plan, tensors, self.variant).write()
        return RealWriter(plan, tensors, self.variant, signed=self.dialect is Dialect.TENSORRT).write()

    def model(self) -> onnx.ModelProto:
        """A new ModelProto: `images` float32 [batch, C, H, W] to `logits` float32 [batch, classes]."""
        plan = self.artifact.plan
        about = {"format": FORMAT, "dialect": self.dialect.value, "variant": self.variant.value, "batch": self.batch}
        about |= {"content_hash": self.artifact.content_hash, "plan": encode(plan)}
        metadata = {PLAN_KEY: json.dumps(about, sort_keys=True), TENSORS_KEY: _pack(self.artifact.tensors)}
        image = (plan.stem.channels, plan.stem.height, plan.stem.width)
        return self.graph.model(plan.model, image=image, classes=plan.head.fc.outputs, batch=self.batch, metadata=metadata)

    def save(self, path: str | Path) -> Path:
        """Write atomically, after onnx's own checker has accepted the model. Raises ExportError when it does not."""
        path, model = Path(path), self.model()
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"onnx.checker refuses the exported model: {error}") from error
        with atomic_output(path) as partial:
            partial.write_bytes(model.SerializeToString(deterministic=True))
        return path


def export_onnx(
    artifact: Artifact, *, dialect: str | Dialect = Dialect.EXACT, variant: str | None = None, batch: int | None = None
) -> Exported:
    """An artifact as an ONNX model. Raises VariantError for a variant that ONNX cannot express, ExportError for one of its
    numbers."""
    dialect = Dialect(dialect)
    return Exported(artifact, dialect, exported_variant(artifact.plan, variant, dialect), batch)


def import_own(path: str | Path) -> Exported:
    """What `export_onnx` wrote, with an artifact of the same content hash. Raises ArtifactError for anything else."""
    model = read_model(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if PLAN_KEY not in metadata:
        raise ArtifactError(f"{path} was not exported by geluless: its metadata entry is missing")
    try:
        about = json.loads(metadata[PLAN_KEY])
        if about["format"] != FORMAT:
            raise PlanError(f"it is of format {about['format']}, this version reads {FORMAT}: export the artifact again")
        plan = decode(Plan, about["plan"])
        artifact = Artifact(plan, _unpack(metadata[TENSORS_KEY], plan, model))
        batch = about["batch"]
        if batch is not None and (not isinstance(batch, int) or batch < 1):
            raise PlanError("its batch size is no positive number")
        exported = export_onnx(artifact, dialect=about["dialect"], variant=about["variant"], batch=batch)
        if about["content_hash"] != artifact.content_hash:
            raise PlanError("its content hash does not match its content")
        _require_same(exported.model(), model)
    except (PlanError, ArtifactError, VariantError, ExportError) as error:
        raise ArtifactError(f"{path} is refused: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, SafetensorError) as error:
        raise ArtifactError(f"{path} is refused: its geluless metadata is damaged ({error!r})") from error
    return exported


def is_own(model: onnx.ModelProto) -> bool:
    return any(entry.key == PLAN_KEY for entry in model.metadata_props)


def read_model(path: str | Path) -> onnx.ModelProto:
    """Parse a file without following references to other files. Raises ArtifactError."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"{path} is larger than an ONNX file with its weights inside can be (2 GiB)")
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise ArtifactError(f"{path} is no ONNX model, or was cut off: fetch it again") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} holds no graph: is it an ONNX model?")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactError(f"{path}: {tensor.name} lies in another file: save the model with its weights inside")
    return model


def _weights(plan: Plan) -> set[str]:
    return {name for name in tensor_schema(plan) if name.endswith(".weight")}


def _pack(tensors: Mapping[str, NDArray]) -> str:
    """Everything but the weights, as base64 of safetensors."""
    others = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items()) if not name.endswith(".weight")}
    return base64.b64encode(save_tensors(others)).decode("ascii")


def _unpack(packed: str, plan: Plan, model: onnx.ModelProto) -> dict[str, NDArray]:
    tensors: dict[str, NDArray] = dict(load_tensors(base64.b64decode(packed, validate=True)))
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in sorted(_weights(plan)):
        if name not in found:
            raise PlanError(f"the initializer {name} is missing")
        weight = numpy_helper.to_array(found[name])
        tensors[name] = weight.reshape(len(weight), -1) if weight.ndim == 4 else np.ascontiguousarray(weight.T)
    return tensors


def _require_same(expected: onnx.ModelProto, found: onnx.ModelProto) -> None:
    """Raise PlanError naming the first node or initializer that is not what the artifact's own export has."""
    for kind in ("node", "initializer", "input", "output"):
        want, have = ({item.name: item for item in getattr(m.graph, kind)} for m in (expected, found))
        if extra := sorted(have.keys() - want.keys()):
            raise PlanError(f"the {kind} {extra[0]!r} was added after the export")
        for name, item in want.items():
            if name not in have:
                raise PlanError(f"the {kind} {name!r} is missing")
            if item != have[name]:
                raise PlanError(f"the {kind} {name!r} was changed after the export")


def summary(exported: Exported) -> dict[str, Any]:
    """What a person wants to know about an export: operators by count, and which dialect and variant it is."""
    counts: dict[str, int] = {}
    for node in exported.graph.nodes:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return {
        "dialect": exported.dialect.value,
        "variant": exported.variant.value,
        "batch": exported.batch,
        "operators": dict(sorted(counts.items())),
        "content_hash": exported.artifact.content_hash,
    }
