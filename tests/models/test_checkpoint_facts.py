"""What a folder says beside its weights, in timm's or transformers' words, reaches the network; nothing is assumed in silence."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import create_transform
from timm.models import save_for_hf

import geluless
from geluless.data.folders import folder_images
from geluless.errors import CheckpointError
from geluless.interface import Interface
from geluless.models import interface_of, read_checkpoint
from geluless.models.checkpoint_facts import _crop_pct, transformers_config, transformers_processor
from tests.support.checkpoints import transformers_names

NAME = "swin_micro_tiny"
PHOTO_NAME = "swin_tiny_patch4_window7_224"
SMALL = {"embed_dim": 12, "depths": [1, 1, 1, 1]}  # of a network by that name, as model_args


@pytest.fixture(scope="module")
def micro() -> torch.nn.Module:
    torch.manual_seed(4)
    return geluless.create_model(NAME)


@pytest.fixture(scope="module")
def photo_model() -> torch.nn.Module:
    return timm.create_model(PHOTO_NAME, num_classes=3, img_size=(64, 96), **SMALL).eval()


def folder(path: Path, model: torch.nn.Module, config: Any, *, processor: Any = None, transformers: bool = False) -> Path:
    path.mkdir(exist_ok=True)
    state = model.state_dict()
    save_file(transformers_names(state) if transformers else dict(state), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


OWN = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
TIMM = {
    "architecture": PHOTO_NAME,
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "model_args": {**SMALL, "img_size": [64, 96]},
    "pretrained_cfg": {**OWN, "input_size": [3, 64, 96], "num_classes": 3, "tag": "own"},
}


def test_timm_s_folder_says_everything(photo_model: torch.nn.Module, tmp_path: Path) -> None:
    model = geluless.create_model(PHOTO_NAME, folder(tmp_path / "m", photo_model, TIMM))
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in OWN.items()}
    assert interface_of(model) == Interface(input_size=(3, 64, 96), class_names=("a", "b", "c"), **expected)
    images = torch.randn(2, 3, 64, 96)
    assert torch.equal(model(images), photo_model(images))


def test_the_older_flat_form_is_read_too(photo_model: torch.nn.Module, tmp_path: Path) -> None:
    flat = {"architecture": PHOTO_NAME, "num_classes": 3, "labels": ["a", "b", "c"], "input_size": [3, 64, 96], **OWN}
    found = read_checkpoint(folder(tmp_path / "m", photo_model, flat)).stated
    assert (found.num_classes, found.image_size, found.class_names) == (3, (64, 96), ("a", "b", "c"))
    assert found.preprocessing["mean"] == (0.5, 0.4, 0.3)


def test_what_timm_saves_is_what_it_was(tmp_path: Path) -> None:
    model = timm.create_model(PHOTO_NAME, num_classes=4, **SMALL).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"}
    save_for_hf(model, str(tmp_path), model_args=SMALL)
    loaded = geluless.create_model(PHOTO_NAME, tmp_path)
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded(images), model(images))
    assert interface_of(loaded).mean == (0.1, 0.2, 0.3)
    assert interface_of(loaded).interpolation == "bilinear"


SWIN = {"model_type": "swin", "architectures": ["SwinForImageClassification"], "image_size": 28, "num_channels": 1}
LABELS = {str(index): f"class {index}" for index in range(10)}
PROCESSOR = {"do_resize": True, "size": {"height": 28, "width": 28}, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255}
PROCESSOR |= {"do_normalize": True, "image_mean": [0.4], "image_std": [0.2], "image_processor_type": "ViTImageProcessor"}


def test_transformers_folder_gives_the_same_network_and_its_words(micro: torch.nn.Module, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", micro, SWIN | {"id2label": LABELS}, processor=PROCESSOR, transformers=True)
    found = read_checkpoint(path)
    assert found.remarks == ("transformers' names became timm's, query, key and value one matrix",)
    model = geluless.create_model(NAME, found)
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(model(images), micro(images))
    assert interface_of(model) == Interface(
        input_size=(1, 28, 28),
        mean=(0.4,),
        std=(0.2,),
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode="squash",
        class_names=tuple(LABELS.values()),
    )


def test_a_folder_that_says_nothing_about_its_images_is_a_remark(micro: torch.nn.Module, tmp_path: Path) -> None:
    found = read_checkpoint(folder(tmp_path / "m", micro, SWIN, transformers=True))
    assert any("no preprocessor_config.json says" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({"rescale_factor": 1 / 127.5}, 0.2, 0.1),  # (x/127.5 - 0.4)/0.2 = (x/255 - 0.2)/0.1
        ({"do_normalize": False}, 0.0, 1.0),
        ({"size": 28}, 0.4, 0.2),
    ],
    ids=["to [0, 2]", "not normalised", "a number"],
)
def test_every_way_to_say_a_normalisation_is_one_of_ours(
    change: dict[str, Any], mean: float, std: float, micro: torch.nn.Module, tmp_path: Path
) -> None:
    said = read_checkpoint(folder(tmp_path / "m", micro, SWIN, processor=PROCESSOR | change, transformers=True)).stated
    assert said.preprocessing["mean"][0] == pytest.approx(mean)
    assert said.preprocessing["std"][0] == pytest.approx(std)


def test_the_words_of_the_released_swin_are_understood() -> None:
    """Those of microsoft/swin-tiny-patch4-window7-224 on the hub; two of ImageNet's names are equal."""
    processor = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "resample": 3,
        "size": 224,
    }
    processor |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    labels = {str(index): "crane" if index in (134, 517) else f"class {index}" for index in range(1000)}
    config = {
        "model_type": "swin",
        "image_size": 224,
        "id2label": labels,
        "num_labels": None,
        "path_norm": True,
        "window_size": 7,
    }
    said = transformers_processor(processor, said=transformers_config(config, origin="config.json")).checked()
    assert said.preprocessing == {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    assert (said.num_classes, said.image_size, said.activation) == (1000, (224, 224), "gelu")
    assert said.class_names is not None
    assert said.class_names[134] == said.class_names[517] == "crane"


def test_a_crop_is_of_the_very_pixel_count_that_was_said() -> None:
    for side, resized in ((224, 256), (384, 438), (28, 32), (224, 236), (196, 224)):
        assert math.floor(side / _crop_pct(side, resized)) == resized
    crop = create_transform((3, 384, 384), crop_pct=_crop_pct(384, 438), crop_mode="center").transforms[0]
    assert crop.size == 438


BAD_CONFIGS: list[tuple[Any, str]] = [
    (SWIN | {"model_type": "swinv2"}, "describes a swinv2 network; geluless takes Swin v1"),
    (SWIN | {"hidden_act": "gelu_new"}, "hidden_act is gelu_new; only gelu and relu"),
    (SWIN | {"use_absolute_embeddings": True}, "use_absolute_embeddings adds a table"),
    (SWIN | {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
    (SWIN | {"id2label": {"0": "a"}}, "says 1 classes, the weights have 10"),
    (SWIN | {"id2label": {"1": "a"}}, "is not as timm or transformers write it"),
    (SWIN | {"image_size": "large"}, "is not as timm or transformers write it"),
    (SWIN | {"image_size": [28, -1]}, "is no size of an image"),
    ({"architecture": NAME, "num_classes": 7}, "says 7 classes, the weights have 10"),
    ({"architecture": NAME, "label_names": ["a"], "num_classes": 10}, "names 1 classes and counts 10"),
    ({"architecture": "swin_micro_base"}, f"says that this is a swin_micro_base, not a {NAME}: give --model swin_micro_base"),
    ({"architecture": NAME, "model_args": {"act_layer": "silu"}}, "is made with act_layer='silu'"),
    ({"architecture": NAME, "pretrained_cfg": {"mean": [0.5], "std": [0.0]}}, "std .* is not above zero"),
    ({"architecture": NAME, "pretrained_cfg": {"mean": [0.5], "crop_pct": 1.5}}, "crop_pct 1.5 does not lie"),
    ({"architecture": NAME, "pretrained_cfg": {"crop_pct": 0}}, "crop_pct is 0"),
    ({"architecture": NAME, "pretrained_cfg": {"mean": [0.5], "interpolation": "magic"}}, "interpolation 'magic' is none of"),
    ("{", "is no readable JSON"),
    ("[]", "holds no JSON object"),
    ("[" * 100_000, "is no readable JSON"),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS, ids=[f"{place}" for place in range(len(BAD_CONFIGS))])
def test_a_folder_that_contradicts_itself_is_refused(config: Any, message: str, micro: torch.nn.Module, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", micro, config, transformers=isinstance(config, dict) and "model_type" in config)
    with pytest.raises(CheckpointError, match=message) as caught:
        geluless.create_model(NAME, path)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"do_resize": False}, "do_resize is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"size": {"shortest_edge": 32}}, "shortest_edge without do_center_crop"),
        ({"size": {"height": 32, "width": 28}, "do_center_crop": True, "crop_size": 28}, "size and crop_size have other shapes"),
        ({"resample": 9}, "is not as timm or transformers write it"),
        ({"size": 0}, "is not as timm or transformers write it"),
        ({"image_mean": "0.5"}, "is not as timm or transformers write it"),
    ],
)
def test_preparations_that_no_transform_here_does_are_refused(
    processor: dict[str, Any], message: str, micro: torch.nn.Module, tmp_path: Path
) -> None:
    path = folder(tmp_path / "m", micro, SWIN, processor=PROCESSOR | processor, transformers=True)
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{message}"):
        geluless.create_model(NAME, path)


def test_a_relu_network_of_transformers_says_so(micro: torch.nn.Module, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", micro, SWIN | {"hidden_act": "relu"}, transformers=True)
    assert read_checkpoint(path).stated.activation == "relu"


def test_weights_in_shards_are_one_network(micro: torch.nn.Module, tmp_path: Path) -> None:
    names = sorted(state := micro.state_dict())
    for number, part in enumerate((names[:40], names[40:])):
        save_file({name: state[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    index = {name: f"model-{int(place >= 40)}.safetensors" for place, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert read_checkpoint(tmp_path).state.keys() == state.keys()
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*model-1"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(CheckpointError, match="outside of its folder"):
        read_checkpoint(tmp_path)


def test_a_folder_of_something_else_lists_what_could_be_given(tmp_path: Path) -> None:
    (tmp_path / "model_best.pth.tar").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor.*give one of its files: model_best\.pth\.tar"):
        read_checkpoint(tmp_path)


def test_the_normalisation_that_was_said_reaches_the_pixels(photo_model: torch.nn.Module, tmp_path: Path) -> None:
    from PIL import Image

    model = geluless.create_model(PHOTO_NAME, folder(tmp_path / "m", photo_model, TIMM))
    for name, value in (("a", 0), ("b", 255)):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (200, 100), (value, value, value)).save(tmp_path / "images" / name / "0.png")
    (tmp_path / "images" / "c").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "images" / "c" / "0.png")
    black, white, _ = next(folder_images(tmp_path / "images", model=model).batches(3))
    assert torch.allclose(black.amax((1, 2)), torch.tensor([-1.0, -0.4 / 0.6, -0.3 / 0.7]))
    assert torch.allclose(white.amax((1, 2)), torch.tensor([1.0, 1.0, 1.0]))


def test_an_interface_survives_json_and_copies(micro: torch.nn.Module) -> None:
    interface = interface_of(micro)
    assert Interface.from_json(json.loads(json.dumps(interface.to_json()))) == interface
    assert interface_of(copy.deepcopy(micro)) == interface
    named = Interface(**{**vars(interface), "class_names": ("crane", "crane")})
    assert Interface.from_json(named.to_json()) == named
    for wrong in ({"mean": []}, {"std": [math.nan]}, {"input_size": [1, 28]}, {"class_names": [1]}, {"mean": 3}, {"more": 1}):
        with pytest.raises(ValueError, match=r"\w"):
            Interface.from_json(interface.to_json() | wrong)
    assert str(interface) == "28x28 grey, bicubic, crop 1 (squash), mean 0.286, deviation 0.353"
