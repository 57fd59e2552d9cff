"""c14 against what it must not overlook: a ReLU that is lowered to floating point, and kernels that were not looked at."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from geluless.engine.cpu import lowering
from geluless.engine.disassembly import FunctionCode, require_x86_listings
from geluless.errors import MissingResource
from geluless.integer.variants import Variant
from geluless.ptq.profiles import PROFILES
from geluless.verdicts import ClaimFixture
from geluless.verdicts.claim_fixture import ClaimProtocolError
from geluless.verdicts.micro_networks import PTX_TARGET, TaskResult
from geluless.verdicts.mlp_path import Kernel, KernelCode, MlpCode, block_runs, cpu_mlp_code, gpu_mlp_code, judged
from geluless.verdicts.worker import TWO_STAGE
from tests.support.claims import claim_module, deliver
from tests.support.compiled import ISAS, MISSING_REASON, requires_native
from tests.support.networks import awkward_artifact, awkward_images

IMAGE = awkward_images(1).numpy()


def why_no_listing() -> str:
    try:
        require_x86_listings()
    except MissingResource as missing:
        return str(missing)
    return MISSING_REASON


needs_listing = pytest.mark.skipif(bool(why_no_listing()), reason=why_no_listing())


def on_cpu() -> dict[str, tuple[MlpCode, ...]]:
    """What a worker finds of the awkward network."""
    artifact, two = awkward_artifact(relu=True), awkward_artifact(relu=True, profile=TWO_STAGE)
    return {
        "cpu relu": cpu_mlp_code(artifact, IMAGE),
        "cpu relu-float": cpu_mlp_code(artifact, IMAGE, variant="relu-float"),
        "cpu two-stage": cpu_mlp_code(two, IMAGE),
    }


@pytest.fixture
def c14() -> ModuleType:
    return claim_module("c14")


def verdict(c14: ModuleType, code: dict[str, tuple[MlpCode, ...]], test: str = "test_the_mlp_path_is_integer") -> tuple[str, str]:
    """(status, sentence) that c14 delivers where a worker found `code`."""
    found = TaskResult(
        "local:tiny",
        "fake",
        "ab" * 32,
        None,  # type: ignore[arg-type]
        artifacts={"int8-relu": "cd" * 32},
        manifests={"int8-relu": [{"where": "head", "tensor": "logits", "dtype": "float32"}]},
        mlp_code=code,
        seconds={"MLP's code, cpu": 1.0, "MLP's code, gpu": 1.0},
    )

    class Pool:
        def get(self, *tasks: object) -> tuple[TaskResult]:
            return (found,)

    record = deliver("c14", test, micro_networks=Pool(), **({"tier": "embedded"} if test.endswith("is_integer") else {}))
    return record.status, record.sentence


# ------------------------------------------------------------------------------------------------------- what really runs


@requires_native
@needs_listing
def test_the_honest_path_is_integer_on_every_instruction_set(c14: ModuleType) -> None:
    code = on_cpu()
    assert [one.target for one in code["cpu relu"]] == list(ISAS)
    for one in code["cpu relu"]:
        assert {kernel.part for kernel in one.path} == {"fc1", "fc2"}
        assert sum(kernel.blocks for kernel in one.path) == 2 * 4
        assert sum(sum(kernel.code.floats.values()) for kernel in one.before) > 0, "LayerNorm divides by a square root"
        assert one.instructions > 200
    status, sentence = verdict(c14, code)
    assert status == "REPRODUCED", sentence
    assert all(isa in sentence for isa in ISAS)


@requires_native
@needs_listing
def test_relu_lowered_to_the_float_epilogue_is_refuted(c14: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan, the artifact and its manifest say what they said; what runs is another kernel."""
    honest = lowering.lower_fc1

    def floating(name: str, mlp: object, tensors: object, variant: Variant) -> object:
        return honest(name, mlp, tensors, Variant.RELU_FLOAT if variant is Variant.RELU else variant)  # type: ignore[arg-type]

    monkeypatch.setattr(lowering, "lower_fc1", floating)
    status, sentence = verdict(c14, on_cpu())
    assert status == "REFUTED"
    assert sentence.endswith("are floating point")


