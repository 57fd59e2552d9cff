"""Options that several verbs share, in timm's spellings, and what they open."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from geluless.commands.result import OptionError
from geluless.errors import CheckpointError
from geluless.processors import MAX_THREADS, requested_threads, usable_processors

if TYPE_CHECKING:
    from timm.models.swin_transformer import SwinTransformer

    from geluless.data.listing import ClassOrder
    from geluless.data.source import ImageSource

ACTIVATIONS = ("auto", "gelu", "relu")
THREADS_HELP = "CPU threads (default: $GELULESS_THREADS, or the processors that this process may use: affinity, cgroup quota)"


def positive(text: str) -> int:
    """argparse type: a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def threads(text: str) -> int:
    """argparse type: a number of threads."""
    value = positive(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} threads are too many: 1 to {MAX_THREADS}")
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--threads", type=threads, metavar="N", help=THREADS_HELP)


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", "-m", required=required, metavar="NAME", help="timm's, or swin_micro_{tiny,small,base,large}")
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help=".safetensors, what torch.save wrote, Hugging Face folder (default for micro models: the shipped teacher)",
    )
    group.add_argument(
        "--use-ema", action="store_true", help="the moving average of the weights, where a training script kept one"
    )
    group.add_argument("--pretrained", action="store_true", help="let timm download its weights")
    group.add_argument("--num-classes", type=positive, metavar="N", help="default: the checkpoint's")
    group.add_argument(
        "--img-size", type=positive, metavar="N", help="square input size (default: the checkpoint's, else the model's)"
    )


def add_activation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default="auto",
        help="of the checkpoint's MLPs; auto reads what `geluless distill` wrote into the file, and takes GELU elsewhere",
    )
    parser.add_argument("--relu", dest="activation", action="store_const", const="relu", help="short for --activation relu")


def add_data(parser: argparse.ArgumentParser, *, split: str, required: bool = True) -> None:
    group = parser.add_argument_group("images")
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument("--data-dir", type=Path, metavar="DIR", help="one folder per class, or train/ and val/ with those inside")
    source.add_argument("--embedded", action="store_true", help="the Fashion-MNIST images of the repository (micro models)")
    group.add_argument("--split", metavar="NAME", help=f"train or val (default: {split} where DIR has it, else DIR itself)")
    group.add_argument(
        "--class-order",
        metavar="ORDER",
        help="natural (timm's, the default), plain (torchvision's), or a file with one class name per line",
    )
    parser.set_defaults(default_split=split)


def add_batch_size(parser: argparse.ArgumentParser, *, default: int) -> None:
    parser.add_argument("-b", "--batch-size", type=positive, default=default, metavar="N", help=f"default: {default}")


def add_output(parser: argparse.ArgumentParser, *, suffix: str) -> None:
    parser.add_argument("--output", "-o", type=Path, required=True, metavar=f"FILE{suffix}")
    parser.add_argument("--force", action="store_true", help="replace the output file if it exists")


def set_threads(options: argparse.Namespace) -> None:
    """torch's. Its own default ($OMP_NUM_THREADS, affinity) stands where it is no more than this process may use."""
    import torch

    torch.set_num_threads(options.threads or requested_threads() or min(torch.get_num_threads(), usable_processors()))


def notes(options: argparse.Namespace) -> list[str]:
    """What `note` has said, for --json."""
    kept: list[str] = vars(options).setdefault("notes", [])
    return kept


def note(options: argparse.Namespace, lines: Iterable[str]) -> None:
    """Say each line once on stderr."""
    kept = notes(options)
    for line in lines:
        if line not in kept:
            kept.append(line)
            print(f"geluless: note: {line}", file=sys.stderr)


