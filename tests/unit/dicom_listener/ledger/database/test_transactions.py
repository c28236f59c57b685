"""How the ledger's database is opened, fails and comes back, on SQLite and on PostgreSQL."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger, RecordOutcome
from dicom_listener.ledger.database.schema import metadata, studies
from tests.postgres import find_programs, running_postgres
from tests.programs import DEADLINE_S
from tests.unit.dicom_listener.instances import make_received


def receive(ledger: Ledger, study: str = "1.2.3", number: int = 1, patient_id: str = "P1") -> RecordOutcome:
    received = make_received(study, number, patient_id=patient_id)
    return ledger.record_instance(received, association="a", hold_until=0, now=0)


def test_a_ledger_that_can_be_written_says_nothing(ledger: Ledger) -> None:
    ledger.check_writable()


def test_an_error_of_the_ledger_holds_no_patient(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql("DROP TABLE instances")
    with pytest.raises(LedgerUnavailableError) as caught:
        receive(ledger, patient_id="PLANTED")
    with ledger.writing() as connection:  # the next test has the same database
        metadata.create_all(connection)
    cause: BaseException | None = caught.value
    while cause is not None:
        assert "PLANTED" not in str(cause)
        cause = cause.__cause__


def test_a_patient_id_with_a_zero_byte_is_kept(ledger: Ledger) -> None:
    assert receive(ledger, patient_id="A\0B") is RecordOutcome.NEW
    assert receive(ledger, number=2, patient_id="A\0B") is RecordOutcome.NEW
    assert ledger.show_study("1.2.3").conflicts == ()


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://host/name"])
def test_a_url_of_no_database_is_told_without_its_password(url: str) -> None:
    with pytest.raises(LedgerUnavailableError, match="ledger_url"):
        Ledger(url)


# ---------------------------------------------------------------------- SQLite


@pytest.fixture
def on_file(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()


def test_a_commit_to_a_file_outlives_a_power_cut(on_file: Ledger) -> None:
    with on_file._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_a_ledger_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerUnavailableError, match="NOTADB"):
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_a_ledger_in_an_impossible_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailableError, match="folder cannot be made"):
        Ledger(f"sqlite:///{tmp_path}/file/ledger.sqlite")


def test_a_question_does_not_create_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailableError, match="no ledger yet"):
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", must_exist=True)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- PostgreSQL


@pytest.fixture
def on_server(emptied_ledger: Callable[[], str]) -> Iterator[Ledger]:
    ledger = Ledger(emptied_ledger())
    yield ledger
    ledger.close()


def test_a_commit_to_a_server_outlives_a_power_cut(on_server: Ledger) -> None:
    with on_server.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "30s"


def test_who_asks_cannot_write_by_mistake(on_server: Ledger) -> None:
    with pytest.raises(LedgerUnavailableError, match="25006"), on_server.reading() as connection:
        connection.execute(studies.delete())


def test_a_server_that_goes_away_and_comes_back_is_used_again() -> None:
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with running_postgres() as server:
        ledger = Ledger(server.make_database())
        try:
            assert receive(ledger, number=1) is RecordOutcome.NEW
            server.stop()
            with pytest.raises(LedgerUnavailableError):
                receive(ledger, number=2)
            with pytest.raises(LedgerUnavailableError):
                ledger.counts_by_state()
            server.start()
            assert receive(ledger, number=2) is RecordOutcome.NEW
            assert ledger.show_study("1.2.3").instances == 2
        finally:
            ledger.close()


def test_a_connection_lost_in_the_middle_is_made_again(on_server: Ledger) -> None:
    tries = []

    def work(connection: Connection) -> str:
        tries.append(connection)
        if len(tries) == 1:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with on_server.writing() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        return str(connection.exec_driver_sql("SELECT 'done'").scalar_one())

    assert on_server.write(work) == "done"
    assert len(tries) == 2


def test_two_who_wait_for_each_other_both_get_through(on_server: Ledger) -> None:
    receive(on_server, "1.2.1")
    receive(on_server, "1.2.2")
    both_hold_one = threading.Barrier(2)
    through = {"1.2.1": threading.Event(), "1.2.2": threading.Event()}
    tries: list[str] = []

    def touch(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            tries.append(first)
            if tries.count(first) > 1:  # else it may take its row again first, and both meet once more
                assert through[second].wait(DEADLINE_S)
            for uid in (first, second):
                connection.execute(
                    studies.update()
                    .where(studies.c.study_instance_uid == uid)
                    .values(attempts=studies.c.attempts + 1)
                )
                if uid == first and len(tries) <= 2:
                    both_hold_one.wait(DEADLINE_S)

        on_server.write(work)
        through[first].set()

    threads = [threading.Thread(target=touch, args=pair) for pair in (("1.2.1", "1.2.2"), ("1.2.2", "1.2.1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(tries) == 3, "nobody met a deadlock"
    assert [on_server.show_study(uid).attempts for uid in ("1.2.1", "1.2.2")] == [2, 2]


def test_a_server_that_does_not_answer_in_time_is_taken_for_gone(
    on_server: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_listener.ledger.database.engine._ANSWER_TIMEOUT_S", 0.2)
    impatient = Ledger(str(on_server._engine.url))
    try:
        with pytest.raises(LedgerUnavailableError, match="TimeoutError"), impatient.writing() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")
        assert impatient.counts_by_state()["done"] == 0
    finally:
        impatient.close()