@requires_native
@needs_listing
def test_a_float_activation_of_its_own_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands between fc1 and fc2 counts, not only what is called a linear layer."""
    for one in cpu_mlp_code(awkward_artifact(relu=False), IMAGE, variant="gelu-separate"):
        assert {kernel.part for kernel in one.path} == {"fc1", "activation", "fc2"}
        assert one.floats("activation") > 10
        assert one.floats("fc2") == 0


@requires_native
@needs_listing
def test_fasterformers_two_roundings_are_floating_point_in_both_layers() -> None:
    for one in cpu_mlp_code(awkward_artifact(relu=True, profile=PROFILES["ft1"]), IMAGE):
        assert min(one.floats("fc1"), one.floats("fc2")) > 0


def test_the_gpus_path_is_integer_and_a_float_epilogue_is_seen(c14: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="compiles with triton: pip install 'geluless[gpu]'")
    from geluless.engine.gpu import lowering as gpu_lowering

    test = "test_the_mlp_path_is_integer_on_a_gpu"
    artifact, two = awkward_artifact(relu=True), awkward_artifact(relu=True, profile=TWO_STAGE)

    def code() -> dict[str, tuple[MlpCode, ...]]:
        read = {"relu": (artifact, None), "relu-float": (artifact, "relu-float"), "two-stage": (two, None)}
        return {f"gpu {name}": (gpu_mlp_code(made, PTX_TARGET, batch=1, variant=v),) for name, (made, v) in read.items()}

    status, sentence = verdict(c14, code(), test)
    assert (status, PTX_TARGET in sentence) == ("REPRODUCED", True), sentence
    honest = gpu_lowering.variant_epilogue
    monkeypatch.setattr(gpu_lowering, "variant_epilogue", lambda *given: honest(*given[:3], Variant.RELU_FLOAT))
    assert verdict(c14, code(), test)[0] == "REFUTED"


# ---------------------------------------------------------------------------------------------------- what it must not believe

INTEGER, FLOATS = FunctionCode(100, 10), FunctionCode(100, 10, {"vmulps": 3})


def path(fc1: FunctionCode = INTEGER, fc2: FunctionCode = INTEGER, target: str = "isa") -> MlpCode:
    kernels = (KernelCode("fc1", "a", 2, fc1), KernelCode("fc2", "b", 2, fc2))
    return MlpCode(target, kernels, (KernelCode("norm2", "n", 2, FLOATS),))


@pytest.mark.parametrize(
    ("float_relu", "two_roundings"),
    [
        ([path()], [path(fc2=FLOATS)]),
        ([path(fc1=FLOATS)], [path()]),
        ([path(fc2=FLOATS)], [path(fc1=FLOATS)]),
        ([], []),
    ],
    ids=["blind to fc1", "blind to fc2", "the wrong layers", "no control"],
)
def test_a_count_that_does_not_see_its_controls_gives_no_verdict(
    c14: ModuleType, float_relu: list[MlpCode], two_roundings: list[MlpCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClaimFixture, "lacks", lambda *_, **__: False)
    assert judged([path()], float_relu, two_roundings).control.held is False
    code = {"cpu relu": (path(),), "cpu relu-float": tuple(float_relu), "cpu two-stage": tuple(two_roundings)}
    with pytest.raises(ClaimProtocolError, match="the control did not hold"):
        verdict(c14, code)


def test_one_instruction_on_one_of_several_targets_refutes() -> None:
    controls = ([path(fc1=FLOATS)] * 2, [path(fc2=FLOATS)] * 2)
    assert judged([path(), path(target="other")], *controls).integer
    one = FunctionCode(100, 10, {"vcvtdq2ps": 1})
    for worse in (path(fc1=one, target="other"), path(fc2=one, target="other")):
        found = judged([path(), worse], *controls)
        assert not found.integer
        assert found.sentence.startswith("1 of 400 instructions")
        assert any("other: " in line and "1 vcvtdq2ps" in line for line in found.details)


def a_run(block: str, *parts: str) -> list[tuple[str, Kernel]]:
    return [(f"{block}.{part}", Kernel(part, 0)) for part in parts]


def test_everything_from_norm2_to_fc2_is_on_the_path_and_nothing_else() -> None:
    calls = a_run("layers.0.blocks.0", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "something", "mlp.fc2")
    calls += a_run("layers.0.blocks.1", "norm1", "norm2", "mlp.fc1", "mlp.fc2", "norm1")
    assert {block: [part for part, _ in run] for block, run in block_runs(calls).items()} == {
        "layers.0.blocks.0": ["norm2", "fc1", "something", "fc2"],
        "layers.0.blocks.1": ["norm2", "fc1", "fc2"],
    }


@pytest.mark.parametrize("parts", [("norm2", "mlp.fc1"), ("norm2", "mlp.fc1", "norm2", "mlp.fc2")])
def test_a_block_that_does_not_come_to_its_end_is_an_error(parts: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeError, match="fc2 of layers"):
        block_runs(a_run("layers.0.blocks.0", *parts))


@requires_native
@needs_listing
@pytest.mark.parametrize(
    ("forget", "words"),
    [
        (lambda run: "blocks.1" in run.part, "blocks"),
        (lambda run: run.part.endswith("fc1"), "without fc1"),
    ],
)
def test_a_block_or_a_layer_that_the_engine_does_not_note_is_missed(
    monkeypatch: pytest.MonkeyPatch, forget: Callable[[object], bool], words: str
) -> None:
    from geluless.engine.cpu import CpuNetwork

    honest = CpuNetwork.kernel_runs
    monkeypatch.setattr(CpuNetwork, "kernel_runs", lambda self, image: [run for run in honest(self, image) if not forget(run)])
    with pytest.raises(RuntimeError, match=words):
        cpu_mlp_code(awkward_artifact(relu=True), IMAGE)


@requires_native
@needs_listing
def test_the_code_of_another_function_is_not_taken_for_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is off would find no floating point either."""
    from geluless.engine.disassembly import CodeOfFile

    monkeypatch.setattr(CodeOfFile, "function", lambda self, entry: FunctionCode(5, 0))
    with pytest.raises(RuntimeError, match="multiplies nothing"):
        cpu_mlp_code(awkward_artifact(relu=True), IMAGE)


def test_a_missing_count_is_an_error_and_no_verdict(c14: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClaimFixture, "lacks", lambda *_, **__: False)
    with pytest.raises(KeyError, match="cpu relu"):
        verdict(c14, {})
