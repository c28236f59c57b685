"""The ledger under random interleavings of receive, complete, claim, crash, commit, expire and prune.

A model of what must be true is kept beside it: no content is lost, and no study is committed twice
for one revision.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import ClaimedStudy, Ledger, ReceivedInstance, RecordOutcome, StudyState
from dicom_listener.ledger.arrivals import SpoolFiles
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.pruning import PruneRule
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
        self.sent: dict[str, ReceivedInstance] = {}  # by digest

    def is_pruned(self, instance: ReceivedInstance) -> bool:
        return any(
            content.file_state is not None
            for content in self.ledger.list_contents(instance.study_instance_uid)
            if content.is_at_work and content.sha256 == instance.spooled.sha256
        )

    def receive(self, number: int) -> None:
        self.receive_one(make_received(STUDIES[number % 3], number // 3 % 2, "ab"[number // 6 % 2]))

    def receive_one(self, instance: ReceivedInstance) -> None:
        known = self.received.setdefault(instance.study_instance_uid, {})
        uid, sha256 = instance.spooled.sop_instance_uid, instance.spooled.sha256
        self.sent[sha256] = instance
        if uid not in known:
            expected = RecordOutcome.NEW
        elif known[uid] != sha256:
            expected = RecordOutcome.CHANGED
        else:
            expected = RecordOutcome.RESTORED if self.is_pruned(instance) else RecordOutcome.DUPLICATE
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
            assert self.ledger.show_study(study.study_instance_uid).pruned_files == 0, "claimed without files"
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

    def prune(self, number: int) -> None:
        """Delete the files of a study, if they may go."""
        uid = STUDIES[number % 3]
        rule = PruneRule(received_before=self.now)
        chosen = self.ledger.mark_pruned(uid, rule, now=self.now).chosen
        if chosen:
            record = self.ledger.show_study(uid)
            assert record.state is StudyState.DONE
            assert record.done_revision == record.revision, "pruned what is to be processed"
        self.ledger.delete_pruned(chosen, rule, SpoolFiles(None))

    def send_again_what_was_pruned(self, _number: int = 0) -> None:
        for uid in self.received:
            for content in self.ledger.list_contents(uid):
                if content.is_at_work and content.file_state is not None:
                    self.receive_one(self.sent[content.sha256])

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
            self.send_again_what_was_pruned()
            self.retry()
            self.fall_quiet()
            self.claim(2)
            for number in range(4):
                self.commit(number)
            self.check()
        assert self.ledger.counts_by_state()["done"] == len(self.received), "a study cannot be finished"
        for uid in self.received:
            kept = {content.sha256 for content in self.ledger.list_contents(uid)}
            sent = {one.spooled.sha256 for one in self.sent.values() if one.study_instance_uid == uid}
            assert kept == sent, "a content was forgotten"

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
    Site.prune,
    Site.prune,
    Site.send_again_what_was_pruned,
)


STEP_LISTS: Final = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=40, max_size=60)


def run(url: str, steps: list[tuple[Callable[[Site, int], None], int]]) -> None:
    ledger = Ledger(url)
    site = Site(ledger)
    try:
        for step, number in steps:
            step(site, number)
            site.check()
        site.finish()
    finally:
        ledger.close()


@given(steps=STEP_LISTS)
@settings(max_examples=30, deadline=None)
def test_no_study_is_lost_or_committed_twice_for_one_revision(
    steps: list[tuple[Callable[[Site, int], None], int]],
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        run(f"sqlite:///{folder}/ledger.sqlite", steps)


@given(steps=STEP_LISTS)
@settings(max_examples=6, deadline=None)
def test_nor_on_postgresql(
    emptied_ledger: Callable[[], str], steps: list[tuple[Callable[[Site, int], None], int]]
) -> None:
    run(emptied_ledger(), steps)
