from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import CommitmentState, RequestOutcome, Verdict
from dicom_listener.commitment.statuses import FailureReason
from dicom_listener.errors import CommitmentNotFoundError
from dicom_listener.ledger import Ledger
from tests.unit.dicom_listener.commitments import references


@pytest.fixture
def commitments(tmp_path: Path) -> Iterator[CommitmentLedger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield CommitmentLedger(ledger)
    ledger.close()


def request(
    commitments: CommitmentLedger, *numbers: int, transaction: str = "1.9", now: float = 100
) -> RequestOutcome:
    return commitments.request(
        transaction_uid=transaction, requester="PACS", references=references(*numbers), now=now
    )


def take(commitments: CommitmentLedger, now: float) -> list[str]:
    return [one.transaction_uid for one in commitments.take_due(lease_s=60, limit=10, now=now)]


def test_a_request_is_pending_and_due_at_once(commitments: CommitmentLedger) -> None:
    assert request(commitments, 1, 2) is RequestOutcome.NEW
    [commitment] = commitments.take_due(lease_s=60, limit=10, now=100)
    assert (commitment.state, commitment.instances, commitment.committed) == (CommitmentState.PENDING, 2, 0)
    assert commitment.verified_at is None
    assert [verdict.reference for verdict in commitments.verdicts(commitment.commitment_id)] == references(
        1, 2
    )


def test_what_is_taken_is_nobody_else_s_until_the_lease_ends(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    assert take(commitments, 100) == ["1.9"]
    assert take(commitments, 159) == []
    assert take(commitments, 160) == ["1.9"]


def test_the_same_request_again_is_no_second_one(commitments: CommitmentLedger) -> None:
    request(commitments, 1, 2)
    assert request(commitments, 2, 1, now=101) is RequestOutcome.REPEATED
    assert len(commitments.list()) == 1


def test_the_same_request_after_its_report_is_reported_again(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    [commitment] = commitments.take_due(lease_s=60, limit=10, now=100)
    commitments.enter_verdicts(commitment.commitment_id, [Verdict(references(1)[0], None, "0" * 64)], now=100)
    commitments.note_reported(commitment.commitment_id, now=101)
    assert take(commitments, 1000) == []
    assert request(commitments, 1, now=200) is RequestOutcome.REPEATED
    [again] = commitments.take_due(lease_s=60, limit=10, now=200)
    assert again.commitment_id == commitment.commitment_id
    assert (again.verified_at, again.committed) == (None, 0)  # looked at afresh


def test_a_transaction_uid_for_other_instances_is_a_duplicate(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    assert request(commitments, 1, 2) is RequestOutcome.DUPLICATE
    assert sorted(one.is_duplicate for one in commitments.list()) == [False, True]


def test_two_requesters_may_use_one_transaction_uid(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    outcome = commitments.request(transaction_uid="1.9", requester="OTHER", references=references(2), now=100)
    assert outcome is RequestOutcome.NEW


def test_a_failure_is_due_later_and_counted_and_the_last_gives_up(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    [first] = commitments.take_due(lease_s=60, limit=10, now=100)
    commitments.note_failure(first, "no answer", next_attempt_at=130)
    assert take(commitments, 129) == []
    [second] = commitments.take_due(lease_s=60, limit=10, now=130)
    assert (second.attempts, second.last_error) == (1, "no answer")
    commitments.note_failure(second, "still none", next_attempt_at=None)
    assert take(commitments, 10_000) == []
    assert commitments.counts_by_state() == {"pending": 0, "reported": 0, "failed": 1}
    retried = commitments.retry("1.9", now=500)
    assert (retried.state, retried.attempts, retried.last_error) == (CommitmentState.PENDING, 0, None)
    assert take(commitments, 500) == ["1.9"]


def test_what_was_given_back_is_due_at_once(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    [taken] = commitments.take_due(lease_s=60, limit=10, now=100)
    commitments.release(taken.commitment_id, now=101)
    assert take(commitments, 101) == ["1.9"]


def test_the_oldest_that_waits_has_an_age(commitments: CommitmentLedger) -> None:
    assert commitments.oldest_pending_age_s(now=100) == 0
    request(commitments, 1, now=100)
    request(commitments, 2, transaction="1.8", now=150)
    assert commitments.oldest_pending_age_s(now=160) == 60


def test_a_request_is_found_by_its_id_and_by_its_transaction_uid(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    by_transaction = commitments.show("1.9")
    assert commitments.show(by_transaction.commitment_id) == by_transaction
    with pytest.raises(CommitmentNotFoundError, match="commitments list"):
        commitments.show("1.7")
    with pytest.raises(CommitmentNotFoundError):
        commitments.retry("1.7", now=0)


def test_a_long_list_of_instances_is_looked_up_in_parts(commitments: CommitmentLedger) -> None:
    assert commitments.held([f"1.2.{number}" for number in range(40_000)]) == {}


def test_the_list_can_be_narrowed(commitments: CommitmentLedger) -> None:
    request(commitments, 1)
    request(commitments, 2, transaction="1.8", now=101)
    assert [one.transaction_uid for one in commitments.list(limit=1)] == ["1.8"]
    assert commitments.list(state="failed") == []


def test_a_request_goes_its_way_on_either_back_end(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    commitments = CommitmentLedger(ledger)
    assert request(commitments, 1, 2) is RequestOutcome.NEW
    assert request(commitments, 2, 1) is RequestOutcome.REPEATED
    assert request(commitments, 1) is RequestOutcome.DUPLICATE
    assert commitments.held(["1.2.3.1.1"]) == {}
    taken = commitments.take_due(lease_s=60, limit=10, now=100)
    [first] = [one for one in taken if not one.is_duplicate]
    whole, gone = references(1, 2)
    reason = FailureReason.NO_SUCH_OBJECT_INSTANCE
    verdicts = [Verdict(whole, None, "0" * 64), Verdict(gone, reason, None)]
    commitments.enter_verdicts(first.commitment_id, verdicts, now=100)
    assert commitments.verdicts(first.commitment_id) == verdicts
    commitments.note_failure(first, "no answer", next_attempt_at=None)
    assert commitments.counts_by_state() == {"pending": 1, "reported": 0, "failed": 1}
    assert commitments.retry(first.commitment_id, now=200).state is CommitmentState.PENDING
    commitments.note_reported(first.commitment_id, now=201)
    assert [one.state for one in commitments.list(state="reported")] == [CommitmentState.REPORTED]
    assert commitments.oldest_pending_age_s(now=150) == 50
    ledger.close()
