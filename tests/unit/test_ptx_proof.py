"""The optional race proof. Where sentryward is not installed these tests are not there, and the module says what it needs."""

from __future__ import annotations

import importlib.util
import sys

import pytest

pytest.importorskip("triton", reason="compiled kernels need triton: pip install 'geluless[gpu]'")

from geluless.engine.gpu.ptx.mutations import MUTATIONS
from geluless.engine.gpu.ptx.proof import Proof, prove, question_of
from geluless.errors import MissingResource
from tests.ptx_shipped import CASES, Case


def scalars(case: Case) -> dict[str, int]:
    return {name: value for name, value in case.launch.arguments.items() if isinstance(value, int)}


def test_without_the_verifier_the_proof_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentryward.api", None)
    case = CASES["layer_norm"]()
    with pytest.raises(MissingResource, match="pip install --no-deps sentryward=="):
        prove(case.compiled, case.ptx, scalars(case))


def test_the_question_names_every_integer_argument_of_the_ptx() -> None:
    for make in CASES.values():
        case = make()
        asked = question_of(case.compiled, scalars(case), (1, 1, 1))
        for argument in asked["arguments"]:
            assert f".param .{argument['type']} {argument['parameter']}" in case.ptx
            assert 0 <= argument["value"] < 2 ** int(argument["type"][1:])
        shared = case.compiled.shared_bytes
        assert asked["launch"] == {"grid_dim": [1, 1, 1], "block_dim": [128, 1, 1], "dynamic_shared_bytes": shared}
        assert case.ptx.count(".param .u32") == sum(argument["type"] == "u32" for argument in asked["arguments"])


if importlib.util.find_spec("sentryward"):

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["layer_norm", "int8_linear"])
    def test_shipped_kernels_are_proved_free_of_races_and_broken_ones_are_not(name: str) -> None:
        case = CASES[name]()
        assert prove(case.compiled, case.ptx, scalars(case)).holds
        broken = ["barriers dropped", "last barrier dropped"]
        broken += ["wait for one group less", "barrier in the loop dropped"] if name == "int8_linear" else []
        for mutation in broken:
            proof = prove(case.compiled, MUTATIONS[mutation](case.ptx), scalars(case))
            assert (proof.result, proof.checks["memory"]) == ("potential_race", "failed"), mutation

    def test_what_the_verifier_does_not_understand_is_no_proof() -> None:
        case = CASES["window_attention"]()
        proof = prove(case.compiled, case.ptx, scalars(case))
        assert isinstance(proof, Proof)
        assert not proof.holds
        assert proof.result == "unsupported"
        assert proof.reasons
