"""What a worker does before anything else: bind itself to its cores, and its life to its parent's.

Thread pools look at the cores once, when they start, so nothing may be imported before. And a stopped process does not notice
that its pipe closed: only the kernel can end it together with its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence


def bind(cores: Sequence[int], parent: int) -> None:
    """To `cores`, or to none in particular. `parent` is the process that started this one; where it is gone, so is this one."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
