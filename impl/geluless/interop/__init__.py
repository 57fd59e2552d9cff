"""Artifacts in the formats of other runtimes, and other quantizers' networks as artifacts.

`onnx_file.export_onnx` writes a plan as an ONNX graph of QuantizeLinear and DequantizeLinear pairs, `onnx_file.import_own` reads
such a file back to the same content hash, `compare` finds the first layer where a runtime differs from the reference.
"""
