"""Artifacts from ONNX QDQ files of other quantizers.

It reads in this order. `reading`: a file as plain values, hostile until shown otherwise. `interpreting` with `operators`,
`movement`, `constants` and `quantizing`: the graph as `terms`. `recognition` with `stream`, `blocks`, `attention`, `activations`,
`norms`, `regions`, `paths` and `geometry`: the terms as a Swin, recognised by what they compute, not by how they are written.
`weights`, `rebuilding`, `choosing` and `ranges`: the Swin as numbers of a plan. `importing` does all of it; `ledger` and `report`
say what became of every rounding in the file.
"""

from geluless.interop.onnx_import.import_log import Change, Reason
from geluless.interop.onnx_import.importing import import_onnx
from geluless.interop.onnx_import.report import ImportReport

__all__ = ["Change", "ImportReport", "Reason", "import_onnx"]
