import pytest

from dicom_listener.ledger.completion import ArchiveEvidence, CompletionRule, completion_reason

RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


def reason(
    *,
    receiving_since: float = 900,
    last_received_at: float = 900,
    open_associations: int = 0,
    now: float = 1000,
    instances: int = 0,
    evidence: ArchiveEvidence | None = None,
) -> str | None:
    return completion_reason(
        RULE,
        receiving_since=receiving_since,
        last_received_at=last_received_at,
        open_associations=open_associations,
        now=now,
        instances=instances,
        evidence=evidence,
    )


@pytest.mark.parametrize(
    ("receiving_since", "last_received_at", "open_associations", "is_complete"),
    [
        (900, 941, 0, False),  # something came less than 60 s ago
        (900, 940, 0, True),
        (900, 940, 1, False),  # quiet, but an association may still bring more
        (-2599, 999, 0, False),
        (-2600, 999, 3, True),  # too old, whatever holds it
    ],
)
def test_a_study_is_complete_when_quiet_and_unheld_or_too_old(
    receiving_since: float, last_received_at: float, open_associations: int, is_complete: bool
) -> None:
    said = reason(
        receiving_since=receiving_since,
        last_received_at=last_received_at,
        open_associations=open_associations,
    )
    assert (said is not None) == is_complete


def test_the_reason_names_the_bound_that_made_it_complete() -> None:
    assert "60 s" in str(reason(last_received_at=940))
    assert "3600 s" in str(reason(receiving_since=-2600, last_received_at=999))


def test_as_many_as_the_archive_has_is_complete_at_once() -> None:
    said = reason(last_received_at=999, instances=12, evidence=ArchiveEvidence(12, asked_at=999))
    assert said == "the archive has 12 instances of it, and all of them are here"


def test_an_open_association_holds_what_the_archive_calls_whole() -> None:
    assert reason(open_associations=1, instances=12, evidence=ArchiveEvidence(12, asked_at=999)) is None


def test_an_answer_from_before_the_newest_instance_does_not_hurry() -> None:
    early = ArchiveEvidence(12, asked_at=998)
    assert reason(last_received_at=999, instances=12, evidence=early) is None
    assert "12 came, the archive has 12" in str(
        reason(last_received_at=940, instances=12, evidence=ArchiveEvidence(12, asked_at=939))
    )


def test_fewer_than_the_archive_has_wait_beyond_the_quiet_period_but_not_beyond_the_greatest_age() -> None:
    evidence = ArchiveEvidence(12, asked_at=950)
    assert reason(last_received_at=901, instances=11, evidence=evidence) is None
    said = reason(receiving_since=-2600, last_received_at=0, instances=11, evidence=evidence)
    assert said == "open for 3600 s, the longest allowed; 11 came, the archive has 12"


def test_more_than_the_archive_has_is_left_to_the_quiet_period() -> None:
    evidence = ArchiveEvidence(12, asked_at=999)
    assert reason(last_received_at=941, instances=13, evidence=evidence) is None
    said = str(reason(last_received_at=940, instances=13, evidence=evidence))
    assert said.startswith("nothing came for 60 s")
    assert "13 came, the archive has 12" in said
