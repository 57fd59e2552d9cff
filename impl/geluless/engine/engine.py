"""The public face of every engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.errors import DataError, MissingResource, VariantError
from geluless.integer import reference
from geluless.integer.variants import SEPARATE, Variant, choose_variant
from geluless.processors import MAX_THREADS, default_threads

if TYPE_CHECKING:
    from geluless.engine.cpu import CpuNetwork
    from geluless.engine.gpu import GpuNetwork
    from geluless.integer.artifact import Artifact

CHUNK = 32  # images per piece of the reference's work: enough to pay for widening the weights, few enough for the cache


class Engine:
    """Runs an artifact: float32 images [B, C, H, W], normalised -> float32 logits [B, classes].

    `backend` is "cpu" (compiled kernels), "gpu" (Triton kernels) or "reference" (numpy; the exact meaning of an artifact). All
    give the same bits; variants that compute GELU in fp32 may differ in a last bit of the hidden tensor. `variant=None` means the
    artifact's own fused variant; `threads=None` $GELULESS_THREADS, or a thread per processor that this process may use;
    `isa=None` the best instruction set of this processor (`engine.isa` names it); `executor` is what runs the GPU's kernels:
    "cuda", or for verification without a GPU "interpreter" or "ptx". `blocked` runs an activation that is a pass of its own in
    the strips of rows in which fused ones run, not over the whole layer: the same bits, on the compiled CPU engine alone. A
    threaded run gives the bits of a single-threaded one.

    Threads may share an engine: their calls are served one after the other. Forked processes may use an engine of their parent's;
    each starts threads of its own. An engine is pickled as its artifact and options, and made anew where it is loaded.

    Where the compiled kernels are missing, backend "cpu" runs the reference and warns once why it is slow: ask
    `engine.backend` before timing anything. Raises VariantError for a variant that does not fit the artifact, or has no pass that
    could be blocked, MissingResource for a backend this version lacks, ValueError for an instruction set this processor lacks,
    SettingError for a wrong $GELULESS_THREADS.
    """

    def __init__(
        self,
        artifact: Artifact,
        backend: str = "reference",
        *,
        variant: str | None = None,
        threads: int | None = None,
        isa: str | None = None,
        executor: str | None = None,
        blocked: bool = False,
    ) -> None:
        if backend not in ("cpu", "gpu", "reference"):
            raise ValueError(f"no backend is called {backend!r}; there are 'cpu', 'gpu' and 'reference'")
        if executor is not None and backend != "gpu":
            raise ValueError("executor= chooses what runs the GPU's kernels: it needs backend='gpu'")
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads must lie in 1..{MAX_THREADS}, not {threads}")
        if isa is not None and backend != "cpu":
            raise ValueError("isa= chooses among the compiled kernels: it needs backend='cpu'")
        if blocked and backend != "cpu":
            raise ValueError("blocked= schedules the compiled kernels: it needs backend='cpu'")
        self._options = {"variant": variant, "threads": threads, "isa": isa, "executor": executor, "blocked": blocked}
        self._asked_backend = backend
        chosen = choose_variant(artifact.plan, variant)
        if blocked and chosen not in SEPARATE:
            passes = ", ".join(sorted(SEPARATE))
            raise VariantError(
                f"blocked= is about an activation that is a pass of its own ({passes}): variant {chosen.value} is fused, "
                "and runs in strips of rows anyway"
            )
        self.artifact = artifact
        self.variant = chosen.value
        self.blocked = blocked
        self.threads = threads or default_threads()
        self._compiled: CpuNetwork | GpuNetwork | None = None
        self.backend, self.isa = "reference", "numpy"
        if backend == "cpu" and (cpu := _cpu_network(artifact, chosen, self.threads, isa, blocked)):
            self._compiled, self.backend, self.isa = cpu, "cpu", cpu.isa
        if backend == "gpu":
            gpu = _gpu_network(artifact, chosen, executor or "cuda")
            self._compiled, self.backend, self.isa = gpu, "gpu", gpu.executor.architecture

    def __call__(self, images: NDArray[np.float32] | Any) -> NDArray[np.float32]:
        """Raises DataError for images of another shape or dtype, or with NaN or infinite pixels."""
        batch = self._checked(images)
        if self._compiled is not None:
            return self._compiled.run(batch)
        _refuse_non_finite(batch)
        pieces = [batch[start : start + CHUNK] for start in range(0, len(batch), CHUNK)]
        if len(pieces) == 1 or self.threads == 1:
            logits = [self._reference(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                logits = list(pool.map(self._reference, pieces))
        return np.concatenate(logits)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_anew, (self.artifact, self._asked_backend, self._options)

    def trace(self, images: NDArray[np.float32], tap: Callable[[str, NDArray[np.int32]], None]) -> NDArray[np.float32]:
        """The logits of one image [1, C, H, W], after `tap` got every intermediate tensor by its name in the reference."""
        batch = self._checked(images)
        if self._compiled is not None:
            return self._compiled.trace(batch, tap)
        return reference.forward(batch, self.artifact.plan, self.artifact.tensors, self.variant, tap)

    @property
    def network(self) -> CpuNetwork | GpuNetwork | None:
        """What runs compiled kernels here; None for the reference."""
        return self._compiled

    def _reference(self, piece: NDArray[np.float32]) -> NDArray[np.float32]:
        return reference.forward(piece, self.artifact.plan, self.artifact.tensors, self.variant)

    def _checked(self, images: Any) -> NDArray[np.float32]:
        stem = self.artifact.plan.stem
        array = np.asarray(images)
        if array.ndim != 4 or array.shape[1:] != (stem.channels, stem.height, stem.width) or len(array) == 0:
            expected = f"[B, {stem.channels}, {stem.height}, {stem.width}] with B >= 1"
            raise DataError(f"images of shape {list(array.shape)}: this artifact takes {expected}")
        if array.dtype != np.float32:
            raise DataError(f"images of dtype {array.dtype}: pass float32, normalised as in training")
        return array


def _made_anew(artifact: Artifact, backend: str, options: dict[str, Any]) -> Engine:
    return Engine(artifact, backend, **options)


def _refuse_non_finite(batch: NDArray[np.float32]) -> None:
    """The compiled kernels look for themselves while they quantize the pixels."""
    if not np.isfinite(batch).all():
        first = int(np.argmin(np.isfinite(batch).all((1, 2, 3))))
        raise DataError(f"image {first} of the batch holds NaN or infinite pixels")


def _cpu_network(artifact: Artifact, variant: Variant, threads: int, isa: str | None, blocked: bool) -> CpuNetwork | None:
    from geluless.engine import cpu

    try:
        cpu.native()
    except MissingResource as missing:
        if isa is not None or blocked:  # the reference has neither
            raise
        warnings.warn(f"backend 'cpu' runs the reference: {missing}", RuntimeWarning, stacklevel=3)
        return None
    return cpu.CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=threads, blocked=blocked)


def _gpu_network(artifact: Artifact, variant: Variant, executor: str) -> GpuNetwork:
    from geluless.engine.gpu import GpuNetwork

    return GpuNetwork(artifact.plan, artifact.tensors, variant, executor=executor)
