"""Tiles: the table's choices, and what a device's own measurements put in their place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.arms import Arm
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Tile, Tiles
from geluless.engine.gpu.tuning import candidates, read_record, record_path, shape_of, tune, with_tile, write_record
from tests.gpu import run_launches
from tests.networks import awkward_artifact

ADA = ARCHITECTURES["sm_89"]


@given(rows=st.integers(1, 10**6), outputs=st.integers(1, 8192), inputs=st.integers(1, 8192), residual=st.booleans())
def test_tiles_are_powers_of_two_that_cover_the_layer_without_much_waste(
    rows: int, outputs: int, inputs: int, residual: bool
) -> None:
    tile = Tiles(ADA).linear(rows, outputs, inputs, "residual" if residual else "relu")
    for size in (tile.block_m, tile.block_n, tile.block_k, tile.warps):
        assert size & (size - 1) == 0
    assert tile.block_k >= 32
    assert tile.block_m * tile.block_n <= 128 * 128
    if outputs >= 128:
        assert -(-outputs // tile.block_n) * tile.block_n <= 1.5 * outputs
    assert inputs % tile.block_k == 0 or tile.block_k == 32


def test_small_layers_get_more_and_smaller_blocks() -> None:
    tiles = Tiles(ADA)
    many, few = tiles.linear(3136 * 64, 384, 96, "relu"), tiles.linear(49, 3072, 768, "relu")
    assert many.block_m == 128
    assert few.block_m < 64


def program() -> Program:
    artifact = awkward_artifact(relu=True)
    return lower(artifact.plan, artifact.tensors, Arm.RELU, batch=1, tiles=Tiles(ADA))


def test_tuning_keeps_the_fastest_and_passes_over_what_the_device_refuses() -> None:
    seen: list[Tile] = []

    def measure(of: Program, launch: Launch) -> float:
        tile = Tile(*(int(launch.constants[f"BLOCK_{x}"]) for x in "MNK"), launch.warps, launch.stages)
        seen.append(tile)
        if tile.stages == 4:
            raise RuntimeError("out of resource: shared memory")
        return abs(tile.block_m - 32) + abs(tile.block_n - 64) + tile.stages + tile.block_k / 1000

    whole = program()
    best = tune([whole], ADA, measure)
    linears = {shape_of(launch) for launch in whole.launches if launch.kernel == "int8_linear"}
    assert best.keys() == linears
    for shape, tile in best.items():
        assert tile.stages == 2
        assert tile in candidates(shape, ADA)
    assert any(tile.stages == 4 for tile in seen)
    tuned = Tiles(ADA, best)
    for shape, tile in best.items():
        assert tuned.linear(*shape) == tile
    assert tuned.linear(1, 2, 3, "relu") == Tiles(ADA).linear(1, 2, 3, "relu"), "an unknown layer takes the table's"


def test_any_tile_gives_the_same_bits() -> None:
    artifact = awkward_artifact(relu=True)
    whole = lower(artifact.plan, artifact.tensors, Arm.RELU, batch=1, tiles=Tiles(ARCHITECTURES["interpreter"]))
    launch = next(launch for launch in whole.launches if launch.name == "layers.0.blocks.0.mlp.fc1")
    rng = np.random.default_rng(0)
    rows, outputs, inputs, _ = shape_of(launch)
    arrays = {"normed": rng.integers(-128, 128, rows * inputs).astype(np.int8), "hidden": np.zeros(rows * outputs, np.int8)}
    results = []
    for tile in (Tile(128, 128, 32, 4, 1), Tile(16, 32, 64, 4, 1)):
        changed = Program(1, whole.buffers, (with_tile(launch, tile),), {})
        results.append(run_launches("interpreter", changed, dict(arrays))["hidden"])
    assert (results[0] == results[1]).all()
    assert results[0].any()


def test_records_survive_the_disk_and_name_their_device(tmp_path: Path) -> None:
    path = record_path(tmp_path / "cache", "NVIDIA GeForce RTX 4090", "3.8.0")
    assert path.name == "tiles-nvidia-geforce-rtx-4090-triton-3.8.0.json"
    best = {(3136, 384, 96, "relu"): Tile(128, 64, 32, 4, 3)}
    write_record(path, "NVIDIA GeForce RTX 4090", "3.8.0", best)
    assert read_record(path) == best
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.clear(),
        lambda c: c.update(format=2),
        lambda c: c["tiles"][0]["tile"].update(block_m=1 << 30),
        lambda c: c["tiles"][0]["tile"].update(block_n=48),
        lambda c: c["tiles"][0]["tile"].update(warps="4"),
        lambda c: c["tiles"][0]["tile"].pop("stages"),
        lambda c: c["tiles"][0].update(shape=[1, 2]),
    ],
)
def test_forged_records_are_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "tiles.json"
    write_record(path, "x", "3.8.0", {(1, 2, 3, "relu"): Tile(16, 32, 32, 4, 2)})
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"record|format|tile"):
        read_record(path)
