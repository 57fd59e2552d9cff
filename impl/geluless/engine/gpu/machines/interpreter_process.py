"""The other end of `InterpreterMachine`: reads pickled requests from standard input and writes pickled answers."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from geluless.engine.gpu.kernels import KERNELS
from geluless.engine.gpu.machines.interpreter import argument_values
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Launch, Program


def call(step: Launch, tensors: dict[str, torch.Tensor]) -> None:
    KERNELS[step.kernel][step.grid](**argument_values(step, tensors), **step.constants)


def launch(request: Launch, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    call(request, tensors)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def run(program: Program, images: NDArray[np.float32], trace: bool) -> tuple[NDArray, NDArray, list[tuple[str, NDArray]]]:
    tensors = {}
    for name, buffer in program.buffers.items():
        # Scratch starts as nonsense: a kernel that reads what none has written must not find zeros.
        array = np.full(buffer.shape, 77, buffer.dtype) if buffer.data is None else buffer.data.copy()
        tensors[name] = torch.from_numpy(array)
    tensors[IMAGES] = torch.from_numpy(images.copy())
    seen = []
    for i, step in enumerate(program.launches):
        call(step, tensors)
        if trace and i in program.probes:
            probe = program.probes[i]
            values = tensors[probe.buffer].numpy().reshape(-1)[: probe.shape[0] * probe.shape[1]]
            seen.append((probe.name, values.reshape(probe.shape).astype(np.int32) + probe.offset))
    return tensors[LOGITS].numpy(), tensors[UNUSABLE].numpy(), seen


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            kind, *arguments = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, (launch if kind == "launch" else run)(*arguments)
        except Exception:
            answer = False, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    serve(sys.stdin.buffer, channel)
