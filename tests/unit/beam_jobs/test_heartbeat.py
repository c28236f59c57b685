from pathlib import Path
from unittest.mock import Mock

import pytest

from beam_jobs.heartbeat import Heartbeat, process_heartbeat
from dicom_listener.errors import LedgerUnavailableError
from tests.programs import wait_for


def ledger_holding(*held: str) -> Mock:
    ledger = Mock()
    ledger.extend_claims.side_effect = lambda tokens, **_: set(tokens) & set(held)
    return ledger


def renewed(ledger: Mock) -> list[list[str]]:
    return [call.args[0] for call in ledger.extend_claims.call_args_list]


def test_claims_are_renewed_until_they_are_lost() -> None:
    ledger = ledger_holding("b")
    heartbeat = Heartbeat(ledger, lease_s=9, clock=lambda: 100.0)
    heartbeat.add(["a", "b"])
    heartbeat.beat()
    heartbeat.beat()
    assert renewed(ledger) == [["a", "b"], ["b"]]
    ledger.extend_claims.assert_called_with(["b"], lease_s=9, now=100.0, is_waiting=False)


def test_nothing_is_asked_where_nothing_is_held() -> None:
    ledger = ledger_holding()
    Heartbeat(ledger, lease_s=9).beat()
    assert renewed(ledger) == []


def test_a_claim_that_waits_is_not_renewed_for_ever() -> None:
    ledger = ledger_holding("a")
    waiting, begun = (Heartbeat(ledger, lease_s=9, is_waiting=is_waiting) for is_waiting in (True, False))
    for heartbeat in (waiting, begun):
        ledger.reset_mock()
        heartbeat.add(["a"])
        for _ in range(100):
            heartbeat.beat()
        assert len(renewed(ledger)) == (36 if heartbeat is waiting else 100)


def test_a_ledger_that_is_down_is_asked_again() -> None:
    ledger = Mock()
    ledger.extend_claims.side_effect = [LedgerUnavailableError("down"), {"a"}, {"a"}, set()]
    heartbeat = Heartbeat(ledger, lease_s=0.03)
    heartbeat.add(["a"])
    heartbeat.start()
    wait_for("four beats", lambda: ledger.extend_claims.call_count == 4)
    heartbeat.stop()


def test_steps_of_one_process_share_a_heartbeat(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    one = process_heartbeat(url, lease_s=9, is_waiting=True)
    assert process_heartbeat(url, lease_s=9, is_waiting=True) is one
    assert process_heartbeat(url, lease_s=9, is_waiting=False) is not one


def test_no_heartbeat_without_a_ledger() -> None:
    with pytest.raises(LedgerUnavailableError):
        process_heartbeat("nonsense://", lease_s=9, is_waiting=True)
