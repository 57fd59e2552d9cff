"""Distillations that differ from a recipe in how the blocks are swapped: without fc1's bias, or the last block first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from geluless.distillation.loop import DistillationRun, OnBlock
from geluless.distillation.recipes import Recipe, RecipeError, resolve_recipe
from geluless.distillation.records import Distillation
from geluless.models.activations import replace_gelu

if TYPE_CHECKING:
    from geluless.data import ImageSource


class _Variant(DistillationRun):
    """The loop of `distill` with another swap."""

    def __init__(self, *arguments: Any, drop_bias: bool, backwards: bool) -> None:
        super().__init__(*arguments)
        self.drop_bias, self.backwards = drop_bias, backwards
        if backwards:
            self.names.reverse()

    def _swap(self, count: int) -> None:
        last = len(self.names)
        count = min(count, last)
        replace_gelu(self.student, blocks=range(last - count, last) if self.backwards else range(count), drop_bias=self.drop_bias)


def distill_variant(
    teacher: nn.Module,
    images: ImageSource,
    *,
    recipe: Recipe | str,
    seed: int,
    drop_bias: bool = False,
    backwards: bool = False,
    on_block: OnBlock | None = None,
) -> Distillation:
    """`distill` with `drop_bias` (fc1's bias goes with its GELU) or `backwards` (the last block is swapped first).

    Raises RecipeError for a local recipe backwards: each block is fitted to the outputs of the student's blocks before it, so it
    walks forward by construction.
    """
    chosen = resolve_recipe(recipe)
    if backwards and chosen.local is not None:
        raise RecipeError(f"recipe {chosen.name} fits each block to the student's earlier ones: it cannot walk backwards")
    run = _Variant(teacher, images, chosen, seed, None, on_block, drop_bias=drop_bias, backwards=backwards)
    run.swap_blocks()
    run.polish()
    return run.result()
