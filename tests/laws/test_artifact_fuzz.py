"""A mutated artifact is refused: flipped bytes, cut tails, edited headers, forged content with a matching hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from geluless.engine.engine import Engine
from geluless.errors import ArtifactError
from geluless.integer.artifact import METADATA_KEY, Artifact, artifact_from_bytes
from geluless.integer.plan import encode
from tests.support.networks import awkward_artifact

pytestmark = pytest.mark.property


def header_of(raw: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@settings(max_examples=200)
@given(data=st.data())
def test_any_flipped_byte_is_refused(data):
    raw = bytearray(awkward_artifact().to_bytes())
    header_size = 8 + int.from_bytes(raw[:8], "little")
    # half of the flips in the header, which is small but decides everything
    limit = header_size if data.draw(st.booleans()) else len(raw)
    raw[data.draw(st.integers(0, limit - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactError):
        artifact_from_bytes(bytes(raw))


@settings(max_examples=100)
@given(data=st.data())
def test_any_cut_or_grown_tail_is_refused(data):
    raw = awkward_artifact().to_bytes()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ArtifactError):
        artifact_from_bytes(raw[:cut])
    with pytest.raises(ArtifactError):
        artifact_from_bytes(raw + data.draw(st.binary(min_size=1, max_size=64)))


@settings(max_examples=100)
@given(data=st.data())
def test_edited_headers_are_refused(data):
    header, tail = header_of(awkward_artifact().to_bytes())
    name = data.draw(st.sampled_from(sorted(header)))
    if name == "__metadata__":
        content = json.loads(header[name][METADATA_KEY])
        field = data.draw(st.sampled_from(sorted(content["plan"])))
        content["plan"][field] = data.draw(st.none() | st.integers() | st.text(max_size=3))
        header[name][METADATA_KEY] = json.dumps(content)
    else:
        edit = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "gone", "renamed"]))
        if edit == "gone":
            del header[name]
        elif edit == "renamed":
            header[name + "x"] = header.pop(name)
        elif edit == "dtype":
            header[name]["dtype"] = data.draw(st.sampled_from(["I8", "U8", "F32", "BF16", "I64", "nonsense"]))
        else:
            header[name][edit] = data.draw(st.lists(st.integers(-1, 2**40), max_size=3))
    edited = with_header(header, tail)
    assume(edited != awkward_artifact().to_bytes())
    with pytest.raises(ArtifactError):
        artifact_from_bytes(edited)


@settings(max_examples=200)
@given(data=st.data())
def test_forged_plans_with_a_matching_hash_are_valid_or_refused(data):
    """One number of the plan replaced and the hash recomputed: whatever loads must also run without reading astray."""
    artifact = awkward_artifact()
    plan = encode(artifact.plan)
    node, parent, key = plan, None, None
    while isinstance(node, (dict, list)) and node:
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        parent, key = node, data.draw(st.sampled_from(list(keys)))
        node = node[key]
    assert parent is not None
    parent[key] = data.draw(st.sampled_from([-1, 0, 1, 2, 3, 255, 2**16, 2**31, 2**63, 1e-30, 1e30, None, "", [], True]))
    forged = forge(plan, artifact.tensors)
    try:
        loaded = artifact_from_bytes(forged)
    except ArtifactError:
        return
    stem = loaded.plan.stem
    assume(stem.channels * stem.height * stem.width < 10_000)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = Engine(loaded, threads=1)(np.ones((1, stem.channels, stem.height, stem.width), np.float32))
    assert logits.shape == (1, loaded.plan.head.fc.outputs)


def forge(plan: dict, tensors: dict[str, np.ndarray]) -> bytes:
    """A file whose hash is right for its content, as an attacker who knows the format would write it."""
    canonical = json.dumps(plan, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    content = json.dumps({"content_hash": digest.hexdigest(), "plan": plan}, sort_keys=True, separators=(",", ":"))
    return save({name: tensors[name] for name in sorted(tensors)}, {METADATA_KEY: content})


def test_the_forger_would_succeed_with_the_honest_content():
    """Control: the forger's file is accepted when nothing was changed, so refusals above are about the change."""
    artifact = awkward_artifact()
    assert artifact_from_bytes(forge(encode(artifact.plan), artifact.tensors)).content_hash == artifact.content_hash


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layers.0.blocks.0.mlp.fc1.shift", lambda t: np.full_like(t, 31), "outside 0..30"),
        ("layers.0.blocks.0.mlp.fc1.multiplier", lambda t: np.full_like(t, -1), "outside 0..32767"),
        ("layers.0.blocks.0.mlp.fc1.bias", lambda t: np.full_like(t, 2**31 - 1), "overflow its int32 accumulator"),
        ("layers.0.blocks.0.attn.qkv.weight", lambda t: np.full_like(t, -128), "outside -127..127"),
        ("head.fc.logit_scale", lambda t: np.full_like(t, np.nan), "NaN"),
        ("head.fc.weight", lambda t: t[:, :-1].copy(), "the plan needs"),
        ("softmax_table", lambda t: t.astype(np.int16), "the plan needs"),
    ],
)
def test_tensors_outside_their_schema_are_refused_by_name(name, change, message):
    artifact = awkward_artifact()
    tensors = {key: value.copy() for key, value in artifact.tensors.items()}
    tensors[name] = change(tensors[name])
    with pytest.raises(ArtifactError, match=message):
        Artifact(artifact.plan, tensors)


def test_missing_and_surplus_tensors_are_refused():
    artifact = awkward_artifact()
    with pytest.raises(ArtifactError, match=r"head.fc.bias is missing"):
        Artifact(artifact.plan, {k: v for k, v in artifact.tensors.items() if k != "head.fc.bias"})
    with pytest.raises(ArtifactError, match="does not belong"):
        Artifact(artifact.plan, {**artifact.tensors, "stowaway": np.zeros(1, np.int8)})


def test_a_plan_of_another_format_is_refused():
    artifact = awkward_artifact()
    with pytest.raises(ArtifactError, match="format 99"):
        Artifact(dataclasses.replace(artifact.plan, format=99), artifact.tensors)
