"""Executes compiled PTX on the CPU, so that a GPU's code is checked bit for bit without a GPU.

    kernel = parse(ptx)
    memory = GlobalMemory()
    address = memory.put(array)
    execute(kernel, memory, [address, 7], grid=(4, 2, 1), warps=4, shared_bytes=32768)
    memory.get(address, array.shape, array.dtype)

It sees what an interpreter of the source cannot: layouts, swizzles, the pipelining of asynchronous copies, masks, contraction
of floating-point operations, and missing barriers. What ptxas makes of the PTX it does not see.
"""

from geluless.engine.gpu.ptx.decoding import Kernel, parse
from geluless.engine.gpu.ptx.errors import PtxError
from geluless.engine.gpu.ptx.executor import execute
from geluless.engine.gpu.ptx.memory import GlobalMemory

__all__ = ["GlobalMemory", "Kernel", "PtxError", "execute", "parse"]
