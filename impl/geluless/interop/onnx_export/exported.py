"""Artifacts as ONNX files, and our own files back as the same artifact.

Weights are the file's int8 initializers. What DequantizeLinear cannot say (multipliers and shifts as integers, tables, the plan)
lies beside them in the file's metadata. Reading a file back writes its artifact again and compares node by node: a changed scale
is noticed as a changed weight is.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from geluless.errors import ArtifactError, ExportError, VariantError
from geluless.files import atomic_output
from geluless.integer.artifact import Artifact
from geluless.integer.plan import Activation, Plan, PlanError, decode, encode
from geluless.integer.schema import tensor_schema
from geluless.integer.variants import Variant, choose_variant
from geluless.interop.onnx_export.exact import ExactWriter
from geluless.interop.onnx_export.graph import Graph
from geluless.interop.onnx_export.real import RealWriter
from geluless.interop.onnx_file import parse_onnx, refusing

OPSET = 20  # the first with a Gelu operator
IR_VERSION = 9  # of that opset
FORMAT = 1  # of the graphs that this version writes; others are not compared
PLAN_KEY, TENSORS_KEY = "geluless", "geluless.tensors"


class Dialect(StrEnum):
    """What a file promises: the engine's own bits, or the same network in the words that a runtime's fusions look for.

    EXACT spells requantization out: every tensor counts steps (its scale is 1), products are exact, and each rounding is the
    engine's, so that a runtime with IEEE arithmetic gives the reference's bits. FUSED has real scales, one rounding per linear
    layer, a float residual stream and Softmax: what runtimes turn into their fastest kernels. It differs from the reference as
    two roundings differ. TENSORRT is FUSED with int8 activations around zero, which is all that TensorRT takes: a uint8 hidden
    tensor keeps half of its levels, and the image stays float.
    """

    EXACT = "exact"
    FUSED = "fused"
    TENSORRT = "tensorrt"


# gelu-poly, gelu-ibert and gelu-shift are formulas of their papers' kernels: no runtime has an operator for them.
# relu-separate-int8 and gelu-fused-tanh are there to be timed beside gelu-separate, in our own engines.
EXPRESSIBLE = {
    Activation.RELU: (Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_FLOAT, Variant.RELU_SEPARATE),
    Activation.GELU: (Variant.GELU_LUT, Variant.GELU_FUSED, Variant.GELU_SEPARATE),
}


@dataclass(frozen=True, eq=False)
class Exported:
    """An artifact in one dialect: its graph, and the file's content."""

    artifact: Artifact
    dialect: Dialect
    variant: Variant
    batch: int | None  # None: any

    @cached_property
    def graph(self) -> Graph:
        writer = ExactWriter if self.dialect is Dialect.EXACT else RealWriter
        signed = self.dialect is Dialect.TENSORRT
        return writer(self.artifact.plan, self.artifact.tensors, self.variant, signed=signed).write()

    def model(self) -> onnx.ModelProto:
        """A new ModelProto: `images` float32 [batch, C, H, W] to `logits` float32 [batch, classes]."""
        plan = self.artifact.plan
        about = {"format": FORMAT, "dialect": self.dialect.value, "variant": self.variant.value, "batch": self.batch}
        about |= {"content_hash": self.artifact.content_hash, "plan": encode(plan)}
        metadata = {PLAN_KEY: json.dumps(about, sort_keys=True), TENSORS_KEY: _pack(self.artifact.tensors)}
        batch: int | str = self.batch or "batch"
        image, real = (plan.stem.channels, plan.stem.height, plan.stem.width), onnx.TensorProto.FLOAT
        images = helper.make_tensor_value_info("images", real, [batch, *image])
        logits = helper.make_tensor_value_info("logits", real, [batch, plan.head.fc.outputs])
        graph = helper.make_graph(self.graph.nodes, plan.model, [images], [logits], list(self.graph.initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="geluless")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, metadata)
        return model

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

    def summary(self) -> dict[str, Any]:
        """JSON-ready: what the file is, and its operators by count."""
        operators = dict(sorted(Counter(node.op_type for node in self.graph.nodes).items()))
        about = {"dialect": self.dialect.value, "variant": self.variant.value, "batch": self.batch, "operators": operators}
        return about | {"content_hash": self.artifact.content_hash}


def export_onnx(
    artifact: Artifact, *, dialect: str | Dialect = Dialect.EXACT, variant: str | None = None, batch: int | None = None
) -> Exported:
    """An artifact as an ONNX model, by default with its own variant, but GELU as an operator where a runtime shall fuse it.

    Raises VariantError for a variant that the artifact cannot run or that ONNX has no operator for, ExportError for a number that
    the dialect cannot express.
    """
    dialect, plan = Dialect(dialect), artifact.plan
    chosen = choose_variant(plan, variant)
    if variant is None and chosen is Variant.GELU_LUT and dialect is not Dialect.EXACT:
        chosen = Variant.GELU_FUSED
    if chosen not in EXPRESSIBLE[plan.activation]:
        names = ", ".join(expressible.value for expressible in EXPRESSIBLE[plan.activation])
        raise VariantError(f"variant {chosen.value} has no ONNX operators; choose one of {names}")
    return Exported(artifact, dialect, chosen, batch)


# ------------------------------------------------------------------------------------------------------------ the way back


def import_own(path: str | Path) -> Exported:
    """What `export_onnx` wrote, with an artifact of the same content hash. Raises ArtifactError for anything else."""
    with refusing(path):
        model = _read(path)
        metadata = _metadata(model)
        if PLAN_KEY not in metadata:
            raise ArtifactError("it was not exported by geluless: its metadata entry is missing")
        try:
            return _checked(model, json.loads(metadata[PLAN_KEY]), metadata)
        except PlanError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, SafetensorError) as error:
            raise ArtifactError(f"its geluless metadata is damaged ({error!r})") from error


def is_own(path: str | Path) -> bool:
    """Whether `export_onnx` wrote the file, or somebody says so. Raises ArtifactError for what is no ONNX file."""
    with refusing(path):
        return PLAN_KEY in _metadata(_read(path))


def _read(path: str | Path) -> onnx.ModelProto:
    _, model = parse_onnx(Path(path))
    if not model.graph.node:
        raise ArtifactError("it holds no graph: is it an ONNX model?")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactError(f"{tensor.name} lies in another file: save the model with its weights inside")
    return model


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _checked(model: onnx.ModelProto, about: Any, metadata: Mapping[str, str]) -> Exported:
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
    return exported


def _pack(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Everything but the weights, as base64 of safetensors."""
    others = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items()) if not name.endswith(".weight")}
    return base64.b64encode(save_tensors(others)).decode("ascii")


def _unpack(packed: str, plan: Plan, model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = dict(load_tensors(base64.b64decode(packed, validate=True)))
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in sorted(name for name in tensor_schema(plan) if name.endswith(".weight")):
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
