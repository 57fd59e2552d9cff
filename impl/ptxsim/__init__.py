"""Executes compiled PTX on the CPU, so that a GPU's code is checked bit for bit without a GPU.

    kernel = parse(ptx)
    memory = GlobalMemory()
    address = memory.put(array)
    execute(kernel, memory, [address, 7], grid=(4, 2, 1), warps=4, shared_bytes=32768)
    memory.get(address, array.shape, array.dtype)

It sees what an interpreter of the source cannot: layouts, swizzles, the pipelining of asynchronous copies, masks, contraction
of floating-point operations, and missing barriers. What ptxas makes of the PTX it does not see.
"""

from ptxsim.decoding import Kernel, parse
from ptxsim.errors import PtxError
from ptxsim.executor import execute
from ptxsim.memory import GlobalMemory

__all__ = ["GlobalMemory", "Kernel", "PtxError", "execute", "parse"]
