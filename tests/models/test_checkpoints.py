"""Checkpoints as people have them: the same weights come out of every wrapper, and what does not load says what it is."""

from __future__ import annotations

import argparse
import enum
import os
import pathlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import checkpoint_filter_fn
from timm.utils import CheckpointSaver

import geluless
from geluless.errors import CheckpointError, ModelError
from geluless.models import interface_of, read_checkpoint
from geluless.models.swin import described
from tests.support.checkpoints import original_names, transformers_names
from tests.support.networks import awkward_artifact

NAME = "swin_micro_tiny"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(3)
    return geluless.create_model(NAME)


@pytest.fixture(scope="module")
def state(model: torch.nn.Module) -> State:
    return model.state_dict()


def prefixed(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def inside(state: Mapping[str, Any], segment: str) -> dict[str, Any]:
    """A wrapper around each block rather than around the network."""
    return {name.replace(".attn.", f".{segment}.attn.").replace(".mlp.", f".{segment}.mlp."): v for name, v in state.items()}


class CfgNode(dict[str, Any]):
    """As yacs, with which the original release writes its options into its checkpoints: a mapping with attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.frozen = True


class Phase(enum.Enum):
    FINE_TUNING = 1


class Callbacks(list[Any]):
    pass


WRITTEN: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "DataParallel": lambda s: prefixed(s, "module."),
    "DataParallel under model": lambda s: {"model": prefixed(s, "module.")},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled, then parallel": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "parallel, then compiled": lambda s: {"state_dict": prefixed(s, "_orig_mod.module.")},
    "the tutorial's key": lambda s: {"epoch": 3, "model_state_dict": s, "loss": 0.1},
    "Lightning": lambda s: {"epoch": 3, "state_dict": prefixed(s, "model."), "callbacks": {}},
    "Lightning around a compiled network": lambda s: {"state_dict": prefixed(s, "model._orig_mod.")},
    "a wrapper of a wrapper": lambda s: {"net": prefixed(s, "module.student.model.")},
    "a network and its loss": lambda s: {**prefixed(s, "net."), "loss.weight": torch.ones(10)},
    "mappings in mappings": lambda s: {"checkpoint": {"best": {"weights": s}}},
    "activation checkpointing": lambda s: inside(s, "_checkpoint_wrapped_module"),
    "FSDP in each block": lambda s: prefixed(inside(s, "_fsdp_wrapped_module"), "_fsdp_wrapped_module."),
    "AveragedModel": lambda s: {**prefixed(s, "module."), "n_averaged": torch.tensor(7)},
    "with its optimizer": lambda s: {"model": s, "optimizer": torch.optim.AdamW([torch.ones(3)]).state_dict()},
    "with a metric of numpy's": lambda s: {"model": s, "best": np.float64(81.2), "random": np.arange(3)},
    "with options of other classes": lambda s: {
        "state_dict": s,
        "args": argparse.Namespace(output=pathlib.PurePosixPath("/data"), phase=Phase.FINE_TUNING),
        "callbacks": Callbacks([1]),
        ("key", Phase.FINE_TUNING): 1,
    },
    "the original release's, with its options": lambda s: {
        "model": original_names(s),
        "config": CfgNode({"A": CfgNode({"B": 1})}),
    },
    "the original release's, parallel": lambda s: prefixed(original_names(s), "module."),
    "transformers'": transformers_names,
    "transformers', in a trainer": lambda s: {"state_dict": prefixed(transformers_names(s), "model.")},
    "transformers', with a mask token": lambda s: transformers_names(s) | {"swin.embeddings.mask_token": torch.ones(1, 1, 16)},
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN.keys())
def test_the_same_weights_come_out_of_every_wrapper(written: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    torch.save(written(state), tmp_path / "w.pth")
    loaded = geluless.create_model(NAME, tmp_path / "w.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "the format before torch 1.6"])
def test_timm_s_own_training_file_loads_with_its_options(legacy: bool, model: torch.nn.Module, tmp_path: Path) -> None:
    options = argparse.Namespace(model=NAME, lr=1e-3, mean=[0.4], std=[0.2], crop_pct=None, interpolation="", img_size=None)
    optimizer = torch.optim.AdamW(model.parameters())
    saver = CheckpointSaver(model, optimizer, args=options, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=91.0)
    path = tmp_path / "model_best.pth.tar"
    if legacy:
        content = torch.load(path, weights_only=False)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    found = read_checkpoint(path)
    assert found.remarks == ("the network was found at state_dict",)
    loaded = geluless.create_model(NAME, found)
    assert torch.equal(loaded.head.fc.weight, model.head.fc.weight)
    interface = interface_of(loaded)
    assert (interface.mean, interface.std, interface.crop_pct) == ((0.4,), (0.2,), 1.0)
    if not legacy:
        with pytest.raises(CheckpointError, match=f"says that this is a {NAME}, not a swin_micro_base: give --model {NAME}"):
            geluless.create_model("swin_micro_base", path)


def test_options_of_another_script_say_nothing_about_images(state: State, tmp_path: Path) -> None:
    """DeiT's `input_size` is a number and its `model` another one's name; only timm's own files are read as timm's."""
    torch.save({"model": state, "args": argparse.Namespace(input_size=192, model="deit", mean="?")}, tmp_path / "w.pth")
    assert interface_of(geluless.create_model(NAME, tmp_path / "w.pth")).mean == (0.286,)


def test_what_was_taken_off_and_left_out_is_said(state: State, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(2)}, "best": Phase.FINE_TUNING}, tmp_path / "w"
    )
    assert read_checkpoint(tmp_path / "w").remarks == (
        "the network was found at state_dict / model",
        "1 tensor (loss.weight) beside it left out",
        f"objects of 1 class ({__name__}.Phase) that hold no weights left out",
    )
    torch.save(original_names(state), tmp_path / "w")
    assert read_checkpoint(tmp_path / "w").remarks == ("the original release's names became timm's",)


def test_names_of_the_original_release_become_those_that_timm_gives_them(
    state: State, model: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save({"model": original_names(state)}, tmp_path / "w")
    by_timm = checkpoint_filter_fn({"model": original_names(state)}, model)
    found = read_checkpoint(tmp_path / "w").state
    assert found.keys() == by_timm.keys()
    assert all(torch.equal(value, by_timm[name]) for name, value in found.items())


# ------------------------------------------------------------------------------------------------ moving averages


def test_the_moving_average_is_taken_by_choice(state: State, tmp_path: Path) -> None:
    average = {name: value + 1 for name, value in state.items()}
    for key in ("state_dict_ema", "model_ema", "ema"):
        torch.save({"state_dict": state, key: prefixed(average, "module.")}, tmp_path / "both")
        plain, chosen = read_checkpoint(tmp_path / "both"), read_checkpoint(tmp_path / "both", use_ema=True)
        assert torch.equal(plain.state["norm.weight"], state["norm.weight"])
        assert torch.equal(chosen.state["norm.weight"], average["norm.weight"])
        assert any("was not taken: --use-ema takes it" in remark for remark in plain.remarks)
        assert any("these are the moving average" in remark for remark in chosen.remarks)
    torch.save({"model_ema": average}, tmp_path / "alone")
    assert any("these are the moving average" in remark for remark in read_checkpoint(tmp_path / "alone").remarks)
    torch.save(state, tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no moving average"):
        read_checkpoint(tmp_path / "none", use_ema=True)


@pytest.mark.parametrize(
    "two",
    [
        lambda s: {"student": s, "teacher": s},
        lambda s: {**prefixed(s, "student."), **prefixed(s, "teacher.")},
        lambda s: {"state_dict": s, "best": {"state_dict": s}},
    ],
    ids=["under keys", "under prefixes", "now and at best"],
)
def test_of_two_networks_none_is_guessed(two: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    torch.save(two(state), tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"holds 2 networks \(.*(teacher|best).*\): save the state dict of one"):
        read_checkpoint(tmp_path / "w")


# ------------------------------------------------------------------------------------------------ what is refused


REFUSED: dict[str, tuple[Callable[[torch.nn.Module], Any], str]] = {
    "a module": (
        lambda m: m,
        r"is a pickled timm\.models\.swin_transformer\.SwinTransformer.*save its weights instead: torch\.save",
    ),
    "a module under a key": (
        lambda m: {"epoch": 1, "model": m},
        r"holds a pickled timm\.models\.swin_transformer\.SwinT.* under 'model'",
    ),
    "a module in a module": (
        lambda m: torch.nn.DataParallel(m),
        r"is a pickled torch\.nn\.parallel\.data_parallel\.DataParallel",
    ),
    "a list": (lambda m: list(m.parameters()), "holds a list, no weights"),
    "an optimizer alone": (
        lambda m: torch.optim.SGD(m.parameters()).state_dict(),
        "holds no weights of a Swin v1.*state, param_groups",
    ),
    "another network": (
        lambda m: {"conv1.weight": torch.ones(1)},
        r"holds no weights of a Swin v1 \(1 tensors, the first is conv1",
    ),
    "nothing": (lambda m: {}, "its keys are none"),
    "arrays": (lambda m: {n: v.numpy() for n, v in m.state_dict().items()}, "holds no weights of a Swin v1"),
    "an array among tensors": (
        lambda m: m.state_dict() | {"layers.0.blocks.0.norm1.bias": np.zeros(16)},
        r"layers\.0\.blocks\.0\.norm1\.bias is a numpy.*not a tensor",
    ),
    "packed weights": (lambda m: {n: v.to(torch.int8) for n, v in m.state_dict().items()}, "is int8: give the float weights"),
    "eight-bit floats": (lambda m: {n: v.to(torch.float8_e4m3fn) for n, v in m.state_dict().items()}, "is float8_e4m3fn"),
    "a sparse weight": (
        lambda m: m.state_dict() | {"head.fc.weight": m.head.fc.weight.detach().to_sparse()},
        r"head\.fc\.weight is sparse_coo",
    ),
    "a backbone": (
        lambda m: {n: v for n, v in m.state_dict().items() if not n.startswith("head.")},
        r"has no classifier \(head\.fc\.bias is missing\): save the whole network",
    ),
    "a number for a matrix": (lambda m: m.state_dict() | {"head.fc.weight": torch.tensor(1.0)}, r"head\.fc\.weight is \(\), not"),
    "numbers everywhere": (
        lambda m: dict.fromkeys(m.state_dict(), torch.tensor(1.0)),
        r"width 0, depths 2-2-6-2, window 0, 0 classes",
    ),
    "absolute positions": (
        lambda m: m.state_dict() | {"absolute_pos_embed": torch.ones(1)},
        "1 unexpected .first: absolute_pos_embed",
    ),
    "half of query, key and value": (
        lambda m: {n: v for n, v in transformers_names(m.state_dict()).items() if ".query." not in n},
        r"layers\.0\.blocks\.0\.attn has no query\.(bias|weight)",
    ),
}


@pytest.mark.parametrize(("written", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_load_says_what_it_is(
    written: Callable[[torch.nn.Module], Any], message: str, model: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(written(model), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        geluless.create_model(NAME, tmp_path / "w.pth")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_checkpoint_say_what_they_are(tmp_path: Path) -> None:
    awkward_artifact().save(tmp_path / "a.int8.safetensors")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 113\n")
    (tmp_path / "page.pth").write_text("\n<!DOCTYPE html><html>Sign in</html>")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    for name, message in (
        ("a.int8.safetensors", "is an INT8 artifact, no float checkpoint"),
        ("lfs.pth", "git-lfs pointer.*git lfs pull"),
        ("page.pth", "is a web page"),
        ("script.pt", "is a TorchScript archive, a program"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / name)


def test_safetensors_are_known_by_their_content(state: State, tmp_path: Path) -> None:
    save_file(prefixed(state, "module."), tmp_path / "w.bin")
    assert torch.equal(read_checkpoint(tmp_path / "w.bin").state["norm.weight"], state["norm.weight"])


class Bomb:
    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_pickle_is_ever_run(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A call in the file calls a stand-in; what could reach the system is refused before."""
    torch.save({"model": state, "extra": Bomb(print, "executed"), "more": Bomb(eval, "print('executed')")}, tmp_path / "w")
    assert read_checkpoint(tmp_path / "w").state.keys() == state.keys()
    torch.save({"model": state, "extra": Bomb(os.system, "echo executed")}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"refused by torch\.load.*"):
        read_checkpoint(tmp_path / "w")
    assert "executed" not in "".join(capsys.readouterr())


# ------------------------------------------------------------------------------------------------ classes and shapes


def test_the_number_of_classes_comes_from_the_file(tmp_path: Path) -> None:
    torch.save(geluless.create_model(NAME, num_classes=7).state_dict(), tmp_path / "w")
    assert geluless.create_model(NAME, tmp_path / "w").num_classes == 7
    assert geluless.create_model(NAME, tmp_path / "w", num_classes=7).num_classes == 7
    with pytest.raises(CheckpointError, match="has 7 classes, not 10: leave out --num-classes"):
        geluless.create_model(NAME, tmp_path / "w", num_classes=10)


def test_another_size_is_named_as_what_it_is(tmp_path: Path) -> None:
    torch.save(geluless.create_model("swin_micro_base").state_dict(), tmp_path / "w")
    shape = r"width 24, depths 2-2-18-2, window 7, 10 classes, as swin_micro_base"
    with pytest.raises(CheckpointError, match=rf"another network \({shape}\)"):
        geluless.create_model(NAME, tmp_path / "w")


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384", "swin_large_patch4_window7_224"]
)
def test_every_published_shape_has_its_name(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert described(state).endswith(f"1000 classes, as {name}")
    assert timm.is_model(name)


@pytest.mark.parametrize(("name", "size"), [("swin_tiny_patch4_window7_224", "wide"), ("resnet18", 224)])
def test_options_that_a_model_does_not_take_are_one_error(name: str, size: Any) -> None:
    assert timm.is_model(name)
    with pytest.raises(ModelError, match=f"timm makes no {name} with img_size={size}"):
        geluless.create_model(name, img_size=size)
