"""The names of a Swin's weights in three families of files, each turned into timm's of today."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from geluless.errors import CheckpointError

TIMM_ANCHOR = "patch_embed.proj.weight"  # every Swin has one; what stands before it is a wrapper's
TRANSFORMERS_ANCHOR = "embeddings.patch_embeddings.projection.weight"
# Segments that torch.nn.DataParallel, torch.compile, FSDP and activation checkpointing put between a module and its children.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
COMPUTED = ("relative_position_index", "attn_mask")  # buffers in released files, which no network here keeps
UNUSED = ("embeddings.mask_token",)  # of transformers' masked-image modelling: reaches no logit

DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")
QKV = re.compile(r"^(layers\.\d+\.blocks\.\d+\.attn)\.(query|key|value)\.(weight|bias)$")
# As transformers' own converter from timm has them (models/swin/convert_swin_timm_to_pytorch.py), the other way round. Order
# matters: attention.output.dense before output.dense.
TRANSFORMERS_NAMES = (
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.norm.", "patch_embed.norm."),
    ("encoder.layers.", "layers."),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.self.", ".attn."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


def without_wrappers(name: str) -> str:
    """`module.layers.0._orig_mod.blocks.1` → `layers.0.blocks.1`: no module of a Swin is called like a wrapper."""
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)


def without_computed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.rpartition(".")[2] not in COMPUTED}


def is_original(state: Mapping[str, torch.Tensor]) -> bool:
    """Of github.com/microsoft/Swin-Transformer or old timm, where a stage ends with the merge of patches that begins the next."""
    return "layers.0.downsample.reduction.weight" in state or "head.weight" in state


def from_original(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As timm's `checkpoint_filter_fn` does it, which also resizes tables to other windows and says so only in its log."""
    found = {}
    for name, value in state.items():
        name = DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
        found[f"head.fc.{name.removeprefix('head.')}" if name.startswith("head.") else name] = value
    return found


def from_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of transformers' SwinForImageClassification; query, key and value become one matrix, in that order.

    Raises CheckpointError where one of the three is missing or of another shape.
    """
    found: dict[str, torch.Tensor] = {}
    parts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        name = name.removeprefix("swin.")
        if name in UNUSED:
            continue
        if name.startswith("classifier."):
            name = f"head.fc.{name.removeprefix('classifier.')}"
        elif name.startswith("layernorm."):
            name = f"norm.{name.removeprefix('layernorm.')}"
        for theirs, ours in TRANSFORMERS_NAMES:
            name = name.replace(theirs, ours)
        name = DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
        if match := QKV.match(name):
            parts.setdefault((match[1], match[3]), {})[match[2]] = value
        else:
            found[name] = value
    for (attention, kind), three in parts.items():
        if missing := {"query", "key", "value"} - three.keys():
            raise CheckpointError(f"{attention} has no {min(missing)}.{kind}: the file is incomplete, fetch or save it again")
        shapes = {tuple(value.shape) for value in three.values()}
        if len(shapes) > 1 or () in shapes:
            raise CheckpointError(f"query, key and value of {attention} have the shapes {shapes}: they belong to no one network")
        found[f"{attention}.qkv.{kind}"] = torch.cat([three["query"], three["key"], three["value"]])
    return found
