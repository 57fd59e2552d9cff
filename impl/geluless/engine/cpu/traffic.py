"""Bytes that the MLPs of a lowered network read and write for one image: what an activation costs in memory traffic.

Counted per layer and operand, each once: a cache that keeps an operand from one layer to the next saves the trip, for every
variant alike. Padding tokens and the rounding of strides up to whole vectors are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from geluless.engine.cpu.lowering import Block, Elementwise, Layer, Network

RESIDUAL = np.dtype(np.int16).itemsize  # of one value of the residual stream, which fc2 reads and writes


@dataclass(frozen=True)
class Traffic:
    """Bytes per image."""

    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.read + other.read, self.written + other.written)


def mlp_traffic(network: Network) -> Traffic:
    """fc1, the activation where it is a pass of its own, and fc2 of every block."""
    blocks = [(stage.height * stage.width, block) for stage in network.stages for block in stage.blocks]
    return sum((_of_block(tokens, block) for tokens, block in blocks), Traffic(0, 0))


def _of_block(tokens: int, block: Block) -> Traffic:
    fc1, fc2 = block.fc1, block.fc2
    between = tokens * fc1.outputs * (2 if fc1.epilogue.endswith("s16") else 1)
    hidden = tokens * fc2.inputs
    moved = Traffic(tokens * fc1.inputs + _constants(fc1), between)
    if block.elementwise is not None:
        moved += Traffic(between + _constants(block.elementwise), hidden)
    residual = tokens * fc2.outputs * RESIDUAL
    return moved + Traffic(hidden + _constants(fc2) + residual, residual)


def _constants(layer: Layer | Elementwise) -> int:
    """Weights, biases, scales, tables: every array that the kernel is given."""
    values = (getattr(layer, field.name) for field in fields(layer))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))
