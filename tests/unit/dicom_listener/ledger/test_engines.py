from dicom_listener.ledger import ClaimedStudy, HeldClaim, Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.engines import WORKER_DIED
from tests.unit.dicom_listener.instances import make_received

RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


def complete(ledger: Ledger, *studies: str) -> None:
    for study in studies:
        received = make_received(study, 1, "a", "P1")
        ledger.record_instance(received, association="assoc", hold_until=0, now=0)
    ledger.complete_studies(RULE, now=60)


def claim(ledger: Ledger, *, worker: str = "w", now: float = 61, limit: int = 8) -> list[ClaimedStudy]:
    return ledger.claim_studies(worker=worker, limit=limit, lease_s=100, max_attempts=2, now=now)


def begin(ledger: Ledger, study: ClaimedStudy) -> bool:
    return ledger.begin_claim(study.claim_token, max_attempts=2, now=62)


def test_a_claim_begins_once(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [study] = claim(ledger)
    assert begin(ledger, study)
    assert not begin(ledger, study)
    shown = ledger.show_study("1.2.3")
    assert (shown.state, shown.attempts, shown.last_error) == (StudyState.COMPLETE, 1, WORKER_DIED)


def test_a_study_whose_workers_die_runs_out_of_attempts_though_its_engine_never_gives_up(
    ledger: Ledger,
) -> None:
    complete(ledger, "1.2.3")
    for expected in (StudyState.COMPLETE, StudyState.FAILED):
        [study] = claim(ledger)
        assert begin(ledger, study)
        assert not begin(ledger, study)
        assert ledger.show_study("1.2.3").state is expected
    assert claim(ledger) == []


def test_a_claim_that_is_lost_does_not_begin(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [study] = claim(ledger)
    ledger.release_claims([study.claim_token], error=None, max_attempts=2, now=62)
    assert not begin(ledger, study)
    assert ledger.show_study("1.2.3").attempts == 0


def test_the_next_claim_of_a_study_has_not_begun(ledger: Ledger) -> None:
    complete(ledger, "1.2.3")
    [study] = claim(ledger)
    begin(ledger, study)
    ledger.release_claims([study.claim_token], error=None, max_attempts=2, now=62)
    [again] = claim(ledger)
    assert begin(ledger, again)


def test_claims_are_listed_by_who_holds_them(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2", "1.2.3")
    [first, second] = claim(ledger, limit=2)
    claim(ledger, worker="other")
    begin(ledger, second)
    assert ledger.claims_held_by("w") == [
        HeldClaim(first.claim_token, has_begun=False, failed_before=False),
        HeldClaim(second.claim_token, has_begun=True, failed_before=False),
    ]
    with ledger.committing(first.claim_token, now=63):
        pass
    assert [held.claim_token for held in ledger.claims_held_by("w")] == [second.claim_token]


def test_a_study_that_failed_before_waits_until_its_worker_has_no_other(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2")
    [first] = claim(ledger, limit=1)
    ledger.release_claims([first.claim_token], error="it failed", max_attempts=2, now=62)

    def claim_with(*, is_idle: bool) -> list[str]:
        claimed = ledger.claim_studies(
            worker="w", limit=8, lease_s=100, max_attempts=2, now=63, is_idle=is_idle
        )
        return [study.study_instance_uid for study in claimed]

    assert claim_with(is_idle=False) == []
    assert claim_with(is_idle=True) == ["1.2.1"]
    assert [held.failed_before for held in ledger.claims_held_by("w")] == [True]
    assert claim_with(is_idle=False) == ["1.2.2"]


def test_a_lease_can_be_renewed_only_until_the_work_begins(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2")
    waiting, begun = claim(ledger)
    begin(ledger, begun)
    tokens = [waiting.claim_token, begun.claim_token]
    assert ledger.extend_claims(tokens, lease_s=100, now=63, is_waiting=True) == {waiting.claim_token}
    assert ledger.extend_claims(tokens, lease_s=100, now=63) == set(tokens)


def test_only_named_studies_are_claimed(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2", "1.2.3")
    claimed = ledger.claim_studies(
        worker="w", limit=8, lease_s=100, max_attempts=2, now=61, only=["1.2.3", "1.2.1", "1.2.9"]
    )
    assert [study.study_instance_uid for study in claimed] == ["1.2.1", "1.2.3"]


def test_the_states_of_named_studies_are_told(ledger: Ledger) -> None:
    complete(ledger, "1.2.1", "1.2.2")
    claim(ledger, limit=1)
    assert ledger.states_of(["1.2.1", "1.2.2", "1.2.9"]) == {"1.2.1": "claimed", "1.2.2": "complete"}
