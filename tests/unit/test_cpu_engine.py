"""The compiled engine's edges: it says why it is missing, refuses what does not fit, touches no foreign byte, and its inner
loop keeps every accumulator in a register."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import geluless
from geluless.engine import cpu
from geluless.engine.arms import Arm
from geluless.engine.cpu import CpuNetwork, choose_isa, native
from geluless.engine.cpu.lowering import Attention, Layer, Network, Norm, lower
from geluless.errors import MissingResource
from tests.compiled import ISAS, each_isa, requires_native
from tests.networks import awkward_artifact, awkward_images

REFUSED = (ValueError, TypeError, RuntimeError)  # the last for integers that no int32 can hold


# ------------------------------------------------------------------------------------- a missing or broken extension


class NotThere:
    """An import hook in whose presence the extension does not load, for the given reason."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "geluless.engine.cpu._native":
            raise self.error


def without_extension(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    monkeypatch.delenv(cpu.NATIVE_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "geluless.engine.cpu._native", raising=False)
    monkeypatch.delattr(cpu, "_native", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NotThere(error), *sys.meta_path])
    monkeypatch.setattr(cpu, "native", native.__wrapped__)  # without the memory of having been found


def test_a_missing_extension_says_what_to_install(monkeypatch):
    without_extension(monkeypatch, ModuleNotFoundError("no such module", name="geluless.engine.cpu._native"))
    with pytest.raises(MissingResource, match=r"no C\+\+20 compiler was found.*reinstall geluless, or use backend='reference'"):
        cpu.native()


def test_a_broken_extension_says_why_it_does_not_load(monkeypatch):
    without_extension(monkeypatch, ImportError("libstdc++.so.6: version `GLIBCXX_3.4.99' not found"))
    with pytest.raises(MissingResource, match=r"does not load: libstdc\+\+.*GLIBCXX_3.4.99.*reinstall geluless on this machine"):
        cpu.native()


@pytest.mark.parametrize("name", ["nowhere.so", "notes.txt", "empty.so"])
def test_another_build_that_does_not_load_is_reported_with_its_path(monkeypatch, tmp_path, name):
    path = tmp_path / name
    if name != "nowhere.so":
        path.write_bytes(b"")
    monkeypatch.setenv(cpu.NATIVE_VARIABLE, str(path))
    with pytest.raises(MissingResource, match=re.escape(str(path))):
        native.__wrapped__()


def test_without_the_extension_backend_cpu_warns_and_runs_the_reference(monkeypatch):
    without_extension(monkeypatch, ModuleNotFoundError("no such module", name="geluless.engine.cpu._native"))
    artifact, images = awkward_artifact(), awkward_images(2).numpy()
    with pytest.warns(RuntimeWarning, match="backend 'cpu' runs the reference: the compiled engine is not installed"):
        engine = geluless.Engine(artifact, backend="cpu", threads=1)
    assert (engine.backend, engine.isa) == ("reference", "numpy")
    assert (engine(images) == geluless.Engine(artifact, threads=1)(images)).all()
    with pytest.raises(MissingResource):
        geluless.Engine(artifact, backend="cpu", isa="portable")


# ------------------------------------------------------------------------------------------- choosing instruction sets


def pretend(monkeypatch: pytest.MonkeyPatch, *, built: tuple[str, ...], available: tuple[str, ...]) -> None:
    fake = SimpleNamespace(built=lambda: list(built), available=lambda: list(available))
    monkeypatch.setattr(cpu, "native", lambda: fake)


def test_the_best_available_instruction_set_is_chosen(monkeypatch):
    pretend(monkeypatch, built=("fast", "slow", "portable"), available=("slow", "portable"))
    assert choose_isa(None) == "slow"
    assert choose_isa("portable") == "portable"


@pytest.mark.parametrize("isa", ["fast", "sse9", "", "Portable"])
def test_an_instruction_set_that_is_not_available_raises_with_those_that_are(monkeypatch, isa):
    pretend(monkeypatch, built=("fast", "slow", "portable"), available=("slow", "portable"))
    with pytest.raises(ValueError, match=rf"'{isa}' is not available: .* slow, portable \(built: fast, slow, portable\)"):
        choose_isa(isa)


