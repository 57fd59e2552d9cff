"""FORMAT.md is true: its engine gives our bits, its tables are the code's, its hash is the artifact's, its sums are right."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import geluless.integer
from geluless import Engine
from geluless.integer import plan as p
from geluless.integer.artifact import MAX_HEADER_BYTES, Artifact, artifact_from_bytes
from geluless.integer.gelu import gelu_table
from geluless.integer.reference import layer_norm, linear, softmax
from geluless.integer.schema import MAX_ELEMENTS, MAX_FACTOR, MAX_POOLED, MAX_SHIFT, MAX_TOKENS, POOLED, SCALES, tensor_schema
from geluless.integer.variants import Variant, available_variants
from geluless.models.micro import create_micro, init_micro
from geluless.ptq.profiles import PROFILES
from geluless.ptq.quantize import quantize
from tests.support.networks import awkward_artifact, awkward_images

TEXT = Path(str(geluless.integer.__file__)).with_name("FORMAT.md").read_text(encoding="utf-8")
HASH_CODE, ENGINE_CODE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

# Everything that the document's engine can meet beside fc1: two roundings, affine norms, an int8 hidden tensor.
MIXED = dataclasses.replace(
    PROFILES["ft2"], name="mixed", two_stage_layers=frozenset({"qkv", "proj", "fc2", "reduction"}), per_head_scales=True
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread(_torch_threads: None) -> Iterator[None]:
    """Networks this small only lose time to torch's threads, most of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(code: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(code, "FORMAT.md", "exec"), namespace)
    return namespace


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def table(first: str, second: str) -> list[list[str]]:
    """The rows of the one table whose header begins with these two cells."""
    (found,) = (t for t in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE) if cells(t.splitlines()[0])[:2] == [first, second])
    return [cells(row) for row in found.splitlines()[2:]]


def code_spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def value(text: str) -> int | float:
    return eval(text.replace("^", "**"), {"__builtins__": {}})


@cache
def micro_artifact() -> Artifact:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = create_micro("swin_micro_tiny").eval()
        init_micro(model, fc2_gain=1.0)
    return quantize(model, [torch.randn(2, 1, 28, 28, generator=generator)], name="micro")


@cache
def images(kind: str) -> NDArray[np.float32]:
    if kind == "micro":
        return np.random.default_rng(7).normal(size=(3, 1, 28, 28)).astype(np.float32)
    pixels: NDArray[np.float32] = awkward_images(6, seed=4).numpy()
    return pixels


def made(kind: str) -> Artifact:
    match kind:
        case "micro":
            return micro_artifact()
        case "mixed":
            return awkward_artifact(relu=True, profile=MIXED)
    return awkward_artifact(relu=kind == "relu")


def replaced(node: Any, kind: type, **changes: Any) -> Any:
    """A plan, or a part of one, with these fields in every object of this kind."""
    if isinstance(node, tuple):
        return tuple(replaced(item, kind, **changes) for item in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return node
    fields = {f.name: replaced(getattr(node, f.name), kind, **changes) for f in dataclasses.fields(node)}
    return type(node)(**fields | (changes if isinstance(node, kind) else {}))


# ------------------------------------------------------------------------------------------------------- the engine


@pytest.mark.parametrize("kind", ["relu", "gelu", "mixed", "micro"])
def test_the_engine_in_the_document_gives_our_bits(kind: str, tmp_path: Path) -> None:
    artifact = made(kind)
    path = artifact.save(tmp_path / "net.int8.safetensors")
    logits = run(ENGINE_CODE)["Engine"](path)(images(kind))
    expected = Engine(artifact)(images(kind))
    assert logits.dtype == expected.dtype
    assert np.array_equal(logits, expected)


MUTATIONS = [
    ("half = (1 << shift) >> 1", "half = 0 * shift"),
    ("(v * multiplier + (1 << 14))", "(v * multiplier)"),
    ("(r + sh) % height", "r"),
    ("side = 2 * (r >= rows - sh) + (c >= columns - sw)", "side = 0 * r"),
    ("acc + ((1 << shift) >> 1)", "acc"),
    ("(r[:, None] - r + wh - 1)", "(r - r[:, None] + wh - 1)"),
    ('self.t[f"{name}.qkv.pad"]', "0"),
    ("below * multiplier + (1 << 14)", "below * multiplier"),
    ("for column in (0, 1) for row in (0, 1)", "for row in (0, 1) for column in (0, 1)"),
    ('(spread + norm["epsilon_term"])', '(spread + 100 * norm["epsilon_term"])'),
]


@pytest.mark.parametrize(("right", "wrong"), MUTATIONS)
def test_a_wrong_engine_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    """Negative control of the test above: each detail of the specification can be seen in the logits."""
    assert ENGINE_CODE.count(right) == 1
    artifact = made("relu")
    path = artifact.save(tmp_path / "net.int8.safetensors")
    logits = run(ENGINE_CODE.replace(right, wrong))["Engine"](path)(images("relu"))
    assert not np.array_equal(logits, Engine(artifact)(images("relu")))


def test_the_engine_in_the_document_is_short_and_needs_three_packages() -> None:
    assert len(ENGINE_CODE.splitlines()) <= 125
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(ENGINE_CODE))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"json", "numpy", "safetensors"}


