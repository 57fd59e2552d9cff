"""Laws of the doors: weights and labels do not depend on names around them, and whatever comes in, only our errors come out."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from geluless.data.listing import ORDERS, image_suffixes, list_images
from geluless.errors import CheckpointError, DataError
from geluless.models import read_checkpoint

STATE = {
    name: torch.full((2, 2), float(place))
    for place, name in enumerate(
        (
            "patch_embed.proj.weight",
            "layers.0.blocks.0.attn.qkv.weight",
            "layers.1.downsample.norm.weight",
            "norm.bias",
            "head.fc.bias",
        )
    )
}
SEGMENTS = ("module", "_orig_mod", "model", "net", "backbone", "0", "swin", "patch_embed", "layers", "ema_model", "état")


def outcome(call: Callable[[], Any], error: type[Exception]) -> tuple[Any, str]:
    """The result, or the message of the one kind of error that may come out."""
    try:
        return call(), ""
    except error as caught:
        return None, str(caught)


words = st.one_of(st.sampled_from(SEGMENTS), st.text(min_size=1, max_size=8))


@given(keys=st.lists(words, max_size=4), prefix=st.lists(st.sampled_from(SEGMENTS), max_size=4), beside=st.booleans())
@example(keys=["model"], prefix=["module", "patch_embed", "_orig_mod"], beside=True)
def test_one_network_is_found_under_any_keys_and_prefix(keys: list[str], prefix: list[str], beside: bool) -> None:
    before = "".join(f"{segment}." for segment in prefix)
    content: Any = {before + name: value for name, value in STATE.items()}
    if beside and prefix:
        content["criterion.weight"] = torch.ones(1)
    for key in keys:
        content = {"epoch": 1, key: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder) / "w.pth")
        found = read_checkpoint(Path(folder) / "w.pth")
    assert found.state.keys() == STATE.keys()
    assert all(torch.equal(found.state[name], value) for name, value in STATE.items())
    assert any("criterion.weight" in remark for remark in found.remarks) == (beside and bool(prefix))


@given(
    cut=st.integers(0, 4000),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    zipped=st.booleans(),
)
def test_damaged_files_end_in_our_own_error_or_in_a_network(cut: int, flips: list[tuple[int, int]], zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pth"
        torch.save({"model": STATE, "best": torch.float32}, path, _use_new_zipfile_serialization=zipped)
        content = bytearray(path.read_bytes())
        for place, value in flips:
            content[place % len(content)] = value
        path.write_bytes(content[: len(content) - cut % len(content)])
        found, message = outcome(lambda: read_checkpoint(path), CheckpointError)
    assert "\n" not in message
    assert found is None or all(isinstance(value, torch.Tensor) for value in found.state.values())


CONFIG_KEYS = ("architecture", "model_type", "num_classes", "label_names", "labels", "model_args", "pretrained_cfg", "id2label")
CONFIG_KEYS += (
    "mean",
    "std",
    "crop_pct",
    "crop_mode",
    "interpolation",
    "input_size",
    "img_size",
    "image_size",
    "hidden_act",
    "0",
)
CONFIG_KEYS += ("size", "resample", "image_mean", "image_std", "rescale_factor", "do_center_crop", "crop_size", "height", "width")
CONFIG_KEYS += ("shortest_edge", "layer_norm_eps", "do_normalize", "do_resize", "num_labels", "depths")
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.sampled_from(("swin", "swin_micro_tiny", "gelu", "a"))
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(CONFIG_KEYS), inner, max_size=6)),
    max_leaves=12,
)


@given(config=st.dictionaries(st.sampled_from(CONFIG_KEYS), documents, max_size=8), processor=documents)
def test_whatever_stands_in_a_config_only_our_own_error_comes_out(config: Any, processor: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_file(STATE, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(config))
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
        found, message = outcome(lambda: read_checkpoint(folder), CheckpointError)
    assert found is not None or "config.json" in message


# A name is any bytes but / and NUL; a leading dot hides it. Some filesystems take no others than UTF-8.
names = st.one_of(
    st.sampled_from(
        (b"train", b"val", b"images", b"1", b"10", b"2", b"CAT", b"cat", b"caf\xe9", b"\xc2\xb2", b"a b", b"-", b"#[x]")
    ),
    st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_")),
).filter(lambda raw: not raw.startswith(b"."))


@given(
    classes=st.lists(names, min_size=2, max_size=5, unique=True),
    files=st.lists(names, min_size=1, max_size=3, unique=True),
    data=st.data(),
)
def test_each_image_has_the_class_of_its_folder_in_every_order(
    classes: list[bytes], files: list[bytes], data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(sorted(image_suffixes())))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            for name in classes:
                (root / os.fsdecode(name)).mkdir()
                for file in files:
                    (root / os.fsdecode(name) / (os.fsdecode(file) + suffix)).touch()
        except OSError:
            return  # not on this filesystem
        for order in (None, *ORDERS, tuple(data.draw(st.permutations([os.fsdecode(name) for name in classes])))):
            found = list_images(root, class_order=order)
            assert sorted(found.class_names) == sorted(os.fsdecode(name) for name in classes)
            assert len(found.files) == len(classes) * len(files)
            assert all(found.class_names[n] == path.parent.name for path, n in zip(found.files, found.labels, strict=True))
            assert found.files == list_images(root, class_order="natural").files


@given(
    names=st.lists(
        st.lists(st.sampled_from(("a", "b", "train", "val", "images", "0.png", "1.txt")), min_size=1, max_size=4), max_size=8
    )
)
def test_whatever_tree_comes_in_every_label_is_a_folder_s_name_or_the_tree_is_refused(names: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts in names:
            path = root.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch() if "." in parts[-1] else path.mkdir(exist_ok=True)
            except OSError:
                continue  # a file stands where this wants a folder
        found, message = outcome(lambda: list_images(root), DataError)
    assert "\n" not in message
    if found is not None:
        for path, label in zip(found.files, found.labels, strict=True):
            parts = path.relative_to(found.folder).parts
            assert parts[0] == found.class_names[label]
            assert len(parts) == 2 or parts[1] == "images"
