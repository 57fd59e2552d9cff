"""Statistics of the MLPs of a GELU network: how much they contribute, and how much a swap to ReLU changes them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from geluless.models.swin import named_blocks


@dataclass(frozen=True)
class BlockDescription:
    """One block's statistics over all tokens of all images; dimensionless."""

    block: str
    pre_mean: float  # of fc1's output with its bias, the activation's input
    pre_std: float
    pre_negative: float  # share below zero
    mlp_to_residual: float  # |MLP(x)| / |residual stream it is added to|, Frobenius norms
    swap_error: float  # |MLP with ReLU - MLP as it is| / |MLP as it is|, everything before it as it is


class _Recorder:
    """Streams one block's sums in float64 while images pass through it."""

    def __init__(self, name: str, block: SwinTransformerBlock) -> None:
        self.name = name
        self.count = 0
        self.sum = self.squares = self.negative = 0.0
        self.residual = self.output = self.error = 0.0
        self.handles = [
            block.mlp.fc1.register_forward_hook(self._pre_activation),
            block.norm2.register_forward_pre_hook(self._residual),
            block.mlp.register_forward_hook(self._mlp),
        ]

    def _pre_activation(self, _: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
        self.pre = output
        self.count += output.numel()
        self.sum += output.sum(dtype=torch.float64).item()
        self.squares += output.double().square().sum().item()
        self.negative += (output < 0).sum().item()

    def _residual(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.residual += inputs[0].double().square().sum().item()

    def _mlp(self, mlp: Mlp, _: tuple[Tensor], output: Tensor) -> None:
        with_relu = mlp.fc2(torch.relu(self.pre))
        self.output += output.double().square().sum().item()
        self.error += (with_relu - output).double().square().sum().item()

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def description(self) -> BlockDescription:
        mean = self.sum / self.count
        return BlockDescription(
            block=self.name,
            pre_mean=round(mean, 4),
            pre_std=round(max(0.0, self.squares / self.count - mean**2) ** 0.5, 4),
            pre_negative=round(self.negative / self.count, 4),
            mlp_to_residual=round((self.output / self.residual) ** 0.5, 4),
            swap_error=round((self.error / self.output) ** 0.5, 4),
        )


@torch.inference_mode()
def describe_blocks(model: nn.Module, batches: Iterable[Tensor]) -> tuple[BlockDescription, ...]:
    """Run `batches` (float32 [B, C, H, W], at least one) through a network that is left as it is."""
    with ExitStack() as stack:
        recorders = [_Recorder(name, block) for name, block in named_blocks(model)]
        for recorder in recorders:
            stack.callback(recorder.remove)
        for batch in batches:
            model(batch)
    return tuple(recorder.description() for recorder in recorders)
