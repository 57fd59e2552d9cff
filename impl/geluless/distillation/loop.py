"""The loop over blocks: swap, distil, record, save; resumable between any two blocks."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from tqdm import tqdm

from geluless.data.balance import balanced_indices
from geluless.distillation import soft_labels
from geluless.distillation.checkpoints import RunCheckpoint, RunIdentity
from geluless.distillation.local import Tokens, fit_mlp
from geluless.distillation.recipes import LocalSettings, Recipe, RecipeError, SoftLabelSettings, resolve_recipe
from geluless.distillation.records import BlockRecord, Distillation, Status
from geluless.distillation.soft_labels import SoftLabels
from geluless.errors import DataError, ModelError
from geluless.models.activations import activation_of, replace_gelu
from geluless.models.swin import named_blocks, require_swin, weights_digest

if TYPE_CHECKING:
    from geluless.data import ImageSource

OnBlock = Callable[[BlockRecord], None]


def distill(
    teacher: nn.Module,
    images: ImageSource,
    *,
    recipe: Recipe | str = "local",
    seed: int = 0,
    drop_bias: bool = False,
    backwards: bool = False,
    checkpoint_dir: Path | str | None = None,
    on_block: OnBlock | None = None,
) -> Distillation:
    """Turn a GELU teacher into a ReLU student; the teacher is left as it is.

    `images` are training images, float32 [B, C, H, W] by batches; labels only balance the choice of images, no loss sees
    them. With `drop_bias` fc1's bias goes with its GELU; `backwards` swaps the last block first. With `checkpoint_dir` a
    killed run that is started again ends with the weights of an uninterrupted one, bit for bit, on the same machine and
    number of threads. Raises ModelError for a teacher that is not all GELU, CheckpointError for another run's checkpoint,
    DataError for too few images, RecipeError for an unknown recipe, and for a local one backwards: it fits each block to the
    outputs of the student's blocks before it, so it walks forward by construction.
    """
    chosen = resolve_recipe(recipe)
    if activation_of(teacher) != "gelu":
        raise ModelError("the teacher must have GELU in every MLP: pass the original network, not a swapped one")
    if backwards and chosen.local is not None:
        raise RecipeError(f"recipe {chosen.name} fits each block to the student's earlier ones: it cannot walk backwards")
    run = _Run(teacher, images, chosen, seed, checkpoint_dir, on_block, drop_bias=drop_bias, backwards=backwards)
    run.resume()
    run.swap_blocks()
    run.polish()
    return run.result()


class _Run:
    """State of one distillation: the student and its records. Everything else is derived from the arguments."""

    def __init__(
        self,
        teacher: nn.Module,
        images: ImageSource,
        recipe: Recipe,
        seed: int,
        checkpoint_dir: Path | str | None,
        on_block: OnBlock | None,
        *,
        drop_bias: bool,
        backwards: bool,
    ) -> None:
        self.recipe, self.seed, self.on_block = recipe, seed, on_block
        self.drop_bias, self.backwards = drop_bias, backwards
        self.teacher = copy.deepcopy(require_swin(teacher)).eval().requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        self.images = images
        self.records: list[BlockRecord] = []
        self.names = [name for name, _ in named_blocks(self.student)]  # in the order in which they are swapped
        if backwards:
            self.names.reverse()
        self.device = next(self.teacher.parameters()).device
        self.training, self.held_out = _split(images, recipe)
        identity = RunIdentity(
            recipe=str(asdict(recipe)) + " drop_bias" * drop_bias + " backwards" * backwards,
            seed=seed,
            teacher=weights_digest(self.teacher),
            images=images.digest,
            threads=torch.get_num_threads(),
        )
        self.checkpoint = RunCheckpoint(Path(checkpoint_dir), identity) if checkpoint_dir is not None else None

    # ------------------------------------------------------------------------------------------------------ resuming

    def resume(self) -> None:
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        weights, records = saved
        self.records = [BlockRecord.from_json(record) for record in records]
        self._swap(len(self.records))
        self.student.load_state_dict(weights)

    def _swap(self, count: int) -> None:
        """ReLU in the first `count` blocks; records of the polish do not swap anything."""
        last = len(self.names)
        count = min(count, last)
        blocks = range(last - count, last) if self.backwards else range(count)
        replace_gelu(self.student, blocks=blocks, drop_bias=self.drop_bias)

    def _finish(self, record: BlockRecord) -> None:
        self.records.append(record)
        if self.checkpoint:
            self.checkpoint.save(self.student.state_dict(), [r.to_json() for r in self.records])
        if self.on_block:
            self.on_block(record)

    def _generator(self, phase: str, block: str) -> torch.Generator:
        """A random stream that depends on nothing but the run's seed and the place in it."""
        digest = hashlib.sha256(f"{self.seed}/{phase}/{block}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    # ------------------------------------------------------------------------------------------------------- phases

    def swap_blocks(self) -> None:
        if len(self.records) >= len(self.names):
            return
        if self.recipe.local:
            self._swap_locally(self.recipe.local)
        elif self.recipe.soft_labels:
            self._swap_by_soft_labels(self.recipe.soft_labels)

    def _swap_by_soft_labels(self, settings: SoftLabelSettings) -> None:
        labels, held_out = self._soft_labels(self.training), self._soft_labels(self.held_out)
        for name in tqdm(self.names[len(self.records) :], desc=self.recipe.name, disable=None, leave=False):
            self._swap(len(self.records) + 1)
            self._finish(self._train_soft(name, "soft labels", settings, labels, held_out))

    def polish(self) -> None:
        if self.recipe.polish is None or len(self.records) > len(self.names):
            return
        labels, held_out = self._soft_labels(self.training), self._soft_labels(self.held_out)
        self._finish(self._train_soft("all blocks", "polish", self.recipe.polish, labels, held_out))

    def _train_soft(
        self, name: str, phase: str, settings: SoftLabelSettings, labels: SoftLabels, held_out: SoftLabels
    ) -> BlockRecord:
        started = time.perf_counter()
        probe = SoftLabels(labels.images[: len(held_out.images)], labels.logits[:, : len(held_out.images)])
        losses = [[soft_labels.held_out_divergence(self.student, part, settings.temperature) for part in (probe, held_out)]]
        weights = copy.deepcopy(self.student.state_dict())
        curve = soft_labels.train(self.student, labels, settings, self._generator(phase, name))
        losses.append([soft_labels.held_out_divergence(self.student, part, settings.temperature) for part in (probe, held_out)])
        (before, held_before), (after, held_after) = losses
        status = soft_labels.judge(curve, (before[0], held_before[0]), (after[0], held_after[0]))
        if soft_labels.ran_away(curve, held_before[0], held_after[0]):  # must not poison the rest of the run; the curve shows it
            self.student.load_state_dict(weights)
            after, held_after = before, held_before
        seconds = time.perf_counter() - started
        return BlockRecord(
            name, phase, before[0], after[0], held_before[0], held_after[0], held_after[1], seconds, status, tuple(curve)
        )

    def _swap_locally(self, settings: LocalSettings) -> None:
        chosen = torch.tensor(balanced_indices(self.images.labels[self.training], settings.images))
        training = torch.tensor(self.training)[chosen].tolist()
        held_out_labels = self._soft_labels(self.held_out)
        streams = _Streams(self.teacher, self.student, self._load(training), self._load(self.held_out))
        blocks = tqdm(streams.walk(), total=len(self.names), desc=self.recipe.name, disable=None, leave=False)
        for index, (block, tokens) in enumerate(blocks):
            if index < len(self.records):
                continue
            name, started = self.names[index], time.perf_counter()
            self._swap(index + 1)
            fit = fit_mlp(block.mlp, tokens, settings, self._generator("local", name))
            _, agreement = soft_labels.held_out_divergence(self.student, held_out_labels, 1.0)
            seconds = time.perf_counter() - started
            losses = (fit.loss_before, fit.loss, fit.held_out_before, fit.held_out)
            self._finish(BlockRecord(name, "local", *losses, agreement, seconds, fit.status, fit.curve))

    # --------------------------------------------------------------------------------------------------------- data

    def _load(self, indices: list[int]) -> Tensor:
        return torch.cat(list(self.images.batches(256, indices=indices))).to(self.device)

    def _soft_labels(self, indices: list[int]) -> SoftLabels:
        return SoftLabels.of(self.teacher, self._load(indices))

    def result(self) -> Distillation:
        replace_gelu(self.student)  # raises if a GELU were left
        failed = [record for record in self.records if record.status is not Status.OK]
        warnings = [f"{record.block} ({record.phase}): {record.status.value}" for record in failed]
        student = self.student.eval().requires_grad_(False)
        return Distillation(student, self.recipe.name, self.seed, tuple(self.records), tuple(warnings))


def _split(images: ImageSource, recipe: Recipe) -> tuple[list[int], list[int]]:
    """(training, held-out) indices, both class-balanced: the first images of the balanced order are held out."""
    count = len(images)
    held = round(recipe.held_out_fraction * count)
    needed = recipe.local.images if recipe.local else 1
    if held < 1 or count - held < needed:
        raise DataError(f"recipe {recipe.name} needs {needed} training images besides {held} held-out ones; there are {count}")
    held_out = balanced_indices(images.labels, held)
    kept = set(held_out)
    return [i for i in range(count) if i not in kept], held_out


class _Streams:
    """The token tensors of teacher and student, advanced block by block: the cost is linear in the depth."""

    def __init__(self, teacher: SwinTransformer, student: SwinTransformer, images: Tensor, held_out: Tensor) -> None:
        self.networks = (teacher, student)
        self.count = len(images)
        everything = torch.cat([images, held_out])
        self.streams = [_chunked(network.patch_embed, everything) for network in self.networks]

    def walk(self) -> Iterator[tuple[nn.Module, Tokens]]:
        """Yields each student block with its tokens; the block may be changed before the next one is asked for."""
        for teacher_stage, student_stage in zip(*(network.layers for network in self.networks), strict=True):
            self.streams = [
                _chunked(stage.downsample, x) for stage, x in zip((teacher_stage, student_stage), self.streams, strict=True)
            ]
            for teacher_block, student_block in zip(teacher_stage.blocks, student_stage.blocks, strict=True):
                target = _chunked(teacher_block, self.streams[0])
                middle = _chunked(partial(_after_attention, student_block), self.streams[1])
                inputs = _chunked(student_block.norm2, middle)
                yield student_block, self._tokens(inputs, target - middle)
                self.streams = [target, middle + _chunked(student_block.mlp, inputs)]

    def _tokens(self, inputs: Tensor, targets: Tensor) -> Tokens:
        split = [x[part].flatten(0, 2) for part in (slice(self.count), slice(self.count, None)) for x in (inputs, targets)]
        return Tokens(*split)


def _after_attention(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """The residual stream between a block's two halves."""
    return x + block._attn(block.norm1(x))


@torch.no_grad()
def _chunked(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(chunk) for chunk in x.split(128)])
