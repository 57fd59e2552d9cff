"""Arrays for the compiled engine and its kernels: what does not fit is refused, and no byte outside of them is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geluless.engine.cpu import CpuNetwork, native
from geluless.engine.cpu.lowering import Attention, Elementwise, Layer, Norm
from geluless.integer.variants import Variant
from tests.support.compiled import ISAS, REFUSED, each_isa, lowered, requires_native
from tests.support.networks import awkward_artifact, awkward_images


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


IMAGE = (1, 3, 22, 36)
WRONG_BATCHES = {
    "planes": (zeros(1, 1, 22, 36), zeros(1, 7)),
    "height": (zeros(1, 3, 36, 20), zeros(1, 7)),
    "dimensions": (zeros(3, 22, 36), zeros(1, 7)),
    "images of float64": (zeros(*IMAGE, dtype=np.float64), zeros(1, 7)),
    "images with gaps": (zeros(1, 3, 20, 72)[..., ::2], zeros(1, 7)),
    "classes": (zeros(*IMAGE), zeros(1, 8)),
    "fewer rows of logits": (zeros(*IMAGE), zeros(0, 7)),
    "more rows of logits": (zeros(*IMAGE), zeros(2, 7)),
    "logits of float64": (zeros(*IMAGE), zeros(1, 7, dtype=np.float64)),
    "logits with gaps": (zeros(*IMAGE), zeros(1, 14)[:, ::2]),
    "logits read-only": (zeros(*IMAGE), frozen(zeros(1, 7))),
    "logits missing": (zeros(*IMAGE), None),
}


@requires_native
@pytest.mark.parametrize("fault", WRONG_BATCHES)
def test_images_and_logits_that_do_not_fit_are_refused(fault):
    """Logits that had to be converted first would be written to the copy, and the caller would keep old ones."""
    network = native().Network(lowered(), ISAS[0], 1)
    images, logits = WRONG_BATCHES[fault]
    with pytest.raises(REFUSED):
        network.run(images, logits)
    with pytest.raises(REFUSED):
        network.trace(images, logits, lambda *_: None)


@requires_native
def test_a_trace_takes_exactly_one_image():
    network = native().Network(lowered(), ISAS[0], 1)
    for count in (0, 2):
        with pytest.raises(ValueError, match="one image"):
            network.trace(zeros(count, 3, 22, 36), zeros(count, 7), lambda *_: None)


@requires_native
def test_an_empty_batch_is_no_error():
    assert native().Network(lowered(), ISAS[0], 2).run(zeros(0, 3, 22, 36), zeros(0, 7)) == -1


@requires_native
def test_an_error_in_a_tap_reaches_the_caller_and_leaves_the_engine_usable():
    artifact, images = awkward_artifact(), awkward_images(1).numpy()
    network = CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU)
    want = network.run(images)

    def fail(name: str, tensor: np.ndarray) -> None:
        raise KeyError(name)

    def fail_in_the_record(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(KeyError, match="patch_embed"):
        network.trace(images, fail)
    with pytest.raises(ZeroDivisionError):
        native().Network(lowered(), ISAS[0], 1).trace(images, zeros(1, 7), fail_in_the_record)
    assert (network.run(images) == want).all()


def small_layer(epilogue: str = "fixed_relu", inputs: int = 5, outputs: int = 9) -> Layer:
    ones = np.ones(outputs, np.int32)
    return Layer(
        epilogue, inputs, outputs, False, np.ones((outputs, inputs), np.int8), ones, shift=ones, multiplier=ones.astype(np.int16)
    )


U8 = np.uint8
WRONG_GEMMS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "input narrower than its layer": ("fixed_relu", (zeros(4, 7, dtype=U8), zeros(4, 9, dtype=U8), 0, 1)),
    "input of int32": ("fixed_relu", (zeros(4, 8, dtype=np.int32), zeros(4, 9, dtype=U8), 0, 1)),
    "input of int8": ("fixed_relu", (zeros(4, 8, dtype=np.int8), zeros(4, 9, dtype=U8), 0, 1)),
    "input with gaps": ("fixed_relu", (zeros(4, 16, dtype=U8)[:, ::2], zeros(4, 9, dtype=U8), 0, 1)),
    "input of one dimension": ("fixed_relu", (zeros(8, dtype=U8), zeros(4, 9, dtype=U8), 0, 1)),
    "output with fewer rows": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(3, 9, dtype=U8), 0, 1)),
    "output with fewer columns": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 8, dtype=U8), 0, 1)),
    "output of int16 for uint8": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1)),
    "output of uint8 for int16": ("fixed_s16", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=U8), 0, 1)),
    "output with gaps": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 18, dtype=U8)[:, ::2], 0, 1)),
    "output by columns": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(9, 4, dtype=U8).T, 0, 1)),
    "output read-only": ("fixed_relu", (zeros(4, 8, dtype=U8), frozen(zeros(4, 9, dtype=U8)), 0, 1)),
    "panels backwards": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=U8), 1, 0)),
    "panels from below": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=U8), -1, 1)),
    "panels that do not exist": ("fixed_relu", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=U8), 0, 2)),
    "rows without a residual": (
        "fixed_relu",
        (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=U8), 0, 1, zeros(4, dtype=np.int32)),
    ),
    "residual without rows": ("fixed_residual", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1)),
    "too few rows": ("fixed_residual", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1, zeros(3, dtype=np.int32))),
    "rows of int64": ("fixed_residual", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1, zeros(4, dtype=np.int64))),
    "a row behind the last": ("fixed_residual", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1, rows(0, 1, 2, 4))),
    "a negative row": ("fixed_residual", (zeros(4, 8, dtype=U8), zeros(4, 9, dtype=np.int16), 0, 1, rows(0, 1, -1, 3))),
}


@each_isa
@requires_native
@pytest.mark.parametrize("fault", WRONG_GEMMS)
def test_gemm_buffers_that_do_not_fit_are_refused(isa, fault):
    epilogue, arguments = WRONG_GEMMS[fault]
    kernel = native().KernelLayer(isa, small_layer(epilogue))
    with pytest.raises(REFUSED):
        kernel.run(*arguments)


@requires_native
def test_the_gemm_buffers_above_are_the_faults():
    """Control: the buffers that fit are accepted."""
    x = zeros(4, 8, dtype=U8)
    native().KernelLayer(ISAS[0], small_layer()).run(x, zeros(4, 9, dtype=U8), 0, 1)
    native().KernelLayer(ISAS[0], small_layer("fixed_s16")).run(x, zeros(4, 9, dtype=np.int16), 0, 1)
    native().KernelLayer(ISAS[0], small_layer("fixed_residual")).run(x, zeros(4, 9, dtype=np.int16), 0, 1, rows(3, 0, 1, 2))


def small_elementwise(kernel: str = "gelu_tanh_u8", columns: int = 9) -> Elementwise:
    return Elementwise(kernel, np.ones(columns, np.float32), np.ones(columns, np.float32), 0, 0, 255)


WRONG_PASSES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "input narrower than its pass": ("gelu_tanh_u8", (zeros(4, 8, dtype=U8), zeros(4, 8, dtype=U8))),
    "input of int16 for int8": ("gelu_tanh_u8", (zeros(4, 9, dtype=np.int16), zeros(4, 9, dtype=U8))),
    "input of int8 for int16": ("relu_s16", (zeros(4, 9, dtype=U8), zeros(4, 9, dtype=U8))),
    "input with gaps": ("relu_u8", (zeros(4, 18, dtype=U8)[:, ::2], zeros(4, 9, dtype=U8))),
    "output with fewer rows": ("relu_u8", (zeros(4, 9, dtype=U8), zeros(3, 9, dtype=U8))),
    "output of another stride": ("relu_u8", (zeros(4, 9, dtype=U8), zeros(4, 10, dtype=U8))),
    "output of int8": ("relu_u8", (zeros(4, 9, dtype=U8), zeros(4, 9, dtype=np.int8))),
    "output read-only": ("relu_u8", (zeros(4, 9, dtype=U8), frozen(zeros(4, 9, dtype=U8)))),
}


@requires_native
@pytest.mark.parametrize("fault", WRONG_PASSES)
def test_buffers_of_a_pass_that_do_not_fit_are_refused(fault):
    name, (x, output) = WRONG_PASSES[fault]
    kernel = native().KernelElementwise(ISAS[0], small_elementwise(name), 9)
    kernel.run(zeros(4, 9, dtype=np.int16 if name == "relu_s16" else U8), zeros(4, 9, dtype=U8))
    with pytest.raises(REFUSED):
        kernel.run(x, output)
    with pytest.raises(REFUSED):
        native().KernelElementwise(ISAS[0], small_elementwise(name, columns=8), 9 if name != "relu_s16" else 0)


STREAM, ROWS = zeros(4, 9, dtype=np.int16), zeros(3, 4, dtype=np.int32)
WRONG_NORMS: dict[str, tuple[Any, ...]] = {
    "stream narrower than its norm": (zeros(4, 8, dtype=np.int16), ROWS, zeros(3, 36, dtype=U8)),
    "stream of int32": (zeros(4, 9, dtype=np.int32), ROWS, zeros(3, 36, dtype=U8)),
    "other segments": (STREAM, zeros(3, 3, dtype=np.int32), zeros(3, 36, dtype=U8)),
    "a row behind the last": (STREAM, ROWS + np.int32(4), zeros(3, 36, dtype=U8)),
    "a negative row": (STREAM, ROWS - np.int32(1), zeros(3, 36, dtype=U8)),
    "output with fewer rows": (STREAM, ROWS, zeros(2, 36, dtype=U8)),
    "output with fewer columns": (STREAM, ROWS, zeros(3, 35, dtype=U8)),
    "output of int32": (STREAM, ROWS, zeros(3, 36, dtype=np.int32)),
    "output with gaps": (STREAM, ROWS, zeros(3, 72, dtype=U8)[:, ::2]),
    "output read-only": (STREAM, ROWS, frozen(zeros(3, 36, dtype=U8))),
}


@requires_native
@pytest.mark.parametrize("fault", WRONG_NORMS)
def test_norm_buffers_that_do_not_fit_are_refused(fault):
    kernel = native().KernelNorm(ISAS[0], Norm(1, 40.0, None, None), 4, 9)
    kernel.run(STREAM, ROWS, zeros(3, 36, dtype=U8))
    with pytest.raises(REFUSED):
        kernel.run(*WRONG_NORMS[fault])


@requires_native
@pytest.mark.parametrize(("segments", "width"), [(0, 9), (4, 0), (-1, 9), (4, 8192), (2**16, 2**16)])
def test_norms_beyond_the_exact_range_are_refused(segments, width):
    with pytest.raises(REFUSED):
        native().KernelNorm(ISAS[0], Norm(1, 40.0, None, None), segments, width)


def small_attention(**changes: Any) -> Attention:
    bias, one = zeros(15, 2, dtype=np.int16), np.ones(2, np.float32)
    scores = (zeros(2, dtype=np.int32), zeros(2, dtype=np.int16))
    return replace(Attention(2, 5, (2, 3), (0, 0), bias, *scores, one, pad=None), **changes)


MASK, TABLE = zeros(6, 6, dtype=U8), zeros(128, dtype=U8)
WRONG_WINDOWS: dict[str, tuple[Any, ...]] = {
    "mask of another window": (small_attention(), zeros(6, 5, dtype=U8), TABLE),
    "mask with gaps": (small_attention(), zeros(6, 12, dtype=U8)[:, ::2], TABLE),
    "table short": (small_attention(), MASK, TABLE[:-1]),
    "table of int32": (small_attention(), MASK, TABLE.astype(np.int32)),
    "window beyond the exact range": (small_attention(window=(27, 20), bias_table=zeros(2067, 2, dtype=np.int16)), MASK, TABLE),
    "window of nothing": (small_attention(window=(0, 3)), MASK, TABLE),
    "bias table short": (small_attention(bias_table=zeros(14, 2, dtype=np.int16)), MASK, TABLE),
    "score shift": (small_attention(score_shift=rows(0, 31)), MASK, TABLE),
    "head width": (small_attention(head_dim=1025), MASK, TABLE),
}


@requires_native
@pytest.mark.parametrize("fault", WRONG_WINDOWS)
def test_windows_that_do_not_fit_are_refused(fault):
    native().KernelAttention(ISAS[0], small_attention(), MASK, TABLE)
    with pytest.raises(REFUSED):
        native().KernelAttention(ISAS[0], *WRONG_WINDOWS[fault])


@requires_native
@pytest.mark.parametrize(
    ("qkv", "output"),
    [
        (zeros(5, 30, dtype=U8), zeros(6, 10, dtype=U8)),
        (zeros(6, 29, dtype=U8), zeros(6, 10, dtype=U8)),
        (zeros(6, 30, dtype=np.int8), zeros(6, 10, dtype=U8)),
        (zeros(6, 30, dtype=U8), zeros(5, 10, dtype=U8)),
        (zeros(6, 30, dtype=U8), zeros(6, 9, dtype=U8)),
        (zeros(6, 30, dtype=U8), zeros(6, 10, dtype=np.int8)),
        (zeros(6, 30, dtype=U8), zeros(6, 20, dtype=U8)[:, ::2]),
        (zeros(6, 30, dtype=U8), frozen(zeros(6, 10, dtype=U8))),
    ],
)
def test_attention_buffers_that_do_not_fit_are_refused(qkv, output):
    kernel = native().KernelAttention(ISAS[0], small_attention(), MASK, TABLE)
    kernel.run(zeros(6, 30, dtype=U8), zeros(6, 10, dtype=U8))
    with pytest.raises(REFUSED):
        kernel.run(qkv, output)


# ----------------------------------------------------------------------------------------------- not a byte too far


def on_guarded_pages(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.guard_pages", *options]
    return subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300, check=False)


posix_only = pytest.mark.skipif(os.name != "posix", reason="guard pages need mprotect")


@each_isa
@requires_native
@posix_only
def test_no_kernel_touches_a_byte_outside_its_buffers(isa):
    """All epilogues, norms and windows in ragged shapes, with forbidden pages directly behind and before every buffer."""
    done = on_guarded_pages(isa)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    assert done.stdout.strip() == "490 calls"


@requires_native
@posix_only
def test_a_buffer_that_is_one_byte_short_ends_the_process():
    assert on_guarded_pages("portable", "--fault").returncode != 0
