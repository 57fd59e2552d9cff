"""Exported files as TensorRT engines, through the API that `tensorrt` and `tensorrt-rtx` share.

`build` makes an engine for the GPU at hand, or with TensorRT-RTX ahead of time for one that is not; its report says which matrix
products run in int8 and what was fused with them. `TensorRTEngine` runs and times an engine where there is a GPU, `trtexec_line`
says how the vendor's own tool does the same.
"""

from geluless.interop.tensorrt.builder import build
from geluless.interop.tensorrt.command_line import trtexec_line
from geluless.interop.tensorrt.engine import TensorRTEngine
from geluless.interop.tensorrt.library import Flavour, Target
from geluless.interop.tensorrt.records import BuildReport, Settings

__all__ = ["BuildReport", "Flavour", "Settings", "Target", "TensorRTEngine", "build", "trtexec_line"]
