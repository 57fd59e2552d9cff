"""The loop over a recipe's steps: take one, keep its record, save. A killed run goes on after its last saved step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from tqdm import tqdm

from geluless.distillation.checkpoints import NAME, RunCheckpoint, RunIdentity
from geluless.distillation.networks import Networks, SplitImages
from geluless.distillation.phases import Phase, phases_of
from geluless.distillation.recipes import Recipe, RecipeError, resolve_recipe
from geluless.distillation.records import BlockRecord, Distillation, Status
from geluless.errors import ModelError
from geluless.files import one_run_in
from geluless.models.activations import activation_of, replace_gelu
from geluless.models.swin import weights_digest

if TYPE_CHECKING:
    from geluless.data import ImageSource


def distill(
    teacher: nn.Module,
    images: ImageSource,
    *,
    recipe: Recipe | str = "local",
    seed: int = 0,
    drop_bias: bool = False,
    backwards: bool = False,
    blocks: int | None = None,
    shuffled: bool = False,
    checkpoint_dir: Path | str | None = None,
    on_block: Callable[[BlockRecord], None] | None = None,
) -> Distillation:
    """Turn a GELU teacher into a ReLU student; the teacher is left as it is.

    `images` are training images, float32 [B, C, H, W] by batches; labels only balance the choice of images, no loss sees
    them. With `drop_bias` fc1's bias goes with its GELU; `backwards` swaps the last block first; with `blocks` only so many
    blocks are swapped, and the others keep their GELU. `shuffled` is a negative control: each image is taught the teacher's
    answer to another one. With `checkpoint_dir` a killed run that is started again ends with the weights of an uninterrupted
    one, bit for bit, on the same machine and number of threads. Raises ModelError for a teacher that is not all GELU or has
    fewer blocks, CheckpointError for another run's checkpoint, DataError for too few images, RecipeError for an unknown
    recipe, and for a local one backwards: it fits each block to the outputs of the student's blocks before it, so it walks
    forward by construction.
    """
    chosen = resolve_recipe(recipe)
    if activation_of(teacher) != "gelu":
        raise ModelError("the teacher must have GELU in every MLP: pass the original network, not a swapped one")
    if backwards and chosen.local is not None:
        raise RecipeError(f"recipe {chosen.name} fits each block to the student's earlier ones: it cannot walk backwards")
    networks = Networks(teacher, seed=seed, drop_bias=drop_bias, backwards=backwards, count=blocks)
    phases = phases_of(chosen, networks, SplitImages(images, chosen, networks.teacher, shuffled=shuffled))
    variation = " drop_bias" * drop_bias + " backwards" * backwards + " shuffled" * shuffled
    if blocks is not None:
        variation += f" first {blocks} blocks"
    identity = RunIdentity(
        recipe=str(asdict(chosen)) + variation,
        seed=seed,
        teacher=weights_digest(networks.teacher),
        images=images.digest,
        threads=torch.get_num_threads(),
    )
    checkpoint = RunCheckpoint(Path(checkpoint_dir), identity) if checkpoint_dir is not None else None
    with one_run_in(checkpoint.path.parent, name=NAME) if checkpoint else nullcontext():
        records = _resume(networks, checkpoint)
        for record in _steps(phases, done=len(records), name=chosen.name):
            records.append(record)
            if checkpoint:
                checkpoint.save(networks.student.state_dict(), [r.to_json() for r in records])
            if on_block:
                on_block(record)
    if blocks is None:
        replace_gelu(networks.student)  # raises if a GELU were left
    warnings = [f"{r.block} ({r.phase}): {r.status.value}" for r in records if r.status is not Status.OK]
    student = networks.student.eval().requires_grad_(False)
    return Distillation(student, chosen.name, seed, tuple(records), tuple(warnings))


def _steps(phases: Sequence[Phase], *, done: int, name: str) -> Iterator[BlockRecord]:
    """Take those after the first `done` of all phases, with a progress bar for each phase."""
    for phase in phases:
        if done < len(phase.steps):
            yield from tqdm(phase.run(done), total=len(phase.steps), initial=done, desc=name, disable=None, leave=False)
        done = max(0, done - len(phase.steps))


def _resume(networks: Networks, checkpoint: RunCheckpoint | None) -> list[BlockRecord]:
    """The records of the steps that an earlier process saved; the student gets their weights."""
    saved = checkpoint.load() if checkpoint else None
    if saved is None:
        return []
    weights, records = saved
    networks.swap(len(records))
    networks.student.load_state_dict(weights)
    return [BlockRecord.from_json(record) for record in records]
