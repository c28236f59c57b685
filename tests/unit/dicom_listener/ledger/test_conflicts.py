"""One SOP Instance UID and two contents: what goes to work, what is kept, what is told."""

from collections.abc import Callable, Iterator

import pytest

from dicom_listener.errors import ConflictingInstanceError, SpoolUnavailableError
from dicom_listener.ledger import (
    ClaimedStudy,
    ConflictKind,
    ConflictPolicy,
    FileState,
    Ledger,
    RecordOutcome,
    Resolution,
    StudyState,
)
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import (
    PLANTED_ID,
    finish_studies,
    make_received,
    receive_instance,
    spool_instance,
)

Open = Callable[[ConflictPolicy], Ledger]


@pytest.fixture
def opened(ledger_url: str, spool: Spool) -> Iterator[Open]:
    ledgers: list[Ledger] = []

    def open_with(policy: ConflictPolicy) -> Ledger:
        ledgers.append(Ledger(ledger_url, spool=spool.root, conflict_policy=policy))
        return ledgers[-1]

    yield open_with
    for ledger in ledgers:
        ledger.close()


def record(ledger: Ledger, spool: Spool, content: int, *, number: int = 1, now: float = 0) -> RecordOutcome:
    received = spool_instance(spool, number=number, content=content)
    return ledger.record_instance(received, association="a", hold_until=now, now=now)


def claimed_after(ledger: Ledger, now: float) -> ClaimedStudy:
    ledger.complete_studies(CompletionRule(0, 3600), now=now)
    [claimed] = ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=now)
    return claimed


