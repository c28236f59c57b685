from dataclasses import replace

import pytest

from dicom_listener.errors import (
    ClaimLostError,
    StudyNotFailedError,
    StudyNotFoundError,
)
from dicom_listener.ledger import ClaimedStudy, ConflictKind, Ledger, RecordOutcome, StudyState
from dicom_listener.ledger.completion import CompletionRule
from tests.unit.dicom_listener.instances import make_received

RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


def receive(
    ledger: Ledger,
    study: str = "1.2.3",
    number: int = 1,
    content: str = "a",
    *,
    now: float = 0,
    patient_id: str = "P1",
) -> RecordOutcome:
    return ledger.record_instance(
        make_received(study, number, content, patient_id), association="assoc", hold_until=now, now=now
    )


def complete(ledger: Ledger, *studies: str, now: float = 0) -> None:
    for study in studies:
        receive(ledger, study, now=now)
        assert ledger.complete_studies(RULE, now=now + 60) == 1


def claim(ledger: Ledger, *, now: float, limit: int = 8, max_attempts: int = 3) -> list[ClaimedStudy]:
    return ledger.claim_studies(worker="w", limit=limit, lease_s=100, max_attempts=max_attempts, now=now)


# ---------------------------------------------------------------------- receiving


def test_the_same_instance_twice_is_a_duplicate_and_changes_nothing(ledger: Ledger) -> None:
    assert receive(ledger, now=0) is RecordOutcome.NEW
    before = ledger.show_study("1.2.3")
    assert receive(ledger, now=50) is RecordOutcome.DUPLICATE
    assert ledger.show_study("1.2.3") == replace(before, duplicates=1)


def test_a_duplicate_of_a_done_study_does_not_send_it_round_again(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    with ledger.committing(claimed.claim_token, now=62):
        pass
    assert receive(ledger, now=100) is RecordOutcome.DUPLICATE
    assert ledger.show_study("1.2.3").state is StudyState.DONE


def test_changed_content_raises_the_revision_and_is_noted(ledger: Ledger) -> None:
    receive(ledger, content="a")
    assert receive(ledger, content="b", now=5) is RecordOutcome.CHANGED
    study = ledger.show_study("1.2.3")
    assert (study.revision, study.instances) == (2, 1)
    assert [(conflict.kind, conflict.seen_at) for conflict in study.conflicts] == [
        (ConflictKind.CHANGED_CONTENT, 5)
    ]


def test_the_newest_content_is_what_is_claimed(ledger: Ledger) -> None:
    receive(ledger, content="a")
    receive(ledger, content="b")
    ledger.complete_studies(RULE, now=60)
    [claimed] = claim(ledger, now=61)
    assert claimed.instances == (make_received(content="b").spooled,)


def test_an_instance_in_two_studies_and_a_study_of_two_patients_are_noted(ledger: Ledger) -> None:
    receive(ledger)
    stray = make_received("1.2.4", 1)
    moved = type(stray)("1.2.4", "P1", make_received("1.2.3", 1).spooled)
    ledger.record_instance(moved, association="a", hold_until=0, now=1)
    receive(ledger, number=2, patient_id="P2")
    assert [conflict.kind for conflict in ledger.show_study("1.2.4").conflicts] == [ConflictKind.OTHER_STUDY]
    assert [conflict.kind for conflict in ledger.show_study("1.2.3").conflicts] == [
        ConflictKind.OTHER_PATIENT
    ]


def test_the_newest_patient_id_is_the_study_s_unless_it_is_empty(ledger: Ledger) -> None:
    receive(ledger, number=1, patient_id="P1")
    receive(ledger, number=2, patient_id="P2")
    receive(ledger, number=3, patient_id="")
    ledger.complete_studies(RULE, now=60)
    [claimed] = claim(ledger, now=61)
    assert claimed.patient_id == "P2"
    assert len(ledger.show_study("1.2.3").conflicts) == 1


def test_a_late_instance_after_done_raises_the_revision_and_sends_the_study_round_again(
    ledger: Ledger,
) -> None:
    complete(ledger, "1.2.3")
    [first] = claim(ledger, now=61)
    with ledger.committing(first.claim_token, now=62):
        pass
    receive(ledger, number=2, now=100)
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision, study.done_revision) == (StudyState.RECEIVING, 2, 1)
    assert ledger.complete_studies(RULE, now=160) == 1
    [second] = claim(ledger, now=161)
    assert (second.revision, second.attempts, len(second.instances)) == (2, 1, 2)


