"""Artifacts from ONNX QDQ files of other quantizers.

It reads in this order, each step with what only it needs:

`reading`        a file as plain values, hostile until shown otherwise
`interpreting`   the graph as an `ir` of few kinds of terms: `operators` and `norms` for what depends on the image, `constants`
                 for what does not, `data_movement` for either, `quantizing` for the pairs
`recognition`    the terms as a `swin`, by what they compute and not by how they are written: `attention`, `activations`, and
                 beneath them `trace_back`, `subgraphs` and `geometry`
`rebuilding`     that Swin in float, its weights as the file's integers
`qparams`        the ranges of its activations, the file's or calibrated
`importing`      all of it; `import_log` says what became of every rounding in the file
"""

from geluless.interop.onnx_import.import_log import Change, ImportReport, Reason
from geluless.interop.onnx_import.importing import import_onnx

__all__ = ["Change", "ImportReport", "Reason", "import_onnx"]
