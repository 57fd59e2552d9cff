"""What the GPU engine's tests share: executors that live as long as the session, a device made of the processor, single launches
from plain arrays, and a network of one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar
from weakref import ref

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from geluless.engine.gpu import make_executor
from geluless.engine.gpu.builder import Builder
from geluless.engine.gpu.executors.launch_args import POISON
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Architecture, Tile, Tiles
from geluless.integer import plan as p
from geluless.integer.artifact import Artifact
from geluless.models import replace_gelu
from geluless.models.micro import init_micro
from geluless.ptq.quantize import quantize

# Ragged on purpose: no property test has as many rows or channels as these blocks for long.
SMALL_BLOCKS = Architecture("interpreter", None, 1, block_m=(32, 16), block_n=(64, 32), elementwise=256, norm_elements=512)
PTX_BLOCKS = Architecture("sm_89", 89, 1, block_m=(64, 32), block_n=(64, 32), elementwise=256, norm_elements=512)

# A law holds wherever the kernels run: in the interpreter always, on a device with --gpu.
each_executor = pytest.mark.parametrize("on", ["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])


@cache
def executor(name: str) -> Any:
    """One executor per session: the interpreter's process takes two seconds to start, a kernel half a second to compile."""
    pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")
    return make_executor(name)


def builder(
    tensors: dict[str, np.ndarray], *, batch: int = 1, architecture: Architecture | None = None, on: str = "interpreter"
) -> Builder:
    """For launches of one's own; small blocks unless told otherwise."""
    return Builder(tensors, batch, Tiles(architecture or (SMALL_BLOCKS if on == "interpreter" else PTX_BLOCKS)))


def run_launches(on: str, program: Program, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All launches of a program in order on given arrays; constants come from the program, the arrays return as they end."""
    state = {name: buffer.data for name, buffer in program.buffers.items() if buffer.data is not None} | arrays
    for launch in program.launches:
        state |= executor(on).launch(launch, state)
    return {name: state[name] for name in arrays}


def traced(engine_run: Callable[..., np.ndarray], images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(logits, intermediate tensors by name) of a GpuNetwork.run."""
    seen: dict[str, np.ndarray] = {}
    return engine_run(images, lambda name, tensor: seen.__setitem__(name, tensor)), seen


class FakeDevice:
    """A CUDA device as CudaExecutor sees one: memory of the processor, and launches in Triton's interpreter."""

    architecture: ClassVar[Architecture] = ARCHITECTURES["interpreter"]  # whose tiles the interpreter likes

    def __init__(self) -> None:
        self.tuned: dict[tuple[int, int, int, str], Tile] = {}
        self.launches: list[Launch] = []
        self.captures = 0
        self.capturing = False
        self._tensors: list[ref[torch.Tensor]] = []

    @property
    def alive(self) -> int:
        """How many tensors are on the device."""
        return sum(tensor() is not None for tensor in self._tensors)

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def upload(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array.copy())
        self._tensors.append(ref(tensor))
        return tensor

    def download(self, tensor: torch.Tensor) -> np.ndarray:
        return tensor.numpy().copy()

    def scratch(self, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.upload(np.full(shape, POISON, dtype))

    def launch(self, launch: Launch, tensors: Mapping[str, torch.Tensor]) -> None:
        self.launches.append(launch)
        used = {name: tensors[name].numpy() for name in launch.buffers}
        for name, array in executor("interpreter").launch(launch, used).items():
            tensors[name].copy_(torch.from_numpy(array))

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        self.captures += 1

        def replay() -> None:
            self.capturing = True
            try:
                work()
            finally:
                self.capturing = False

        replay()
        return replay


SMALL_INPUT = (3, 8, 12)


@cache
def small_artifact(*, relu: bool = True, profile: str = "per-channel", seed: int = 0) -> Artifact:
    """One block over 4 x 6 tokens in padded windows: a forward pass in the interpreter within a second."""
    torch.manual_seed(seed)
    model = SwinTransformer(
        img_size=SMALL_INPUT[1:], patch_size=2, num_classes=5, embed_dim=16, depths=(1,), num_heads=(2,), window_size=4
    )
    init_micro(model, fc2_gain=1.0)
    if relu:
        replace_gelu(model)
    return quantize(model.eval(), [torch.randn(8, *SMALL_INPUT)], profile=profile, name=f"small {seed}")


def small_images(count: int, *, seed: int = 1) -> np.ndarray:
    """float32 [count, 3, 8, 12]"""
    return np.random.default_rng(seed).standard_normal((count, *SMALL_INPUT)).astype(np.float32)


def linear_spec(
    inputs: int, outputs: int, *, unsigned_input: bool, bits: int = 8, unsigned: bool = False, zero_point: int = 0
) -> p.Linear:
    """A linear layer of a plan with the requantization in integers."""
    low, high = (0, 255) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    below = 0 if unsigned_input else -128
    return p.Linear(inputs, outputs, below, below + 255, p.Rounding.SINGLE, zero_point, low, high)