def test_a_late_instance_takes_a_waiting_study_back_to_receiving(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    receive(ledger, number=2, now=70)
    assert ledger.show_study("1.2.3").state is StudyState.RECEIVING
    assert claim(ledger, now=71) == []


# ---------------------------------------------------------------------- completion


def test_a_held_study_is_not_complete_until_the_hold_ends_or_is_released(ledger: Ledger) -> None:
    ledger.record_instance(make_received(), association="a", hold_until=90, now=0)
    assert ledger.complete_studies(RULE, now=89) == 0
    ledger.extend_holds("a", until=120)
    assert ledger.complete_studies(RULE, now=119) == 0
    ledger.extend_holds("other", until=999)
    ledger.release_holds("other")
    assert ledger.show_study("1.2.3").open_associations == 1
    ledger.release_holds("a")
    assert ledger.complete_studies(RULE, now=119) == 1


def test_a_hold_that_nobody_extends_ends_by_itself(ledger: Ledger) -> None:
    ledger.record_instance(make_received(), association="a", hold_until=90, now=0)
    assert ledger.complete_studies(RULE, now=90) == 1
    assert ledger.show_study("1.2.3").open_associations == 0


def test_the_reason_is_kept(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    study = ledger.show_study("1.2.3")
    assert study.completed_at == 60
    assert study.completed_because is not None
    assert "60 s" in study.completed_because


def test_the_oldest_age_counts_from_the_round_and_not_from_the_first_instance(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    ledger.record_instance(make_received(number=2), association="a", hold_until=99999, now=5000)
    assert ledger.complete_studies(RULE, now=5001) == 0
    assert ledger.complete_studies(RULE, now=8600) == 1


# ---------------------------------------------------------------------- claims


def test_the_oldest_complete_study_is_claimed_first(ledger: Ledger) -> None:
    complete(ledger, "1.2.9", now=0)
    complete(ledger, "1.2.3", now=10)
    complete(ledger, "1.2.5", now=20)
    assert [study.study_instance_uid for study in claim(ledger, now=90, limit=2)] == ["1.2.9", "1.2.3"]
    assert [study.study_instance_uid for study in claim(ledger, now=90, limit=2)] == ["1.2.5"]


def test_a_dead_worker_s_claim_returns_when_its_lease_ends(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [dead] = claim(ledger, now=61)
    assert claim(ledger, now=160) == []
    [alive] = claim(ledger, now=161)
    assert (alive.revision, alive.attempts) == (1, 2)
    with pytest.raises(ClaimLostError), ledger.committing(dead.claim_token, now=162):
        pytest.fail("the block of a lost claim must not run")
    with ledger.committing(alive.claim_token, now=163):
        pass
    assert ledger.show_study("1.2.3").state is StudyState.DONE


def test_a_heartbeat_keeps_a_claim_and_says_which_are_lost(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    held = ledger.extend_claims([claimed.claim_token, "gone"], lease_s=100, now=150)
    assert held == {claimed.claim_token}
    assert claim(ledger, now=249) == []
    assert len(claim(ledger, now=250)) == 1
    assert ledger.extend_claims([claimed.claim_token], lease_s=100, now=251) == set()


def test_a_study_fails_after_its_attempts_and_keeps_the_error(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    for attempt in (1, 2):
        [claimed] = claim(ledger, now=100, max_attempts=2)
        assert claimed.attempts == attempt
        ledger.release_claims([claimed.claim_token], error=f"boom {attempt}", max_attempts=2, now=101)
    study = ledger.show_study("1.2.3")
    assert (study.state, study.last_error, study.last_error_at) == (StudyState.FAILED, "boom 2", 101)
    assert claim(ledger, now=102) == []


def test_a_study_whose_workers_die_fails_too(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    assert len(claim(ledger, now=100, max_attempts=2)) == 1
    assert len(claim(ledger, now=200, max_attempts=2)) == 1
    assert claim(ledger, now=300, max_attempts=2) == []
    study = ledger.show_study("1.2.3")
    assert study.state is StudyState.FAILED
    assert study.last_error is not None
    assert "lease" in study.last_error


def test_a_worker_that_only_stops_costs_no_attempt(ledger: Ledger) -> None:
    complete(ledger, "1.2.3", "1.2.4")
    stopped = claim(ledger, now=100)
    ledger.release_claims([claimed.claim_token for claimed in stopped], error=None, max_attempts=1, now=101)
    again = claim(ledger, now=102)
    assert [(study.study_instance_uid, study.attempts) for study in again] == [("1.2.3", 1), ("1.2.4", 1)]


def test_a_study_that_failed_before_is_claimed_alone(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2", "1.2.3")
    batch = claim(ledger, now=100, limit=2)
    ledger.release_claims([study.claim_token for study in batch], error="boom", max_attempts=3, now=101)
    batches = [[study.study_instance_uid for study in claim(ledger, now=102)] for _ in range(3)]
    assert batches == [["1.2.1"], ["1.2.2"], ["1.2.3"]]


def test_good_studies_before_a_failed_one_are_claimed_without_it(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", now=0)
    complete(ledger, "1.2.2", now=10)
    both = claim(ledger, now=100)
    ledger.release_claims([both[1].claim_token], error="boom", max_attempts=3, now=101)
    ledger.release_claims([both[0].claim_token], error=None, max_attempts=3, now=101)
    assert [study.study_instance_uid for study in claim(ledger, now=102)] == ["1.2.1"]
    assert [study.study_instance_uid for study in claim(ledger, now=102)] == ["1.2.2"]


# ---------------------------------------------------------------------- committing


def test_a_block_that_raises_leaves_the_study_claimed(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    with pytest.raises(OSError, match="disk"), ledger.committing(claimed.claim_token, now=62):
        raise OSError("disk")
    assert ledger.show_study("1.2.3").state is StudyState.CLAIMED
    with ledger.committing(claimed.claim_token, now=63):
        pass
    assert ledger.show_study("1.2.3").state is StudyState.DONE


def test_a_claim_commits_once(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    with ledger.committing(claimed.claim_token, now=62):
        pass
    with pytest.raises(ClaimLostError), ledger.committing(claimed.claim_token, now=63):
        pytest.fail("a second commit must not run")


def test_results_of_an_older_revision_stand_and_the_study_goes_round_again(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    receive(ledger, number=2, now=70)
    receive(ledger, number=3, now=71)
    with ledger.committing(claimed.claim_token, now=80):
        pass
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision, study.done_revision) == (StudyState.RECEIVING, 2, 1)
    assert ledger.complete_studies(RULE, now=131) == 1


def test_a_failed_attempt_at_an_older_revision_counts_for_nothing(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61, max_attempts=1)
    receive(ledger, number=2, now=70)
    ledger.release_claims([claimed.claim_token], error="boom", max_attempts=1, now=80)
    study = ledger.show_study("1.2.3")
    assert (study.state, study.attempts) == (StudyState.RECEIVING, 0)


def test_something_new_in_a_failed_study_gives_it_another_chance(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61, max_attempts=1)
    ledger.release_claims([claimed.claim_token], error="boom", max_attempts=1, now=80)
    receive(ledger, number=2, now=100)
    ledger.complete_studies(RULE, now=160)
    [again] = claim(ledger, now=161, max_attempts=1)
    assert (again.revision, again.attempts) == (2, 1)


# ---------------------------------------------------------------------- questions and retries


def test_every_state_is_counted(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    receive(ledger, "1.2.4", now=61)
    assert ledger.counts_by_state() == {"receiving": 1, "complete": 1, "claimed": 0, "done": 0, "failed": 0}


def test_the_queue_is_as_old_as_its_head(ledger: Ledger) -> None:
    assert ledger.oldest_complete_age_s(now=100) == 0
    complete(ledger, "1.2.3", now=0)
    complete(ledger, "1.2.4", now=10)
    assert ledger.oldest_complete_age_s(now=100) == 40


def test_studies_are_listed_newest_first(ledger: Ledger) -> None:
    complete(ledger, "1.2.5", now=2)
    receive(ledger, "1.2.3", now=0)
    receive(ledger, "1.2.4", now=1)
    assert [study.study_instance_uid for study in ledger.list_studies(limit=2)] == ["1.2.5", "1.2.4"]
    assert [study.study_instance_uid for study in ledger.list_studies(state="receiving")] == [
        "1.2.4",
        "1.2.3",
    ]


def test_a_claimed_study_tells_who_has_it(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    claim(ledger, now=61)
    study = ledger.show_study("1.2.3")
    assert (study.worker, study.lease_until, study.attempts) == ("w", 161, 1)


def test_a_failed_study_is_tried_again_with_all_its_attempts(ledger: Ledger) -> None:
    complete(ledger, "1.2.3", "1.2.4")
    for claimed in claim(ledger, now=61, max_attempts=1):
        ledger.release_claims([claimed.claim_token], error="boom", max_attempts=1, now=80)
    ledger.retry_study("1.2.3", now=90)
    ledger.retry_study("1.2.4", now=90)
    [again] = claim(ledger, now=100)  # alone: it failed before
    assert again.attempts == 1


def test_only_a_known_failed_study_can_be_tried_again(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    with pytest.raises(StudyNotFailedError, match="complete"):
        ledger.retry_study("1.2.3", now=100)
    with pytest.raises(StudyNotFoundError):
        ledger.retry_study("1.2.4", now=100)
    with pytest.raises(StudyNotFoundError):
        ledger.show_study("1.2.4")


def test_questions_are_answered_while_a_commit_holds_the_ledger(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [claimed] = claim(ledger, now=61)
    with ledger.committing(claimed.claim_token, now=62):
        assert ledger.counts_by_state()["claimed"] == 1
