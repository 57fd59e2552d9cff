"""The GPUs of the model: peaks from the vendors' data sheets, dense, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """int8_macs: multiply-accumulates per second of the tensor cores; bandwidth: bytes per second of DRAM; clock in Hz."""

    name: str
    capability: int
    multiprocessors: int
    clock: float
    int8_macs: float
    bandwidth: float
    l2_bytes: int

    @property
    def issue_rate(self) -> float:
        """Instructions of a warp per second: four schedulers per multiprocessor, one instruction each per cycle."""
        return 4 * self.multiprocessors * self.clock


MIB = 1 << 20
DEVICES = {
    device.name: device
    for device in (
        Device("RTX 4090", 89, 128, 2.520e9, 330.3e12, 1008e9, 72 * MIB),
        Device("A100", 80, 108, 1.410e9, 312.0e12, 1555e9, 40 * MIB),
        Device("H100", 90, 114, 1.755e9, 756.5e12, 2000e9, 50 * MIB),
        Device("T4", 75, 40, 1.590e9, 65.0e12, 320e9, 4 * MIB),
        Device("A10", 86, 72, 1.695e9, 125.0e12, 600e9, 6 * MIB),
    )
}
