"""geluless: Swin Transformers without GELU, quantized to INT8, and the suite that judges the claims about them.

model    = geluless.create_model("swin_tiny_patch4_window7_224", checkpoint="swin_t.safetensors")
report   = geluless.replace_gelu(model)                            # or geluless.distill(teacher, images, recipe="local")
artifact = geluless.quantize(model, batches, profile="per-channel")
engine   = geluless.Engine(artifact, backend="reference")
logits   = engine(images)                                          # float32 [B, 3, H, W] -> float32 [B, classes]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # written here only: pyproject.toml reads it

if TYPE_CHECKING:
    from geluless.distillation import distill as distill
    from geluless.engine.engine import Engine as Engine
    from geluless.integer.artifact import Artifact as Artifact
    from geluless.integer.artifact import artifact_from_bytes as artifact_from_bytes
    from geluless.integer.artifact import load_artifact as load_artifact
    from geluless.models.activations import replace_gelu as replace_gelu
    from geluless.models.swin import create_model as create_model
    from geluless.ptq.profiles import Profile as Profile
    from geluless.ptq.quantize import quantize as quantize

# Imported on first use, so that `geluless --help` does not wait for torch.
_HOME = {
    "Artifact": "geluless.integer.artifact",
    "Engine": "geluless.engine.engine",
    "Profile": "geluless.ptq.profiles",
    "artifact_from_bytes": "geluless.integer.artifact",
    "create_model": "geluless.models.swin",
    "distill": "geluless.distillation",
    "load_artifact": "geluless.integer.artifact",
    "quantize": "geluless.ptq.quantize",
    "replace_gelu": "geluless.models.activations",
}

__all__ = [
    "Artifact",
    "Engine",
    "Profile",
    "artifact_from_bytes",
    "create_model",
    "distill",
    "load_artifact",
    "quantize",
    "replace_gelu",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geluless' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
