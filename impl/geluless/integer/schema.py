"""The tensors beside a plan: which there must be, of what type and shape, and between which limits."""

from __future__ import annotations

from dataclasses import dataclass

from geluless.integer.plan import Activation, Block, Linear, Norm, Plan, Rounding, is_padded

MAX_SHIFT = 30
INT32_MAX = 2**31 - 1
MAX_OUTPUT_MULTIPLIER = 2**20  # |sum weight v / sum weight| <= 128: the context fits int32 before it is clamped
MAX_FACTOR = 2.0**16  # |n| / sqrt(V) <= 182 for 32767 channels: a normalised value fits int32 before it is clamped
SCALES = (2.0**-40, 2.0**40)  # of every real step a plan names
FLOAT_LIMIT = 2**32  # no product of two such floats and an int32 leaves the range of fp32
SOFTMAX_STEPS = 128
SOFTMAX_STEP = 1 / 20  # of the exponent, per entry of the softmax table: 128 entries reach exp(-6.35) = 0.45 / 255
MAX_TOKENS = 1 << 22  # of one stage: engines count tokens and stream rows in int32
MAX_ELEMENTS = 1 << 28  # of one intermediate tensor per image: a forged plan must not ask for all memory (Swin-L at 384: 2^23)
MAX_POOLED = (INT32_MAX - 2**29) // 2**15  # the sum over int16 tokens and the rounding half fit int32
POOLED = (-2048, 2047)  # 12 bits: 6192 features times an int8 weight fit the int32 accumulator with room for the bias


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be; values outside [low, high] and non-finite floats are refused."""

    dtype: str
    shape: tuple[int, ...]
    low: int | None = None
    high: int | None = None


def _floats(count: int, limit: int = FLOAT_LIMIT) -> TensorSpec:
    return TensorSpec("float32", (count,), -limit, limit)


def linear_schema(name: str, linear: Linear) -> dict[str, TensorSpec]:
    schema = {
        f"{name}.weight": TensorSpec("int8", (linear.outputs, linear.inputs), -127, 127),
        f"{name}.bias": TensorSpec("int32", (linear.outputs,)),
    }
    if linear.rounding is Rounding.SINGLE:
        schema[f"{name}.multiplier"] = TensorSpec("int16", (linear.outputs,), 0, 32767)
        schema[f"{name}.shift"] = TensorSpec("uint8", (linear.outputs,), 0, MAX_SHIFT)
    else:
        schema[f"{name}.alpha"] = _floats(linear.outputs)
        schema[f"{name}.gain"] = _floats(linear.outputs)
        schema[f"{name}.offset"] = _floats(linear.outputs)
    return schema


def norm_schema(name: str, norm: Norm) -> dict[str, TensorSpec]:
    if not norm.affine:
        return {}
    return {f"{name}.{part}": _floats(norm.channels) for part in ("gain", "offset")}


def block_schema(name: str, block: Block, activation: Activation, *, padded: bool) -> dict[str, TensorSpec]:
    heads, (window_h, window_w) = block.attention.heads, block.attention.window
    schema = {
        **norm_schema(f"{name}.norm1", block.norm1),
        **linear_schema(f"{name}.attn.qkv", block.qkv),
        f"{name}.attn.bias_table": TensorSpec("int16", ((2 * window_h - 1) * (2 * window_w - 1), heads)),
        f"{name}.attn.score_shift": TensorSpec("uint8", (heads,), 0, MAX_SHIFT),
        f"{name}.attn.score_multiplier": TensorSpec("int16", (heads,), 0, 32767),
        f"{name}.attn.output_multiplier": _floats(heads, MAX_OUTPUT_MULTIPLIER),
        **linear_schema(f"{name}.attn.proj", block.proj),
        **norm_schema(f"{name}.norm2", block.norm2),
        **linear_schema(f"{name}.mlp.fc1", block.mlp.fc1),
        f"{name}.mlp.fc1.accumulator_scale": _floats(block.mlp.fc1.outputs),
        f"{name}.mlp.fc1.real_bias": _floats(block.mlp.fc1.outputs),
        **linear_schema(f"{name}.mlp.fc2", block.mlp.fc2),
    }
    if padded:
        schema[f"{name}.attn.qkv.pad"] = TensorSpec("int8", (block.qkv.outputs,))
    if activation is Activation.GELU and block.mlp.fc1.rounding is Rounding.SINGLE:
        schema[f"{name}.mlp.table"] = TensorSpec("uint8", (256,))
    return schema


def tensor_schema(plan: Plan) -> dict[str, TensorSpec]:
    """Every tensor an artifact of this plan must hold, and no other."""
    schema = {
        "softmax_table": TensorSpec("uint8", (SOFTMAX_STEPS,)),
        **linear_schema("patch_embed.proj", plan.stem.proj),
        **norm_schema("patch_embed.norm", plan.stem.norm),
    }
    for i, stage in enumerate(plan.stages):
        if stage.merge:
            schema |= norm_schema(f"layers.{i}.downsample.norm", stage.merge.norm)
            schema |= linear_schema(f"layers.{i}.downsample.reduction", stage.merge.reduction)
        for j, block in enumerate(stage.blocks):
            schema |= block_schema(f"layers.{i}.blocks.{j}", block, plan.activation, padded=is_padded(stage, block))
    schema |= norm_schema("norm", plan.head.norm)
    schema |= {
        "head.fc.weight": TensorSpec("int8", (plan.head.fc.outputs, plan.head.fc.inputs), -127, 127),
        "head.fc.bias": TensorSpec("int32", (plan.head.fc.outputs,)),
        "head.fc.logit_scale": _floats(plan.head.fc.outputs),
    }
    return schema


def named_linears(plan: Plan) -> list[tuple[str, Linear]]:
    """Every linear layer of the plan by the prefix of its tensors."""
    named = [("patch_embed.proj", plan.stem.proj)]
    for i, stage in enumerate(plan.stages):
        if stage.merge:
            named.append((f"layers.{i}.downsample.reduction", stage.merge.reduction))
        for j, block in enumerate(stage.blocks):
            name = f"layers.{i}.blocks.{j}"
            named += [(f"{name}.attn.qkv", block.qkv), (f"{name}.attn.proj", block.proj)]
            named += [(f"{name}.mlp.fc1", block.mlp.fc1), (f"{name}.mlp.fc2", block.mlp.fc2)]
    return [*named, ("head.fc", plan.head.fc)]
