"""When an engine is built again, what TensorRT is asked on a GPU (stubbed here), and the vendor's own command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx", reason="these builds need TensorRT-RTX: pip install 'geluless[tensorrt-rtx]'")

from geluless.errors import ExportError
from geluless.interop.fusion import FusionReport, Placement
from geluless.interop.onnx_export import Exported, export_onnx
from geluless.interop.tensorrt import BuildReport, Flavour, Settings, build, library, trtexec_line
from geluless.interop.tensorrt.library import Library, Target
from geluless.interop.tensorrt.records import cache_path, read_engine, record_path
from tests.support.gpu import small_artifact


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "geluless" / "tensorrt"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, BuildReport]:
    """By the file's batch."""
    folder = tmp_path_factory.mktemp("engines")
    return {batch: build(small(batch=batch), folder / f"{batch}.engine") for batch in (1, None)}


def small(*, relu: bool = True, batch: int | None = 1) -> Exported:
    """One block."""
    return export_onnx(small_artifact(relu=relu), dialect="tensorrt", batch=batch)


def fusion_of(report: BuildReport) -> FusionReport:
    assert report.fusion is not None
    return report.fusion


# ------------------------------------------------------------------------------------------------------------------ cache


def test_an_engine_of_the_same_key_is_not_built_again_and_any_other_is(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    first = build(small(), path)
    assert not first.cached
    again = build(small(), path)
    assert again.cached
    assert again.record == first.record
    assert not build(small(), path, rebuild=True).cached
    assert not build(small(), path, arch="sm_86").cached, "another target"
    other = build(small(relu=False), path)
    assert not other.cached, "another network"
    assert not build(small(relu=False), path, settings=Settings(tf32=False)).cached, "other settings"
    assert cache_path(first.record.key) != cache_path(other.record.key)


@pytest.mark.parametrize("damage", ["engine", "record", "no record"])
def test_a_damaged_engine_is_built_again(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    build(small(), path)
    if damage == "engine":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "record":
        record_path(path).write_text(record_path(path).read_text().replace("sha256", "sha"))
    else:
        record_path(path).unlink()
    with pytest.raises(ExportError, match="build it again"):
        read_engine(path)
    rebuilt = build(small(), path)
    assert not rebuilt.cached
    assert read_engine(path)[1] == rebuilt.record


def test_without_a_path_the_engine_goes_into_the_cache_folder(own_cache: Path) -> None:
    report = build(small())
    assert report.path.parent == own_cache
    assert "_relu_sm-89_" in report.path.name
    assert build(small()).cached


def test_the_key_holds_the_gpu_and_the_version(built: dict[int | None, BuildReport]) -> None:
    """An engine never meets another GPU or another TensorRT: either changes its name in the cache."""
    key = built[1].record.key
    others = [
        replace(key, target=Target("sm_89", "NVIDIA GeForce RTX 4090")),
        replace(key, target=Target("sm_89", "NVIDIA L40S")),
        replace(key, version="1.8.0"),
        replace(key, platform="Windows AMD64"),
        replace(key, graph="0" * 64),
    ]
    assert len({cache_path(one) for one in (key, *others)}) == 6


# ------------------------------------------------------------------------------------------- TensorRT and its GPU, stubbed


class FakeConfig:
    """A builder's configuration with a timing cache, which TensorRT-RTX must not be asked for."""

    def __init__(self, real: Any, seen: dict[str, Any]) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "seen", seen)

    def __getattr__(self, name: str) -> Any:
        assert "capabilit" not in name, "TensorRT has no target but the GPU at hand"
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def create_timing_cache(self, content: bytes) -> Any:
        self.seen["given"] = content
        return "timing cache"

    def set_timing_cache(self, timing: Any, ignore_mismatch: bool) -> bool:
        self.seen["set"] = (timing, ignore_mismatch)
        return True

    def get_timing_cache(self) -> Any:
        class Timing:
            def serialize(self) -> memoryview:
                return memoryview(b"timings")

        return Timing()


class FakeInspector:
    """Describes one product as int8 with a fused Relu, if it was told the shapes."""

    execution_context: Any = None

    def get_engine_information(self, _format: Any) -> str:
        assert self.execution_context.shapes["images"][0] == 1
        layer = {
            "Name": "fc1",
            "LayerType": "gemm",
            "Inputs": [{"Name": "a", "Format/Datatype": "Int8"}],
            "Outputs": [{"Name": "b", "Format/Datatype": "Int8"}],
            "TacticName": "sm89_xmma_gemm_i8i8_i8i32_f32_tn",
            "Metadata": "[ONNX Layer: layers.0.blocks.0.mlp.fc1/product][ONNX Layer: layers.0.blocks.0.mlp/relu]",
        }
        return json.dumps({"Layers": [layer]})


class FakeContext:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True


class FakeEngine:
    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector()

    def create_execution_context(self) -> FakeContext:
        return FakeContext()


class FakeTensorRT:
    """TensorRT's module: TensorRT-RTX's, which builds, with TensorRT's timing cache and engines that load."""

    def __init__(self, *, loads: bool = True) -> None:
        import tensorrt_rtx

        self.real, self.loads = tensorrt_rtx, loads
        self.seen: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def Builder(self, logger: Any) -> Any:
        real, seen = self.real.Builder(logger), self.seen

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def create_builder_config(self) -> FakeConfig:
                return FakeConfig(real.create_builder_config(), seen)

            def build_serialized_network(self, network: Any, config: FakeConfig) -> Any:
                return real.build_serialized_network(network, config.real)

        return Proxy()

    def Runtime(self, _logger: Any) -> Any:
        loads = self.loads

        class Runtime:
            def deserialize_cuda_engine(self, _content: bytes) -> FakeEngine | None:
                return FakeEngine() if loads else None

        return Runtime()


def with_gpu(monkeypatch: pytest.MonkeyPatch, module: FakeTensorRT, version: str = "10.3.0") -> None:
    monkeypatch.setattr(library, "current_device", lambda: Target("sm_89", "NVIDIA GeForce RTX 4090"))
    monkeypatch.setattr(Flavour, "is_installed", True)
    monkeypatch.setattr(library, "load", lambda flavour: Library(flavour, version, module))


def test_on_a_gpu_tensorrt_is_preferred_its_timings_kept_and_the_engine_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path
) -> None:
    module = FakeTensorRT()
    with_gpu(monkeypatch, module)
    report = build(small(), tmp_path / "x.engine")
    assert report.record.key.flavour is Flavour.TENSORRT
    assert report.record.key.target == Target("sm_89", "NVIDIA GeForce RTX 4090")
    assert module.seen == {"given": b"", "set": ("timing cache", False)}
    fusion = fusion_of(report)
    assert fusion.source == "engine inspector"
    assert (fusion.in_int8, fusion.activations(Placement.FUSED)) == (1, 1)
    assert [path.name for path in own_cache.iterdir()] == ["timing_10.3.0_nvidia-geforce-rtx-4090.cache"]
    build(small(relu=False), tmp_path / "y.engine")
    assert module.seen["given"] == b"timings"


