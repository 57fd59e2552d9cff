"""The compiled engine says why it is missing, chooses an instruction set, and refuses a network that contradicts itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import geluless
from geluless.engine import cpu
from geluless.engine.cpu import CpuNetwork, choose_isa, native
from geluless.engine.cpu.lowering import Layer, Network, Norm
from geluless.errors import MissingResource, VariantError
from geluless.integer.variants import Variant
from tests.support.compiled import ISAS, REFUSED, each_isa, lowered, requires_native
from tests.support.networks import awkward_artifact, awkward_images

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
    for compiled in ({"isa": "portable"}, {"variant": "relu-separate", "blocked": True}):
        with pytest.raises(MissingResource):
            geluless.Engine(artifact, backend="cpu", **compiled)  # type: ignore[arg-type]


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
    assert CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU).bytes > weights
    with pytest.raises(ValueError, match="'sse9' is not available"):
        geluless.Engine(artifact, backend="cpu", isa="sse9")


@requires_native
@pytest.mark.parametrize(("relu", "variant"), [(True, "relu-separate"), (True, "relu-separate-int8"), (False, "gelu-separate")])
def test_a_pass_of_its_own_may_be_blocked(relu, variant):
    artifact, images = awkward_artifact(relu=relu), awkward_images(2).numpy()
    whole, blocked = (
        geluless.Engine(artifact, backend="cpu", variant=variant, threads=1, blocked=blocked) for blocked in (False, True)
    )
    assert (whole.blocked, blocked.blocked) == (False, True)
    assert (whole(images) == blocked(images)).all()


@pytest.mark.parametrize(("relu", "variant"), [(True, None), (True, "relu-float"), (False, "gelu-fused-tanh")])
def test_blocked_is_refused_where_nothing_is_a_pass_of_its_own(relu, variant):
    names = "gelu-separate, relu-separate, relu-separate-int8"
    with pytest.raises(VariantError, match=rf"a pass of its own \({names}\): variant {variant or 'relu'} is fused"):
        geluless.Engine(awkward_artifact(relu=relu), backend="cpu", variant=variant, blocked=True)


@pytest.mark.parametrize("backend", ["reference", "gpu"])
def test_blocked_is_refused_where_the_compiled_kernels_do_not_run(backend):
    with pytest.raises(ValueError, match="blocked= schedules the compiled kernels: it needs backend='cpu'"):
        geluless.Engine(awkward_artifact(), backend=backend, variant="relu-separate", blocked=True)


EPILOGUES = (
    *("fixed_relu", "fixed_s8", "fixed_u8", "fixed_s16", "fixed_residual", "fixed_lut", "fixed_shift_gelu"),
    *("fixed_ibert_gelu", "two_stage_u8", "two_stage_s16", "two_stage_residual"),
    *("fp32_relu", "fp32_gelu_erf", "fp32_gelu_tanh", "fp32_gelu_poly", "fp32_u8"),
)
TILES = {"avx512vnni": "6x64", "avxvnni": "6x16", "avx2": "4x16", "neon": "6x16", "portable": "2x16"}


@each_isa
@requires_native
def test_a_kernel_is_named_by_types_requantization_output_tile_and_instruction_set(isa):
    ones, table = np.ones(1, np.float32), np.zeros(256, np.uint8)
    fixed = {"shift": np.zeros(1, np.int32), "multiplier": np.zeros(1, np.int16), "lut": table}
    reals = {"scale": ones, "gain": ones, "offset": ones}
    for epilogue in EPILOGUES:
        layer = Layer(epilogue, 1, 1, False, np.ones((1, 1), np.int8), np.zeros(1, np.int32), **fixed, **reals)
        runs = "fixed_lut" if epilogue.endswith(("shift_gelu", "ibert_gelu")) else epilogue  # for want of constants the table
        assert native().KernelLayer(isa, layer).name == f"gemm_u8s8_s32_{runs}_{TILES[isa]}_{isa}"


# ------------------------------------------------------------------------------------ networks that contradict themselves


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
    "patch layer with uint8": lambda: replace(lowered(), patch_layer=replace(lowered().patch_layer, epilogue="fixed_relu")),
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
    "norm of another width": lambda: replace(lowered(), head_norm=Norm(1, 1.0, *np.ones((2, 5), np.float32))),
    "norm without beta": lambda: replace(
        lowered(), head_norm=Norm(1, 1.0, np.ones(lowered().stages[-1].channels, np.float32), None)
    ),
    "unknown epilogue": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="tanh")),
    "qkv as int16": lambda: with_block(qkv=lambda layer: replace(layer, epilogue="fixed_s16")),
    "qkv into the residual": lambda: with_block(qkv=lambda layer: replace(layer, epilogue="fixed_residual")),
    "fc1 into the residual": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="fixed_residual")),
    "fc1 as int16 with nothing behind": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="fixed_s16")),
    "fc2 as uint8": lambda: with_block(fc2=lambda layer: replace(layer, epilogue="fixed_u8")),
    "proj as int16": lambda: with_block(proj=lambda layer: replace(layer, epilogue="fixed_s16")),
    "shift beyond 30": lambda: with_block(fc1=lambda layer: replace(layer, shift=layer.shift + np.int32(31))),
    "negative shift": lambda: with_block(fc1=lambda layer: replace(layer, shift=layer.shift - np.int32(31))),
    "shift missing": lambda: with_block(fc1=lambda layer: replace(layer, shift=None)),
    "table missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="fixed_lut")),
    "scale missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="fp32_relu")),
    "gain missing": lambda: with_block(fc1=lambda layer: replace(layer, epilogue="two_stage_u8", scale=np.ones(64, np.float32))),
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
    "an elementwise kernel that no int16 feeds": lambda: with_block(elementwise=lambda _: elementwise("relu_s16")),
    "an elementwise kernel of no name": lambda: with_block(elementwise=lambda _: elementwise("tanh")),
}


def elementwise(kernel: str) -> Any:
    spec = lowered(Variant.GELU_SEPARATE).stages[0].blocks[0].elementwise
    assert spec is not None
    return replace(spec, kernel=kernel)


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
    assert native().Network(lowered(Variant.GELU_SEPARATE), ISAS[0], 1).bytes > 0


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
