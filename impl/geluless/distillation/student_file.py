"""A student as a .safetensors file: the same bytes for the same weights and facts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import nn

ALIGNMENT = 8  # of the tensors behind the header


def student_file(student: nn.Module, facts: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """The file's content in two pieces, header and tensors. `facts` become its metadata, in the order of their names.

    safetensors itself writes metadata in the order of a hash table, which is another one in every process. Source of the format:
    huggingface.co/docs/safetensors (eight bytes of length, JSON, spaces up to the alignment, tensors).
    """
    raw = memoryview(save({name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}))
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = json.loads(bytes(raw[8:start]))
    header = json.dumps({"__metadata__": dict(sorted(facts.items())), **tensors}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    return len(header).to_bytes(8, "little") + header, raw[start:]