def test_an_engine_that_does_not_load_where_it_was_built_is_reported_from_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path
) -> None:
    with_gpu(monkeypatch, FakeTensorRT(loads=False))
    fusion = fusion_of(build(small(), tmp_path / "x.engine"))
    assert fusion.source == "build log"
    assert fusion.in_int8 == 4


# ----------------------------------------------------------------------------------------------------------- command line


def test_the_vendors_line_says_what_was_built(built: dict[int | None, BuildReport]) -> None:
    fixed = trtexec_line("my model.onnx", built[1])
    assert fixed.startswith("tensorrt_rtx '--onnx=my model.onnx' --saveEngine=")
    assert "--computeCapabilities=89" in fixed
    assert "Shapes" not in fixed, "a file with a fixed batch takes none"
    assert "shapes" not in fixed
    free = trtexec_line("m.onnx", built[None])
    for option in ("--minShapes=images:1x3x8x12", "--optShapes=images:8x3x8x12", "--maxShapes=images:32x3x8x12"):
        assert option in free
    assert "--int8" not in fixed + free, "the file has the types"


@pytest.mark.parametrize(("version", "explicit"), [("10.3.0", True), ("11.4.0.106", False)])
def test_the_options_that_tensorrt_11_made_its_defaults_are_for_older_ones(
    built: dict[int | None, BuildReport], version: str, explicit: bool
) -> None:
    report = built[None]
    settings = Settings(batches=(1, 2, 4), workspace_mib=512, level=4, tf32=False)
    target = Target("sm_89", "NVIDIA L40S")
    key = replace(report.record.key, flavour=Flavour.TENSORRT, version=version, settings=settings, target=target)
    words = trtexec_line("m.onnx", replace(report, record=replace(report.record, key=key))).split()
    assert words[0] == "trtexec"
    assert {"--memPoolSize=workspace:512", "--builderOptimizationLevel=4", "--noTF32"} <= set(words)
    for option in ("--stronglyTyped", "--useCudaGraph", "--noDataTransfers", "--useSpinWait"):
        assert (option in words) == explicit
    assert not any("computeCapabilities" in word for word in words)