def test_the_engine_in_the_document_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    artifact = made("relu")
    for plan in (replaced(artifact.plan, p.Linear, rounding=p.Rounding.TWO_STAGE), dataclasses.replace(artifact.plan, format=2)):
        path = tmp_path / "net.int8.safetensors"
        path.write_bytes(run(HASH_CODE)["file_bytes"](p.encode(plan), artifact.tensors))
        with pytest.raises(ValueError, match="another format, or an fc1 that rounds twice"):
            run(ENGINE_CODE)["Engine"](path)


# ----------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("model", ["awkward", 'ein "Schwan"\\ \t\x7f\u00e9\u2028\U0001f9a2'])
@pytest.mark.parametrize("kind", ["relu", "gelu", "mixed"])
def test_the_documented_hash_and_bytes_are_those_of_the_artifact(kind: str, model: str) -> None:
    artifact = made(kind)
    artifact = Artifact(dataclasses.replace(artifact.plan, model=model), artifact.tensors)
    documented = run(HASH_CODE)
    plan = p.encode(artifact.plan)
    assert documented["content_hash"](plan, artifact.tensors) == artifact.content_hash
    raw = documented["file_bytes"](plan, artifact.tensors)
    assert raw == artifact.to_bytes()
    assert artifact_from_bytes(raw).plan.model == model


def test_the_documented_form_of_numbers_is_the_canonical_one() -> None:
    (line,) = (line for line in TEXT.splitlines() if "`repr`" in line)
    numbers = re.findall(r"`([0-9][^`]*)`", line)
    assert len(numbers) == 5
    assert [run(HASH_CODE)["canonical"](float(number)) for number in numbers] == numbers


# --------------------------------------------------------------------------------------------------------- the tables


def described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return f"{arguments[0].__name__} or null"
    if origin is tuple:
        return f"list of {arguments[0].__name__}" if arguments[1] is ... else f"[{', '.join(a.__name__ for a in arguments)}]"
    if origin is dict:
        return "object"
    if issubclass(hint, Enum) or hint is str:
        return "string"
    return str(hint.__name__)


