"""Distillation: recipes that turn a GELU teacher into a ReLU student, block by block."""

from geluless.distillation.bias_correction import correct_biases
from geluless.distillation.loop import distill
from geluless.distillation.recipes import RECIPES, LocalSettings, Recipe, RecipeError, SoftLabelSettings
from geluless.distillation.records import BlockRecord, Distillation, Status, format_record

__all__ = [
    "RECIPES",
    "BlockRecord",
    "Distillation",
    "LocalSettings",
    "Recipe",
    "RecipeError",
    "SoftLabelSettings",
    "Status",
    "correct_biases",
    "distill",
    "format_record",
]
