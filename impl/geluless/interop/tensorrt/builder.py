"""From an exported file to an engine: a strongly typed network, whose QuantizeLinear pairs alone say what is int8.

No INT8 flag and no calibrator: both belonged to networks without types, which TensorRT 11 and TensorRT-RTX no longer have.
"""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from geluless.cache import made_cache
from geluless.errors import ExportError
from geluless.files import atomic_output
from geluless.interop.fusion import Layer, fusion_report
from geluless.interop.onnx_export import Dialect, Exported
from geluless.interop.products import products
from geluless.interop.tensorrt.layers import layers_of_inspector, layers_of_log
from geluless.interop.tensorrt.library import SHOWN, Flavour, Library, Target, choose, reasons, recorder
from geluless.interop.tensorrt.records import (
    DEFAULT_BATCHES,
    FORMAT,
    IMAGES,
    BuildReport,
    EngineKey,
    Record,
    Settings,
    cache_path,
    engine_cache,
    file_name,
    known_engine,
    write_engine,
)

KEPT_WARNINGS = 20


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
    settings = settings or Settings()
    if exported.batch is None:
        settings = replace(settings, batches=settings.batches or DEFAULT_BATCHES)
    elif settings.batches is not None:
        batch = exported.batch
        raise ExportError(f"the file takes batches of {batch} alone: export it for any batch, or leave the batches out")
    library, target = choose(flavour, arch)
    model = exported.model()
    content = model.SerializeToString(deterministic=True)
    stem = exported.artifact.plan.stem
    key = EngineKey(
        model=exported.artifact.plan.model,
        image=(stem.channels, stem.height, stem.width),
        content_hash=exported.artifact.content_hash,
        graph=hashlib.sha256(content).hexdigest(),
        dialect=exported.dialect.value,
        variant=exported.variant.value,
        batch=exported.batch,
        flavour=library.flavour,
        version=library.version,
        platform=f"{platform.system()} {platform.machine()}",
        target=target,
        settings=settings,
    )
    path = Path(path) if path is not None else cache_path(key)
    if not rebuild and (known := known_engine(path, key)):
        return BuildReport(path, known, cached=True)
    begun = time.perf_counter()
    compiled = compile_engine(model, content, library, target, settings)
    seconds = round(time.perf_counter() - begun, 2)
    fusion, layers = None, compiled.layers
    if layers:
        about = {"runtime": key.runtime, "target": str(target), "source": compiled.source, "variant": key.variant}
        fusion = fusion_report(products(model), layers, **about)
    warnings = dict.fromkeys(text for severity, text in compiled.messages if severity == "WARNING")
    sha256, size = hashlib.sha256(compiled.content).hexdigest(), len(compiled.content)
    record = Record(FORMAT, key, sha256, size, seconds, tuple(warnings)[:KEPT_WARNINGS], fusion)
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
    batch, *image = (dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)
    shapes = [(size, *image) for size in settings.batches or (batch, batch, batch)]  # fewest, usual, most
    config = _config(builder, library, target, settings, shapes)
    timings = engine_cache() / f"timing_{file_name(library.version)}_{file_name(str(target.device))}.cache"
    if library.flavour is Flavour.TENSORRT:
        config.set_timing_cache(config.create_timing_cache(timings.read_bytes() if timings.exists() else b""), False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(f"{library} cannot build the network for {target}: {reasons(logger)}")
    if library.flavour is Flavour.TENSORRT:
        made_cache(timings.parent)
        with atomic_output(timings) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    engine = bytes(serialized)
    layers = _inspected(engine, library, shapes[1]) if target.device else ()
    source = "engine inspector" if layers else "build log"
    layers = layers or layers_of_log(text for severity, text in logger.messages if severity == "VERBOSE")
    return Compiled(engine, layers, source, tuple(logger.messages))


def _config(builder: Any, library: Library, target: Target, settings: Settings, shapes: list[tuple[int, ...]]) -> Any:
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


def _inspected(content: bytes, library: Library, shape: tuple[int, ...]) -> tuple[Layer, ...]:
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
    index, where = int(error.node()), "the file"
    if 0 <= index < len(model.graph.node):
        where = f"node {model.graph.node[index].name} ({model.graph.node[index].op_type})"
    return f"{where}: {' '.join(str(error.desc()).split())}"