def test_trust_opens_what_was_built_and_nothing_else(monkeypatch):
    """For emulators, which run instructions that CPUID does not report."""
    pretend(monkeypatch, built=("fast", "portable"), available=("portable",))
    monkeypatch.setenv("GELULESS_TRUST_ISA", "fast")
    assert choose_isa("fast") == "fast"
    assert choose_isa(None) == "portable"
    monkeypatch.setenv("GELULESS_TRUST_ISA", "fastest")
    for isa in ("fast", "fastest"):
        with pytest.raises(ValueError, match="is not available"):
            choose_isa(isa)


@requires_native
def test_the_portable_kernels_are_always_there():
    assert ISAS[-1] == "portable"
    assert set(ISAS) <= set(native().built())
    assert choose_isa(None) == ISAS[0]


@requires_native
def test_every_native_class_refuses_an_unknown_instruction_set():
    network = lowered()
    for make in (
        lambda: native().Network(network, "sse9", 1),
        lambda: native().KernelLayer("sse9", network.patch_layer),
        lambda: native().KernelNorm("sse9", network.head_norm, 1, 32),
        lambda: native().peak("sse9", 1),
    ):
        with pytest.raises(ValueError, match="sse9 is not available"):
            make()


@requires_native
def test_an_engine_names_its_instruction_set_and_its_memory():
    artifact = awkward_artifact()
    engine = geluless.Engine(artifact, backend="cpu", threads=1, isa="portable")
    assert (engine.backend, engine.isa) == ("cpu", "portable")
    weights = sum(tensor.nbytes for tensor in artifact.tensors.values() if tensor.dtype == np.int8)
    assert CpuNetwork(artifact.plan, artifact.tensors, Arm.RELU).bytes > weights
    with pytest.raises(ValueError, match="'sse9' is not available"):
        geluless.Engine(artifact, backend="cpu", isa="sse9")


# ------------------------------------------------------------------------------------ networks that contradict themselves


@lru_cache(maxsize=4)
def lowered(arm: Arm = Arm.RELU) -> Network:
    artifact = awkward_artifact(relu=arm is not Arm.GELU_SEPARATE)
    return lower(artifact.plan, artifact.tensors, arm)


