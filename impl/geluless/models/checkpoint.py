"""Checkpoints as people have them: the one network in a file or folder, found by what its weights are called.

Training scripts, wrappers and compilers put state dicts under other keys, and other names before the weights' own. Whatever
they are, a Swin holds one weight `patch_embed.proj.weight` (transformers calls it otherwise): where it lies is the network, and
what stands before it is a wrapper's. Two networks in one file are an error, except for the moving average of one beside it.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from geluless.errors import CheckpointError
from geluless.files import read_json
from geluless.models.checkpoint_facts import Stated, folder_facts, recorded_facts, training_facts
from geluless.models.checkpoint_names import (
    TIMM_ANCHOR,
    TRANSFORMERS_ANCHOR,
    from_original,
    from_transformers,
    is_original,
    without_computed,
    without_wrappers,
)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder, in the order they are looked for
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
EMA = re.compile(r"(^|[^a-z])ema($|[^a-z])", re.IGNORECASE)
REFUSED_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")
REFUSED_MAPPING = re.compile(r"Can only SETITEMS? for .* but got <class '([^']+)'>")
DEEPEST = 6  # wrapper around wrapper around a state dict
MOST_CLASSES = 100  # in one file
NETWORK_PARTS = ("patch_embed.", "layers.", "norm.", "head.", "swin.", "classifier.")  # where nothing but a tensor is a weight
SAVE_WEIGHTS = "save its weights instead: torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One network's weights by timm's names, and what the file or folder says about it."""

    path: Path
    state: Mapping[str, torch.Tensor] = field(repr=False)
    stated: Stated = field(default_factory=Stated)
    remarks: tuple[str, ...] = ()  # what was recognised, taken off and left out, for the user to read once

    @property
    def num_classes(self) -> int | None:
        """Of the classifier that is in the file; None where there is none."""
        head = self.state.get("head.fc.weight")
        return head.shape[0] if head is not None and head.ndim else None


@dataclass(frozen=True)
class _Network:
    """A network inside a file: where, and under which names."""

    keys: tuple[str, ...]  # of the mappings around it
    prefix: str  # of its names as they stand in the file
    state: dict[str, torch.Tensor] = field(repr=False)  # without the prefix and wrappers
    beside: tuple[str, ...]  # names of tensors in the same mapping that do not begin with the prefix
    transformers: bool

    @property
    def place(self) -> str:
        return " / ".join([*self.keys, self.prefix.rstrip(".")] if self.prefix else self.keys)

    @property
    def is_ema(self) -> bool:
        return EMA.search(self.place) is not None


def read_checkpoint(path: str | Path, *, use_ema: bool = False) -> Checkpoint:
    """Read a .safetensors file, whatever torch.save wrote, or a Hugging Face folder in timm's or transformers' layout.

    Nothing of a pickle is ever executed: `weights_only=True`, with every class that torch does not know replaced by an empty
    one. `use_ema` takes the moving average of the weights where a training script kept one.

    Raises CheckpointError saying what the file is, what stands in the way and what to save instead.
    """
    path = Path(path)
    stated = Stated()
    remarks: list[str] = []
    if path.is_dir():
        stated = folder_facts(path)
        content, classes = _read_folder(path)
        recorded = recorded_facts(file_metadata(path / WEIGHT_FILES[0]), origin=str(path / WEIGHT_FILES[0]))
        stated = replace(stated, activation=stated.activation or recorded.activation)
    else:
        content, classes = _read_file(path)
        if path.suffix == ".safetensors":
            stated = recorded_facts(file_metadata(path), origin=str(path))
        if options := _timm_options(content):
            stated = training_facts(options, origin=f"{path} (args)")
    network = _choose(path, content, use_ema=use_ema, remarks=remarks)
    state = without_computed(network.state)
    _require_floats(path, state)
    if network.transformers:
        state = from_transformers(state)
        remarks.append("transformers' names became timm's, query, key and value one matrix")
        if not stated.preprocessing:
            remarks.append("no preprocessor_config.json says how its images were prepared: timm's values for the name are taken")
    elif is_original(state):
        state = from_original(state)
        remarks.append("the original release's names became timm's")
    if network.keys or network.prefix:
        remarks.insert(0, f"the network was found at {network.place}")
    if network.beside:
        remarks.append(f"{_counted(network.beside, 'tensor')} beside it left out")
    if classes:
        remarks.append(f"objects of {_counted(classes, 'class')} that hold no weights left out")
    return Checkpoint(path, state, stated, tuple(remarks))


