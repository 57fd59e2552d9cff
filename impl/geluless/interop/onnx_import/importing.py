"""An artifact from what another tool quantized, so that engines can be compared on one network and nothing else differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from geluless.errors import ArtifactError
from geluless.integer.artifact import Artifact
from geluless.integer.plan import Activation, PlanError
from geluless.interop.onnx_file import refusing
from geluless.interop.onnx_import.import_log import ImportLog, ImportReport, Reason
from geluless.interop.onnx_import.interpreting import interpret
from geluless.interop.onnx_import.qparams import file_qparams, needed, observations, reaches
from geluless.interop.onnx_import.reading import read_file
from geluless.interop.onnx_import.rebuilding import linear_layers, rebuild
from geluless.interop.onnx_import.recognition import recognise
from geluless.ptq.builder import Builder
from geluless.ptq.overrides import QuantOverrides
from geluless.ptq.profiles import PROFILES

# What the file leaves open is chosen as in profile `per-channel`. LayerNorms are not folded: the file's weights do not contain
# them.
IMPORTED = replace(PROFILES["per-channel"], name="imported", fold_norms=False)


def import_onnx(
    path: str | Path, *, batches: Iterable[torch.Tensor] | None = None, name: str | None = None
) -> tuple[Artifact, ImportReport]:
    """An ONNX QDQ Swin, as ONNX Runtime's, NNCF's or ModelOpt's quantizer writes it, as an artifact.

    `batches` (float32 [B, C, H, W], normalised) calibrate what the file keeps in float and an engine here does not: for most
    files the residual stream, GELU's input, q, k and v. `name` is recorded in the artifact; the default is the file's.

    Raises ArtifactError for a file that is damaged, hostile, or no 8-bit Swin, naming the node; CalibrationError for unusable
    images or tensors without a range; MissingResource without the onnx package.
    """
    path, log = Path(path), ImportLog()
    with refusing(path):
        file = read_file(path)
        read = recognise(interpret(file), log)
        layers = list(linear_layers(read, log))
        swin = rebuild(read, layers)
    qparams = file_qparams(read, log)
    seen, calibration = observations(read, swin, batches, given=qparams)
    activations = {f"{name}.mlp": block.activation for name, block in read.named_blocks()}
    kind = next(iter(activations.values())).kind
    functions = activations if kind is Activation.GELU else {}
    weights = {layer.name: layer.given for layer in layers if layer.given is not None}
    builder = Builder(swin, seen, IMPORTED, kind, QuantOverrides(weights, qparams, functions, fold_head=False))
    try:
        artifact = builder.build(name or path.stem, {"onnx": file.sha256, **calibration})
    except (PlanError, ValueError) as error:
        raise ArtifactError(f"{path} is refused: {error}; quantize the network again") from error
    for tensor in builder.raised:
        log.change(tensor, Reason.FINER_THAN_ACCUMULATOR)
    from_file = {*qparams, *reaches(read)}
    identical = weights.keys() - {change.tensor for change in log.changes if change.reason is Reason.WEIGHT_LOWEST}
    return artifact, ImportReport(
        sha256=file.sha256,
        producer=file.producer,
        quantizer=file.quantizer,
        activation=kind.value,
        images=seen.images,
        from_file=tuple(sorted(from_file)),
        calibrated=tuple(tensor for tensor in needed(read) if tensor not in from_file),
        identical_weights=tuple(layer.name for layer in layers if layer.name in identical),
        quantized_weights=tuple(layer.name for layer in layers if layer.name not in identical),
        changes=tuple(log.changes),
    )
