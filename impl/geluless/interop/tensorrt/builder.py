"""From an exported file to an engine: a strongly typed network, whose QuantizeLinear pairs alone say what is int8.

No INT8 flag and no calibrator: both belonged to networks without types, which TensorRT 11 and TensorRT-RTX no longer have.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.errors import ExportError
from geluless.files import atomic_output
from geluless.interop.fusion import FusionReport, Layer, fusion_report
from geluless.interop.onnx_export.dialects import Dialect
from geluless.interop.products import products
from geluless.interop.tensorrt.flavours import Flavour, Library, Target, choose
from geluless.interop.tensorrt.layers import layers_of_inspector, layers_of_log
from geluless.interop.tensorrt.messages import SHOWN, reasons, recorder
from geluless.interop.tensorrt.records import (
    DEFAULT_BATCHES,
    FORMAT,
    BuildReport,
    EngineKey,
    Record,
    Settings,
    cache_path,
    engine_cache,
    file_name,
    known_engine,
    this_platform,
    write_engine,
)

if TYPE_CHECKING:
    import onnx

    from geluless.interop.onnx_export.onnx_file import Exported

IMAGES = "images"
KEPT_WARNINGS = 20

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Compiled:
    """An engine's bytes, its layers (and who told them), and what TensorRT logged, as (severity, text)."""

    content: bytes
    layers: tuple[Layer, ...]
    source: str
    messages: tuple[tuple[str, str], ...]


def build(
    exported: Exported,
    path: str | Path | None = None,
    *,
    arch: str | None = None,
    flavour: str | None = None,
    settings: Settings | None = None,
    rebuild: bool = False,
) -> BuildReport:
    """An engine of a file in the dialect `tensorrt`, for the GPU at hand or, with `arch` as sm_89, ahead of time for another.

    It goes to `path`, or into the user's cache folder, with its record beside it; an engine that is there already and is of the
    same network, TensorRT, target and settings is not built again unless `rebuild` says so. Without a GPU the target is sm_89 and
    TensorRT-RTX builds it. Raises MissingResource for what is not installed, ExportError for what TensorRT refuses.
    """
    if exported.dialect is not Dialect.TENSORRT:
        raise ExportError(f"TensorRT takes int8 around zero only: export with dialect 'tensorrt', not {exported.dialect.value!r}")
    settings = _settled(exported, settings or Settings())
    library, target = choose(flavour, arch)
    model = exported.model()
    content = model.SerializeToString(deterministic=True)
    key = _key(exported, content, library, target, settings)
    path = Path(path) if path is not None else cache_path(key)
    if not rebuild and (known := known_engine(path, key)):
        return BuildReport(path, known, cached=True)
    begun = time.perf_counter()
    compiled = compile_engine(model, content, library, target, settings)
    seconds = round(time.perf_counter() - begun, 2)
    warnings = dict.fromkeys(text for severity, text in compiled.messages if severity == "WARNING")
    record = Record(
        format=FORMAT,
        key=key,
        sha256=hashlib.sha256(compiled.content).hexdigest(),
        size=len(compiled.content),
        seconds=seconds,
        warnings=tuple(warnings)[:KEPT_WARNINGS],
        fusion=_fusion(model, key, compiled),
    )
    write_engine(path, compiled.content, record)
    return BuildReport(path, record, cached=False)


