"""Swap the activation of Swin's MLPs, and prove that nothing was missed.

timm's Swin takes no `act_layer` at model level: depending on the version the argument is silently ignored or rejected.
So the swap is surgery on the built network, followed by a count of what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from geluless.errors import ModelError
from geluless.models.swin import named_blocks


@dataclass(frozen=True)
class SwapReport:
    """What `replace_gelu` did: names of MLPs that now end fc1 in ReLU, and of modules that are still a GELU."""

    swapped: tuple[str, ...]
    already_relu: tuple[str, ...]
    remaining_gelu: tuple[str, ...]
    dropped_bias: tuple[str, ...]

    def __str__(self) -> str:
        bias = f", {len(self.dropped_bias)} fc1 biases dropped" if self.dropped_bias else ""
        return f"{len(self.swapped)} GELU replaced by ReLU, {len(self.remaining_gelu)} GELU left{bias}"


def gelu_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of all modules that compute some GELU (nn.GELU, timm's GELU, GELUTanh, QuickGELU, ...)."""
    return tuple(name for name, module in model.named_modules() if "gelu" in type(module).__name__.lower())


def _is_gelu(module: nn.Module) -> bool:
    """GELU by its definition or by tanh, which differ by less than 0.001; QuickGELU and others are not that function."""
    return type(module).__name__ in ("GELU", "GELUTanh", "GELUFp32")


def activation_of(model: nn.Module) -> str:
    """'gelu' or 'relu' when every MLP agrees, else 'mixed'. Raises ModelError for any other activation."""
    kinds = set()
    for name, block in named_blocks(model):
        kind = "relu" if isinstance(block.mlp.act, nn.ReLU) else "gelu" if _is_gelu(block.mlp.act) else None
        if kind is None:
            raise ModelError(f"{name}.mlp.act is {type(block.mlp.act).__name__}: only GELU and ReLU networks are handled")
        kinds.add(kind)
    return kinds.pop() if len(kinds) == 1 else "mixed"


def replace_gelu(model: nn.Module, *, blocks: Iterable[int] | None = None, drop_bias: bool = False) -> SwapReport:
    """Replace the MLP activations of the given blocks (counted over all stages; default all) by ReLU, in place.

    `drop_bias` also removes fc1's bias there, the paper's "removes the bias that is fused to it". With `blocks=None`
    no GELU may be left anywhere in the network: ModelError names the first one that is.
    """
    named = list(named_blocks(model))
    chosen = set(range(len(named))) if blocks is None else set(blocks)
    if outside := sorted(chosen - set(range(len(named)))):
        raise ModelError(f"block {outside[0]} does not exist: the network has blocks 0 to {len(named) - 1}")
    swapped, already, dropped = [], [], []
    for index in sorted(chosen):
        name, block = named[index]
        if isinstance(block.mlp.act, nn.ReLU):
            already.append(f"{name}.mlp")
        elif gelu_modules(block.mlp.act):
            block.mlp.act = nn.ReLU()
            swapped.append(f"{name}.mlp")
        else:
            raise ModelError(f"{name}.mlp.act is {type(block.mlp.act).__name__}, not a GELU: nothing to replace")
        if drop_bias and block.mlp.fc1.bias is not None:
            block.mlp.fc1.bias = None
            dropped.append(f"{name}.mlp.fc1")
    remaining = gelu_modules(model)
    if blocks is None and remaining:
        raise ModelError(f"a GELU is left at {remaining[0]}, outside the MLPs this package knows: the network is not GELU-less")
    return SwapReport(tuple(swapped), tuple(already), remaining, tuple(dropped))
