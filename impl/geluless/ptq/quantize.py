"""Post-training quantization: a float Swin and calibration images in, one integer artifact out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from geluless.errors import CalibrationError, ModelError
from geluless.integer import plan as p
from geluless.integer.artifact import Artifact
from geluless.models.activations import activation_of
from geluless.models.swin import require_swin, weights_digest
from geluless.ptq.builder import Builder
from geluless.ptq.calibrate import observe
from geluless.ptq.profiles import Profile, resolve_profile


def quantize(
    model: nn.Module, batches: Iterable[torch.Tensor], *, profile: str | Profile = "per-channel", name: str = "swin"
) -> Artifact:
    """Calibrate on `batches` (float32 [B, C, H, W], normalised; 256 images are a good number) and quantize.

    The model is left as it is. `name` is recorded in the artifact. Raises ModelError for a network that is not a timm
    Swin v1 or mixes activations, CalibrationError for unusable images or ranges.
    """
    swin = require_swin(model)
    activation = activation_of(swin)
    if activation == "mixed":
        raise ModelError("some MLPs have GELU and some ReLU: replace_gelu(model) first, or quantize the original network")
    if not isinstance(swin.head.fc, nn.Linear) or swin.global_pool != "avg":
        raise ModelError("quantize needs a classifier after average pooling: create the model with num_classes > 0")
    if any(parameter.dtype != torch.float32 for parameter in swin.parameters()):
        raise ModelError("quantize reads float32 weights: call model.float() first")
    digest = hashlib.sha256()
    seen = observe(swin, digested(batches, digest))
    parents = {"weights": weights_digest(swin), "calibration": digest.hexdigest(), "calibration_images": str(seen.images)}
    return Builder(swin, seen, resolve_profile(profile), p.Activation(activation)).build(name, parents)


def digested(batches: Iterable[torch.Tensor], digest: hashlib._Hash) -> Iterator[torch.Tensor]:
    for batch in batches:
        if not isinstance(batch, torch.Tensor):
            raise CalibrationError(f"a calibration batch is a {type(batch).__name__}: pass torch tensors [B, C, H, W]")
        digest.update(np.ascontiguousarray(batch.float().cpu().numpy()).tobytes())
        yield batch
