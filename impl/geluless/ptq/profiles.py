"""How an artifact is quantized: a profile is a value, so that two profiles can differ in exactly one respect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from geluless.errors import CalibrationError


class RangeRule(StrEnum):
    """How a calibration range follows from what was observed."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"  # 99.99 of the absolute values
    MSE = "mse"  # least expected squared error at 8 bits


@dataclass(frozen=True)
class Profile:
    """Frozen choices of post-training quantization; `dataclasses.replace` makes variants that isolate one cause."""

    name: str
    range_rule: RangeRule
    per_channel_weights: bool
    per_head_scales: bool  # q, k and v get one scale per head instead of one per tensor
    fold_norms: bool  # LayerNorm's affine part moves into the next weights
    unsigned_hidden: bool  # uint8 after the activation: all 256 levels for a tensor that is (almost) non-negative
    two_stage_layers: frozenset[str]  # which linears round before and after the bias: of qkv, proj, fc1, fc2, reduction

    @property
    def recorded(self) -> str:
        """The name in an artifact: files of format 1 know `per-channel` by its old one."""
        return RECORDED.get(self.name, self.name)


RECORDED = {"per-channel": "best"}
LINEARS = frozenset({"qkv", "proj", "fc1", "fc2", "reduction"})

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="per-channel",
            range_rule=RangeRule.MSE,
            per_channel_weights=True,
            per_head_scales=True,
            fold_norms=True,
            unsigned_hidden=True,
            two_stage_layers=frozenset(),
        ),
        # FasterTransformer int8_mode 1: every GEMM int8-in int8-out, per-tensor scales, percentile 99.99.
        Profile(
            name="ft1",
            range_rule=RangeRule.PERCENTILE,
            per_channel_weights=False,
            per_head_scales=False,
            fold_norms=False,
            unsigned_hidden=False,
            two_stage_layers=LINEARS,
        ),
        # int8_mode 2: fc2 and patch merging keep int32 outputs, hence one rounding.
        Profile(
            name="ft2",
            range_rule=RangeRule.PERCENTILE,
            per_channel_weights=False,
            per_head_scales=False,
            fold_norms=False,
            unsigned_hidden=False,
            two_stage_layers=LINEARS - {"fc2", "reduction"},
        ),
    )
}


def resolve_profile(profile: str | Profile) -> Profile:
    """A profile by name, `best` being an alias of `per-channel`, or as it is. Raises CalibrationError for an unknown name or an
    unknown linear."""
    if isinstance(profile, str):
        names = {profile.recorded: profile for profile in PROFILES.values()} | PROFILES
        if profile not in names:
            raise CalibrationError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}")
        return names[profile]
    if unknown := profile.two_stage_layers - LINEARS:
        raise CalibrationError(f"two_stage_layers names {min(unknown)!r}; the linears are {', '.join(sorted(LINEARS))}")
    return profile
