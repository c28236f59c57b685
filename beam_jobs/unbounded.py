"""Claims without end: what feeds the pipeline on an engine, and what an engine must not repeat.

`ClaimStudies` asks the ledger at every tick, and takes no more than the pipeline has room for: what it
holds already is in the ledger, so this needs no memory and survives any process. `BeginStudies` follows
the shuffle that spreads the claims, in the process that reads the files.

Leases are renewed where the work is: by the process that claimed until the work begins, by the process
that began it from then on. So a lease says that a living process has the study.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import structlog
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.utils.timestamp import Timestamp

from beam_jobs.claims import pseudonymize_claim
from beam_jobs.deid import Pseudonymizer
from beam_jobs.heartbeat import process_heartbeat
from beam_jobs.quiet_beam import settle_process, telling_no_values
from beam_jobs.records import StudyClaim
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.log import describe_error

_STALE_TICKS: Final = 4
"""Ticks older than so many periods are passed over: an engine that was down brings all of them at once."""

_log = structlog.get_logger(__name__)


@dataclass
class ClaimStudies(beam.PTransform):
    """Claim complete studies as long as the pipeline runs.

    Takes the pipeline's beginning. Gives an unbounded PCollection of `StudyClaim`, which never holds more
    than `at_once` studies that are not written yet. One that failed before is alone among them, because it
    may take the process down that others are in.

    Attributes:
        name: under which the ledger knows what this pipeline holds.
        poll_s: seconds between two looks at the ledger.
        at_once: most studies that are claimed and not written yet.
    """

    name: str
    rule: CompletionRule
    key_file: Path
    ledger_url: str = field(repr=False)
    poll_s: float
    at_once: int
    lease_s: float
    max_attempts: int
    clock: Callable[[], float] = time.time

    def expand(self, begin: Any) -> beam.PCollection:
        """Wire the step."""
        ticks = begin | PeriodicImpulse(start_timestamp=Timestamp.now(), fire_interval=self.poll_s)
        return ticks | "Claim" >> beam.ParDo(_ClaimStudiesFn(self))


@telling_no_values
class _ClaimStudiesFn(beam.DoFn):
    def __init__(self, step: ClaimStudies) -> None:
        self._name, self._rule, self._key_file = step.name, step.rule, step.key_file
        self._ledger_url = step.ledger_url
        self._poll_s, self._at_once = step.poll_s, step.at_once
        self._lease_s, self._max_attempts = step.lease_s, step.max_attempts
        self._clock = step.clock

    def setup(self) -> None:
        settle_process()
        self._ledger = Ledger(self._ledger_url)
        self._pseudonymizer = Pseudonymizer.from_key_file(self._key_file)
        self._heartbeat = process_heartbeat(self._ledger_url, lease_s=self._lease_s, is_waiting=True)

    def process(self, tick: Timestamp) -> Iterator[StudyClaim]:
        if float(tick) < self._clock() - _STALE_TICKS * self._poll_s:
            return
        try:
            claims = self._claim()
        except LedgerUnavailableError as error:  # it is asked again at the next tick
            _log.warning("ledger_unavailable", error=describe_error(error))
            return
        self._heartbeat.add(claim.claim_token for claim in claims)
        yield from claims

    def _claim(self) -> list[StudyClaim]:
        now = self._clock()
        self._ledger.complete_studies(self._rule, now=now)
        held = self._ledger.claims_held_by(self._name)
        free = self._at_once - len(held)
        if free <= 0 or any(claim.failed_before for claim in held):
            return []
        claimed = self._ledger.claim_studies(
            worker=self._name,
            limit=free,
            lease_s=self._lease_s,
            max_attempts=self._max_attempts,
            now=now,
            is_idle=not held,
        )
        return [pseudonymize_claim(study, self._pseudonymizer) for study in claimed]

    def teardown(self) -> None:
        self._ledger.close()


@dataclass
class BeginStudies(beam.PTransform):
    """Begin the work of each claim in the process that will do it.

    Takes a PCollection of `StudyClaim`. Gives one of `StudyClaim`: those that are held still and were
    never begun before. The others go back to the queue, or are somebody else's.
    """

    ledger_url: str = field(repr=False)
    lease_s: float
    max_attempts: int
    clock: Callable[[], float] = time.time

    def expand(self, claims: beam.PCollection) -> beam.PCollection:
        """Wire the step."""
        return claims | beam.ParDo(_BeginStudiesFn(self))


class _BeginStudiesFn(beam.DoFn):
    def __init__(self, step: BeginStudies) -> None:
        self._ledger_url = step.ledger_url
        self._lease_s, self._max_attempts = step.lease_s, step.max_attempts
        self._clock = step.clock

    def setup(self) -> None:
        settle_process()
        self._ledger = Ledger(self._ledger_url)
        self._heartbeat = process_heartbeat(self._ledger_url, lease_s=self._lease_s, is_waiting=False)

    def process(self, claim: StudyClaim) -> Iterator[StudyClaim]:
        token = claim.claim_token
        try:
            is_ours = self._ledger.begin_claim(token, max_attempts=self._max_attempts, now=self._clock())
        except LedgerUnavailableError as error:  # its lease ends and it comes back
            _log.warning("ledger_unavailable", error=describe_error(error))
            return
        if not is_ours:
            _log.warning("study_not_begun", claim=token)
            return
        self._heartbeat.add([token])
        yield claim

    def teardown(self) -> None:
        self._ledger.close()