def contents(ledger: Ledger) -> list[tuple[bool, int]]:
    """Give, of each content that is kept, whether it is at work and which one it is."""
    smallest = min(content.size_bytes for content in ledger.list_contents("1.2.3"))
    return [
        (content.is_at_work, (content.size_bytes - smallest) // 2)
        for content in ledger.list_contents("1.2.3")
    ]


def test_replace_puts_the_newest_to_work_and_keeps_both(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    assert record(ledger, spool, 0, now=1) is RecordOutcome.NEW
    assert record(ledger, spool, 1, now=2) is RecordOutcome.CHANGED
    assert contents(ledger) == [(True, 1), (False, 0)]
    study = ledger.show_study("1.2.3")
    assert (study.revision, study.instances, study.contents_aside) == (2, 1, 1)
    [conflict] = study.conflicts
    at_work, replaced = ledger.list_contents("1.2.3")
    assert (conflict.kind, conflict.resolution) == (ConflictKind.CHANGED_CONTENT, Resolution.REPLACED)
    assert (conflict.sha256, conflict.size_bytes, conflict.seen_at) == (
        at_work.sha256,
        at_work.size_bytes,
        2,
    )
    assert [
        (content.received_at, (spool.root / content.path).exists()) for content in (at_work, replaced)
    ] == [
        (2, True),
        (1, True),
    ]
    [instance] = claimed_after(ledger, 3).instances
    assert instance.sha256 == at_work.sha256


def test_a_content_that_comes_back_is_at_work_again_and_nowhere_twice(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    outcomes = [record(ledger, spool, content) for content in (0, 1, 0, 1, 0)]
    assert outcomes == [RecordOutcome.NEW, *[RecordOutcome.CHANGED] * 4]
    assert contents(ledger) == [(True, 0), (False, 1)]
    assert [(conflict.times, conflict.resolution) for conflict in ledger.show_study("1.2.3").conflicts] == [
        (2, Resolution.REPLACED),
        (2, Resolution.REPLACED),
    ]


def test_keep_first_leaves_the_first_at_work_and_keeps_both(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.KEEP_FIRST)
    record(ledger, spool, 0)
    finish_studies(ledger, now=5)
    assert record(ledger, spool, 1, now=9) is RecordOutcome.SET_ASIDE
    assert record(ledger, spool, 1, now=10) is RecordOutcome.DUPLICATE
    assert contents(ledger) == [(True, 0), (False, 1)]
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision, study.duplicates) == (StudyState.DONE, 1, 1)
    assert [conflict.resolution for conflict in study.conflicts] == [Resolution.SET_ASIDE]
    assert all((spool.root / content.path).exists() for content in ledger.list_contents("1.2.3"))


def test_reject_refuses_the_second_deletes_its_file_and_counts(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REJECT)
    record(ledger, spool, 0, now=1)
    for now in (2, 3):
        with pytest.raises(ConflictingInstanceError, match="conflict_policy") as caught:
            record(ledger, spool, 1, now=now)
        assert PLANTED_ID not in str(caught.value)
    assert contents(ledger) == [(True, 0)]
    assert len(list(spool.root.glob("??/*.dcm"))) == 1
    [conflict] = ledger.show_study("1.2.3").conflicts
    assert (conflict.resolution, conflict.times, conflict.seen_at) == (Resolution.REJECTED, 2, 3)


def test_a_content_that_is_kept_already_is_no_conflict_whatever_the_policy(
    opened: Open, spool: Spool
) -> None:
    kept = opened(ConflictPolicy.REPLACE)
    record(kept, spool, 0)
    record(kept, spool, 1)
    assert record(opened(ConflictPolicy.REJECT), spool, 0) is RecordOutcome.DUPLICATE
    assert len(list(spool.root.glob("??/*.dcm"))) == 2


@pytest.mark.parametrize("policy", [ConflictPolicy.KEEP_FIRST, ConflictPolicy.REJECT])
def test_a_second_content_is_taken_when_the_first_is_lost(
    opened: Open, spool: Spool, policy: ConflictPolicy
) -> None:
    ledger = opened(policy)
    record(ledger, spool, 0)
    ledger.note_lost_files(ledger.list_contents("1.2.3"), FileState.DAMAGED, now=1)
    assert record(ledger, spool, 1) is RecordOutcome.CHANGED
    assert contents(ledger) == [(True, 1), (False, 0)]


def test_a_lost_file_that_is_sent_again_is_restored_and_goes_round_again(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    record(ledger, spool, 0)
    finish_studies(ledger, now=5)
    ledger.note_lost_files(ledger.list_contents("1.2.3"), FileState.MISSING, now=6)
    assert ledger.show_study("1.2.3").lost_files == 1
    assert record(ledger, spool, 0, now=7) is RecordOutcome.RESTORED
    study = ledger.show_study("1.2.3")
    assert (study.lost_files, study.state, study.revision) == (0, StudyState.RECEIVING, 2)


def test_an_instance_is_not_entered_when_its_file_is_gone(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    received = spool_instance(spool)
    (spool.root / received.spooled.path).unlink()
    with pytest.raises(SpoolUnavailableError, match="send it again"):
        ledger.record_instance(received, association="a", hold_until=0, now=0)
    assert ledger.list_studies() == []


def test_a_study_with_results_is_not_processed_again_without_its_files(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    record(ledger, spool, 0, number=1)
    finish_studies(ledger, now=5)
    ledger.note_lost_files(ledger.list_contents("1.2.3"), FileState.MISSING, now=6)
    receive_instance(spool, ledger, study="1.2.9", now=6)
    record(ledger, spool, 0, number=2, now=6)
    ledger.complete_studies(CompletionRule(0, 3600), now=7)
    claimed = ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=8)
    assert [study.study_instance_uid for study in claimed] == ["1.2.9"]
    study = ledger.show_study("1.2.3")
    assert (study.state, study.done_revision, study.last_error_at) == (StudyState.FAILED, 1, 8)
    assert study.last_error is not None
    assert "1 of 2 files" in study.last_error
    assert record(ledger, spool, 0, number=1, now=9) is RecordOutcome.RESTORED
    assert len(claimed_after(ledger, 10).instances) == 2


def test_a_study_without_results_is_claimed_although_a_file_is_lost(opened: Open, spool: Spool) -> None:
    ledger = opened(ConflictPolicy.REPLACE)
    record(ledger, spool, 0)
    ledger.note_lost_files(ledger.list_contents("1.2.3"), FileState.MISSING, now=1)
    assert len(claimed_after(ledger, 2).instances) == 1


def test_a_ledger_that_sees_no_spool_takes_its_caller_s_word(ledger_url: str) -> None:
    ledger = Ledger(ledger_url, conflict_policy=ConflictPolicy.REJECT)
    try:
        ledger.record_instance(make_received(), association="a", hold_until=0, now=0)
        with pytest.raises(ConflictingInstanceError):
            ledger.record_instance(make_received(content="b"), association="a", hold_until=0, now=0)
    finally:
        ledger.close()
