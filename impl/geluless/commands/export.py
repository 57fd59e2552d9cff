"""`geluless export`: an artifact as an ONNX, TensorRT or OpenVINO file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import positive
from geluless.commands.output import checked_output
from geluless.commands.result import OptionError, Result

if TYPE_CHECKING:
    from rich.console import Console

    from geluless.interop.onnx_export import Exported

SUFFIXES = {"onnx": ".onnx", "tensorrt": ".engine", "openvino": ".xml"}
DIALECTS = {"onnx": "exact", "tensorrt": "tensorrt", "openvino": "fused"}  # by default
PROMISES = {
    "exact": "the reference's bits in ONNX Runtime; for speed export --dialect fused",
    "fused": "patterns that runtimes fuse; one rounding per layer, so not the reference's bits (--dialect exact has them)",
    "tensorrt": "int8 around zero for TensorRT; a ReLU's hidden tensor keeps 127 of its 255 levels",
}


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("export", help="an artifact for another runtime", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--artifact", type=Path, required=True, metavar="FILE.int8.safetensors")
    parser.add_argument("--to", choices=tuple(SUFFIXES), required=True, help="the format")
    parser.add_argument("--dialect", choices=tuple(PROMISES), help="how an ONNX or OpenVINO file rounds (default: exact, fused)")
    parser.add_argument(
        "--variant", metavar="NAME", help="how the MLP's activation runs (default: the artifact's own fused variant)"
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="images per call (default: any number)")
    target = parser.add_argument_group("TensorRT")
    target.add_argument("--arch", metavar="sm_NN", help="build ahead of time for this GPU (default: the one that is here)")
    target.add_argument("--flavour", choices=("tensorrt", "tensorrt-rtx"), help="default: the one that is installed")
    target.add_argument("--batches", type=_batches, metavar="MIN,OPT,MAX", help="images per call (only without --batch)")
    target.add_argument("--trtexec", action="store_true", help="write FILE.onnx too, and print the command of the vendor's tool")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace the output file if it exists")
    parser.set_defaults(run=run)


def _batches(text: str) -> tuple[int, int, int]:
    low, best, high = (positive(part) for part in text.split(","))
    return low, best, high


def run(options: argparse.Namespace) -> Result:
    from geluless.integer.artifact import load_artifact
    from geluless.interop.onnx_export import export_onnx

    dialect = options.dialect or DIALECTS[options.to]
    if (options.to == "tensorrt") != (dialect == "tensorrt") and options.to != "onnx":
        raise OptionError("--to tensorrt has a dialect of its own, which OpenVINO does not take: leave out --dialect")
    if options.to != "tensorrt" and (options.arch or options.flavour or options.batches or options.trtexec):
        raise OptionError("--arch, --flavour, --batches and --trtexec are about TensorRT: they need --to tensorrt")
    output = checked_output(options.output, suffix=SUFFIXES[options.to], force=options.force)
    exported = export_onnx(load_artifact(options.artifact), dialect=dialect, variant=options.variant, batch=options.batch)
    data: dict[str, Any] = {"output": str(output), "to": options.to, **exported.summary()}
    lines = [f"{dialect}: {PROMISES[dialect]}"]
    if options.to == "tensorrt":
        lines += _tensorrt(options, exported, output, data)
    elif options.to == "openvino":
        lines += _openvino(exported, output, data)
    else:
        exported.save(output)
    data["bytes"] = output.stat().st_size

    def show(console: Console) -> None:
        console.print(f"{output}: {data['bytes'] / 1e6:.2f} MB, dialect {dialect}, variant {data['variant']}", soft_wrap=True)
        for line in lines:
            console.print(line, soft_wrap=True)

    return Result(data, show)


def _tensorrt(options: argparse.Namespace, exported: Exported, output: Path, data: dict[str, Any]) -> list[str]:
    """The engine, and what TensorRT made of each matrix product."""
    from geluless.interop.tensorrt import Settings, build, trtexec_line

    settings = Settings(batches=options.batches) if options.batches else None
    report = build(exported, output, arch=options.arch, flavour=options.flavour, settings=settings)
    data["fusion"] = report.fusion.data() if report.fusion else None
    lines = [report.fusion.sentence(), *report.fusion.rows()] if report.fusion else []
    if options.trtexec:
        onnx = exported.save(output.with_suffix(".onnx"))
        data["trtexec"] = trtexec_line(onnx, report)
        lines.append(data["trtexec"])
    return lines


def _openvino(exported: Exported, output: Path, data: dict[str, Any]) -> list[str]:
    from geluless.interop.openvino import export_openvino

    report = export_openvino(exported, output)
    data["fusion"] = report.fusion.data()
    return [report.fusion.sentence()]
