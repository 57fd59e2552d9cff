"""Distillation with one factor changed at a time, and the table that says what the change did.

Each setting is compared with the same recipe unchanged, on the same images and with the same seed: paired drop and exact McNemar
p, Holm-corrected over every comparison of the table. Nothing here runs a network; outcomes come in as bool [N], right or wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from statsmodels.stats.multitest import multipletests

from geluless.data.selection import Selection
from geluless.verdicts.equivalence import PairedDrop, paired_drop
from geluless.verdicts.statistics import Interval, mean_difference
from geluless.verdicts.verdict import Estimate

if TYPE_CHECKING:
    from geluless.distillation import Recipe

# What AdamW and the ridge take for zero and for infinity: no weight in float32 moves by it. A recipe refuses a plain zero.
NOTHING, HELD = 1e-30, 1e30


@dataclass(frozen=True)
class Setting:
    """One factor of one recipe at another value: `times` multiplies hyper-parameters of its phase, `to` replaces them."""

    factor: str
    value: str
    recipe: str = "local"
    times: Mapping[str, float] = field(default_factory=dict)
    to: Mapping[str, float] = field(default_factory=dict)
    backwards: bool = False  # the last block is swapped first
    images: int | None = None  # the recipe is given so many training images, chosen by `selection`, and holds its share out
    selection: Selection = Selection.BALANCED
    default: bool = False  # runs without --full
    seconds: float = 50  # on one quiet core, tiny micro network


# The embedded training images, 6,000, are 10 % of their data set, whence the per cents; a tenth of them is held out.
SETTINGS: dict[str, Setting] = {
    "rate-quarter": Setting("learning rate", "x 1/4", times={"learning_rate": 0.25}, seconds=40),
    "rate-fourfold": Setting("learning rate", "x 4", times={"learning_rate": 4}, default=True, seconds=40),
    "steps-none": Setting("steps", "none: the closed form alone", to={"steps": 0}, default=True, seconds=22),
    "steps-quarter": Setting("steps", "x 1/4", times={"steps": 0.25}, seconds=28),
    "steps-double": Setting("steps", "x 2", times={"steps": 2}, seconds=65),
    "closed-form-off": Setting("closed form", "off: the gradient steps alone", to={"ridge": HELD}, default=True, seconds=40),
    "batch-half": Setting("batch", "x 1/2", times={"tokens_per_step": 0.5}, default=True, seconds=32),
    "batch-fourfold": Setting("batch", "x 4", times={"tokens_per_step": 4}, seconds=110),
    "data-tenth": Setting("data fraction", "0.1 % (60 images)", to={"images": 60}, default=True, seconds=30),
    "data-1-percent": Setting("data fraction", "1 % (600 images)", to={"images": 600}, seconds=36),
    "data-3-percent": Setting("data fraction", "3 % (1,800 images)", to={"images": 1800}, seconds=45),
    "data-all": Setting("data fraction", "9 % (5,400 images)", to={"images": 5400}, seconds=90),
    "order-backwards": Setting("order of blocks", "backwards", recipe="paper", backwards=True, seconds=200),
    "paper-rate-quarter": Setting("learning rate", "x 1/4", recipe="paper", times={"learning_rate": 0.25}, seconds=200),
    "paper-rate-fourfold": Setting("learning rate", "x 4", recipe="paper", times={"learning_rate": 4}, seconds=200),
    "paper-batch-half": Setting("batch", "x 1/2", recipe="paper", times={"batch_size": 0.5}, seconds=220),
    "paper-batch-double": Setting("batch", "x 2", recipe="paper", times={"batch_size": 2}, seconds=190),
    "paper-epochs-half": Setting("epochs", "x 1/2", recipe="paper", times={"epochs": 0.5}, seconds=120),
    "paper-epochs-double": Setting("epochs", "x 2", recipe="paper", times={"epochs": 2}, seconds=380),
    "paper-temperature-1": Setting("temperature", "1", recipe="paper", to={"temperature": 1}, seconds=200),
    "paper-temperature-10": Setting("temperature", "10", recipe="paper", to={"temperature": 10}, seconds=200),
    "paper-data-1-percent": Setting("data fraction", "1 % (600 images)", recipe="paper", images=600, default=True, seconds=40),
    "paper-data-3-percent": Setting("data fraction", "3 % (1,800 images)", recipe="paper", images=1800, seconds=75),
    **{
        f"paper-selection-{name}": Setting(
            "selection", f"1 % (600 images) {rule.value}", recipe="paper", images=600, selection=rule, seconds=45
        )
        for name, rule in (
            ("random", Selection.RANDOM),
            ("half-the-classes", Selection.HALF_THE_CLASSES),
            ("least-certain", Selection.LEAST_CERTAIN),
        )
    },
}

# The negative control of the table: distillation runs and may change no weight, so it must recover nothing.
CONTROL = "rate-zero"
_STILL = {"learning_rate": NOTHING, "ridge": HELD, "images": 64, "steps": 8}
CONTROL_SETTING = Setting("learning rate", "zero", to=_STILL, seconds=18)


def setting_of(name: str) -> Setting:
    """Raises ValueError for a name that is neither in SETTINGS nor the control."""
    if name == CONTROL:
        return CONTROL_SETTING
    if name not in SETTINGS:
        raise ValueError(f"no setting is called {name!r}; there are {', '.join([*SETTINGS, CONTROL])}")
    return SETTINGS[name]


def recipe_of(setting: Setting) -> Recipe:
    """The base recipe with the setting's changes in its one phase. Raises TypeError for a hyper-parameter the phase lacks."""
    from geluless.distillation import RECIPES

    base = RECIPES[setting.recipe]
    phase = "local" if base.local is not None else "soft_labels"
    settings: Any = getattr(base, phase)
    changes = {**{name: getattr(settings, name) * factor for name, factor in setting.times.items()}, **setting.to}
    for name in changes:
        if isinstance(getattr(settings, name, None), int):
            changes[name] = round(changes[name])
    return dataclasses.replace(
        base, name=f"{base.name}, {setting.factor} {setting.value}", **{phase: dataclasses.replace(settings, **changes)}
    )


