"""The networks: timm's Swin v1 by name, micro networks of it, and the surgery on their activations."""

from geluless.models.activations import SwapReport, activation_of, gelu_modules, replace_gelu
from geluless.models.checkpoint import Checkpoint, read_checkpoint
from geluless.models.interface import interface_of
from geluless.models.micro import MICRO_CONFIGS, MICRO_INPUT_SIZE, MICRO_MEAN, MICRO_STD
from geluless.models.swin import PAPER_MODELS, create_model, load_checkpoint, named_blocks, require_swin, weights_digest

__all__ = [
    "MICRO_CONFIGS",
    "MICRO_INPUT_SIZE",
    "MICRO_MEAN",
    "MICRO_STD",
    "PAPER_MODELS",
    "Checkpoint",
    "SwapReport",
    "activation_of",
    "create_model",
    "gelu_modules",
    "interface_of",
    "load_checkpoint",
    "named_blocks",
    "read_checkpoint",
    "replace_gelu",
    "require_swin",
    "weights_digest",
]
