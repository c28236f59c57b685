"""The loop of a backfill: find, pass over what is here, fetch at the allowed pace, and sum up."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

import sqlalchemy as sa

from dicom_listener.backfill.fetch import Fetcher
from dicom_listener.backfill.journal import Journal
from dicom_listener.backfill.pace import Pace, Window
from dicom_listener.backfill.plan import Question
from dicom_listener.errors import PeerError, RetryLaterError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.database.schema import instances
from dicom_listener.peers.evidence_ledger import EvidenceLedger
from dicom_listener.peers.find import FoundStudy, find_contexts, find_studies
from dicom_listener.peers.outgoing import Caller
from dicom_listener.settings import Peer

ATTEMPTS: Final = 3
"""How often a question is asked, and a study is fetched, before it counts as failed."""

FAILURES_IN_A_ROW: Final = 10
"""Studies that may fail one after the other until the job stops: then it is not the studies."""

_PAUSE_S: Final = 5.0


class Outcome(StrEnum):
    """What became of a study."""

    FETCHED = "fetched"
    ALREADY_THERE = "already_there"  # the ledger had as many instances as the archive
    DONE_BEFORE = "done_before"  # by an earlier run of the job
    TO_FETCH = "to_fetch"  # it would be fetched, if this were no dry run
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed, and why. Neither holds a patient's data."""

    what: str
    reason: str


