"""Bytes per image, against a count by hand and against what the layers hold."""

from __future__ import annotations

import numpy as np

from geluless.bench.networks import random_artifact
from geluless.engine.cpu.lowering import lower
from geluless.engine.cpu.traffic import Traffic, mlp_traffic
from geluless.integer.variants import Variant

MODEL = "swin_micro_tiny"


def traffic(variant: Variant) -> Traffic:
    artifact = random_artifact(MODEL, relu=variant.value.startswith("relu"))
    return mlp_traffic(lower(artifact.plan, artifact.tensors, variant))


def test_relu_moves_inputs_weights_hidden_values_and_the_residual() -> None:
    artifact = random_artifact(MODEL, relu=True)
    read = written = 0
    for stage in lower(artifact.plan, artifact.tensors, Variant.RELU).stages:
        tokens = stage.height * stage.width
        for block in stage.blocks:
            width, hidden = block.fc1.inputs, block.fc1.outputs
            arrays = [v for layer in (block.fc1, block.fc2) for v in vars(layer).values() if isinstance(v, np.ndarray)]
            read += tokens * (width + hidden + 2 * width) + sum(array.nbytes for array in arrays)
            written += tokens * (hidden + 2 * width)
    assert traffic(Variant.RELU) == Traffic(read, written)


def test_a_pass_of_its_own_moves_the_hidden_tensor_once_more() -> None:
    """relu-separate stores 16-bit values between its kernels, gelu-separate 8-bit ones."""
    artifact = random_artifact(MODEL, relu=True)
    stages = lower(artifact.plan, artifact.tensors, Variant.RELU).stages
    hidden = sum(s.height * s.width * block.fc1.outputs for s in stages for block in s.blocks)
    fused = traffic(Variant.RELU)
    assert traffic(Variant.RELU_SEPARATE).written - fused.written == 2 * hidden
    assert traffic(Variant.GELU_SEPARATE).written - fused.written == hidden


def test_a_table_costs_its_bytes_and_no_more() -> None:
    artifact = random_artifact(MODEL, relu=False)
    blocks = sum(len(stage.blocks) for stage in artifact.plan.stages)
    lut, relu = traffic(Variant.GELU_LUT), traffic(Variant.RELU)
    assert (lut.read - relu.read, lut.written - relu.written) == (256 * blocks, 0)
