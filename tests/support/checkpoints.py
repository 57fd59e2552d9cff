"""The same weights as other programs write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch


def original_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As github.com/microsoft/Swin-Transformer: a stage ends with its merge of patches, and the classifier is the head."""
    later = re.compile(r"^layers\.(\d)\.downsample")
    found = {name.replace("head.fc.", "head."): value for name, value in state.items()}
    return {later.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample", name): value for name, value in found.items()}


def transformers_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As transformers' SwinForImageClassification, in the steps of its convert_swin_timm_to_pytorch.py."""
    found: dict[str, torch.Tensor] = {}
    for name, value in original_names(state).items():
        if name.startswith("head."):
            found[name.replace("head.", "classifier.")] = value
            continue
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = name.replace("patch_embed.norm", "embeddings.norm")
        name = re.sub(r"^layers", "encoder.layers", name)
        name = re.sub(r"^norm\.", "layernorm.", name)
        for ours, theirs in (("attn.proj", "attention.output.dense"), ("attn", "attention.self")):
            name = name.replace(ours, theirs)
        for ours, theirs in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            name = name.replace(ours, theirs)
        for ours, theirs in (("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")):
            name = name.replace(ours, theirs)
        if ".qkv." in name:
            width = value.shape[0] // 3
            for place, part in enumerate(("query", "key", "value")):
                found["swin." + name.replace("qkv", part)] = value[place * width : (place + 1) * width].clone()
        else:
            found["swin." + name] = value
    return found
