"""A function is all that its first instruction can reach, and what is not understood is never taken for integer code."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from geluless.engine import disassembly
from geluless.engine.cpu import CpuNetwork
from geluless.engine.disassembly import CodeOfFile, DisassemblyError, is_floating_point, objdump, require_x86_listings
from geluless.errors import MissingResource
from geluless.integer.variants import Variant
from tests.support.compiled import each_isa, requires_native
from tests.support.networks import awkward_artifact, awkward_images

LISTING = """
Disassembly of section .plt:

0000000000000100 <memcpy@plt>:
     100:	jmp    *0x2fa2(%rip)        # 30a8 <memcpy@GLIBC_2.14>

0000000000001000 <.text>:
    1000:	push   %rbx
    1001:	test   %edi,%edi
    1003:	jle    1010 <PyInit__native@@Base+0x10>
    1005:	call   1020 <PyInit__native@@Base+0x20>
    100a:	{evex} vpdpbusd (%rax){1to16},%zmm1,%zmm2
    100e:	jmp    1001 <PyInit__native@@Base+0x1>
    1010:	call   100 <memcpy@plt>
    1015:	vmovups %zmm2,(%rdi)
    1018:	repz ret
    101a:	cs nopw 0x0(%rax,%rax,1)
    1020:	vpmulhrsw %zmm0,%zmm1,%zmm2
    1026:	ret
    1030:	vmulps %zmm0,%zmm1,%zmm2
    1036:	ret
"""


def test_a_function_is_what_its_jumps_and_calls_can_reach() -> None:
    code = CodeOfFile(LISTING).function(0x1000)
    assert code.instructions == 11, "the loop, both branches and the function that is called; not the padding, not the next one"
    assert code.products == 2
    assert code.floats == {}


@pytest.mark.parametrize("place", ["1003:	jle    1030", "100e:	jmp    1030", "1005:	call   1030"])
def test_floating_point_is_found_wherever_it_can_be_reached(place: str) -> None:
    address = place[:4]
    (line,) = (line for line in LISTING.splitlines() if line.strip().startswith(f"{address}:"))
    assert CodeOfFile(LISTING.replace(line, f"    {place}")).function(0x1000).floats == {"vmulps": 1}


def test_a_function_outside_the_file_is_counted_unless_it_moves_bytes() -> None:
    listing = LISTING.replace("memcpy", "expf")
    assert CodeOfFile(listing).function(0x1000).floats == {"call expf": 1}
    through_the_table = LISTING.replace("call   100 <memcpy@plt>", "call   *0x2f9a(%rip)        # 3fb0 <expf@GLIBC_2.29>")
    assert CodeOfFile(through_the_table).function(0x1000).floats == {"call expf": 1}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("jmp    1001 <PyInit__native@@Base+0x1>", "jmp    *%rax", "known only when it runs"),
        ("call   1020 <PyInit__native@@Base+0x20>", "call   *0x18(%rdi)", "known only when it runs"),
        ("call   1020", "call   1021", "no instruction begins at 0x1021"),
        ("vpmulhrsw", "vfrobnicate", "vfrobnicate"),
        ("test   ", "(bad)  ", "(bad)"),
        ("    1036:	ret\n", "", None),
    ],
)
def test_what_is_not_understood_is_an_error(before: str, after: str, words: str | None) -> None:
    changed = LISTING.replace(before, after)
    assert changed != LISTING
    if words is None:
        changed = changed.replace("jmp    1001", "jmp    1030")
        words = "the code ends"
    with pytest.raises(DisassemblyError) as caught:
        CodeOfFile(changed).function(0x1000)
    assert words in str(caught.value)


def test_a_listing_without_instructions_proves_nothing() -> None:
    with pytest.raises(DisassemblyError, match="GNU binutils"):
        CodeOfFile("main:\n  0: c3  retq\n")


def test_no_instruction_is_both_or_a_float_operation_under_an_integers_name() -> None:
    floats = ("vaddps", "mulss", "vfmadd231ps", "vcvtdq2ps", "cvttss2si", "vrcp14ps", "vmaxps", "vscalefps", "vdpbf16ps", "fmulp")
    integers = ("vpaddd", "vpdpbusd", "pmaddwd", "vpackssdw", "vmovups", "vpermps", "vshuff64x2", "kmovd", "movslq", "cmovle")
    assert [name for name in floats if not is_floating_point(name) or disassembly.INTEGER.match(name)] == []
    assert [name for name in integers if is_floating_point(name) or not disassembly.INTEGER.match(name)] == []
    assert [name for name in ("pfadd", "vquux", "aesenc") if is_floating_point(name) or disassembly.INTEGER.match(name)] == []


def test_another_processor_and_a_missing_program_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(MissingResource, match="aarch64"):
        require_x86_listings()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingResource, match="install binutils"):
        require_x86_listings()
    with pytest.raises(MissingResource, match="install binutils"):
        objdump(tmp_path / "nothing.so")


# --------------------------------------------------------------------------------- the compiled engine's own account of itself


@requires_native
@each_isa
@pytest.mark.parametrize(
    ("variant", "fc1", "activation"),
    [
        (Variant.RELU, "fixed_relu", None),
        (Variant.RELU_FLOAT, "fp32_relu", None),
        (Variant.RELU_SEPARATE, "fixed_s16", "relu_s16"),
        (Variant.GELU_SEPARATE, "fp32_u8", "gelu_tanh_u8"),
    ],
)
def test_the_engine_notes_every_kernel_that_it_calls(isa: str, variant: Variant, fc1: str, activation: str | None) -> None:
    artifact = awkward_artifact(relu=variant.value.startswith("relu"))
    network = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=2)
    runs = network.kernel_runs(awkward_images(1).numpy())
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", *(["mlp.activation"] if activation else []), "mlp.fc2"]
    blocks = [f"layers.{i}.blocks.{j}" for i, stage in enumerate(artifact.plan.stages) for j in range(len(stage.blocks))]
    assert list(dict.fromkeys(run.part for run in runs if run.part.startswith(f"{blocks[0]}."))) == [
        f"{blocks[0]}.{part}" for part in parts
    ]
    assert {run.part for run in runs} == {f"{block}.{part}" for block in blocks for part in parts}
    named = {run.part.rpartition(".")[2]: run.kernel for run in runs}
    assert f"_{fc1}_" in named["fc1"]
    assert "_fixed_residual_" in named["fc2"]
    assert (named.get("activation") or "").startswith(activation or "")
    assert all(run.kernel.endswith(isa) for run in runs)
    entries = {run.kernel: run.entry for run in runs}
    assert len(set(entries.values())) == len(entries), "two kernels at one place"
    assert network.kernel_runs(awkward_images(1).numpy()) == runs


@requires_native
def test_noting_changes_no_logit_and_ends_with_the_call() -> None:
    artifact, images = awkward_artifact(relu=True), awkward_images(2).numpy()
    network = CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU)
    before = network.run(images)
    assert len(network.kernel_runs(images[:1])) > 0
    assert (network.run(images) == before).all()
    with pytest.raises(ValueError, match="takes one image"):
        network._network.kernel_runs(np.ascontiguousarray(images), np.empty((2, 7), np.float32))
