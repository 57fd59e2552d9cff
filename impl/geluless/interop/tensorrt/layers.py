"""The layers of a TensorRT engine, from the engine inspector's JSON or from the table that a verbose build prints.

Both say the same in two forms. The inspector needs an engine on a GPU; the build log is all there is of an engine built ahead of
time. TensorRT 10 writes a tensor's type as "Format/Datatype", 11 and TensorRT-RTX as "Datatype" beside "Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from geluless.interop.fusion import UNKNOWN, Layer, Value

_KERNEL = re.compile(r"^__myl_([A-Za-z]+)_")  # a generated kernel's name lists its operations: __myl_MulAddRelu_myl0_13
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TACTIC = re.compile(r"_(i8|e4m3|f16|bf16|tf32|f32)(i8|i32|e4m3|f16|bf16|f32)_")  # gemm_i8f32_i8i32_f32: factors, then result
_TACTIC_TYPES = {"i8": "int8", "i32": "int32", "e4m3": "fp8", "f16": "half", "bf16": "bfloat16", "tf32": "float", "f32": "float"}
# In this order: each is searched for in the vendor's words, and "bfloat16" holds "float".
_TYPES = {word: word for word in ("uint8", "int8", "int32", "int64", "fp8", "bfloat16")}
_TYPES |= {"bf16": "bfloat16", "half": "half", "fp16": "half", "float": "float", "fp32": "float", "bool": "bool"}


def layers_of_inspector(text: str) -> tuple[Layer, ...]:
    """From `EngineInspector.get_engine_information(JSON)`; () for an engine built without detailed profiling."""
    found = json.loads(text).get("Layers", [])
    return tuple(_layer(entry) for entry in found if isinstance(entry, dict))


def layers_of_log(messages: Iterable[str]) -> tuple[Layer, ...]:
    """From the messages of a verbose build with detailed profiling; () where none is a table of layers."""
    lines = (line.strip() for message in messages if ", LayerType: " in message for line in message.splitlines())
    return tuple(_layer(_fields(line)) for line in lines if line.startswith("Name: ") and ", LayerType: " in line)


def _layer(entry: Mapping[str, Any]) -> Layer:
    name, tactic = str(entry.get("Name", "")), _TACTIC.search(str(entry.get("TacticName", "")))
    inputs, outputs = _values(entry.get("Inputs", ())), _values(entry.get("Outputs", ()))
    factors = [*(value.dtype for value in inputs[:1]), _weights(entry)]
    if tactic:  # what the inspector gives as "N/A due to dynamic shapes", or not at all
        of_factors, of_result = (_TACTIC_TYPES[code] for code in tactic.groups())
        factors = [of_factors if dtype == UNKNOWN else dtype for dtype in factors]
        outputs = tuple(Value(value.name, of_result) if value.dtype == UNKNOWN else value for value in outputs)
    kernel = _KERNEL.match(name)
    operations = tuple(re.findall("[A-Z][a-z]*", kernel[1])) if kernel else ()
    origins = _ORIGIN.findall(str(entry.get("Metadata", ""))) or [part.strip() for part in name.split(" + ")]
    return Layer(name, str(entry.get("LayerType", UNKNOWN)), inputs, outputs, tuple(factors), operations, frozenset(origins))


def _weights(entry: Mapping[str, Any]) -> str:
    """The type of a product's second factor: a matrix among the constants, or another input. TensorRT 10 lists no constants."""
    if isinstance(entry.get("Weights"), Mapping):
        return _dtype(str(entry["Weights"].get("Type", "")))
    constants = entry.get("Constants", ())
    matrices = [constant for constant in constants if sum(int(size) > 1 for size in constant.get("Dimensions", ())) > 1]
    return next((_type_of(tensor) for tensor in (*matrices, *entry.get("Inputs", ())[1:])), UNKNOWN)


def _values(entries: Iterable[Mapping[str, Any]]) -> tuple[Value, ...]:
    return tuple(Value(str(entry.get("Name", "")), _type_of(entry)) for entry in entries)


def _type_of(entry: Mapping[str, Any]) -> str:
    return _dtype(str(entry.get("Datatype") or entry.get("Format/Datatype", "")))


def _dtype(words: str) -> str:
    lowered = words.lower()
    return next((dtype for word, dtype in _TYPES.items() if word in lowered), UNKNOWN)


# ------------------------------------------------------------------------------------------------- the log's own notation


def _fields(text: str) -> dict[str, Any]:
    """`Name: x, Inputs: [ { Name: y, Dimensions: [1,2] } ]` as nested values."""
    fields: dict[str, Any] = {}
    for part in _split(text):
        key, colon, value = part.partition(": ")
        if colon:
            fields[key.strip()] = _value(value.strip())
    return fields


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]") and not text.startswith("[ONNX"):
        items = list(_split(text[1:-1]))
        if items and items[0].strip().startswith("{"):
            return [_fields(item.strip()[1:-1]) for item in items]
        return [item.strip() for item in items if item.strip()]
    return text


def _split(text: str) -> Iterator[str]:
    """At the commas outside all brackets."""
    depth, begun = 0, 0
    for i, character in enumerate(text):
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield text[begun:i]
            begun = i + 1
    yield text[begun:]