def open_model(options: argparse.Namespace, *, activation: str = "gelu") -> SwinTransformer:
    """The float32 network of --model with its weights, its MLPs set to `activation` ("auto", "gelu", "relu").

    Raises OptionError when no weights are named, CheckpointError when the file says it holds the other activation.
    """
    from geluless.models.activations import replace_gelu
    from geluless.models.checkpoint import read_checkpoint
    from geluless.models.swin import create_model

    path = checkpoint_path(options)
    found = None if path is None else read_checkpoint(path, use_ema=options.use_ema)
    if options.use_ema and found is None:
        raise OptionError("--use-ema is about a checkpoint of your own: it needs --checkpoint FILE")
    written = None if found is None else found.stated.activation
    if activation == "auto":
        activation = written or "gelu"
    elif written not in (None, activation):
        raise CheckpointError(f"{path} says its activation is {written}, not {activation}: drop the option or name another file")
    if found is not None:
        note(options, (f"{found.path}: {remark}" for remark in found.remarks))
    model = create_model(
        options.model,
        found,
        pretrained=options.pretrained,
        num_classes=options.num_classes,
        img_size=options.img_size,
    )
    if activation == "relu":
        replace_gelu(model)
    return model.eval()


def checkpoint_path(options: argparse.Namespace) -> Path | None:
    """--checkpoint, or the shipped teacher for a micro model; None means timm's download. OptionError when nothing is named."""
    from geluless.data.manifest import teacher_path
    from geluless.models.micro import MICRO_CONFIGS

    if options.checkpoint is not None:
        if options.pretrained:
            raise OptionError("--checkpoint and --pretrained contradict each other: give one")
        return Path(options.checkpoint)
    if options.model in MICRO_CONFIGS:
        return teacher_path(options.model)
    if not options.pretrained:
        raise OptionError(f"{options.model} without weights would be random: give --checkpoint FILE or --pretrained")
    return None


def recorded_activation(checkpoint: Path) -> str | None:
    """The activation that `geluless distill` wrote into the file's metadata, or None."""
    from geluless.models.checkpoint import file_metadata
    from geluless.models.checkpoint_facts import recorded_facts

    if checkpoint.suffix != ".safetensors" or not checkpoint.is_file():
        return None
    return recorded_facts(file_metadata(checkpoint), origin=str(checkpoint)).activation


def open_images(options: argparse.Namespace, *, model: SwinTransformer) -> ImageSource:
    """The images of --embedded or --data-dir, prepared for `model`. Raises OptionError, DataError."""
    from geluless.data.embedded import embedded_images
    from geluless.data.folders import folder_images
    from geluless.models.interface import input_size_of
    from geluless.models.micro import MICRO_INPUT_SIZE

    if options.embedded:
        if input_size_of(model) != MICRO_INPUT_SIZE:
            raise OptionError(f"--embedded images are grey 28x28, for the micro models: give {options.model} a --data-dir")
        if options.split not in (None, "train", "test", "val"):
            raise OptionError(f"the embedded images have the splits train and test, not {options.split!r}")
        if options.class_order is not None:
            raise OptionError("--class-order is about class folders: it needs --data-dir")
        return embedded_images("train" if (options.split or options.default_split) == "train" else "test")
    order = class_order(options.class_order)
    images = folder_images(options.data_dir, model=model, split=options.split, prefer=options.default_split, class_order=order)
    note(options, (f"{options.data_dir}: {line}" for line in images.notes))
    return images


def class_order(given: str | None) -> ClassOrder | None:
    """--class-order: natural, plain, or the lines of a file. Raises OptionError for a file that cannot be read."""
    from geluless.data.listing import ORDERS

    if given is None or given in ORDERS:
        return given
    try:
        lines = Path(given).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--class-order {given} is neither {' nor '.join(ORDERS)} nor a file that can be read ({error})"
        ) from None
    return tuple(line for line in lines if line)


def check_isa(options: argparse.Namespace) -> None:
    """Raises OptionError for an --isa that cannot be had."""
    if options.isa is None:
        return
    if options.backend != "cpu":
        raise OptionError("--isa chooses among the compiled kernels: it needs --backend cpu")
    from geluless.engine.cpu import choose_isa

    try:
        choose_isa(options.isa)
    except ValueError as error:
        raise OptionError(f"--isa: {error}") from None
