import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.reception.incoming import HOLD_S
from dicom_listener.service.housekeeping import Housekeeper, completing_studies, extending_holds, sweeping
from dicom_listener.service.keeper import warn_about
from dicom_listener.settings import ListenerSettings
from dicom_listener.spool.writing import Spool
from tests.programs import DEADLINE_S
from tests.unit.dicom_listener.instances import make_received


def test_chores_are_done_in_their_order_until_the_end() -> None:
    done: list[str] = []
    twice = threading.Event()

    def first(now: float) -> None:
        done.append(f"first at {now:g}")

    def second(_now: float) -> None:
        done.append("second")
        if len(done) >= 4:
            twice.set()

    with Housekeeper([first, second], 0.001, lambda: 7.0) as housekeeper:
        assert twice.wait(DEADLINE_S)
        assert housekeeper.is_alive()
    assert not housekeeper.is_alive()
    assert done[:4] == ["first at 7", "second"] * 2


def test_a_ledger_that_is_away_is_told_and_the_next_chore_is_done() -> None:
    reached = threading.Event()

    def away(_now: float) -> None:
        raise LedgerUnavailableError("The ledger cannot be used")

    with capture_logs() as logs, Housekeeper([away, lambda _now: reached.set()], 0.001, lambda: 0.0):
        assert reached.wait(DEADLINE_S)
    assert logs[0]["event"] == "housekeeping_failed"


def test_open_associations_hold_their_studies_for_as_long_as_they_are_open() -> None:
    extended: list[tuple[str, float]] = []
    reception: Any = SimpleNamespace(
        clock=lambda: 1000.0,
        open_associations=SimpleNamespace(names=lambda: ["a", "b"]),
        ledger=SimpleNamespace(
            extend_holds=lambda association, *, until: extended.append((association, until))
        ),
    )
    extend = extending_holds(reception)
    extend(1000.0 + HOLD_S / 3 - 1)
    assert extended == [], "not at every look"
    extend(1000.0 + HOLD_S / 3)
    assert extended == [(name, 1000.0 + HOLD_S / 3 + HOLD_S) for name in ("a", "b")]


def test_studies_are_completed_by_the_rule(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.record_instance(make_received("1.2.3"), association="a", hold_until=0, now=0)
    complete = completing_studies(ledger, CompletionRule(60, 3600))
    complete(59.0)
    assert ledger.show_study("1.2.3").state is StudyState.RECEIVING
    with capture_logs() as logs:
        complete(60.0)
    assert ledger.show_study("1.2.3").state is StudyState.COMPLETE
    assert logs == [{"event": "studies_complete", "studies": 1, "log_level": "info"}]
    ledger.close()


def test_what_a_dead_process_left_unfinished_is_deleted_once_nobody_can_be_at_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.receiving():
        for name, touched_at in (("dead", 1000.0), ("alive", 1900.0)):
            (tmp_path / "tmp" / name).touch()
            os.utime(tmp_path / "tmp" / name, (touched_at, touched_at))
        sweep = sweeping(spool, 500.0)
        with capture_logs() as logs:
            sweep(2001.0)
        assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["alive"]
        assert logs[0]["files"] == 1
        sweep(2002.0)
        assert (tmp_path / "tmp" / "alive").exists(), "not due again so soon"
        (tmp_path / "tmp" / "alive").unlink()
        (tmp_path / "tmp").rmdir()
        with capture_logs() as logs:
            sweep(3000.0)
        assert [line["event"] for line in logs] == ["spool_not_swept"]


@pytest.mark.parametrize(
    ("values", "event"),
    [
        ({"allow_any_peer": True}, "every_sender_is_accepted"),
        ({"host": "192.0.2.1"}, "only_this_machine_may_send"),
        ({}, None),
        ({"host": "192.0.2.1", "allow": [{"ae_title": "PACS", "address": "192.0.2.7"}]}, None),
    ],
)
def test_what_is_open_or_of_no_use_is_warned_about(
    tmp_path: Path, values: dict[str, Any], event: str | None
) -> None:
    with capture_logs() as logs:
        warn_about(ListenerSettings(root=tmp_path, **values))
    assert [(line["event"], line["log_level"]) for line in logs] == ([(event, "warning")] if event else [])
    assert all(line["advice"] for line in logs)
