"""The interface of a network in memory: timm keeps it in `pretrained_cfg`, and so does this package."""

from __future__ import annotations

from typing import Any

from torch import nn

from geluless.errors import ModelError
from geluless.interface import Interface
from geluless.models.micro import MICRO_MEAN, MICRO_STD

MICRO = {"mean": (MICRO_MEAN,), "std": (MICRO_STD,), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"}
PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def interface_of(model: nn.Module) -> Interface:
    """What the network takes: what its checkpoint said, timm's values for its name where that said nothing.

    A grey network without a statement is a micro one. Raises ModelError for a network without patch embedding, ValueError for
    values that contradict each other.
    """
    from timm.data import resolve_data_config

    size = input_size_of(model)
    stated: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    if size[0] == 1:  # timm's own statement, of three means, is about photographs
        stated = MICRO | stated if len(stated.get("mean") or ()) == 1 else stated | MICRO
    config = resolve_data_config({"input_size": size}, pretrained_cfg=stated)
    names = stated.get("label_names")
    return Interface(
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        class_names=tuple(names) if names is not None else None,
    )


def input_size_of(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the patch embedding was built for; ModelError for a model that has none."""
    embed: Any = getattr(model, "patch_embed", None)
    if embed is None:
        raise ModelError(f"{type(model).__name__} has no patch embedding: the model must come from geluless.create_model")
    height, width = embed.img_size
    return embed.proj.in_channels, height, width
