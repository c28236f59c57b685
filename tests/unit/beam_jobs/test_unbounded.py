"""The two steps in front of the pipeline, as functions of one tick and one claim."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from apache_beam.utils.timestamp import Timestamp

from beam_jobs.records import StudyClaim
from beam_jobs.unbounded import BeginStudies, ClaimStudies, _BeginStudiesFn, _ClaimStudiesFn
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from tests.studies import AT_ONCE, MARK, clip, receive, uid

NOW = 1000.0


def clock() -> float:
    return NOW


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    receive(ledger, tmp_path / "spool", [clip(n, 1) for n in range(5)], now=NOW - 100)
    yield ledger
    ledger.close()


@pytest.fixture
def claiming(ledger: Ledger, tmp_path: Path) -> Iterator[_ClaimStudiesFn]:  # noqa: ARG001 - its studies
    step = ClaimStudies(
        name="engine",
        rule=AT_ONCE,
        key_file=tmp_path / "secret.key",
        ledger_url=f"sqlite:///{tmp_path}/ledger.sqlite",
        poll_s=1.0,
        at_once=3,
        lease_s=100,
        max_attempts=2,
        clock=clock,
    )
    fn = pickle.loads(pickle.dumps(_ClaimStudiesFn(step)))  # noqa: S301 - as an engine does with it
    fn.setup()
    yield fn
    fn.teardown()


@pytest.fixture
def beginning(ledger: Ledger, tmp_path: Path) -> Iterator[_BeginStudiesFn]:  # noqa: ARG001 - its studies
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    fn = _BeginStudiesFn(BeginStudies(ledger_url=url, lease_s=100, max_attempts=2, clock=clock))
    fn.setup()
    yield fn
    fn.teardown()


def tick(fn: _ClaimStudiesFn, *, at: float = NOW) -> list[StudyClaim]:
    return list(fn.process(Timestamp(at)))


def commit(ledger: Ledger, *claims: StudyClaim) -> None:
    for claim in claims:
        with ledger.committing(claim.claim_token, now=NOW):
            pass


def test_claims_stop_when_the_pipeline_is_full(claiming: _ClaimStudiesFn, ledger: Ledger) -> None:
    first = tick(claiming)
    assert len(first) == 3
    assert tick(claiming) == []
    commit(ledger, first[0])
    [fourth] = tick(claiming)
    assert tick(claiming) == []
    commit(ledger, *first[1:], fourth)
    assert len(tick(claiming)) == 1
    assert tick(claiming) == []


def test_what_was_claimed_names_nobody(claiming: _ClaimStudiesFn) -> None:
    claims = repr(tick(claiming))
    assert MARK not in claims
    assert uid() not in claims


def test_a_study_that_failed_before_is_alone(claiming: _ClaimStudiesFn, ledger: Ledger) -> None:
    first = tick(claiming)
    ledger.release_claims([first[0].claim_token], error="died", max_attempts=2, now=NOW)
    assert tick(claiming) == []  # it is at the head of the queue, and two others are under way
    commit(ledger, *first[1:])
    [alone] = tick(claiming)
    assert alone.study_key == first[0].study_key
    assert tick(claiming) == []  # there is room, but it may take the others down
    commit(ledger, alone)
    assert len(tick(claiming)) == 2


def test_ticks_of_a_time_when_the_engine_was_down_are_passed_over(claiming: _ClaimStudiesFn) -> None:
    assert tick(claiming, at=NOW - 5) == []
    assert len(tick(claiming, at=NOW - 3)) == 3


def test_a_ledger_that_is_down_does_not_end_the_pipeline(
    claiming: _ClaimStudiesFn, beginning: _BeginStudiesFn, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim, *_] = tick(claiming)
    down = Mock(side_effect=LedgerUnavailableError("down"))
    monkeypatch.setattr(Ledger, "complete_studies", down)
    monkeypatch.setattr(Ledger, "begin_claim", down)
    assert tick(claiming) == []
    assert list(beginning.process(claim)) == []


def test_a_claim_goes_on_once(claiming: _ClaimStudiesFn, beginning: _BeginStudiesFn, ledger: Ledger) -> None:
    [claim, *_] = tick(claiming)
    assert list(beginning.process(claim)) == [claim]
    assert list(beginning.process(claim)) == []
    assert ledger.counts_by_state()["complete"] == 3  # it went back to the queue
