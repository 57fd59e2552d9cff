"""Verdicts on the paper's claims: the registry, the statistics, and the protocol of a check."""

from geluless.verdicts.claim_fixture import ClaimFixture, ClaimProtocolError
from geluless.verdicts.registry import Claim, RegistryError, load_registry
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.verdict import Control, Estimate, Evidence, Judgement, Record, Verdict

__all__ = [
    "Claim",
    "ClaimFixture",
    "ClaimProtocolError",
    "Control",
    "Estimate",
    "Evidence",
    "Judgement",
    "Record",
    "RegistryError",
    "Resource",
    "Verdict",
    "load_registry",
    "missing",
]