def with_stage(index: int, **changes: Any) -> Network:
    network = lowered()
    stages = list(network.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(network, stages=tuple(stages))


def with_block(**changes: Any) -> Network:
    """The first block changed: an entry is a field's new value, or a function of its old one."""
    first, *others = lowered().stages[0].blocks
    values = {name: change(getattr(first, name)) if callable(change) else change for name, change in changes.items()}
    return with_stage(0, blocks=(replace(first, **values), *others))


def shorter(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)[:-1].copy()


BROKEN: dict[str, Callable[[], Network]] = {
    "no stages": lambda: replace(lowered(), stages=()),
    "no blocks": lambda: with_stage(0, blocks=()),
    "merge before the first stage": lambda: with_stage(0, merge=lowered().stages[1].merge),
    "grid": lambda: with_stage(1, height=7),
    "channels": lambda: with_stage(1, channels=31),
    "no channels": lambda: with_stage(0, channels=0),
    "huge grid": lambda: with_stage(0, height=2**31 - 1),
    "image of two sizes": lambda: replace(lowered(), image=(22, 36)),  # type: ignore[arg-type]
    "negative image": lambda: replace(lowered(), image=(3, -22, 36)),
    "patch that does not divide": lambda: replace(lowered(), patch=(3, 2)),
    "no patch": lambda: replace(lowered(), patch=(0, 2)),
    "patch layer with bytes": lambda: replace(lowered(), patch_layer=replace(lowered().patch_layer, epilogue="relu")),
    "patch layer of other inputs": lambda: replace(lowered(), patch_layer=lowered().stages[1].merge.reduction),  # type: ignore[union-attr]
    "no classes": lambda: replace(lowered(), classes=0),
    "more classes": lambda: replace(lowered(), classes=8),
    "head weights short": lambda: replace(lowered(), head_weight=shorter(lowered().head_weight)),
    "head weights of int16": lambda: replace(lowered(), head_weight=lowered().head_weight.astype(np.int16)),
    "head weights transposed": lambda: replace(lowered(), head_weight=np.asfortranarray(lowered().head_weight)),
    "head weights missing": lambda: replace(lowered(), head_weight=None),  # type: ignore[arg-type]
    "logit scale of float64": lambda: replace(lowered(), logit_scale=lowered().logit_scale.astype(np.float64)),
    "softmax table short": lambda: replace(lowered(), softmax_table=shorter(lowered().softmax_table)),
    "pool shift": lambda: replace(lowered(), pool_shift=31),
    "norm of another width": lambda: replace(lowered(), head_norm=Norm(1, 1.0, np.ones(5, np.float32), None)),
    "unknown epilogue": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="tanh")),
    "qkv as words": lambda: with_block(qkv=lambda layer: replace(layer, epilogue="words")),
    "qkv into the residual": lambda: with_block(qkv=lambda layer: replace(layer, epilogue="residual")),
    "fc1 into the residual": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="residual")),
    "fc1 as words with nothing behind": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="words")),
    "fc2 as bytes": lambda: with_block(fc2=lambda layer: replace(layer, epilogue="bytes")),
    "proj as words": lambda: with_block(proj=lambda layer: replace(layer, epilogue="words")),
    "shift beyond 30": lambda: with_block(fc1=lambda layer: replace(layer, shift=layer.shift + np.int32(31))),
    "negative shift": lambda: with_block(fc1=lambda layer: replace(layer, shift=layer.shift - np.int32(31))),
    "shift missing": lambda: with_block(fc1=lambda layer: replace(layer, shift=None)),
    "table missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="table")),
    "scale missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="relu-float")),
    "gain missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="twice-bytes", scale=np.ones(64, np.float32))),
    "weights short": lambda: with_block(fc2=lambda layer: replace(layer, weight=shorter(layer.weight))),
    "bias short": lambda: with_block(fc2=lambda layer: replace(layer, bias=shorter(layer.bias))),
    "no outputs": lambda: with_block(fc1=lambda layer: replace(layer, outputs=0)),
    "negative inputs": lambda: with_block(fc1=lambda layer: replace(layer, inputs=-4)),
    "inputs beyond memory": lambda: with_block(fc1=lambda layer: replace(layer, inputs=2**31)),
    "fc1 that fc2 does not fit": lambda: with_block(fc1=lambda layer: lowered().stages[1].blocks[0].fc1),
    "more heads": lambda: with_block(attention=lambda a: replace(a, heads=3)),
    "no heads": lambda: with_block(attention=lambda a: replace(a, heads=0)),
    "window beyond the bias table": lambda: with_block(attention=lambda a: replace(a, window=(4, 5))),
    "shift as large as the window": lambda: with_block(attention=lambda a: replace(a, shift=(4, 0))),
    "window of one size": lambda: with_block(attention=lambda a: replace(a, window=(4,))),
    "score shift": lambda: with_block(attention=lambda a: replace(a, score_shift=a.score_shift + np.int32(31))),
    "pad missing": lambda: with_block(attention=lambda a: replace(a, pad=None)),
    "pad short": lambda: with_block(attention=lambda a: replace(a, pad=shorter(a.pad))),
    "a pass that no words feed": lambda: with_block(separate=lambda _: separate_pass("relu-words")),
    "a pass of no name": lambda: with_block(separate=lambda _: separate_pass("tanh")),
}


def separate_pass(kernel: str) -> Any:
    separate = lowered(Arm.GELU_SEPARATE).stages[0].blocks[0].separate
    assert separate is not None
    return replace(separate, kernel=kernel)


@requires_native
@pytest.mark.parametrize("fault", BROKEN)
def test_a_network_that_contradicts_itself_is_refused(fault):
    """The last line of defence behind plan.check_plan: no shape reaches a kernel that its buffers were not made for."""
    with pytest.raises(REFUSED):
        native().Network(BROKEN[fault](), ISAS[0], 1)


@requires_native
def test_the_network_that_was_broken_above_is_whole():
    """Control: unchanged it is accepted, so every refusal is about its change."""
    assert native().Network(lowered(), ISAS[0], 1).bytes > 0
    assert native().Network(with_block(fc1=lambda layer: replace(layer)), ISAS[0], 1).bytes > 0
    assert native().Network(lowered(Arm.GELU_SEPARATE), ISAS[0], 1).bytes > 0


@requires_native
@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31])
def test_impossible_numbers_of_threads_are_refused(threads):
    with pytest.raises(REFUSED):
        native().Network(lowered(), ISAS[0], threads)


