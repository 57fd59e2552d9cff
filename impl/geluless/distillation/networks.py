"""What every phase of a recipe works on: teacher and student, and the images that they see."""

from __future__ import annotations

import copy
import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geluless.data.balance import balanced_indices
from geluless.distillation.soft_labels import SoftLabels
from geluless.errors import DataError, ModelError
from geluless.models.activations import replace_gelu
from geluless.models.swin import named_blocks, require_swin

if TYPE_CHECKING:
    from geluless.data import ImageSource
    from geluless.distillation.recipes import Recipe


class Networks:
    """The teacher, a student that begins as its copy, and the student's blocks in the order in which they are swapped."""

    def __init__(self, teacher: nn.Module, *, seed: int, drop_bias: bool, backwards: bool, count: int | None = None) -> None:
        """With `count` that many blocks are swapped. Raises ModelError where the network has fewer."""
        self.teacher = copy.deepcopy(require_swin(teacher)).eval().requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True)
        names = [name for name, _ in named_blocks(self.student)]
        if count is not None and not 1 <= count <= len(names):
            raise ModelError(f"{count} blocks asked for, the network has {len(names)}: ask for 1 to {len(names)}")
        if backwards:
            names.reverse()
        self.blocks = names[:count]
        self._depth = len(names)
        self._seed, self._drop_bias, self._backwards = seed, drop_bias, backwards

    def swap(self, count: int) -> None:
        """ReLU in the first `count` blocks, in all where there are fewer; those that have it already keep it."""
        count = min(count, len(self.blocks))
        blocks = range(self._depth - count, self._depth) if self._backwards else range(count)
        replace_gelu(self.student, blocks=blocks, drop_bias=self._drop_bias)

    def generator(self, stream: str, block: str) -> torch.Generator:
        """A random stream that depends on nothing but the run's seed and the place in it."""
        digest = hashlib.sha256(f"{self._seed}/{stream}/{block}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


class SplitImages:
    """The images of one run: some, class-balanced, are held out; they judge and are never trained on. The rest trains.

    With `shuffled` the teacher sees another image than the student, of those that train and of those that judge.
    """

    def __init__(self, source: ImageSource, recipe: Recipe, teacher: nn.Module, *, shuffled: bool = False) -> None:
        """Raises DataError where fewer images are left for training than the recipe needs."""
        count, held = len(source), round(recipe.held_out_fraction * len(source))
        needed = recipe.local.images if recipe.local else 1
        if held < 1 or count - held < needed:
            raise DataError(
                f"recipe {recipe.name} needs {needed} training images besides {held} held-out ones; there are {count}"
            )
        self._source, self._teacher, self._shuffled = source, teacher, shuffled
        self._held_out = balanced_indices(source.labels, held)
        self._training = sorted(set(range(count)) - set(self._held_out))

    def training(self, count: int) -> Tensor:
        """float32 [count, C, H, W], class-balanced."""
        chosen = balanced_indices(self._source.labels[self._training], count)
        return self._load([self._training[index] for index in chosen])

    def taught(self, images: Tensor) -> Tensor:
        """What the teacher sees, float32 [N, C, H, W], where the student sees `images`."""
        return images[others(len(images))] if self._shuffled else images

    @cached_property
    def training_labels(self) -> SoftLabels:
        return self._labels(self._training)

    @cached_property
    def held_out_labels(self) -> SoftLabels:
        return self._labels(self._held_out)

    def _labels(self, indices: list[int]) -> SoftLabels:
        images = self._load(indices)
        labels = SoftLabels.of(self._teacher, self.taught(images))
        return SoftLabels(images, labels.logits)

    def _load(self, indices: list[int]) -> Tensor:
        device = next(self._teacher.parameters()).device
        return torch.cat(list(self._source.batches(256, indices=indices))).to(device)


def others(count: int) -> Tensor:
    """int64 [count]: for each of `count` images another one, in one random cycle through all of them."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    other = torch.empty_like(cycle)
    other[cycle] = cycle.roll(1)
    return other