def compile_engine(model: onnx.ModelProto, content: bytes, library: Library, target: Target, settings: Settings) -> Compiled:
    """One build; `content` is the model's bytes. Raises ExportError with the node that TensorRT's parser refuses."""
    trt, logger = library.trt, recorder(library.trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [_refusal(parser.get_error(i), model) for i in range(parser.num_errors)]
        raise ExportError(f"{library} refuses the file: {'; '.join(errors[:SHOWN]) or reasons(logger)}")
    shapes = _shapes(model, settings)
    config = _config(builder, library, target, settings, shapes)
    timings = engine_cache() / f"timing_{file_name(library.version)}_{file_name(str(target.device))}.cache"
    if library.flavour is Flavour.TENSORRT:
        config.set_timing_cache(config.create_timing_cache(timings.read_bytes() if timings.exists() else b""), False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(f"{library} cannot build the network for {target}: {reasons(logger)}")
    if library.flavour is Flavour.TENSORRT:
        timings.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(timings) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    engine = bytes(serialized)
    layers = _inspected(engine, library, shapes[1]) if target.device else ()
    source = "engine inspector" if layers else "build log"
    layers = layers or layers_of_log(text for severity, text in logger.messages if severity == "VERBOSE")
    return Compiled(engine, layers, source, tuple(logger.messages))


def _config(builder: Any, library: Library, target: Target, settings: Settings, shapes: tuple[Shape, Shape, Shape]) -> Any:
    """No timing cache here: TensorRT-RTX times nothing while it builds, and its deprecated one would look for a GPU."""
    trt, config = library.trt, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else neither log nor inspector names the layers
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.batches is not None:
        profile = builder.create_optimization_profile()
        profile.set_shape(IMAGES, *shapes)
        config.add_optimization_profile(profile)
    if library.flavour is Flavour.RTX:
        capability = "CURRENT" if target.device else target.architecture.replace("_", "").upper()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    return config


def _settled(exported: Exported, settings: Settings) -> Settings:
    """With the batches that an engine of any batch is built for. Raises ExportError where the file fixes another number."""
    if exported.batch is None:
        return replace(settings, batches=settings.batches or DEFAULT_BATCHES)
    if settings.batches is not None:
        raise ExportError(f"the file takes batches of {exported.batch} alone: export it for any batch, or leave the batches out")
    return settings


def _key(exported: Exported, content: bytes, library: Library, target: Target, settings: Settings) -> EngineKey:
    stem = exported.artifact.plan.stem
    return EngineKey(
        model=exported.artifact.plan.model,
        image=(stem.channels, stem.height, stem.width),
        content_hash=exported.artifact.content_hash,
        graph=hashlib.sha256(content).hexdigest(),
        dialect=exported.dialect.value,
        variant=exported.variant.value,
        batch=exported.batch,
        flavour=library.flavour,
        version=library.version,
        platform=this_platform(),
        target=target,
        settings=settings,
    )


def _fusion(model: onnx.ModelProto, key: EngineKey, compiled: Compiled) -> FusionReport | None:
    if not compiled.layers:
        return None
    about = {"runtime": key.runtime, "target": str(key.target), "source": compiled.source, "variant": key.variant}
    return fusion_report(products(model), compiled.layers, **about)


def _shapes(model: onnx.ModelProto, settings: Settings) -> tuple[Shape, Shape, Shape]:
    """Of the images: the least, the one to tune for, the largest."""
    batch, *image = (dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)
    fewest, usual, most = settings.batches or (batch, batch, batch)
    return (fewest, *image), (usual, *image), (most, *image)


def _inspected(content: bytes, library: Library, shape: Shape) -> tuple[Layer, ...]:
    """The layers of an engine on its GPU; () where it does not load, which the build log makes up for."""
    trt = library.trt
    engine = trt.Runtime(recorder(trt)).deserialize_cuda_engine(content)
    if engine is None:
        return ()
    context, inspector = engine.create_execution_context(), engine.create_engine_inspector()
    context.set_input_shape(IMAGES, shape)  # of an engine for any batch the inspector says nothing without one
    inspector.execution_context = context
    return layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _refusal(error: Any, model: onnx.ModelProto) -> str:
    """A parser's error, with the name of the node it is about."""
    index = int(error.node())
    where = "the file"
    if 0 <= index < len(model.graph.node):
        where = f"node {model.graph.node[index].name} ({model.graph.node[index].op_type})"
    return f"{where}: {' '.join(str(error.desc()).split())}"