@requires_native
@pytest.mark.parametrize("thing", [None, 3, "network", {}, SimpleNamespace()])
def test_what_is_no_network_is_refused(thing):
    with pytest.raises((*REFUSED, AttributeError)):
        native().Network(thing, ISAS[0], 1)


# -------------------------------------------------------------------------------------------- arrays that do not fit


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
def test_an_error_in_a_probe_reaches_the_caller_and_leaves_the_engine_usable():
    artifact, images = awkward_artifact(), awkward_images(1).numpy()
    network = CpuNetwork(artifact.plan, artifact.tensors, Arm.RELU)
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


def small_layer(epilogue: str = "relu", inputs: int = 5, outputs: int = 9) -> Layer:
    ones = np.ones(outputs, np.int32)
    return Layer(
        epilogue, inputs, outputs, False, np.ones((outputs, inputs), np.int8), ones, shift=ones, multiplier=ones.astype(np.int16)
    )


BYTES = np.uint8
WRONG_GEMMS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "input narrower than its layer": ("relu", (zeros(4, 7, dtype=BYTES), zeros(4, 9, dtype=BYTES), 0, 1)),
    "input of int32": ("relu", (zeros(4, 8, dtype=np.int32), zeros(4, 9, dtype=BYTES), 0, 1)),
    "input of int8": ("relu", (zeros(4, 8, dtype=np.int8), zeros(4, 9, dtype=BYTES), 0, 1)),
    "input with gaps": ("relu", (zeros(4, 16, dtype=BYTES)[:, ::2], zeros(4, 9, dtype=BYTES), 0, 1)),
    "input of one dimension": ("relu", (zeros(8, dtype=BYTES), zeros(4, 9, dtype=BYTES), 0, 1)),
    "output with fewer rows": ("relu", (zeros(4, 8, dtype=BYTES), zeros(3, 9, dtype=BYTES), 0, 1)),
    "output with fewer columns": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 8, dtype=BYTES), 0, 1)),
    "output of words for bytes": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1)),
    "output of bytes for words": ("words", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=BYTES), 0, 1)),
    "output with gaps": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 18, dtype=BYTES)[:, ::2], 0, 1)),
    "output by columns": ("relu", (zeros(4, 8, dtype=BYTES), zeros(9, 4, dtype=BYTES).T, 0, 1)),
    "output read-only": ("relu", (zeros(4, 8, dtype=BYTES), frozen(zeros(4, 9, dtype=BYTES)), 0, 1)),
    "panels backwards": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=BYTES), 1, 0)),
    "panels from below": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=BYTES), -1, 1)),
    "panels that do not exist": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=BYTES), 0, 2)),
    "rows without a residual": ("relu", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=BYTES), 0, 1, zeros(4, dtype=np.int32))),
    "residual without rows": ("residual", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1)),
    "too few rows": ("residual", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1, zeros(3, dtype=np.int32))),
    "rows of int64": ("residual", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1, zeros(4, dtype=np.int64))),
    "a row behind the last": ("residual", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1, rows(0, 1, 2, 4))),
    "a negative row": ("residual", (zeros(4, 8, dtype=BYTES), zeros(4, 9, dtype=np.int16), 0, 1, rows(0, 1, -1, 3))),
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
    x = zeros(4, 8, dtype=BYTES)
    native().KernelLayer(ISAS[0], small_layer()).run(x, zeros(4, 9, dtype=BYTES), 0, 1)
    native().KernelLayer(ISAS[0], small_layer("words")).run(x, zeros(4, 9, dtype=np.int16), 0, 1)
    native().KernelLayer(ISAS[0], small_layer("residual")).run(x, zeros(4, 9, dtype=np.int16), 0, 1, rows(3, 0, 1, 2))


