"""How many multiply-accumulates a plan needs: the numerator of every share of peak."""

from __future__ import annotations

from geluless.integer.plan import Attention, Linear, Plan, Stage


def macs(plan: Plan) -> int:
    """int8 multiply-accumulates per image: embedding, QKV, Q K^T, P V, projection, MLP, merging, head.

    Counts what the network needs, not what an engine executes: no padding of tiles, and padded tokens only inside attention,
    where they are keys like all others.
    """
    stem, head = plan.stem, plan.head.fc
    patches = (stem.height // stem.patch[0]) * (stem.width // stem.patch[1])
    total = patches * _weights(stem.proj) + head.inputs * head.outputs
    for stage in plan.stages:
        tokens = stage.height * stage.width
        total += tokens * _weights(stage.merge.reduction) if stage.merge else 0
        for block in stage.blocks:
            linears = (block.qkv, block.proj, block.mlp.fc1, block.mlp.fc2)
            total += tokens * sum(_weights(linear) for linear in linears) + _attention(stage, block.attention)
    return total


def _weights(linear: Linear) -> int:
    return linear.inputs * linear.outputs


def _attention(stage: Stage, attention: Attention) -> int:
    rows, columns = (-(-size // window) for size, window in zip((stage.height, stage.width), attention.window, strict=True))
    tokens = attention.window[0] * attention.window[1]
    return 2 * rows * columns * tokens * tokens * attention.heads * attention.head_dim
