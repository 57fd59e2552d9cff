"""What is known of an engine file: of which network it is, who built it for which GPU, and what became of the layers.

The record lies beside the engine, `F.engine` and `F.engine.json`. It is what makes an engine a cache entry: the same key and the
same bytes mean that nothing has to be built, and another GPU, version or network has another key.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from geluless.cache import default_cache
from geluless.errors import ExportError
from geluless.files import atomic_output, read_json
from geluless.integer.plan import decode, encode
from geluless.interop.fusion import FusionReport
from geluless.interop.tensorrt.library import Flavour, Target

FORMAT = 1
IMAGES = "images"  # the input of every exported file
SUFFIX = ".engine"


@dataclass(frozen=True)
class Settings:
    """Of a build; None leaves TensorRT's default.

    batches: the fewest images of a call, the number to tune for, and the most, of a file that takes any batch. workspace_mib:
    device memory that a kernel may use. level: the builder's effort, 0 to 5. tf32: whether float products (the head's and
    attention's) may round their factors to 10 bits, TensorRT's default.
    """

    batches: tuple[int, int, int] | None = None
    workspace_mib: int | None = None
    level: int | None = None
    tf32: bool = True

    def __post_init__(self) -> None:
        if self.batches is not None and not 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]:
            raise ExportError(f"batches {self.batches} must be 1 <= fewest <= usual <= most")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ExportError(f"a workspace of {self.workspace_mib} MiB is none: give 1 or more")
        if self.level is not None and not 0 <= self.level <= 5:
            raise ExportError(f"the builder's level must lie in 0..5, not {self.level}")


DEFAULT_BATCHES = (1, 8, 32)  # of a file that takes any batch


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on.

    image: [C, H, W]. graph: sha256 of the ONNX file, which covers the exporter too. platform: operating system and processor.
    """

    model: str
    image: tuple[int, int, int]
    content_hash: str
    graph: str
    dialect: str
    variant: str
    batch: int | None
    flavour: Flavour
    version: str
    platform: str
    target: Target
    settings: Settings

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(encode(self), sort_keys=True).encode()).hexdigest()

    @property
    def runtime(self) -> str:
        return f"{self.flavour.label} {self.version}"


@dataclass(frozen=True)
class Record:
    """An engine as it was built. warnings: TensorRT's, each once. fusion: None where TensorRT did not say what it built."""

    format: int
    key: EngineKey
    sha256: str
    size: int
    seconds: float
    warnings: tuple[str, ...]
    fusion: FusionReport | None


@dataclass(frozen=True)
class BuildReport:
    """cached: the file was there already, and nothing was built."""

    path: Path
    record: Record
    cached: bool

    @property
    def fusion(self) -> FusionReport | None:
        return self.record.fusion


def engine_cache() -> Path:
    """The folder of engines without a path of their own, and of TensorRT's timing caches."""
    return default_cache() / "tensorrt"


def cache_path(key: EngineKey) -> Path:
    """Where an engine of this key lies unless it is given a path."""
    words = (key.model, key.variant, key.target.device or key.target.architecture, key.digest[:16])
    return engine_cache() / ("_".join(file_name(word) for word in words) + SUFFIX)


def file_name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-").lower()


def record_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def write_engine(path: Path, content: bytes, record: Record) -> None:
    """Both files. The old record goes first: an engine never lies beside the record of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record_path(path).unlink(missing_ok=True)
    with atomic_output(path) as partial:
        partial.write_bytes(content)
    with atomic_output(record_path(path)) as partial:
        partial.write_text(json.dumps(encode(record), indent=1) + "\n", encoding="utf-8")


def read_engine(path: Path) -> tuple[bytes, Record]:
    """The engine and its record. Raises ExportError where either is missing, damaged, or not of the other."""
    again = "build it again with `geluless export --to tensorrt`"
    try:
        content = path.read_bytes()
        record: Record = decode(Record, read_json(record_path(path)), "record")
    except (OSError, ValueError) as error:  # PlanError and JSONDecodeError are ValueErrors
        raise ExportError(f"{path} has no usable record beside it ({error}): {again}") from error
    if record.format != FORMAT:
        raise ExportError(f"{path} has a record of format {record.format}, this version reads {FORMAT}: {again}")
    if len(content) != record.size or hashlib.sha256(content).hexdigest() != record.sha256:
        raise ExportError(f"{path} is not the engine that {record_path(path).name} describes: {again}")
    return content, record


def known_engine(path: Path, key: EngineKey) -> Record | None:
    """The record of the engine at `path`, if it is one of this key and intact."""
    try:
        _, record = read_engine(path)
    except ExportError:
        return None
    return record if record.key == key else None
