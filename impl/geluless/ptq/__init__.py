"""Post-training quantization: observe, choose ranges, fold, one artifact out.

`geluless.ptq.quantize` is not imported here: it takes torch, whose import lasts ten times as long as loading and running an
artifact.
"""

from geluless.ptq.artifact import Artifact, load_artifact
from geluless.ptq.profiles import PROFILES, Profile, RangeRule

__all__ = ["PROFILES", "Artifact", "Profile", "RangeRule", "load_artifact"]
