"""Artifacts in the formats of other runtimes, and other quantizers' networks as artifacts.

`onnx_export` writes a plan as an ONNX file and reads such a file back to the same content hash; `openvino` and `tensorrt` go on
from there. `compare` finds the first layer where a runtime differs from the reference. `onnx_import` reads ONNX files of other
quantizers. They share `onnx_file`, `runtimes`, and for what a runtime made of a file `products` and `fusion`.
"""
