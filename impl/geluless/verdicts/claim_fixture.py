"""The `claim` fixture's value: how a claim test says what it found."""

from __future__ import annotations

from geluless.errors import GelulessError
from geluless.verdicts.registry import Claim
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.verdict import Estimate, Evidence, Judgement, Record, Verdict


class ClaimProtocolError(GelulessError):
    """A claim test broke the rules: no verdict, two verdicts, or a control that did not hold."""


class ClaimFixture:
    """Bound to one row and one test item; takes exactly one verdict.

    Evidence is compulsory for everything that was measured, and its control must have held: a check that would also accept
    something wrong has shown nothing, so it raises ClaimProtocolError instead of reporting. Where the control could not tell,
    the verdict is UNDECIDED whatever else the check found.
    """

    def __init__(self, row: Claim, *, item: str, node: str, full: bool = False) -> None:
        self.row = row
        self.full = full
        self.record: Record | None = None
        self._item, self._node, self._kind = item, node, row.kind_of(item)

    def decide(self, judgement: Judgement, evidence: Evidence) -> None:
        """Deliver what the statistics say."""
        if judgement.verdict is Verdict.NEEDS:
            raise ClaimProtocolError("a missing resource is no judgement: call claim.needs(...)")
        self._measured(judgement.verdict, judgement.sentence, evidence, judgement.estimates, judgement.n_needed)

    def reproduced(self, sentence: str, evidence: Evidence) -> None:
        """Deliver an exact finding (a law that held in every case) without an interval."""
        self._measured(Verdict.REPRODUCED, sentence, evidence, (), None)

    def refuted(self, sentence: str, evidence: Evidence) -> None:
        """Deliver an exact counterexample."""
        self._measured(Verdict.REFUTED, sentence, evidence, (), None)

    def undecided(self, sentence: str, evidence: Evidence, *, n_needed: int | None = None) -> None:
        """Deliver "the data do not say", with the sample count that would decide where that is known."""
        self._measured(Verdict.UNDECIDED, sentence, evidence, (), n_needed)

    def needs(self, *resources: Resource, would_run: str) -> None:
        """Look for the resources; deliver NEEDS_x for the first missing one and list all that are missing.

        When all are here, the check is what is missing: NEEDS_CHECK. `would_run` says what would be run.
        """
        if not resources or not would_run.strip():
            raise ClaimProtocolError("claim.needs(...) names at least one resource and says what would be run")
        lacking = [(resource, text) for resource in resources if (text := missing(resource)) is not None]
        if not lacking:
            lacking = [(Resource.CHECK, f"{missing(Resource.CHECK)}; what it needs is here")]
        status, text = lacking[0][0].status, "; ".join(text for _, text in lacking)
        self._deliver(
            Record(
                self.row.id,
                self._item,
                self._node,
                status,
                f"missing: {text}",
                kind=self._kind,
                missing=text,
                would_run=would_run.strip(),
            )
        )

    def lacks(self, *resources: Resource, would_run: str) -> bool:
        """True, with NEEDS_x delivered, where one of the resources is missing: the check returns. False: it runs."""
        if all(missing(resource) is None for resource in resources):
            return False
        self.needs(*resources, would_run=would_run)
        return True

    def _measured(
        self, verdict: Verdict, sentence: str, evidence: Evidence, numbers: tuple[Estimate, ...], n_needed: int | None
    ) -> None:
        control = evidence.control
        if control.held is False:
            raise ClaimProtocolError(
                f"{self.row.id}: the control did not hold ({control.what}: {control.observed}); the check cannot tell right from "
                "wrong, mend it before believing any verdict"
            )
        if control.held is None and verdict is not Verdict.UNDECIDED:
            sentence = f"{sentence}; not called {verdict.value}, because its control could not tell: {control.observed}"
            verdict = Verdict.UNDECIDED
        if not (evidence.ran.strip() and evidence.tier.strip() and sentence.strip()):
            raise ClaimProtocolError(f"{self.row.id}: a verdict needs a sentence, what was run, and the tier")
        self._deliver(
            Record(
                self.row.id,
                self._item,
                self._node,
                verdict.value,
                sentence,
                kind=self._kind,
                n_needed=n_needed,
                numbers=numbers + evidence.numbers,
                evidence=evidence,
                seconds=evidence.seconds,
            )
        )

    def _deliver(self, record: Record) -> None:
        if self.record is not None:
            raise ClaimProtocolError(f"{self.row.id}: {record.status} after {self.record.status}; a test delivers one verdict")
        self.record = record