STREAM, ROWS = zeros(4, 9, dtype=np.int16), zeros(3, 4, dtype=np.int32)
WRONG_NORMS: dict[str, tuple[Any, ...]] = {
    "stream narrower than its norm": (zeros(4, 8, dtype=np.int16), ROWS, zeros(3, 36, dtype=BYTES)),
    "stream of int32": (zeros(4, 9, dtype=np.int32), ROWS, zeros(3, 36, dtype=BYTES)),
    "other segments": (STREAM, zeros(3, 3, dtype=np.int32), zeros(3, 36, dtype=BYTES)),
    "a row behind the last": (STREAM, ROWS + np.int32(4), zeros(3, 36, dtype=BYTES)),
    "a negative row": (STREAM, ROWS - np.int32(1), zeros(3, 36, dtype=BYTES)),
    "output with fewer rows": (STREAM, ROWS, zeros(2, 36, dtype=BYTES)),
    "output with fewer columns": (STREAM, ROWS, zeros(3, 35, dtype=BYTES)),
    "output of int32": (STREAM, ROWS, zeros(3, 36, dtype=np.int32)),
    "output with gaps": (STREAM, ROWS, zeros(3, 72, dtype=BYTES)[:, ::2]),
    "output read-only": (STREAM, ROWS, frozen(zeros(3, 36, dtype=BYTES))),
}


@requires_native
@pytest.mark.parametrize("fault", WRONG_NORMS)
def test_norm_buffers_that_do_not_fit_are_refused(fault):
    kernel = native().KernelNorm(ISAS[0], Norm(1, 40.0, None, None), 4, 9)
    kernel.run(STREAM, ROWS, zeros(3, 36, dtype=BYTES))
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


MASK, TABLE = zeros(6, 6, dtype=BYTES), zeros(128, dtype=BYTES)
WRONG_WINDOWS: dict[str, tuple[Any, ...]] = {
    "mask of another window": (small_attention(), zeros(6, 5, dtype=BYTES), TABLE),
    "mask with gaps": (small_attention(), zeros(6, 12, dtype=BYTES)[:, ::2], TABLE),
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
        (zeros(5, 30, dtype=BYTES), zeros(6, 10, dtype=BYTES)),
        (zeros(6, 29, dtype=BYTES), zeros(6, 10, dtype=BYTES)),
        (zeros(6, 30, dtype=np.int8), zeros(6, 10, dtype=BYTES)),
        (zeros(6, 30, dtype=BYTES), zeros(5, 10, dtype=BYTES)),
        (zeros(6, 30, dtype=BYTES), zeros(6, 9, dtype=BYTES)),
        (zeros(6, 30, dtype=BYTES), zeros(6, 10, dtype=np.int8)),
        (zeros(6, 30, dtype=BYTES), zeros(6, 20, dtype=BYTES)[:, ::2]),
        (zeros(6, 30, dtype=BYTES), frozen(zeros(6, 10, dtype=BYTES))),
    ],
)
def test_attention_buffers_that_do_not_fit_are_refused(qkv, output):
    kernel = native().KernelAttention(ISAS[0], small_attention(), MASK, TABLE)
    kernel.run(zeros(6, 30, dtype=BYTES), zeros(6, 10, dtype=BYTES))
    with pytest.raises(REFUSED):
        kernel.run(qkv, output)


# ----------------------------------------------------------------------------------------------- not a byte too far


def on_guarded_pages(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.guard_pages", *options]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False)


posix_only = pytest.mark.skipif(os.name != "posix", reason="guard pages need mprotect")


@each_isa
@requires_native
@posix_only
def test_no_kernel_touches_a_byte_outside_its_buffers(isa):
    """All epilogues, norms and windows in ragged shapes, with forbidden pages directly behind and before every buffer."""
    done = on_guarded_pages(isa)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    assert done.stdout.strip() == "430 calls"


@requires_native
@posix_only
def test_a_buffer_that_is_one_byte_short_ends_the_process():
    assert on_guarded_pages("portable", "--fault").returncode != 0


# ------------------------------------------------------------------------------------------------------ disassembly


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str


LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:\{\w+\}\s+)?(\S+)\s*(.*?)\s*$")


def instructions(listing: str) -> list[Instruction]:
    """objdump -d --no-show-raw-insn, AT&T syntax."""
    matches = (LINE.match(line) for line in listing.splitlines())
    return [Instruction(int(m[1], 16), m[2], m[3]) for m in matches if m]


def innermost_loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """Bodies from the target of a backward jump to the jump, with no other such jump inside."""
    place = {instruction.address: i for i, instruction in enumerate(code)}
    last_jump = -1
    for i, instruction in enumerate(code):
        target = re.match(r"([0-9a-f]+)(?: <|$)", instruction.operands)
        if not instruction.name.startswith("j") or not target:
            continue
        start = place.get(int(target[1], 16), i + 1)
        if start <= i:
            if last_jump < start:
                yield code[start : i + 1]
            last_jump = i


