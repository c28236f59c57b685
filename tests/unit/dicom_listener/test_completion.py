import pytest

from dicom_listener.completion import CompletionRule, completion_reason

RULE = CompletionRule(quiet_period_s=60, max_age_s=3600)


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
    reason = completion_reason(
        RULE,
        receiving_since=receiving_since,
        last_received_at=last_received_at,
        open_associations=open_associations,
        now=1000,
    )
    assert (reason is not None) == is_complete


def test_the_reason_names_the_bound_that_made_it_complete() -> None:
    quiet = completion_reason(RULE, receiving_since=0, last_received_at=0, open_associations=0, now=100)
    old = completion_reason(RULE, receiving_since=0, last_received_at=0, open_associations=0, now=4000)
    assert quiet is not None
    assert old is not None
    assert "60 s" in quiet
    assert "3600 s" in old
