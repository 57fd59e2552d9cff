"""What a kernel has to do, in exact counts, and how long the model says that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from geluless.bench.roofline.devices import Device


@dataclass(frozen=True)
class Work:
    """One launch, or `launches` equal ones. `instructions` are those of a warp; 0 where they are not known."""

    name: str
    read: int  # bytes
    written: int  # bytes
    macs: int = 0
    depth: int = 1  # inputs of the matrix product: few inputs leave a tensor core waiting for its epilogue
    instructions: int = 0
    launches: int = 1

    def times(self, count: int) -> Work:
        return replace(self, launches=self.launches * count)


@dataclass(frozen=True)
class Parameters:
    """The unknowns. gap: seconds between two dependent kernels; the others are shares of a peak that kernels reach."""

    gap: float
    tensor_share: float
    half_depth: float  # inputs at which a matrix product reaches half of tensor_share
    bandwidth_share: float
    l2_gain: float  # bandwidth of data that the level-2 cache still holds, relative to DRAM
    overlap: float  # 1: a kernel hides its other work behind the scarcest resource; 0: one after another
    issue_share: float = 1.0  # of all issue slots


def seconds(works: Sequence[Work], device: Device, parameters: Parameters) -> float:
    """Of all launches one after another: each takes as long as its scarcest resource, what that does not hide, and a gap."""
    return sum(work.launches * kernel_seconds(work, device, parameters) for work in works)


def kernel_seconds(work: Work, device: Device, parameters: Parameters) -> float:
    bandwidth = device.bandwidth * parameters.bandwidth_share
    if work.read + work.written <= device.l2_bytes / 2:  # the kernel before left its result there
        bandwidth *= parameters.l2_gain
    memory = (work.read + work.written) / bandwidth
    reached = parameters.tensor_share * work.depth / (work.depth + parameters.half_depth)
    tensor = work.macs / (device.int8_macs * reached) if work.macs else 0.0
    issue = work.instructions / (device.issue_rate * parameters.issue_share)
    longest = max(memory, tensor, issue)
    return parameters.gap + longest + (1 - parameters.overlap) * (memory + tensor + issue - longest)
