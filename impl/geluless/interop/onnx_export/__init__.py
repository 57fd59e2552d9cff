"""An artifact as an ONNX graph of QuantizeLinear and DequantizeLinear pairs, and the artifact back from such a file.

Read in this order. `exported`: the file, its dialects, and the way back. `network`: the plan place by place. `exact` and `real`:
what a value means and how it is rounded, in steps or in real numbers. `scales`: from multipliers to real units. `graph`: nodes.
"""

from geluless.interop.onnx_export.exported import Dialect, Exported, export_onnx, import_own, is_own

__all__ = ["Dialect", "Exported", "export_onnx", "import_own", "is_own"]
