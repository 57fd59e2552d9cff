"""Tiles: the table's choices, and what a device's own measurements put in their place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")

from triton import OutOfResources

from geluless.cli import main
from geluless.engine.gpu.epilogues import gpu_variants
from geluless.engine.gpu.kernels import activation
from geluless.engine.gpu.lowering import largest_batch, lower
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Chunk, Tile, Tiles
from geluless.engine.gpu.tuning import (
    ACTIVATIONS,
    CHUNKS,
    candidates,
    read_record,
    record_path,
    shape_of,
    tile_of,
    tiles_of,
    tune,
    with_tile,
    write_record,
)
from geluless.integer import plan as p
from geluless.integer.variants import SEPARATE, Variant
from tests.support.gpu import FakeDevice, run_launches, small_artifact
from tests.support.networks import awkward_artifact

ADA = ARCHITECTURES["sm_89"]
RTX, TRITON = "NVIDIA GeForce RTX 4090", "3.8.0"


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


def program(variant: Variant = Variant.RELU, tiles: Tiles | None = None) -> Program:
    artifact = awkward_artifact(relu=variant.startswith("relu"))
    return lower(artifact.plan, artifact.tensors, variant, batch=1, tiles=tiles or Tiles(ADA))


def test_tuning_keeps_the_fastest_and_passes_over_what_the_device_refuses() -> None:
    seen: list[Tile] = []

    def measure(of: Program, launch: Launch) -> float:
        tile = Tile(*(int(launch.constants[f"BLOCK_{x}"]) for x in "MNK"), launch.warps, launch.stages)
        seen.append(tile)
        if tile.stages == 4:
            raise OutOfResources(196_608, 101_376, "shared memory")
        return abs(tile.block_m - 32) + abs(tile.block_n - 64) + tile.stages + tile.block_k / 1000

    whole = program()
    best = tune([whole], ADA, measure)
    linears = {shape_of(launch) for launch in whole.launches if launch.kernel == "int8_linear"}
    assert best.keys() == linears
    for shape, tile in best.items():
        assert tile.stages == 2
        assert tile in candidates(shape, ADA)
    assert any(tile.stages == 4 for tile in seen)
    assert len(seen) < sum(len(candidates(shape, ADA)) for shape in best) / 2, "not every pair of blocks and stages"
    tuned = Tiles(ADA, best)
    for shape, tile in best.items():
        assert tuned.linear(*shape) == tile
    assert tuned.linear(1, 2, 3, "relu") == Tiles(ADA).linear(1, 2, 3, "relu"), "an unknown layer takes the table's"


@pytest.mark.parametrize("variant", [Variant.GELU_SEPARATE, Variant.RELU_SEPARATE])
def test_an_activation_in_a_kernel_of_its_own_is_tuned_like_the_layer_before_it(variant: Variant) -> None:
    seen: dict[str, list[Tile | Chunk]] = {}

    def measure(of: Program, launch: Launch) -> float:
        seen.setdefault(launch.name, []).append(tile := tile_of(launch))
        assert launch.grid[0] * launch.constants.get("BLOCK", 1) < 2**31
        return abs(tile.block - 512) + tile.warps / 100 if isinstance(tile, Chunk) else float(tile.block_m + tile.stages)

    best = tune([program(variant)], ADA, measure)
    name = "layers.0.blocks.0.mlp"
    assert len(set(seen[f"{name}.activation"])) == len(seen[f"{name}.activation"]) > 2
    assert len(set(seen[f"{name}.fc1"])) > 2
    activations = {shape: tile for shape, tile in best.items() if len(shape) == 3}
    assert set(activations.values()) == {Chunk(512, 4)}
    tuned = program(variant, Tiles(ADA, best))
    assert tiles_of(tuned) == best
    (launch,) = (launch for launch in tuned.launches if launch.name == f"{name}.activation")
    assert launch.grid == (-(-launch.arguments["count"] // 512), 1, 1)
    assert tune([tuned], ADA, measure, known=best) == {}


def test_the_tables_own_choice_is_among_those_that_are_measured() -> None:
    """Else the table could be faster than what tuning calls the fastest."""
    for count in (3136 * 384, 49 * 3072, 64 * 3136 * 768):
        assert Tiles(ADA).elementwise(count, 384, "gelu_after_gemm") in candidates((count, 384, "gelu_after_gemm"), ADA)
    assert candidates((100, 1, "relu_s16"), ADA) == [chunk for chunk in CHUNKS if chunk.block == 256]


def test_every_kernel_of_its_own_is_one_that_is_tuned() -> None:
    assert all(hasattr(activation, name) for name in ACTIVATIONS)
    for relu, profile in ((True, "per-channel"), (False, "per-channel"), (True, "ft1"), (False, "ft1")):
        artifact = small_artifact(relu=relu, profile=profile)
        for variant in gpu_variants(artifact.plan):
            whole = lower(artifact.plan, artifact.tensors, variant, batch=1, tiles=Tiles(ADA))
            separate = [launch for launch in whole.launches if launch.name.endswith(".activation")]
            assert all(len(shape_of(launch) or ()) == 3 for launch in separate)
            assert bool(separate) == (variant in SEPARATE)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), ValueError("no such kernel")])
def test_tuning_passes_over_nothing_else(error: Exception) -> None:
    """After an error of CUDA everything fails, and the last tile that worked would be kept as the fastest."""

    def measure(of: Program, launch: Launch) -> float:
        raise error

    with pytest.raises(type(error), match=str(error)):
        tune([program()], ADA, measure)


def test_layers_for_which_no_tile_fits_keep_the_tables() -> None:
    def measure(of: Program, launch: Launch) -> float:
        raise OutOfResources(196_608, 1, "shared memory")

    assert tune([program()], ADA, measure) == {}


def test_a_programs_tiles_are_those_it_was_lowered_with() -> None:
    whole = program()
    tiles = tiles_of(whole)
    assert tiles == {shape: Tiles(ADA).linear(*shape) for shape in tiles}
    changed = with_tile(next(launch for launch in whole.launches if launch.kernel == "int8_linear"), Tile(16, 32, 32, 4, 2))
    assert tiles_of(Program(1, whole.buffers, (changed,), {})) == {shape_of(changed): Tile(16, 32, 32, 4, 2)}


def test_any_tile_gives_the_same_bits() -> None:
    artifact = awkward_artifact(relu=True)
    whole = lower(artifact.plan, artifact.tensors, Variant.RELU, batch=1, tiles=Tiles(ARCHITECTURES["interpreter"]))
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


def test_any_chunk_gives_the_same_bits() -> None:
    whole = program(Variant.GELU_SEPARATE)
    launch = next(launch for launch in whole.launches if launch.kernel == "gelu_after_gemm")
    count, _, _ = shape_of(launch)
    hidden = np.random.default_rng(0).integers(-128, 128, count).astype(np.int8)
    results = []
    for chunk in (CHUNKS[0], Chunk(128, 4)):
        changed = Program(1, whole.buffers, (with_tile(launch, chunk),), {})
        results.append(run_launches("interpreter", changed, {"hidden": hidden.copy()})["hidden"])
    assert (results[0] == results[1]).all()
    assert (results[0] != hidden).any()


class Idle(FakeDevice):
    """A device that launches nothing, has no room for four stages, and has a name."""

    architecture = ADA
    name, triton = RTX, TRITON

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tuned_path = record_path(folder, self.name, self.triton)
        if self.tuned_path.exists():
            self.tuned = read_record(self.tuned_path, ADA, device=self.name, triton=self.triton)

    def launch(self, launch: Launch, tensors: object) -> None:
        if launch.stages == 4:
            raise OutOfResources(196_608, 101_376, "shared memory")
        self.launches.append(launch)


def test_the_command_measures_graphs_and_keeps_what_it_finds_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices: list[Idle] = []

    def device() -> Idle:
        devices.append(Idle(tmp_path))
        return devices[-1]

    def time_ms(work: Callable[[], object]) -> float:
        work()
        constants = devices[-1].launches[-1].constants
        return 1.0 + constants.get("BLOCK_M", constants.get("BLOCK"))

    monkeypatch.setattr("geluless.engine.gpu.executors.device.TorchDevice", device)
    monkeypatch.setattr("geluless.bench.networks.random_artifact", lambda name, *, relu: small_artifact(relu=relu))
    monkeypatch.setattr("geluless.bench.gpu_timing.time_ms", time_ms)
    assert main(["tune", "--model", "small", "--batch", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    record = read_record(devices[0].tuned_path, ADA, device=RTX, triton=TRITON)
    assert told["layers"] == len(record) == len(told["tuned_now"]) > 5
    linear = {shape: tile for shape, tile in record.items() if isinstance(tile, Tile)}
    assert {tile.block_m for tile in linear.values()} == {16}
    assert all(tile.stages < 4 for tile in linear.values())
    assert {shape[-1]: tile.block for shape, tile in record.items() if isinstance(tile, Chunk)} == {
        "gelu_after_gemm": 256,
        "relu_after_gemm": 256,
        "relu_s16": 256,
    }
    assert devices[0].captures > len(record)
    assert main(["tune", "--model", "small", "--batch", "2", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["tuned_now"], again["layers"], devices[1].captures) == ([], len(record), 0)


# --------------------------------------------------------------------------------------------------------------- grids


def with_tokens(plan: p.Plan, height: int, width: int) -> p.Plan:
    """The small network for larger images; its tensors stay the same."""
    stem = dataclasses.replace(plan.stem, height=2 * height, width=2 * width)
    stages = tuple(dataclasses.replace(stage, height=height, width=width) for stage in plan.stages)
    head = dataclasses.replace(plan.head, tokens=height * width)
    return dataclasses.replace(plan, stem=stem, stages=stages, head=head)


def test_no_batch_of_large_images_needs_a_grid_that_no_device_launches() -> None:
    """Rows lie along the grid's second axis: 64 images of 448 x 448 tokens would be 100,352 tiles of 128 rows there."""
    artifact = small_artifact()
    plan = with_tokens(artifact.plan, 449, 447)
    batch = largest_batch(plan)
    assert 1 < batch < 64

    def lowered(batch: int, tiles: Tiles) -> Program:
        return lower(plan, artifact.tensors, Variant.RELU, batch=batch, tiles=tiles)

    smallest = dict.fromkeys(tiles_of(lowered(batch, Tiles(ADA))), Tile(16, 32, 32, 4, 2))
    assert max(launch.grid[1] for launch in lowered(batch, Tiles(ADA, smallest)).launches) > 60_000
    with pytest.raises(ValueError, match="images at once"):
        lowered(64, Tiles(ADA))
    rows = 64 * 449 * 447
    assert all(-(-rows // tile.block_m) <= 65535 for tile in candidates((rows, 96, 32, "s8"), ADA))


@pytest.mark.parametrize("tokens", [1, 4, 49, 3136, 9216, 200_704, 2**22])
def test_the_smallest_tiles_of_the_largest_batch_fit_the_grid(tokens: int) -> None:
    batch = largest_batch(with_tokens(small_artifact().plan, 1, tokens))
    assert batch <= 65535, "images lie along the third axis"
    assert batch == 1 or -(-batch * tokens // 16) <= 65535


@pytest.mark.parametrize("grid", [(2**31, 1, 1), (1, 65536, 1), (1, 1, 65536), (0, 1, 1)])
def test_launches_that_no_device_takes_cannot_be_made(grid: tuple[int, int, int]) -> None:
    launch = program().launches[0]
    dataclasses.replace(launch, grid=(2**31 - 1, 65535, 65535))
    with pytest.raises(ValueError, match=rf"{launch.name}: a grid of \({grid[0]}"):
        dataclasses.replace(launch, grid=grid)


# ------------------------------------------------------------------------------------------------------------- records


def read(path: Path, **changes: str) -> dict:
    return read_record(path, ADA, **({"device": RTX, "triton": TRITON} | changes))


def test_records_survive_the_disk_and_name_their_device(tmp_path: Path) -> None:
    path = record_path(tmp_path / "cache", RTX, TRITON)
    assert path.name == "tiles-nvidia-geforce-rtx-4090-triton-3.8.0.json"
    best = {
        (49, 96, 384, "residual"): Tile(16, 32, 128, 4, 2),
        (3136, 384, 96, "relu"): Tile(128, 64, 32, 4, 3),
        (3136 * 384, 1, "relu_s16"): Chunk(8192, 4),
        (3136 * 384, 384, "gelu_after_gemm"): Chunk(512, 8),
    }
    write_record(path, RTX, TRITON, best)
    assert read(path) == best
    assert list(path.parent.iterdir()) == [path]
    for other in ({"device": "NVIDIA H100"}, {"triton": "3.7.0"}):
        with pytest.raises(ValueError, match="tune again"):
            read(path, **other)


def test_everything_that_tuning_may_choose_can_be_read_again(tmp_path: Path) -> None:
    shapes_seen = (3136, 384, 96, "relu"), (5, 7, 33, "s8"), (10**6, 96, 32, "residual"), (10**6, 96, "relu_after_gemm")
    for i in range(max(len(candidates(shape, ADA)) for shape in shapes_seen)):
        best = {shape: (found := candidates(shape, ADA))[i % len(found)] for shape in shapes_seen}
        write_record(tmp_path / "tiles.json", RTX, TRITON, best)
        assert read(tmp_path / "tiles.json") == best


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.clear(),
        lambda c: c.update(format=2),
        lambda c: c.update(device="NVIDIA H100"),
        lambda c: c.update(tiles=3),
        lambda c: c["tiles"].append(c["tiles"][0]),
        lambda c: c["tiles"][0]["tile"].update(block_m=1 << 30),
        lambda c: c["tiles"][0]["tile"].update(block_n=48),
        lambda c: c["tiles"][0]["tile"].update(warps="4"),
        lambda c: c["tiles"][0]["tile"].update(warps=16),
        lambda c: c["tiles"][0]["tile"].update(stages=8),
        lambda c: c["tiles"][0]["tile"].update(stages=True),
        lambda c: c["tiles"][0]["tile"].update(block_m=128, block_n=128, block_k=128, warps=1),
        lambda c: c["tiles"][0]["tile"].update(block_k=64),  # of 96 inputs it leaves a rest
        lambda c: c["tiles"][0]["tile"].pop("stages"),
        lambda c: c["tiles"][0].update(shape=[1, 2]),
        lambda c: c["tiles"][0].update(shape=[3136.0, 384, 96, "relu"]),
        lambda c: c["tiles"][0].update(shape=[-3136, 384, 96, "relu"]),
        lambda c: c["tiles"][0].update(shape=[float("inf"), 384, 96, "relu"]),
        lambda c: c["tiles"][0].update(shape=[10**400, 384, 96, "relu"]),
        lambda c: c["tiles"][0].update(shape=[3136, 384, 96, ["relu"]]),
        lambda c: c["tiles"][0].update(shape=[10**8, 384, 96, "relu"]),  # its tile would take too many blocks
        lambda c: c["tiles"][0].update(shape=[3136, 384, "gelu_after_gemm"]),  # a tile of a linear layer
        lambda c: c["tiles"][0].update(tile={"block": 1024, "warps": 4}),  # and the reverse
        lambda c: c["tiles"][1].update(shape=[3136, 384, "relu"]),
        lambda c: c["tiles"][1].update(shape=[-3136, 384, "gelu_after_gemm"]),
        lambda c: c["tiles"][1].update(shape=[100, 1, "gelu_after_gemm"]),  # too few elements for such a block
        lambda c: c["tiles"][1]["tile"].update(block=1 << 30),
        lambda c: c["tiles"][1]["tile"].update(block=1000),
        lambda c: c["tiles"][1]["tile"].update(warps=True),
        lambda c: c["tiles"][1]["tile"].update(stages=1),
        lambda c: c["tiles"][1]["tile"].pop("warps"),
    ],
)
def test_forged_records_are_refused(tmp_path: Path, change: Callable[[dict], object]) -> None:
    path = tmp_path / "tiles.json"
    activation_shape = (3136 * 384, 384, "gelu_after_gemm")
    write_record(path, RTX, TRITON, {(3136, 384, 96, "relu"): Tile(16, 32, 32, 4, 2), activation_shape: Chunk(1024, 4)})
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tune again"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 200_000, '{"format": 1e999}', "\x00", '{"tiles": 1' + "0" * 5000 + "}"])
def test_files_that_are_no_record_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiles.json").write_text(text)
    with pytest.raises(ValueError, match="tune again"):
        read(tmp_path / "tiles.json")