# The negative control of recovery: a recipe whose teacher answers for another image than the student sees, beside the same run in
# which it does not. Both are small, so that every recipe has its own at every size.
CONTROL_IMAGES = 320  # of which the recipe holds its share out
CONTROL_JUDGED = 1000  # test images, the first ones: what has learned nothing is tens of points away
_SMALL = {"images": 64, "steps": 8}


def control_recipe(name: str) -> Recipe:
    """The recipe `name` on few images and with few steps; all else is its own. Raises ValueError for an unknown one."""
    from geluless.distillation import RECIPES

    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    base = RECIPES[name]
    local = dataclasses.replace(base.local, **_SMALL) if base.local is not None else None
    return dataclasses.replace(base, name=f"{name}, as a control", local=local)


@dataclass(frozen=True)
class Row:
    """One setting against its base recipe."""

    setting: Setting
    drops: Mapping[int, PairedDrop]  # by seed, against the base recipe with that seed
    drop_pp: Interval  # mean over the seeds; percentage points, negative is a gain
    p_holm: float  # the smallest over the seeds, corrected over every comparison of the table

    @property
    def n(self) -> int:
        """Test images."""
        return next(iter(self.drops.values())).n

    def estimate(self) -> Estimate:
        name = f"{self.setting.recipe}, {self.setting.factor} {self.setting.value}: drop against the base recipe"
        return Estimate(name, self.drop_pp.value, self.drop_pp.low, self.drop_pp.high, "pp", self.n)

    def to_json(self) -> dict[str, Any]:
        """{factor, value, recipe, drop_pp: {value, low, high}, p_holm, seeds, n}."""
        return {
            "factor": self.setting.factor,
            "value": self.setting.value,
            "recipe": self.setting.recipe,
            "drop_pp": dataclasses.asdict(self.drop_pp),
            "p_holm": self.p_holm,
            "seeds": sorted(self.drops),
            "n": self.n,
        }


def table(
    base: Mapping[tuple[str, int], np.ndarray], varied: Mapping[tuple[str, int], np.ndarray], *, control: bool = False
) -> tuple[Row, ...]:
    """Compare bool [N] outcomes of (setting, seed) with those of (recipe, seed). Comparisons without a base are left out.

    The negative control is no part of the family unless asked for.
    """
    pairs = {
        (name, seed): (base[(setting_of(name).recipe, seed)], outcome)
        for (name, seed), outcome in varied.items()
        if (setting_of(name).recipe, seed) in base and (control or name != CONTROL)
    }
    if not pairs:
        return ()
    drops = {key: paired_drop(*pair) for key, pair in pairs.items()}
    _, corrected, _, _ = multipletests([drop.mcnemar_p for drop in drops.values()], method="holm")
    p_holm = dict(zip(drops, map(float, corrected), strict=True))
    rows = []
    for name in dict.fromkeys(name for name, _ in sorted(pairs, key=lambda key: _place(key[0]))):
        own = {seed: drop for (other, seed), drop in sorted(drops.items()) if other == name}
        if len(own) == 1:
            interval = next(iter(own.values())).drop_pp
        else:
            variants = [np.stack([pairs[name, seed][variant] for seed in own]) for variant in (0, 1)]  # bool [seeds, N]
            found = mean_difference(*variants)
            interval = Interval(100 * found.value, 100 * found.low, 100 * found.high)
        rows.append(Row(setting_of(name), own, interval, min(p_holm[name, seed] for seed in own)))
    return tuple(rows)


def _place(name: str) -> int:
    return list(SETTINGS).index(name) if name in SETTINGS else len(SETTINGS)
