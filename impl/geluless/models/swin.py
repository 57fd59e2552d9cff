"""Swin Transformers by their timm names: create, load weights, and find their blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import nn

from geluless.errors import CheckpointError, ModelError
from geluless.models.micro import MICRO_CONFIGS, create_micro

DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")
PAPER_MODELS = {
    "tiny": "swin_tiny_patch4_window7_224",
    "small": "swin_small_patch4_window7_224",
    "base": "swin_base_patch4_window7_224",
    "large": "swin_large_patch4_window7_224",
}


def create_model(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
) -> SwinTransformer:
    """A Swin v1 in evaluation mode, by timm name (`swin_tiny_patch4_window7_224`) or micro name (`swin_micro_tiny`).

    `checkpoint` is a local .safetensors or .pth file, or a folder in the Hugging Face layout (model.safetensors or
    pytorch_model.bin); pickles are read with `weights_only=True`. `pretrained=True` lets timm download its weights.

    Raises ModelError for an unknown name, CheckpointError for unreadable or mismatching weights.
    """
    if checkpoint is not None and pretrained:
        raise CheckpointError("checkpoint and pretrained=True contradict each other: give one")
    if name in MICRO_CONFIGS:
        if pretrained:
            raise CheckpointError(f"{name} has no timm weights: use checkpoint='fixtures/teachers/{name}.safetensors'")
        if img_size not in (None, 28, (28, 28)):
            raise ModelError(f"{name} takes 28x28 images, not {img_size}")
        model = create_micro(name, num_classes=10 if num_classes is None else num_classes)
    else:
        if not timm.is_model(name):
            known = ", ".join([*PAPER_MODELS.values(), *MICRO_CONFIGS])
            raise ModelError(f"unknown model {name!r}; known are timm's Swin names, among them {known}")
        options = {"num_classes": num_classes, "img_size": img_size}
        try:
            model = timm.create_model(name, pretrained=pretrained, **{k: v for k, v in options.items() if v is not None})
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            hint = "download them elsewhere and pass checkpoint=FILE"
            raise CheckpointError(f"timm cannot fetch the weights of {name} ({error.__class__.__name__}): {hint}") from error
    require_swin(model)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model.eval()


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


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load weights strictly; the model is left untouched when they do not fit.

    Half-precision weights are widened to the model's dtype. Tables that every Swin computes for itself are left out, and the
    names of the original release become timm's. A missing `mlp.fc1.bias` is taken as a network trained without it (see
    `replace_gelu(drop_bias=True)`); any other difference raises CheckpointError.
    """
    state = _named_as_here(_read_state(Path(path)))
    own = model.state_dict()
    without_bias = [(n, b) for n, b in named_blocks(model) if f"{n}.mlp.fc1.bias" in own.keys() - state.keys()]
    dropped = {f"{name}.mlp.fc1.bias" for name, _ in without_bias}
    missing, unexpected = sorted(own.keys() - state.keys() - dropped), sorted(state.keys() - own.keys())
    wrong = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        parts = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        parts += [f"{len(unexpected)} unexpected (first: {unexpected[0]})"] if unexpected else []
        parts += [f"{len(wrong)} of another shape (first: {min(wrong)})"] if wrong else []
        raise CheckpointError(f"{path} holds the weights of another network: {'; '.join(parts)}. Check --model")
    bad = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError(f"{path}: {bad[0]} holds NaN or infinite values: the training run that wrote it diverged")
    for _, block in without_bias:
        block.mlp.fc1.bias = None
    model.load_state_dict(state)


COMPUTED = ("relative_position_index", "attn_mask")  # buffers in released files, which no network here keeps


def _named_as_here(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the original release, github.com/microsoft/Swin-Transformer, the head and the downsampling have other names."""
    original = "head.weight" in state
    found = {}
    for name, value in state.items():
        if name.rpartition(".")[2] in COMPUTED:
            continue
        if original:
            name = DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
            name = name.replace("head.", "head.fc.", 1) if name.startswith("head.") else name
        found[name] = value
    return found


def weights_digest(model: nn.Module) -> str:
    """sha256 over the names, dtypes and bytes of all weights, in name order."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{key} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.is_dir():
        inside = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        if not inside:
            raise CheckpointError(f"{path} holds neither model.safetensors nor pytorch_model.bin")
        path = inside[0]
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} is no readable checkpoint: {_first_line(error)}") from error
    except Exception as error:  # unpickling hostile bytes can raise anything; weights_only keeps it harmless
        raise CheckpointError(f"{path} is refused by torch.load(weights_only=True): {_first_line(error)}") from error
    for wrapper in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict: expected names mapped to tensors")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