def _timm_options(content: Any) -> dict[str, Any]:
    """Of a training file that timm's CheckpointSaver wrote; other scripts' `args` mean other things by the same names."""
    timm_s = (
        isinstance(content, dict)
        and {"arch", "version"} <= content.keys()
        and isinstance(content.get("args"), argparse.Namespace)
    )
    return vars(content["args"]) if timm_s else {}


def _counted(names: tuple[str, ...] | list[str], noun: str) -> str:
    plural = noun if len(names) == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{len(names)} {plural} ({names[0]}{', …' if len(names) > 1 else ''})"


# ---------------------------------------------------------------------------------------------------- which network


def _choose(path: Path, content: Any, *, use_ema: bool, remarks: list[str]) -> _Network:
    """The one network of the file; CheckpointError for none, and for two that are not one and its moving average."""
    networks = list(_networks(content))
    if not networks:
        raise CheckpointError(_what_it_is(path, content))
    plain, averaged = ([n for n in networks if n.is_ema == wanted] for wanted in (False, True))
    if use_ema and not averaged:
        raise CheckpointError(f"{path} holds no moving average of the weights: leave out --use-ema")
    chosen = averaged if use_ema or not plain else plain
    if len(chosen) > 1:
        places = ", ".join(network.place or "the top" for network in chosen)
        raise CheckpointError(f"{path} holds {len(chosen)} networks ({places}): save the state dict of one to a file of its own")
    if chosen is averaged:
        remarks.append("these are the moving average of the weights (EMA)")
    elif averaged:
        remarks.append(f"the moving average (EMA) at {averaged[0].place} was not taken: --use-ema takes it")
    return chosen[0]


def _networks(content: Any, keys: tuple[str, ...] = ()) -> Iterator[_Network]:
    """Every network in nested mappings; one mapping may hold several, by their prefixes."""
    if not isinstance(content, dict) or len(keys) > DEEPEST:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    for name in tensors:
        clean = without_wrappers(name)
        anchor = next((end for end in (TIMM_ANCHOR, TRANSFORMERS_ANCHOR) if f".{clean}".endswith(f".{end}")), None)
        if anchor is None:
            continue
        before = name.index(
            f"{anchor.partition('.')[0]}.", len(clean) - len(anchor)
        )  # wrappers make the name longer, never shorter
        prefix = name[:before].removesuffix("swin." if anchor == TRANSFORMERS_ANCHOR else "")  # its classifier lies beside `swin`
        inside = {
            without_wrappers(other.removeprefix(prefix)): value
            for other, value in content.items()
            if isinstance(other, str) and other.startswith(prefix or NETWORK_PARTS if other not in tensors else prefix)
        }
        beside = tuple(other for other in tensors if not other.startswith(prefix))
        yield _Network(keys, prefix, inside, beside, transformers=anchor == TRANSFORMERS_ANCHOR)
    for key, value in content.items():
        yield from _networks(value, (*keys, str(key)))


def _what_it_is(path: Path, content: Any) -> str:
    """One line for a file without a Swin: what it is, which class or key stood in the way, what to save instead."""
    if cls := _pickled_class(content):
        return f"{path} is a pickled {cls}, code and all, which is never run here: {SAVE_WEIGHTS}"
    if not isinstance(content, dict):
        return f"{path} holds a {type(content).__name__}, no weights: {SAVE_WEIGHTS}"
    for key, value in content.items():
        if (cls := _pickled_class(value)) and getattr(value, "is_module", False):
            return f"{path} holds a pickled {cls} under {key!r}, code and all, which is never run here: {SAVE_WEIGHTS}"
    tensors = [name for name, value in content.items() if isinstance(value, torch.Tensor)]
    first = f"{len(tensors)} tensors, the first is {tensors[0]}" if tensors else f"its keys are {_some(content)}"
    return (
        f"{path} holds no weights of a Swin v1 ({first}; none ends in {TIMM_ANCHOR}): {SAVE_WEIGHTS} of the network --model names"
    )


def _some(content: Mapping[Any, Any]) -> str:
    keys = [str(key) for key in content]
    return ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "") if keys else "none"


