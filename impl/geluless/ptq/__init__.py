"""Post-training quantization: observe, choose ranges, fold, one artifact out."""

from geluless.ptq.artifact import Artifact, load_artifact
from geluless.ptq.profiles import PROFILES, Profile, RangeRule
from geluless.ptq.quantize import quantize

__all__ = ["PROFILES", "Artifact", "Profile", "RangeRule", "load_artifact", "quantize"]
