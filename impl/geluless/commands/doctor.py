"""`geluless doctor`: what this machine is, what is installed, and which claims it can judge."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import add_common, set_threads
from geluless.commands.result import ExitCode, Result
from geluless.errors import DataError, GelulessError

if TYPE_CHECKING:
    from rich.console import Console

# The vector extensions that decide which int8 kernel a CPU can run.
ISA_FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "statsmodels", "safetensors", "pytest", "hypothesis")
UNSTATED = {"asked": "it asks, and states nothing", "ours": "not in the paper"}
OPTIONAL_PACKAGES = ("triton", "tensorrt", "openvino", "nncf", "onnx", "onnxruntime")


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("doctor", help="what this machine can judge", description=__doc__, allow_abbrev=False)
    add_common(parser)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="ImageNet's folder (default: $GELULESS_IMAGENET)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    if options.data_dir is not None:
        os.environ["GELULESS_IMAGENET"] = str(options.data_dir)  # where the claims' own probe looks
    set_threads(options)
    data: dict[str, Any] = {
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES + OPTIONAL_PACKAGES},
        "fixtures": fixtures(),
        "claims": claims(),
    }
    code = ExitCode.OK if data["fixtures"]["ok"] else ExitCode.FAILED
    return Result(data, lambda console: _show(console, data), code)


def machine() -> dict[str, Any]:
    import torch

    info = cpu_info(Path("/proc/cpuinfo"))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cpu": info["model"] or platform.processor() or "unknown",
        "isa": info["isa"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": memory_gb(Path("/proc/meminfo")),
        "gpus": gpus,
        "engine": engine(),
    }


def engine() -> dict[str, Any]:
    """Instruction sets of the compiled CPU engine, best first, or the reason why there is none."""
    from geluless.engine.cpu import native
    from geluless.errors import MissingResource

    try:
        return {"available": native().available(), "built": native().built(), "problem": None}
    except MissingResource as problem:
        return {"available": [], "built": [], "problem": str(problem)}


def cpu_info(path: Path) -> dict[str, Any]:
    """Model name and the flags of ISA_FLAGS that the kernel reports; both empty where there is no such file."""
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    return {"model": fields.get("model name", ""), "isa": [flag for flag in ISA_FLAGS if flag in flags]}


def memory_gb(path: Path) -> float | None:
    """Total memory in 10^9 bytes, or None where the kernel does not say."""
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return round(int(line.split()[1]) * 1024 / 1e9, 1)
    return None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def fixtures() -> dict[str, Any]:
    from geluless.data.manifest import fixtures_root, verify_fixtures

    try:
        return {"ok": True, "files": verify_fixtures(), "path": str(fixtures_root())}
    except DataError as error:
        return {"ok": False, "problem": str(error)}


def claims() -> list[dict[str, Any]]:
    """Per claim what the paper has to do with it and, by kind of its checks, what each of these lacks on this machine; empty
    without the repository."""
    from geluless.data.manifest import fixtures_root
    from geluless.verdicts import load_registry

    try:
        rows = load_registry(fixtures_root().parent / "claims" / "claims.toml")
    except GelulessError:
        return []
    named = {need for row in rows for _, needs in row.needs for need in needs}
    reasons = {need: lacking_resource(need) for need in named}
    result = []
    for row in rows:
        kinds: dict[str, dict[str, dict[str, str]]] = {}
        for check, kind in row.kinds:
            lacking = {need: reason for need in row.needs_of(check) if (reason := reasons[need]) is not None}
            kinds.setdefault(kind, {})[check] = lacking
        result.append({"id": row.id, "title": row.title, "paper": row.paper, "stance": row.stance, "kinds": kinds})
    return result


def lacking_resource(need: str) -> str | None:
    """Why this machine lacks the resource that a registry row names, or None when it has it."""
    from geluless.bench.networks import SIZES
    from geluless.cache import default_cache
    from geluless.verdicts import Resource, missing

    if need not in Resource.__members__:
        return f"{need} is no resource this version knows"
    # Whether what lies in the cache is of this code takes two networks to find out: c10 does.
    if need == "PREPARED_BASELINES" and any((default_cache() / "baselines").glob(f"{SIZES['tiny']}_*")):
        return None
    return missing(Resource[need])


def paper_words(claim: Mapping[str, Any]) -> str:
    """Can this machine judge the paper's own statement?"""
    if claim["stance"] != "stated":
        return UNSTATED[claim["stance"]]
    checks = claim["kinds"].get("paper", {})
    if not checks:
        return "no: there is no check of it"
    lacking = dict.fromkeys(need for needs in checks.values() for need in needs)
    return f"no: lacks {', '.join(lacking)}" if lacking else "yes"


def here_words(claim: Mapping[str, Any]) -> list[str]:
    """What else it can judge, a line for each kind: 'stand-in: all 3 checks', 'ours: none of 2 checks, lacks CHECK'."""
    lines = []
    for kind, checks in claim["kinds"].items():
        if kind == "paper":
            continue
        able = sum(not needs for needs in checks.values())
        counted = f"{len(checks)} check{'s' if len(checks) > 1 else ''}"
        if able == len(checks):
            lines.append(f"{kind}: {'all ' if able > 1 else ''}{counted}")
            continue
        lacking = dict.fromkeys(need for needs in checks.values() for need in needs)
        lines.append(f"{kind}: {able or 'none'} of {counted}, lacks {', '.join(lacking)}")
    return lines


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    about = data["machine"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("system", f"{about['system']}, Python {about['python']}")
    table.add_row("CPU", f"{about['cpu']}, {about['cores']} cores, {' '.join(about['isa']) or 'no vector extension known'}")
    kernels = about["engine"]
    table.add_row("CPU engine", ", ".join(kernels["available"]) or kernels["problem"])
    table.add_row("memory", f"{about['memory_gb']} GB" if about["memory_gb"] else "unknown")
    table.add_row("GPU", ", ".join(about["gpus"]) or "none that torch can use")
    installed = {name: number for name, number in data["packages"].items() if number}
    table.add_row("packages", ", ".join(f"{name} {number}" for name, number in installed.items()))
    absent = [name for name, number in data["packages"].items() if not number]
    table.add_row("absent", ", ".join(absent) or "nothing")
    state = data["fixtures"]
    table.add_row("fixtures", f"{state['files']} files verified in {state['path']}" if state["ok"] else state["problem"])
    console.print(table)
    if not data["claims"]:
        console.print("claims: no claims/claims.toml beside the fixtures")
        return
    judged = Table("claim", "title", "the paper's own statement", "beside it", title="What this machine can judge")
    reasons: dict[str, str] = {}
    for claim in data["claims"]:
        for checks in claim["kinds"].values():
            for lacking in checks.values():
                reasons |= lacking
        judged.add_row(claim["id"], claim["title"], paper_words(claim), "\n".join(here_words(claim)))
    console.print(judged)
    for need, reason in sorted(reasons.items()):
        console.print(f"{need}: {reason}", soft_wrap=True)