def _require_floats(path: Path, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            kind = _pickled_class(value) or type(value).__name__
            raise CheckpointError(f"{path}: {name} is a {kind}, not a tensor: {SAVE_WEIGHTS}")
        if value.dtype not in FLOATS or value.layout is not torch.strided:
            kind = str(value.dtype if value.layout is torch.strided else value.layout).removeprefix("torch.")
            raise CheckpointError(f"{path}: {name} is {kind}: give the float weights from before it was quantized or packed")


# ---------------------------------------------------------------------------------------------------- files


def _read_folder(folder: Path) -> tuple[Any, list[str]]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            return _read_shards(index)
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    there = f"; give one of its files: {_some(dict.fromkeys(files))}" if files else ""
    raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}{there}")


def _read_shards(index: Path) -> tuple[Any, list[str]]:
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
        if outside := [name for name in shards if Path(name).name != name]:
            raise CheckpointError(f"{index} names {outside[0]}, which lies outside of its folder: fetch it again")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} names no weight files ({type(error).__name__}): fetch it again") from None
    state: dict[Any, Any] = {}
    for shard in (index.parent / name for name in shards):
        content, _ = _read_file(shard)
        if not isinstance(content, dict):
            raise CheckpointError(f"{shard} holds no state dict: fetch it again")
        state |= content
    return state, []


def _read_file(path: Path) -> tuple[Any, list[str]]:
    """What the file holds, and the classes in it that are no data of torch's."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the file it stands for: run `git lfs pull`")
        if head.lstrip()[:1] == b"<":
            raise CheckpointError(f"{path} is a web page, not a checkpoint: download the file itself")
        if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[:1] != b"\x80"):
            if "geluless" in file_metadata(path):
                raise CheckpointError(
                    f"{path} is an INT8 artifact, no float checkpoint: give the file that it was quantized from"
                )
            return load_file(path), []
        return _unpickled(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path} is a TorchScript archive, a program: {SAVE_WEIGHTS}") from None
        raise CheckpointError(f"{path} is no readable checkpoint: {_first_line(error)}") from error


def file_metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says beside its tensors; nothing where it cannot be read."""
    try:
        with safe_open(path, framework="np") as stream:
            return dict(stream.metadata() or {})
    except (SafetensorError, OSError):
        return {}  # reading the tensors says what is wrong


def _unpickled(path: Path) -> tuple[Any, list[str]]:
    """The object that torch.save wrote, with an empty one in place of every object of a class that torch does not know.

    argparse.Namespace is read as it is: timm's train.py keeps its options in one, and it is plain data.
    """
    stand_ins: dict[str, type] = {}
    while True:
        allowed: list[Any] = [argparse.Namespace, *((stand_in, name) for name, stand_in in stand_ins.items())]
        try:
            with torch.serialization.safe_globals(allowed), warnings.catch_warnings(action="ignore"):
                return torch.load(path, map_location="cpu", weights_only=True), list(stand_ins)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError):
            raise
        except Exception as error:  # unpickling hostile bytes can raise anything; weights_only keeps it harmless
            if (name := _refused(error, REFUSED_CLASS)) and name not in stand_ins and len(stand_ins) < MOST_CLASSES:
                stand_ins[name] = type(name, (_StandIn,), {"__module__": "builtins"})
            elif (name := _refused(error, REFUSED_MAPPING)) and issubclass(stand_ins.get(name, int), _StandIn):
                stand_ins[name] = _mapping_for(name)
            else:
                what = f"it holds objects of {next(iter(stand_ins))}" if stand_ins else _first_line(error)
                raise CheckpointError(f"{path} is refused by torch.load(weights_only=True), {what}: {SAVE_WEIGHTS}") from error


def _refused(error: Exception, pattern: re.Pattern[str]) -> str:
    """The class that torch did not take, with its module; "" where the error is about something else."""
    found = pattern.search(str(error))
    return "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"


class _StandIn(list[Any]):
    """Called or built in place of a class that torch does not know: runs nothing of it and keeps nothing but a module's state."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # what was pickled may have been a key

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.is_module = isinstance(state, dict) and "_modules" in state


def _mapping_for(name: str) -> type:
    """The same for a class of mappings, for torch fills no mapping of another type than these."""

    def new(cls: type, *arguments: Any) -> OrderedDict[Any, Any]:
        return OrderedDict()

    return type(name, (), {"__module__": "builtins", "__new__": new})


def _pickled_class(value: Any) -> str | None:
    return type(value).__qualname__ if isinstance(value, _StandIn) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
