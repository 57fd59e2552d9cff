"""The vendor's own command for an engine that `build` made: `trtexec` of TensorRT, `tensorrt_rtx` of TensorRT-RTX.

It builds from the ONNX file and times what it built, on the GPU alone: copies to and from the host are left out, the passes are
one CUDA graph, and the host spins while it waits. TensorRT 11 and TensorRT-RTX do all that unless told otherwise.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from geluless.interop.tensorrt.library import Flavour
from geluless.interop.tensorrt.records import IMAGES, BuildReport

STRONG_TYPES_ALWAYS = 11  # the first TensorRT whose trtexec has these options as its defaults, or no longer has them


def trtexec_line(path: str | Path, report: BuildReport) -> str:
    """One line for a shell. `path` is the ONNX file; `report` says for what `build` built it."""
    key, settings = report.record.key, report.record.key.settings
    engine = Path(report.path)
    tool = "trtexec" if key.flavour is Flavour.TENSORRT else "tensorrt_rtx"
    words = [tool, f"--onnx={path}", f"--saveEngine={engine.with_suffix(f'.{tool}{engine.suffix}')}"]
    if settings.batches is not None:  # a file with a fixed batch takes no shapes: trtexec refuses them
        shapes = [f"{IMAGES}:{'x'.join(map(str, (batch, *key.image)))}" for batch in settings.batches]
        names = ("minShapes", "optShapes", "maxShapes", "shapes")
        words += [f"--{name}={shape}" for name, shape in zip(names, (*shapes, shapes[1]), strict=True)]
    if settings.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{settings.workspace_mib}")  # MiB
    if settings.level is not None:
        words.append(f"--builderOptimizationLevel={settings.level}")
    if not settings.tf32:
        words.append("--noTF32")
    words += ["--profilingVerbosity=detailed", "--dumpLayerInfo"]
    if key.flavour is Flavour.RTX:
        ahead = f"--computeCapabilities={key.target.architecture.removeprefix('sm_')}"
        words += [ahead if key.target.device is None else "--useGpu", "--rtxCudaGraphStrategy=wholeGraph"]
    elif int(key.version.split(".")[0]) < STRONG_TYPES_ALWAYS:
        words += ["--stronglyTyped", "--useCudaGraph", "--noDataTransfers", "--useSpinWait"]
    return shlex.join(words)
