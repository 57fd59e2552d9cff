"""TorchInductor, in fp32 and quantized by torchao's PT2E flow, compiled ahead of time.

The same compiler and the same options as `torch.compile`, whose compilation of a Swin-T takes half a minute in every new process.
AOTInductor pays that once, and calls the result without Python in between.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Executed, Setting, Shape
from geluless.baselines.eager import TorchRunner

if TYPE_CHECKING:
    import torch

    from geluless.baselines.subject_network import SubjectNetwork

PT2E = "docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html"
AHEAD_OF_TIME = "docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html"
MEASURED = "measured for this suite: within 10 % of torch.compile on Swin-T, 40 % faster on a micro Swin"


@dataclass(frozen=True)
class Inductor:
    """`precision` "int8" goes through X86InductorQuantizer first."""

    name: str
    precision: str
    activation: str | None = None
    packages: tuple[str, ...] = ("torch", "torchao", "timm")
    configurations: tuple[str, ...] = ("C++",)

    @property
    def family(self) -> str:
        return self.name  # each of the two compiles for minutes: in processes of their own they do so side by side

    @property
    def settings(self) -> tuple[Setting, ...]:
        compiled = (
            Setting("freezing: weights are constants, packed for oneDNN or MKL", AHEAD_OF_TIME),
            Setting("aoti_compile_and_package for the very batch size", MEASURED),
            Setting("cpp.dynamic_threads where several thread counts are timed: one compilation serves them", AHEAD_OF_TIME),
        )
        if self.precision == "fp32":
            return compiled
        return (
            Setting("X86InductorQuantizer, its default configuration: static, u8 activations, s8 weights per channel", PT2E),
            Setting("prepare_pt2e, calibration, convert_pt2e", PT2E),
            *compiled,
        )

    def prepare(self, subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]) -> None:
        import torch

        threads = {shape.threads for shape in shapes}
        torch.set_num_threads(max(threads))
        options = {"freezing": True, "cpp.dynamic_threads": len(threads) > 1}
        with torch.no_grad():
            model: torch.nn.Module = subject.network()
            if self.precision == "int8":
                model = _quantized(model, subject)
            for batch in sorted({shape.batch for shape in shapes}):
                example = torch.zeros(batch, *subject.input_size)
                program = torch.export.export(model, (example,))
                package = str(self._path(folder, batch))
                torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=options)

    def imports(self) -> None:
        import torch._inductor.package  # noqa: F401

    def load(self, subject: SubjectNetwork, folder: Path, shape: Shape, configuration: str) -> InductorRunner:
        import torch

        torch.set_num_threads(shape.threads)
        return InductorRunner(torch._inductor.aoti_load_package(str(self._path(folder, shape.batch))), self.precision)

    def files(self, subject: SubjectNetwork, folder: Path, shape: Shape) -> list[Path]:
        return [self._path(folder, shape.batch)]

    def _path(self, folder: Path, batch: int) -> Path:
        return folder / f"{self.precision}-{batch}.pt2"


class InductorRunner(TorchRunner):
    def __init__(self, call: Callable[[Any], Any], precision: str) -> None:
        super().__init__(call)
        self._precision = precision

    def executed(self, images: NDArray[np.float32]) -> Executed | None:
        """What oneDNN says of one call. MKL's products, which stay in fp32, are not seen."""
        if self._precision != "int8":
            return None
        with _onednn_log() as lines:
            self.run(images)
        products = [line for line in lines if ",exec,cpu,matmul," in line or ",exec,cpu,convolution," in line]
        int8 = sum("src:u8" in line or "src:s8" in line or "src_u8" in line or "src_s8" in line for line in products)
        return Executed(int8, len(products) - int8, "matmul and convolution in oneDNN's own log of one call")


def _quantized(model: torch.nn.Module, subject: SubjectNetwork) -> torch.nn.Module:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    calibration = torch.from_numpy(subject.array("calibration"))
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(model, (calibration[:2],), dynamic_shapes=({0: batch},)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    for piece in calibration.split(8):
        prepared(piece)
    converted: torch.nn.Module = convert_pt2e(prepared)
    return converted


@contextmanager
def _onednn_log() -> Iterator[list[str]]:
    """The lines that oneDNN prints about what it executes inside the block; its C code writes to file descriptor 1."""
    import ctypes

    import torch

    lines: list[str] = []
    with tempfile.TemporaryFile("w+b") as stream:
        saved = os.dup(1)
        os.dup2(stream.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                yield lines
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        stream.seek(0)
        lines += stream.read().decode(errors="replace").splitlines()
