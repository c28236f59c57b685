"""The ledger under random interleavings of receive, complete, claim, crash, commit and expire.

A model of what must be true is kept beside it: no content is lost, and no study is committed twice
for one revision.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dicom_listener.completion import CompletionRule
from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import ClaimedStudy, Ledger, RecordOutcome, StudyState
from tests.unit.dicom_listener.instances import make_received

STUDIES = ("1.2.1", "1.2.2", "1.2.3")
LEASE_S = 100.0
MAX_ATTEMPTS = 2
RULE = CompletionRule(quiet_period_s=10, max_age_s=1000)
MEMORY = Path("/dev/shm")  # noqa: S108 - durability is not what is tested here, and fsync is slow


class Site:
    """Senders, a listener, workers that live and die, and what must be true of their ledger.

    Each step takes one drawn number, which says what and whom it is about.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = 0.0
        self.claims: list[ClaimedStudy] = []  # what workers believe they hold, dead or alive
        self.received: dict[str, dict[str, str]] = {}  # study → instance → digest
        self.committed: dict[str, list[tuple[int, frozenset[str]]]] = {}
        self.failed_before: set[str] = set()

    def receive(self, number: int) -> None:
        instance = make_received(STUDIES[number % 3], number // 3 % 2, "ab"[number // 6 % 2])
        known = self.received.setdefault(instance.study_instance_uid, {})
        uid, sha256 = instance.spooled.sop_instance_uid, instance.spooled.sha256
        if uid not in known:
            expected = RecordOutcome.NEW
        else:
            expected = RecordOutcome.DUPLICATE if known[uid] == sha256 else RecordOutcome.CHANGED
        outcome = self.ledger.record_instance(instance, association="a", hold_until=0, now=self.now)
        assert outcome is expected
        known[uid] = sha256

    def fall_quiet(self, _number: int = 0) -> None:
        self.now += RULE.quiet_period_s
        self.ledger.complete_studies(RULE, now=self.now)

    def let_leases_end(self, _number: int = 0) -> None:
        self.now += LEASE_S

    def claim(self, number: int) -> None:
        running = {
            study.study_instance_uid
            for study in self.ledger.list_studies(state=StudyState.CLAIMED)
            if study.lease_until is not None and study.lease_until > self.now
        }
        limit = number % 3 + 1
        claimed = self.ledger.claim_studies(
            worker="w", limit=limit, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS, now=self.now
        )
        uids = [study.study_instance_uid for study in claimed]
        assert len(uids) <= limit
        assert running.isdisjoint(uids), "a study was given out while its lease runs"
        for study in claimed:
            content = {instance.sop_instance_uid: instance.sha256 for instance in study.instances}
            assert content == self.received[study.study_instance_uid], "a claim misses what was received"
            assert study.attempts <= MAX_ATTEMPTS
        if self.failed_before.intersection(uids):
            assert len(uids) == 1, "a study that failed before was claimed in company"
        self.claims += claimed

    def commit(self, number: int) -> None:
        for study in self.pick(number):
            try:
                with self.ledger.committing(study.claim_token, now=self.now):
                    content = frozenset(instance.sha256 for instance in study.instances)
                    entry = (study.revision, content)
                    self.committed.setdefault(study.study_instance_uid, []).append(entry)
                    self.failed_before.discard(study.study_instance_uid)
            except ClaimLostError:
                event("claim lost")

    def crash_in_the_commit(self, number: int) -> None:
        for study in self.pick(number):
            try:
                with self.ledger.committing(study.claim_token, now=self.now):
                    1 / 0  # noqa: B018 - any error will do
            except (ClaimLostError, ZeroDivisionError):
                event("crash in the commit")

    def fail(self, number: int) -> None:
        for study in self.pick(number):
            if self.ledger.extend_claims([study.claim_token], lease_s=LEASE_S, now=self.now):
                self.failed_before.add(study.study_instance_uid)
            self.ledger.release_claims(
                [study.claim_token], error="boom", max_attempts=MAX_ATTEMPTS, now=self.now
            )

    def stop(self, number: int) -> None:
        tokens = [study.claim_token for study in self.pick(number)]
        self.ledger.release_claims(tokens, error=None, max_attempts=MAX_ATTEMPTS, now=self.now)

    def beat(self, number: int) -> None:
        tokens = [study.claim_token for study in self.pick(number)]
        self.ledger.extend_claims(tokens, lease_s=LEASE_S, now=self.now)

    def retry(self, _number: int = 0) -> None:
        for record in self.ledger.list_studies(state=StudyState.FAILED):
            self.ledger.retry_study(record.study_instance_uid, now=self.now)

    def pick(self, number: int) -> list[ClaimedStudy]:
        """Give one claim, rather a recent one, or none if there was none yet."""
        return [self.claims[-1 - number % min(4, len(self.claims))]] if self.claims else []

    def finish(self) -> None:
        """Let good workers run until nothing is left to do."""
        for _ in range(12):
            self.let_leases_end()
            self.retry()
            self.fall_quiet()
            self.claim(2)
            for number in range(4):
                self.commit(number)
            self.check()
        assert self.ledger.counts_by_state()["done"] == len(self.received), "a study cannot be finished"

    def check(self) -> None:
        for commits in self.committed.values():
            revisions = [revision for revision, _ in commits]
            assert revisions == sorted(set(revisions)), "a revision was committed twice"
        records = {record.study_instance_uid: record for record in self.ledger.list_studies()}
        assert records.keys() == self.received.keys(), "a study was lost"
        for uid, record in records.items():
            assert record.instances == len(self.received[uid])
            if record.state is StudyState.DONE:
                revision, content = self.committed[uid][-1]
                assert revision == record.done_revision == record.revision
                assert content == frozenset(self.received[uid].values()), "done, but not with all of it"


STEPS: tuple[Callable[[Site, int], None], ...] = (
    Site.receive,
    Site.receive,
    Site.fall_quiet,
    Site.fall_quiet,
    Site.claim,
    Site.claim,
    Site.commit,
    Site.commit,
    Site.crash_in_the_commit,
    Site.fail,
    Site.stop,
    Site.beat,
    Site.let_leases_end,
    Site.retry,
)


@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=40, max_size=60))
@settings(max_examples=40, deadline=None)
def test_no_study_is_lost_or_committed_twice_for_one_revision(
    steps: list[tuple[Callable[[Site, int], None], int]],
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
        site = Site(ledger)
        try:
            for step, number in steps:
                step(site, number)
                site.check()
            site.finish()
        finally:
            ledger.close()