def dataclasses_of(kind: Any) -> set[type]:
    """A dataclass and all that its fields lead to."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return set().union(*(dataclasses_of(a) for a in typing.get_args(kind)))
    return {kind}.union(*(dataclasses_of(hint) for hint in typing.get_type_hints(kind).values()))


def test_the_table_of_the_plan_has_every_field_with_its_type_and_no_other() -> None:
    documented: dict[str, dict[str, str]] = {}
    for owner, fields, kind, *_ in table("object", "field"):
        for field in code_spans(fields):
            assert documented.setdefault(owner.strip("`"), {}).setdefault(field, kind) == kind
    code = {
        kind.__name__: {name: described(hint) for name, hint in typing.get_type_hints(kind).items()}
        for kind in dataclasses_of(p.Plan)
    }
    assert documented == code
    assert {owner: list(fields) for owner, fields in documented.items()} == {o: list(fields) for o, fields in code.items()}


Spec = tuple[str, int, float | None, float | None]  # dtype, number of axes, lowest, highest


def documented_spec(dtype: str, shape: str, bounds: str) -> Spec:
    low, high = (None, None) if bounds == "any" else map(value, bounds.split(".."))
    return dtype, shape.count(",") + 1, low, high


def documented_tensors() -> dict[str, Spec]:
    parts = {"linear": table("part of a linear", "dtype"), "norm": table("part of a norm", "dtype")}
    documented: dict[str, Spec] = {}
    for cell, dtype, shape, bounds, _ in table("name", "dtype"):
        (name,) = code_spans(cell)
        if dtype in parts:
            rows = {f"{name}.{part}": documented_spec(*row[1:4]) for row in parts[dtype] for part in code_spans(row[0])}
        else:
            rows = {name: documented_spec(dtype, shape, bounds)}
        assert not documented.keys() & rows.keys()
        documented |= rows
    return documented


def test_the_tables_of_tensors_have_every_name_with_its_dtype_and_range_and_no_other() -> None:
    code: dict[str, Spec] = {}
    affine = replaced(made("gelu").plan, p.Norm, affine=True)
    for rounding in p.Rounding:
        for name, spec in tensor_schema(replaced(affine, p.Linear, rounding=rounding)).items():
            pattern = re.sub(r"blocks\.\d+", "blocks.{j}", re.sub(r"layers\.\d+", "layers.{i}", name))
            code[pattern] = (spec.dtype, len(spec.shape), spec.low, spec.high)
    assert documented_tensors() == code


def test_the_tensors_are_present_exactly_where_the_tables_say() -> None:
    present = {part: row[4] for row in table("part of a linear", "dtype") for part in code_spans(row[0])}
    for kind in ("relu", "mixed"):
        artifact = made(kind)
        roundings = {"attn.qkv": artifact.plan.stages[0].blocks[0].qkv.rounding, "mlp.fc1": p.Rounding.SINGLE}
        for name, rounding in roundings.items():
            expected = {part for part, when in present.items() if when in ("always", rounding.value)}
            if name == "attn.qkv":
                expected.add("pad")  # of the awkward network only
            else:
                expected |= {"accumulator_scale", "real_bias"}
            prefix = f"layers.0.blocks.0.{name}."
            assert {tensor.removeprefix(prefix) for tensor in artifact.tensors if tensor.startswith(prefix)} == expected
    assert not [name for name in made("relu").tensors if name.endswith("mlp.table")]
    assert not [name for name in made("micro").tensors if re.match(r"layers\.[013]\..*qkv\.pad", name)]


def test_the_table_of_arms_is_what_artifacts_run() -> None:
    documented = {(row[0], row[1]): tuple(code_spans(row[2])) for row in table("`activation`", "fc1's `rounding`")}
    relu, gelu = made("relu").plan, made("gelu").plan
    cases = {
        ("relu", "single, `has_bias` in every block"): relu,
        ("relu", "single, otherwise"): replaced(relu, p.Mlp, has_bias=False),
        ("relu", "double"): replaced(relu, p.Linear, rounding=p.Rounding.TWO_STAGE),
        ("gelu", "single"): gelu,
        ("gelu", "double"): replaced(gelu, p.Linear, rounding=p.Rounding.TWO_STAGE),
    }
    assert documented == {case: tuple(variant.value for variant in available_variants(plan)) for case, plan in cases.items()}
    formulas = {variant for row in table("variant", "the hidden tensor") for variant in code_spans(row[0])}
    assert formulas == {variant.value for variant in Variant}


def test_the_bounds_in_the_tables_are_the_codes() -> None:
    bounds = {f"{row[0]}.{field}": " ".join(row[3:]) for row in table("object", "field") for field in code_spans(row[1])}
    bounds = {name.replace("`", ""): text for name, text in bounds.items()}
    assert bounds["Plan.format"].split()[0] == str(p.FORMAT)
    assert [value(b) for b in bounds["Norm.factor"].split()[0].split("..")] == [SCALES[0], MAX_FACTOR]
    assert value(re.findall(r"at most (\S+)$", bounds["Stage.height"])[0]) == MAX_TOKENS
    assert value(re.findall(r"at most (\d+)", bounds["Head.tokens"])[0]) == MAX_POOLED
    assert bounds["Head.pool_shift"].startswith(f"0..32767, 0..{MAX_SHIFT} ")
    assert bounds["Head.fc"].startswith(f"{POOLED[0]}..{POOLED[1]} ")
    assert value(re.findall(r"heads · W\) ≤ (\S+)\.$", TEXT, re.MULTILINE)[0]) == MAX_ELEMENTS
    assert value(re.findall(r"a multiple of 8, at most (\S+) ", TEXT)[0]) == MAX_HEADER_BYTES
    scale = re.findall(r"real unit per step, (\S+)\.\.(\S+)\. ", TEXT)[0]
    assert tuple(map(value, scale)) == SCALES


# ------------------------------------------------------------------------------------------------------------ by hand


def worked(block: str) -> dict[str, float]:
    """The names of `name = expression = ... = value` lines; every expression of a line must give the same number."""
    numbers: dict[str, float] = {}
    for line in block.splitlines():
        name, *expressions = line.split("#")[0].strip().split(" = ")
        values = {eval(text, {"__builtins__": {"min": min, "max": max, "round": round}}, numbers) for text in expressions}
        assert len(values) == 1, line
        numbers[name.strip()] = values.pop()
    return numbers


def channel(x: list[int], *, zero_point: int) -> int:
    spec = p.Linear(4, 1, -128, 127, p.Rounding.SINGLE, zero_point, 0, 255)
    tensors: dict[str, NDArray] = {
        "fc1.weight": np.array([[62, -19, -50, 127]], np.int8),
        "fc1.bias": np.array([387], np.int32),
        "fc1.multiplier": np.array([2556], np.int16),
        "fc1.shift": np.array([4], np.uint8),
    }
    return int(linear(np.array([x], np.int32), "fc1", spec, tensors)[0, 0])


def test_the_numbers_worked_by_hand_are_right() -> None:
    section = TEXT[TEXT.index("## 9. By hand") :]
    relu, gelu, norm, weights = (
        worked(block) for block in re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    )

    assert relu["relu"] == channel([30, -48, -75, 32], zero_point=0) == relu["once"] + 1
    assert gelu["relu"] == channel([-30, 48, 75, -32], zero_point=0) == 0
    assert gelu["pre"] == channel([-30, 48, 75, -32], zero_point=120)
    assert gelu["gelu"] == gelu_table(0.02, 120, 0.01, 17)[int(gelu["pre"])]

    spec = p.Norm(channels=4, epsilon_term=22, factor=40.0, affine=False, low=-128, high=127)
    assert norm["y"] == layer_norm(np.array([100, -50, 25, 5], np.int32), "norm", spec, {})[0]

    table_ = made("relu").tensors["softmax_table"]
    scores = np.array([[[[120, 100, -40]]]], np.int32)
    got = softmax(scores, None, np.array([20000], np.int32), table_)[0, 0, 0]
    assert got.tolist() == [255, table_[int(weights["z1"])], table_[int(weights["z2"])]] == [255, 140, 2]
    assert weights["sum"] == got.sum()
    assert weights["wv"] == got @ [50, -128, 127]
    assert weights["out"] == np.rint(np.float32(weights["wv"]) * (np.float32(1.5) / np.float32(weights["sum"])))


def test_a_wrong_number_worked_by_hand_is_noticed() -> None:
    """Negative control of `worked`."""
    with pytest.raises(AssertionError, match="v = 10981"):
        worked("v = 10981 >> 4 = 687  # off by one")


def test_an_artifact_runs_without_torch(tmp_path: Path) -> None:
    """Its import is most of a start: whoever only runs artifacts does not pay for it."""
    awkward_artifact().save(path := tmp_path / "awkward.int8.safetensors")
    np.save(tmp_path / "images.npy", awkward_images(1).numpy())
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "import numpy, geluless\n"
        "engine = geluless.Engine(geluless.load_artifact(Path(sys.argv[1])), backend='reference')\n"
        "assert engine(numpy.load(sys.argv[2])).any()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "images.npy")], check=True, timeout=120)