@dataclass(slots=True)
class Summary:
    """What a run did.

    Attributes:
        found: studies that the archive has; each is in one of the next five.
        to_fetch: of a dry run.
        instances: how many came with the fetched studies.
        size_bytes: their files.
        failures: of studies and of questions.
        stopped_because: why it ended before its end; None if it did not.
    """

    found: int = 0
    fetched: int = 0
    already_there: int = 0
    done_before: int = 0
    to_fetch: int = 0
    failed: int = 0
    instances: int = 0
    size_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped_because: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether something is left to do."""
        return bool(self.failures) or self.stopped_because is not None


class Watcher(Protocol):
    """Who is told how it goes."""

    def asking(self, questions: int) -> None:
        """So many questions will be asked."""

    def asked(self, found: int) -> None:
        """One was, and so many studies are known now."""

    def fetching(self, studies: int) -> None:
        """So many studies will be looked at."""

    def looked_at(self, outcome: Outcome, size_bytes: int) -> None:
        """One was."""

    def waiting(self, seconds: float, why: str) -> None:
        """Nothing happens for so long."""


@dataclass(frozen=True, slots=True)
class Job:
    """A backfill.

    Attributes:
        fetcher: how a study is fetched; None only finds, and changes nothing.
        clock: seconds since the epoch.
        sleep: waits so many seconds.
    """

    peer: Peer
    caller: Caller
    ledger: Ledger
    journal: Journal | frozenset[str]
    watcher: Watcher
    fetcher: Fetcher | None
    pace: Pace
    window: Window | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def run(self, questions: Iterable[Question]) -> Summary:
        """Find all studies, then fetch those that are missing.

        Raises:
            LedgerUnavailableError: if the ledger cannot be used; a further run goes on.
        """
        summary = Summary()
        studies = self._find(list(questions), summary)
        summary.found = len(studies)
        self.watcher.fetching(len(studies))
        in_a_row = 0
        for study in studies:
            outcome, size_bytes = self._look_at(study, summary)
            setattr(summary, outcome.value, getattr(summary, outcome.value) + 1)
            self.watcher.looked_at(outcome, size_bytes)
            in_a_row = in_a_row + 1 if outcome is Outcome.FAILED else 0
            if in_a_row == FAILURES_IN_A_ROW:
                summary.stopped_because = (
                    f"{in_a_row} studies failed one after the other, the last because: "
                    f"{summary.failures[-1].reason}"
                )
                break
        return summary

    # ------------------------------------------------------------------ finding

    def _find(self, questions: list[Question], summary: Summary) -> list[FoundStudy]:
        self.watcher.asking(len(questions))
        found: dict[str, FoundStudy] = {}
        for question, answer in self._ask_all(questions):
            if isinstance(answer, PeerError):
                summary.failures.append(Failure(question.name, str(answer)))
            elif question.must_find and not answer:
                summary.failures.append(Failure(question.name, "the archive has no such study"))
            else:
                found.update({study.study_instance_uid: study for study in answer})
            self.watcher.asked(len(found))
        return list(found.values())

    def _ask_all(self, questions: list[Question]) -> Iterator[tuple[Question, list[FoundStudy] | PeerError]]:
        """Ask over as few associations as the archive lets us."""
        waiting = list(reversed(questions))
        attempts = 0
        while waiting:
            self._wait_for_the_window()
            try:
                with self.caller.associated(self.peer, find_contexts()) as assoc:
                    while waiting:
                        answer = list(find_studies(assoc, waiting[-1].query))
                        yield waiting.pop(), answer
                        attempts = 0
            except PeerError as error:
                attempts += 1
                if attempts == ATTEMPTS:
                    yield waiting.pop(), error
                    attempts = ATTEMPTS - 1  # one for each further question, until it answers again
                else:
                    self.sleep(_PAUSE_S * attempts)

    # ------------------------------------------------------------------ fetching

    def _look_at(self, study: FoundStudy, summary: Summary) -> tuple[Outcome, int]:
        uid = study.study_instance_uid
        if uid in self.journal:
            return Outcome.DONE_BEFORE, 0
        here, size_before = self._kept(uid)
        if here and study.instances is not None and here >= study.instances:
            self._note_done(uid, Outcome.ALREADY_THERE)
            return Outcome.ALREADY_THERE, 0
        if self.fetcher is None:
            return Outcome.TO_FETCH, 0
        self._wait_for_the_pace()
        self._wait_for_the_window()
        began_at = self.clock()
        failure = self._fetch(self.fetcher, study)
        kept, size_after = self._kept(uid)
        size_bytes = size_after - size_before
        self.pace.note(size_bytes, began_at=began_at)
        summary.instances += kept - here
        summary.size_bytes += size_bytes
        if failure is not None:
            summary.failures.append(Failure(uid, failure))
            return Outcome.FAILED, size_bytes
        self._note_done(uid, Outcome.FETCHED)
        return Outcome.FETCHED, size_bytes

    def _fetch(self, fetcher: Fetcher, study: FoundStudy) -> str | None:
        """Fetch a study; say why it failed, or None. What counts is what is here in the end."""
        failure = None
        for attempt in range(ATTEMPTS):
            if attempt:
                self.sleep(_PAUSE_S * attempt)
            try:
                fetched = fetcher.fetch(study.study_instance_uid, attempt=attempt)
            except (PeerError, RetryLaterError) as error:
                failure = str(error)
                continue
            here, _ = self._kept(study.study_instance_uid)
            is_whole = fetched.failed == 0 if study.instances is None else here >= study.instances
            if is_whole:
                self._note_evidence(study)
                return None
            total = fetched.completed + fetched.failed
            failure = (
                f"{fetched.failed} of {total} sub-operations failed"
                if fetched.failed
                else f"{here} of the {study.instances} instances came; the archive calls it all"
            )
        return failure

    def _note_evidence(self, study: FoundStudy) -> None:
        """Let a study be complete at once of which the archive has just sent all that it has."""
        if study.instances is not None:
            EvidenceLedger(self.ledger).enter_answer(
                study.study_instance_uid, study.instances, asked_at=self.clock()
            )

    def _note_done(self, uid: str, outcome: Outcome) -> None:
        if isinstance(self.journal, Journal):
            self.journal.note_done(uid, outcome.value)

    def _kept(self, uid: str) -> tuple[int, int]:
        """Count the instances of a study that are here, and their bytes."""
        of_study = instances.c.study_instance_uid == uid
        total = sa.func.coalesce(sa.func.sum(instances.c.size_bytes), 0)
        with self.ledger.reading() as connection:
            count, size_bytes = connection.execute(sa.select(sa.func.count(), total).where(of_study)).one()
        return int(count), int(size_bytes)

    # ------------------------------------------------------------------ waiting

    def _wait_for_the_window(self) -> None:
        if self.window is not None:
            now = datetime.fromtimestamp(self.clock()).astimezone()
            self._wait(self.window.wait_s(now), f"until {self.window.opens:%H:%M}")

    def _wait_for_the_pace(self) -> None:
        self._wait(self.pace.wait_s(self.clock()), "to keep to the rate")

    def _wait(self, seconds: float, why: str) -> None:
        if seconds > 0:
            self.watcher.waiting(seconds, why)
            self.sleep(seconds)
