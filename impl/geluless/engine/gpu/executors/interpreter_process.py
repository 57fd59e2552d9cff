"""The other end of `InterpreterExecutor`: reads pickled requests from standard input and writes pickled answers."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from geluless.engine.gpu.executors.launch_args import POISON, argument_values, step_through
from geluless.engine.gpu.kernels import KERNELS
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Launch, Program


def call(step: Launch, tensors: dict[str, torch.Tensor]) -> None:
    KERNELS[step.kernel][step.grid](**argument_values(step, tensors), **step.constants)


def launch(request: Launch, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    call(request, tensors)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def run(
    program: Program, images: NDArray[np.float32], trace: bool
) -> tuple[NDArray[Any], NDArray[Any], list[tuple[str, NDArray[Any]]]]:
    tensors = {}
    for name, buffer in program.buffers.items():
        array = np.full(buffer.shape, POISON, buffer.dtype) if buffer.data is None else buffer.data.copy()
        tensors[name] = torch.from_numpy(array)
    tensors[IMAGES] = torch.from_numpy(images.copy())
    seen: list[tuple[str, NDArray[Any]]] = []
    step_through(
        program,
        lambda step: call(step, tensors),
        lambda name, count: tensors[name].numpy().reshape(-1)[:count],
        (lambda name, tensor: seen.append((name, tensor))) if trace else None,
    )
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child: the parent decides what ends
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    serve(sys.stdin.buffer, channel)
