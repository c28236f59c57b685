from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.peers.evidence_ledger import EvidenceLedger, Patience
from tests.unit.dicom_listener.instances import make_received

PATIENCE = Patience(after_s=10, pause_s=15, longest_pause_s=40)
RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


def receive(ledger: Ledger, number: int, *, now: float, study: str = "1.2.3", hold: float = 0) -> None:
    ledger.record_instance(make_received(study, number), association="a", hold_until=now + hold, now=now)


def ask(ledger: Ledger, now: float, limit: int = 10) -> list[str]:
    return EvidenceLedger(ledger).take_questions(PATIENCE, limit=limit, now=now)


def test_a_study_is_asked_about_when_it_looks_quiet(ledger: Ledger) -> None:
    receive(ledger, 1, now=100)
    assert ask(ledger, 109) == []
    assert ask(ledger, 110) == ["1.2.3"]


def test_a_study_that_an_association_holds_is_not_asked_about(ledger: Ledger) -> None:
    receive(ledger, 1, now=100, hold=30)
    assert ask(ledger, 120) == []
    assert ask(ledger, 130) == ["1.2.3"]


def test_it_is_asked_again_with_growing_pauses_until_something_comes(ledger: Ledger) -> None:
    receive(ledger, 1, now=100)
    for now in (110, 125, 155, 195, 235):  # pauses of 15, 30, 40, 40
        assert ask(ledger, now - 1) == []
        assert ask(ledger, now) == ["1.2.3"]
    receive(ledger, 2, now=236)
    assert ask(ledger, 246) == ["1.2.3"]
    assert ask(ledger, 261) == ["1.2.3"]


def test_only_so_many_are_taken_at_once_and_the_others_next(ledger: Ledger) -> None:
    for number in range(1, 4):
        receive(ledger, 1, now=100 + number, study=f"1.2.{number}")
    assert ask(ledger, 200, limit=2) == ["1.2.1", "1.2.2"]
    assert ask(ledger, 200, limit=2) == ["1.2.3"]


def test_a_study_that_is_complete_is_not_asked_about(ledger: Ledger) -> None:
    receive(ledger, 1, now=100)
    ledger.complete_studies(RULE, now=160)
    assert ask(ledger, 200) == []


def test_an_answer_completes_or_delays_the_study(ledger: Ledger) -> None:
    evidence = EvidenceLedger(ledger)
    receive(ledger, 1, now=100)
    evidence.enter_answer("1.2.3", 2, asked_at=110)
    assert ledger.complete_studies(RULE, now=1000) == 0
    receive(ledger, 2, now=1001)
    assert ledger.complete_studies(RULE, now=1012) == 0  # asked before the newest came
    evidence.enter_answer("1.2.3", 2, asked_at=1012)
    assert ledger.complete_studies(RULE, now=1012) == 1
    study = ledger.show_study("1.2.3")
    assert study.completed_because == "the archive has 2 instances of it, and all of them are here"
    assert (study.expected_instances, study.expected_at) == (2, 1012)


def test_no_answer_leaves_the_study_to_the_quiet_period(ledger: Ledger) -> None:
    receive(ledger, 1, now=100)
    EvidenceLedger(ledger).enter_answer("1.2.3", None, asked_at=110)
    assert ledger.complete_studies(RULE, now=159) == 0
    assert ledger.complete_studies(RULE, now=160) == 1


def test_what_comes_late_raises_the_revision_and_is_asked_about_again(ledger: Ledger) -> None:
    evidence = EvidenceLedger(ledger)
    receive(ledger, 1, now=100)
    evidence.enter_answer("1.2.3", 1, asked_at=110)
    ledger.complete_studies(RULE, now=110)
    receive(ledger, 2, now=200)
    late = ledger.show_study("1.2.3")
    assert (late.state, late.revision) == (StudyState.RECEIVING, 2)
    assert ledger.complete_studies(RULE, now=205) == 0
    assert ask(ledger, 210) == ["1.2.3"]
    evidence.enter_answer("1.2.3", 2, asked_at=210)
    assert ledger.complete_studies(RULE, now=210) == 1


def test_a_study_is_asked_about_and_completed_on_either_back_end(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    receive(ledger, 1, now=100)
    assert ask(ledger, 110) == ["1.2.3"]
    assert ask(ledger, 111) == []
    EvidenceLedger(ledger).enter_answer("1.2.3", 1, asked_at=111)
    assert ledger.complete_studies(RULE, now=111) == 1
    ledger.close()
