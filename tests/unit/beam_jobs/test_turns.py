"""Whose turn it is to claim and to work."""

import threading
from collections.abc import Iterator

import pytest

from beam_jobs.turns import Turns
from dicom_listener.ledger import ClaimedStudy


def study(*, attempts: int) -> ClaimedStudy:
    return ClaimedStudy("token", "1.2", "", 1, attempts, ())


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns()
    yield turns
    assert turns.are_over(wait_s=0)


def test_the_ledger_is_told_whether_nothing_is_at_work(turns: Turns) -> None:
    told = []

    def claim(is_idle: bool) -> list[ClaimedStudy]:
        told.append(is_idle)
        return [study(attempts=1)]

    with turns.of(claim), turns.of(claim) as second:
        assert second
        assert not turns.are_over(wait_s=0)
    with turns.of(claim):
        pass
    assert told == [True, False, True]


def test_nothing_is_claimed_beside_a_study_that_was_claimed_before(turns: Turns) -> None:
    with turns.of(lambda _: [study(attempts=2)]), turns.of(lambda _: pytest.fail("asked")) as beside:
        assert beside == []
    with turns.of(lambda _: [study(attempts=1)]) as after:
        assert after


def test_what_was_not_claimed_is_not_at_work(turns: Turns) -> None:
    with turns.of(lambda _: []):
        assert turns.are_over(wait_s=0)


def test_who_waits_is_told_when_a_batch_ends(turns: Turns) -> None:
    waiting = threading.Thread(target=turns.are_over, kwargs={"wait_s": 600})
    with turns.of(lambda _: [study(attempts=1)]):
        waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_batch_that_raises_is_over(turns: Turns) -> None:
    with pytest.raises(ValueError, match="broken"), turns.of(lambda _: [study(attempts=2)]):
        raise ValueError("broken")