def is_gemm_tile(body: list[Instruction]) -> bool:
    """At least 20 dot products in registers of 512 bits, four for each input that is broadcast: the GEMM's inner loop."""
    dots = sum(i.name == "vpdpbusd" and "zmm" in i.operands for i in body)
    broadcasts = sum(i.name == "vpbroadcastd" and "(" in i.operands and "zmm" in i.operands for i in body)
    return dots >= 20 and dots == 4 * broadcasts


def spills(body: list[Instruction]) -> list[Instruction]:
    """512-bit accesses to the stack, by either pointer; and stores to anywhere, for the loop's results stay in registers."""
    wide = [i for i in body if "zmm" in i.operands]
    on_stack = re.compile(r"\(%rsp|-0x[0-9a-f]+\(%rbp\)")  # %rbp is often a plain pointer: locals lie below it
    stored = re.compile(r"%zmm\d+(?:\{[^}]*\})?,[^,%]*\([^)]*\)$")
    return [i for i in wide if on_stack.search(i.operands) or stored.search(i.operands)]


TILE = """
    1000:	mov    0x8(%rdi),%rbp
    1010:	vmovdqa64 (%rdx),%zmm25
    1016:	vpbroadcastd (%rbp,%rax,1),%zmm24
    {dots}
    1100:	vpbroadcastd (%r8),%zmm24
    {dots}
    1200:	vpbroadcastd 0x40(%rbp),%zmm24
    {dots}
    1300:	vpbroadcastd (%r8,%rcx,2),%zmm24
    {dots}
    1400:	vpbroadcastd (%r9),%zmm24
    {dots}
    {extra}
    1500:	cmp    %edx,%eax
    1502:	jl     1010 <somewhere+0x10>
    1504:	vmovdqa64 %zmm0,0x40(%rsp)
"""


def tile(extra: str) -> list[Instruction]:
    return instructions(TILE.format(dots="\n".join(4 * ["    1020:	vpdpbusd %zmm25,%zmm24,%zmm0"]), extra=extra))


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ("1490:	nop", 0),
        ("1490:	vmovdqa64 %zmm3,-0x40(%rbp)", 1),
        ("1490:	vmovdqa64 -0x40(%rbp),%zmm3", 1),
        ("1490:	vmovdqa64 %zmm3,0x80(%rsp)", 1),
        ("1490:	vpdpbusd 0x80(%rsp),%zmm24,%zmm3", 1),
        ("1490:	vmovdqu64 %zmm3,(%rdi,%rcx,1)", 1),
        ("1490:	mov    %rax,0x80(%rsp)", 0),
        ("1490:	vpaddd 0x40(%rbp),%zmm24,%zmm3", 0),
    ],
)
def test_the_search_for_spills_finds_them_and_only_them(extra, found):
    """Control of the test below, on listings whose answer is known."""
    (body,) = innermost_loops(tile(extra))
    assert is_gemm_tile(body) or "vpdpbusd" in extra
    assert len(spills(body)) == found


def why_no_disassembly() -> str:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"the AVX-512 kernels are for x86-64; this is {platform.machine()}"
    if not shutil.which("objdump"):
        return "objdump is missing (Debian: apt-get install binutils)"
    if os.environ.get(cpu.NATIVE_VARIABLE):
        return f"{cpu.NATIVE_VARIABLE} names another build of the extension: its code is not what is shipped"
    try:
        return "" if "avx512vnni" in native().built() else "the extension was built without the AVX-512 kernels"
    except MissingResource as missing:
        return str(missing)


@pytest.mark.skipif(bool(why_no_disassembly()), reason=why_no_disassembly())
def test_no_accumulator_of_a_gemm_tile_is_spilled_inside_its_loop():
    """24 accumulators, 4 weights and an input fill 29 of 32 registers; some compilers put part of them on the stack."""
    path = native().__file__
    assert path
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
    tiles = [body for body in innermost_loops(instructions(listing)) if is_gemm_tile(body)]
    assert len(tiles) >= 2, "the ReLU tiles of six and of five rows, at least: has the shape of the loop changed?"
    for body in tiles:
        assert not spills(body), f"loop at {body[0].address:#x}: {spills(body)}"
