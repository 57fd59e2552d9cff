"""Swin Transformers by their timm names: create, load weights, and find their blocks."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import nn

from geluless.errors import CheckpointError, ModelError
from geluless.models.checkpoint import Checkpoint, read_checkpoint
from geluless.models.checkpoint_facts import Stated
from geluless.models.interface import interface_of
from geluless.models.micro import MICRO_CONFIGS, create_micro

logger = logging.getLogger(__name__)
BLOCK = re.compile(r"layers\.\d+\.blocks\.\d+\.")
PAPER_MODELS = {
    "tiny": "swin_tiny_patch4_window7_224",
    "small": "swin_small_patch4_window7_224",
    "base": "swin_base_patch4_window7_224",
    "large": "swin_large_patch4_window7_224",
}
PAPER_WIDTHS = {"tiny": 96, "small": 96, "base": 128, "large": 192}
KNOWN_SHAPES = {  # width, depths, window
    **{
        config.paper_model.replace("window7_224", f"window{window}_{side}"): (PAPER_WIDTHS[size], config.depths, window)
        for size, config in zip(PAPER_MODELS, MICRO_CONFIGS.values(), strict=True)
        for window, side in ((7, 224), (12, 384))
        if window == 7 or size in ("base", "large")
    },
    **{name: (config.embed_dim, config.depths, 7) for name, config in MICRO_CONFIGS.items()},
}


def create_model(
    name: str,
    checkpoint: str | Path | Checkpoint | None = None,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    use_ema: bool = False,
) -> SwinTransformer:
    """A Swin v1 in evaluation mode, by timm name (`swin_tiny_patch4_window7_224`) or micro name (`swin_micro_tiny`).

    `checkpoint` is what `read_checkpoint` takes, or its result: a .safetensors file, what torch.save wrote, or a Hugging Face
    folder. Classes, image size, preprocessing and class names come from it where it has them (`interface_of` reads them back);
    what was taken off or left out is logged. `pretrained=True` lets timm download its weights.

    Raises ModelError for an unknown name, CheckpointError for unreadable or mismatching weights, and for a contradiction.
    """
    if checkpoint is not None and pretrained:
        raise CheckpointError("checkpoint and pretrained=True contradict each other: give one")
    if name in MICRO_CONFIGS and pretrained:
        raise CheckpointError(f"{name} has no timm weights: use checkpoint='fixtures/teachers/{name}.safetensors'")
    if name not in MICRO_CONFIGS and not timm.is_model(name):
        known = ", ".join([*PAPER_MODELS.values(), *MICRO_CONFIGS])
        raise ModelError(f"unknown model {name!r}; known are timm's Swin names, among them {known}")
    found = checkpoint
    if isinstance(found, str | Path):
        found = read_checkpoint(found, use_ema=use_ema)
        for remark in found.remarks:
            logger.info("%s: %s", found.path, remark)
    options: dict[str, Any] = {}
    if found is not None:
        num_classes = _agreed_classes(found, asked=num_classes)
        _require_architecture(found, name)
        img_size = found.stated.image_size if img_size is None else img_size
        options |= found.stated.options
    if name in MICRO_CONFIGS:
        if img_size not in (None, 28, (28, 28)):
            raise ModelError(f"{name} takes 28x28 images, not {img_size}")
        model = create_micro(name, num_classes=10 if num_classes is None else num_classes)
    else:
        options |= {k: v for k, v in {"num_classes": num_classes, "img_size": img_size}.items() if v is not None}
        try:
            model = timm.create_model(name, pretrained=pretrained, **options)
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            hint = "download them elsewhere and pass checkpoint=FILE"
            raise CheckpointError(f"timm cannot fetch the weights of {name} ({error.__class__.__name__}): {hint}") from error
        except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
            asked = ", ".join(f"{key}={value}" for key, value in options.items())
            raise ModelError(f"timm makes no {name} with {asked} ({error}): leave these out or name another model") from error
    require_swin(model)
    if found is not None:
        load_checkpoint(model, found)
        _take_over(model, found.stated)
    return model.eval()


def _agreed_classes(found: Checkpoint, *, asked: int | None) -> int | None:
    """The number of classes of the classifier in the file; CheckpointError where something else is said of it."""
    said, there = found.stated.num_classes, found.num_classes
    if there is None:
        return asked if asked is not None else said
    if asked not in (None, there):
        raise CheckpointError(f"{found.path} has {there} classes, not {asked}: leave out --num-classes")
    names = found.stated.class_names
    said = len(names) if names is not None else said
    if said not in (None, there):
        raise CheckpointError(
            f"{found.stated.origin} says {said} classes, the weights have {there}: one of them is of another network"
        )
    return there


def _require_architecture(found: Checkpoint, name: str) -> None:
    said = found.stated.architecture
    if said in (None, name.partition(".")[0]) or not (said in MICRO_CONFIGS or timm.is_model(said)):
        return
    raise CheckpointError(f"{found.stated.origin} says that this is a {said}, not a {name}: give --model {said}")


def require_swin(model: nn.Module) -> SwinTransformer:
    """The model itself, or ModelError if it is no timm Swin v1."""
    if not isinstance(model, SwinTransformer):
        raise ModelError(
            f"{type(model).__name__} is not a timm Swin v1: use one of " + ", ".join([*PAPER_MODELS.values(), *MICRO_CONFIGS])
        )
    for name, block in ((name, module) for name, module in model.named_modules() if isinstance(module, SwinTransformerBlock)):
        if getattr(block, "always_partition", False) or getattr(block, "dynamic_mask", False):
            raise ModelError(f"{name} partitions at run time (always_partition or dynamic_mask): create the model without them")
    return model


def named_blocks(model: nn.Module) -> Iterator[tuple[str, SwinTransformerBlock]]:
    """(name, block) in the order of the forward pass; `layers.2.blocks.4` is block 4 of stage 3."""
    for stage_index, stage in enumerate(require_swin(model).layers):
        for block_index, block in enumerate(stage.blocks):
            yield f"layers.{stage_index}.blocks.{block_index}", block


def load_checkpoint(model: nn.Module, checkpoint: str | Path | Checkpoint) -> None:
    """Load weights strictly; the model is left untouched when they do not fit.

    Half-precision weights are widened to the model's dtype. A missing `mlp.fc1.bias` is taken as a network trained without it
    (see `replace_gelu(drop_bias=True)`); any other difference raises CheckpointError.
    """
    found = checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint)
    state, own = dict(found.state), model.state_dict()
    without_bias = [(n, b) for n, b in named_blocks(model) if f"{n}.mlp.fc1.bias" in own.keys() - state.keys()]
    dropped = {f"{name}.mlp.fc1.bias" for name, _ in without_bias}
    missing, unexpected = sorted(own.keys() - state.keys() - dropped), sorted(state.keys() - own.keys())
    wrong = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    if missing and not unexpected and not wrong and all(name.startswith("head.") for name in missing):
        raise CheckpointError(
            f"{found.path} has no classifier ({missing[0]} is missing): save the whole network, not its backbone"
        )
    if missing or unexpected or wrong:
        parts = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        parts += [f"{len(unexpected)} unexpected (first: {unexpected[0]})"] if unexpected else []
        parts += [f"{len(wrong)} of another shape (first: {min(wrong)})"] if wrong else []
        what = f"{found.path} holds the weights of another network ({described(state)}): {'; '.join(parts)}"
        raise CheckpointError(f"{what}. Check --model")
    bad = [k for k, v in state.items() if not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError(f"{found.path}: {bad[0]} holds NaN or infinite values: the training run that wrote it diverged")
    for _, block in without_bias:
        block.mlp.fc1.bias = None
    model.load_state_dict(state)


def described(state: Mapping[str, torch.Tensor]) -> str:
    """Width, depths, window and classes that the weights' names and shapes tell, and the name that goes with them."""
    blocks = {match[0] for match in map(BLOCK.match, state) if match}
    stages = Counter(int(name.split(".")[1]) for name in blocks)
    depths = tuple(stages[stage] for stage in sorted(stages))

    def rows(name: str) -> int:
        return state[name].shape[0] if name in state and state[name].ndim else 0

    width, classes = rows("patch_embed.proj.weight"), rows("head.fc.weight")
    window = (math.isqrt(rows("layers.0.blocks.0.attn.relative_position_bias_table")) + 1) // 2  # of (2 · window - 1)² rows
    shape = f"width {width}, depths {'-'.join(map(str, depths)) or 'of no Swin'}, window {window}, {classes} classes"
    named = [name for name, known in KNOWN_SHAPES.items() if known == (width, depths, window)]
    return f"{shape}, as {named[0]}" if named else shape


def _take_over(model: SwinTransformer, stated: Stated) -> None:
    """What the file says of preprocessing and classes becomes the model's `pretrained_cfg`, where timm keeps its own."""
    said = dict(stated.preprocessing) | ({"label_names": stated.class_names} if stated.class_names else {})
    if said:
        model.pretrained_cfg = dict(getattr(model, "pretrained_cfg", None) or {}) | said
        try:
            interface_of(model)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{stated.origin}: {error}; correct or remove it") from None


def weights_digest(model: nn.Module) -> str:
    """sha256 over the names, dtypes and bytes of all weights, in name order."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{key} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()
