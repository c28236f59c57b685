"""The ledger under random interleavings of receive, complete, claim, crash, commit and expire.

A model of what must be true is kept beside it: no content is lost, and no study is committed twice
for one revision.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)

from dicom_listener.completion import CompletionRule
from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import ClaimedStudy, Ledger, RecordOutcome, StudyState
from tests.unit.dicom_listener.instances import make_received

STUDIES = ("1.2.1", "1.2.2", "1.2.3")
LEASE_S = 100.0
MAX_ATTEMPTS = 2
RULE = CompletionRule(quiet_period_s=10, max_age_s=1000)

Content = frozenset[str]


class LedgerMachine(RuleBasedStateMachine):
    """Drives a ledger; `claims` are what workers believe they hold, dead or alive."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger(f"sqlite:///{self.folder}/ledger.sqlite")
        self.now = 0.0
        self.received: dict[str, dict[str, str]] = {}  # study → instance → digest
        self.committed: dict[str, list[tuple[int, Content]]] = {}
        self.failed_before: set[str] = set()

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.ledger.close()
            shutil.rmtree(self.folder)

    @rule(study=st.sampled_from(STUDIES), number=st.integers(1, 2), content=st.sampled_from("ab"))
    def receive(self, study: str, number: int, content: str) -> None:
        instance = make_received(study, number, content)
        known = self.received.setdefault(study, {})
        uid, sha256 = instance.spooled.sop_instance_uid, instance.spooled.sha256
        expected = (
            RecordOutcome.NEW
            if uid not in known
            else RecordOutcome.DUPLICATE
            if known[uid] == sha256
            else RecordOutcome.CHANGED
        )
        outcome = self.ledger.record_instance(instance, association="a", hold_until=self.now, now=self.now)
        assert outcome is expected
        known[uid] = sha256

    @rule(seconds=st.sampled_from((1.0, 10.0, LEASE_S)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def complete(self) -> None:
        self.ledger.complete_studies(RULE, now=self.now)

    @rule(target=claims, limit=st.integers(1, 3))
    def claim(self, limit: int) -> MultipleResults[ClaimedStudy]:
        running = {
            study.study_instance_uid
            for study in self.ledger.list_studies(state=StudyState.CLAIMED)
            if study.lease_until is not None and study.lease_until > self.now
        }
        claimed = self.ledger.claim_studies(
            worker="w", limit=limit, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS, now=self.now
        )
        assert len(claimed) <= limit
        uids = [study.study_instance_uid for study in claimed]
        assert running.isdisjoint(uids), "a study was given out while its lease runs"
        for study in claimed:
            content = {instance.sop_instance_uid: instance.sha256 for instance in study.instances}
            assert content == self.received[study.study_instance_uid], "a claim misses what was received"
            assert study.attempts <= MAX_ATTEMPTS
        if self.failed_before.intersection(uids):
            assert len(uids) == 1, "a study that failed before was claimed in company"
        return multiple(*claimed)

    @rule(study=claims)
    def commit(self, study: ClaimedStudy) -> None:
        uid = study.study_instance_uid
        try:
            with self.ledger.committing(study.claim_token, now=self.now):
                content = frozenset(instance.sha256 for instance in study.instances)
                self.committed.setdefault(uid, []).append((study.revision, content))
                self.failed_before.discard(uid)
        except ClaimLostError:
            pass

    @rule(study=claims)
    def crash_in_the_commit(self, study: ClaimedStudy) -> None:
        with (
            pytest.raises((ClaimLostError, ZeroDivisionError)),
            self.ledger.committing(study.claim_token, now=self.now),
        ):
            raise ZeroDivisionError

    @rule(study=claims)
    def fail(self, study: ClaimedStudy) -> None:
        if self.ledger.extend_claims([study.claim_token], lease_s=LEASE_S, now=self.now):
            self.failed_before.add(study.study_instance_uid)
        self.ledger.release_claims([study.claim_token], error="boom", max_attempts=MAX_ATTEMPTS, now=self.now)

    @rule(study=claims)
    def stop(self, study: ClaimedStudy) -> None:
        self.ledger.release_claims([study.claim_token], error=None, max_attempts=MAX_ATTEMPTS, now=self.now)

    @rule(study=claims)
    def heartbeat(self, study: ClaimedStudy) -> None:
        self.ledger.extend_claims([study.claim_token], lease_s=LEASE_S, now=self.now)

    @rule(study=st.sampled_from(STUDIES))
    def retry(self, study: str) -> None:
        for record in self.ledger.list_studies(state=StudyState.FAILED):
            if record.study_instance_uid == study:
                self.ledger.retry_study(study, now=self.now)

    @invariant()
    def no_revision_is_committed_twice(self) -> None:
        for commits in self.committed.values():
            revisions = [revision for revision, _ in commits]
            assert revisions == sorted(set(revisions))

    @invariant()
    def no_study_is_lost(self) -> None:
        records = {record.study_instance_uid: record for record in self.ledger.list_studies()}
        assert records.keys() == self.received.keys()
        for uid, record in records.items():
            assert record.instances == len(self.received[uid])
            if record.state is StudyState.DONE:
                revision, content = self.committed[uid][-1]
                assert revision == record.done_revision == record.revision
                assert content == frozenset(self.received[uid].values()), "done, but not with all of it"

    def finish(self) -> None:
        """Let good workers run until nothing is left to do."""
        for _ in range(20):
            self.now += LEASE_S
            self.complete()
            for study in self.ledger.claim_studies(
                worker="good", limit=3, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS, now=self.now
            ):
                self.commit(study)
            for record in self.ledger.list_studies(state=StudyState.FAILED):
                self.ledger.retry_study(record.study_instance_uid, now=self.now)
        counts = self.ledger.counts_by_state()
        assert counts["done"] == len(self.received), "not every study could be finished"
        self.no_revision_is_committed_twice()
        self.no_study_is_lost()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
