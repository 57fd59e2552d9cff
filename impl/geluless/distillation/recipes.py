"""Recipes as values, read from the one file of hyper-parameters beside this one."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from geluless.errors import GelulessError


class RecipeError(GelulessError):
    """A recipe that does not exist, or whose settings make no sense."""


@dataclass(frozen=True)
class LocalSettings:
    """Per-MLP reconstruction: student inputs, teacher block outputs as targets."""

    images: int
    ridge: float
    steps: int
    tokens_per_step: int
    learning_rate: float
    converged_below: float


@dataclass(frozen=True)
class SoftLabelSettings:
    """Distillation of the teacher's softened class probabilities, end to end (Hinton et al., arXiv 1503.02531)."""

    epochs: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    temperature: float
    max_gradient_norm: float


@dataclass(frozen=True)
class Recipe:
    """How a GELU teacher becomes a ReLU student. Phases that are None do not run."""

    name: str
    held_out_fraction: float
    local: LocalSettings | None = None  # block after block, no end-to-end training
    soft_labels: SoftLabelSettings | None = None  # block after block, the whole network trained after each swap
    finetune: SoftLabelSettings | None = None  # once, after all blocks are swapped

    def __post_init__(self) -> None:
        if (self.local is None) == (self.soft_labels is None):
            raise RecipeError(f"recipe {self.name} must swap its blocks by exactly one of [local] and [soft_labels]")
        if not 0 < self.held_out_fraction < 1:
            raise RecipeError(f"recipe {self.name}: held_out_fraction must lie between 0 and 1")
        for phase in (self.local, self.soft_labels, self.finetune):
            for setting in dataclasses.fields(phase) if phase else ():
                value = getattr(phase, setting.name)
                if value < 0 or (value == 0 and setting.name not in ("weight_decay", "ridge", "steps")):
                    raise RecipeError(f"recipe {self.name}: {setting.name} = {value} must be positive")


_PHASES = {"local": LocalSettings, "soft_labels": SoftLabelSettings, "finetune": SoftLabelSettings}


def parse_recipes(text: str) -> dict[str, Recipe]:
    """Recipes by name from TOML. Raises RecipeError for unknown, missing or ill-typed settings."""
    return {name: _parse_recipe(name, table) for name, table in tomllib.loads(text).items()}


def _parse_recipe(name: str, table: dict[str, Any]) -> Recipe:
    if unknown := sorted(table.keys() - _PHASES.keys() - {"held_out_fraction"}):
        raise RecipeError(f"recipe {name} has an unknown setting {unknown[0]!r}; it takes {', '.join(_PHASES)}")
    phases = {key: _parse_phase(f"{name}.{key}", kind, table[key]) for key, kind in _PHASES.items() if key in table}
    return Recipe(name, float(table.get("held_out_fraction", -1)), **phases)


def _parse_phase(where: str, kind: type, table: dict[str, Any]) -> Any:
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    if table.keys() != known.keys():
        odd = min(table.keys() ^ known.keys())
        raise RecipeError(f"[{where}] {'lacks' if odd in known else 'does not know'} {odd!r}; it takes {', '.join(known)}")
    for key, value in table.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or (known[key] == "int" and not isinstance(value, int)):
            raise RecipeError(f"[{where}] {key} = {value!r} is not of type {known[key]}")
    return kind(**table)


RECIPES = parse_recipes((resources.files(__package__) / "recipes.toml").read_text())


def resolve_recipe(recipe: str | Recipe) -> Recipe:
    """A recipe by name or as it is."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise RecipeError(f"no recipe is called {recipe!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[recipe]
