"""A ledger of an earlier release is brought up to date with all that is in it; a newer one is refused."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from dicom_listener.errors import LedgerVersionError
from dicom_listener.ledger import ConflictKind, Ledger, RecordOutcome, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger.database.migrations import _STEPS, LATEST
from dicom_listener.ledger.database.schema import ledger_version, metadata
from tests.unit.dicom_listener.instances import make_received

# What SQLAlchemy emitted for version 1. Both databases understand it; only the key of conflicts differs.
VERSION_1 = """
CREATE TABLE instances (
    study_instance_uid VARCHAR(64) NOT NULL, sop_instance_uid VARCHAR(64) NOT NULL,
    series_instance_uid VARCHAR(64) NOT NULL, sop_class_uid VARCHAR(64) NOT NULL,
    transfer_syntax_uid VARCHAR(64) NOT NULL, path VARCHAR(255) NOT NULL, sha256 VARCHAR(64) NOT NULL,
    size_bytes BIGINT NOT NULL, received_at FLOAT NOT NULL,
    PRIMARY KEY (study_instance_uid, sop_instance_uid));
CREATE INDEX ix_instances_sop_instance_uid ON instances (sop_instance_uid);
CREATE TABLE batches (
    batch_id VARCHAR(32) NOT NULL, worker VARCHAR(255) NOT NULL, claimed_at FLOAT NOT NULL,
    studies INTEGER NOT NULL, PRIMARY KEY (batch_id));
CREATE TABLE studies (
    study_instance_uid VARCHAR(64) NOT NULL, patient_id VARCHAR NOT NULL, state VARCHAR(16) NOT NULL,
    revision INTEGER NOT NULL, first_received_at FLOAT NOT NULL, last_received_at FLOAT NOT NULL,
    receiving_since FLOAT NOT NULL, completed_at FLOAT, completed_because VARCHAR, attempts INTEGER NOT NULL,
    last_error VARCHAR, last_error_at FLOAT, claim_token VARCHAR(32), claimed_revision INTEGER,
    batch_id VARCHAR(32), lease_until FLOAT, done_at FLOAT, done_revision INTEGER,
    PRIMARY KEY (study_instance_uid), UNIQUE (claim_token),
    FOREIGN KEY(batch_id) REFERENCES batches (batch_id));
CREATE INDEX ix_studies_state ON studies (state, completed_at);
CREATE TABLE conflicts (
    conflict_id {serial}, study_instance_uid VARCHAR(64) NOT NULL, sop_instance_uid VARCHAR(64) NOT NULL,
    kind VARCHAR(32) NOT NULL, seen_at FLOAT NOT NULL);
CREATE INDEX ix_conflicts_study_instance_uid ON conflicts (study_instance_uid);
CREATE TABLE holds (
    association VARCHAR(64) NOT NULL, study_instance_uid VARCHAR(64) NOT NULL, hold_until FLOAT NOT NULL,
    PRIMARY KEY (association, study_instance_uid));
INSERT INTO batches VALUES ('b1', 'w', 5, 1);
INSERT INTO studies VALUES ('1.2.3', 'P1', 'done', 2, 1, 3, 1, 4, 'nothing came for 60 s', 1, NULL, NULL,
    NULL, NULL, 'b1', NULL, 6, 2);
INSERT INTO studies VALUES ('1.2.4', 'P2', 'receiving', 1, 7, 7, 7, NULL, NULL, 0, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO instances VALUES ('1.2.3', '1.2.3.1.1', '1.2.3.1', '1.2.840.10008.5.1.4.1.1.3.1',
    '1.2.840.10008.1.2.1', '{path}', '{sha256}', 100, 3);
INSERT INTO conflicts (study_instance_uid, sop_instance_uid, kind, seen_at)
    VALUES ('1.2.3', '1.2.3.1.1', 'changed_content', 3);
INSERT INTO holds VALUES ('a', '1.2.4', 37)
"""

Connect = Callable[[], sa.Engine]


@pytest.fixture
def engine(empty_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(empty_url, poolclass=sa.pool.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def version_1(engine: sa.Engine) -> str:
    """Make a ledger as the first release left it; give its URL."""
    spooled = make_received().spooled
    serial = "SERIAL PRIMARY KEY" if engine.name == "postgresql" else "INTEGER NOT NULL PRIMARY KEY"
    script = VERSION_1.format(serial=serial, path=spooled.path, sha256=spooled.sha256)
    with engine.begin() as connection:
        for statement in script.split(";"):
            connection.exec_driver_sql(statement)
    return engine.url.render_as_string(hide_password=False)


def shape(engine: sa.Engine) -> dict[str, set[tuple[str, str, bool]]]:
    """Give the columns of every table: name, type, whether null is allowed."""
    inspector = sa.inspect(engine)
    return {
        table: {
            (column["name"], str(column["type"]), bool(column["nullable"]))
            for column in inspector.get_columns(table)
        }
        for table in inspector.get_table_names()
    }


def index_names(engine: sa.Engine) -> set[str]:
    catalog = (
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"
        if engine.name == "postgresql"
        else "SELECT name FROM sqlite_master WHERE type = 'index'"
    )
    with engine.connect() as connection:
        return {name for (name,) in connection.exec_driver_sql(catalog) if name.startswith("ix_")}


def test_a_new_ledger_is_of_the_latest_version(engine: sa.Engine, empty_url: str) -> None:
    Ledger(empty_url).close()
    with engine.connect() as connection:
        assert connection.scalars(sa.select(ledger_version.c.version)).all() == [LATEST]
    assert shape(engine).keys() == metadata.tables.keys()


def test_an_upgraded_ledger_has_the_shape_of_a_new_one(version_1: str, engine: sa.Engine) -> None:
    Ledger(version_1).close()
    upgraded = shape(engine), index_names(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
    Ledger(version_1).close()
    assert upgraded == (shape(engine), index_names(engine))


def test_what_an_earlier_release_wrote_is_there_and_goes_on(version_1: str) -> None:
    ledger = Ledger(version_1)
    try:
        done = ledger.show_study("1.2.3")
        assert (done.state, done.revision, done.done_revision, done.worker) == (StudyState.DONE, 2, 2, "w")
        assert (done.duplicates, done.contents_aside, done.pruned_files, done.lost_files) == (0, 0, 0, 0)
        [conflict] = done.conflicts
        assert (conflict.kind, conflict.times) == (ConflictKind.CHANGED_CONTENT, 1)
        assert conflict.sha256 is conflict.resolution is None
        again = ledger.record_instance(make_received(), association="b", hold_until=9, now=9)
        assert again is RecordOutcome.DUPLICATE
        assert ledger.complete_studies(CompletionRule(60, 3600), now=67) == 1
        assert ledger.show_study("1.2.4").state is StudyState.COMPLETE
    finally:
        ledger.close()


def test_a_writer_of_the_first_release_may_go_on_in_an_upgraded_ledger(
    version_1: str, engine: sa.Engine
) -> None:
    Ledger(version_1).close()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO studies (study_instance_uid, patient_id, state, revision, first_received_at, "
            "last_received_at, receiving_since, attempts) VALUES ('1.2.5', 'P', 'receiving', 1, 1, 1, 1, 0)"
        )
    ledger = Ledger(version_1)
    assert ledger.show_study("1.2.5").duplicates == 0
    ledger.close()


def test_a_newer_ledger_is_refused_and_left_alone(engine: sa.Engine, empty_url: str) -> None:
    Ledger(empty_url).close()
    with engine.begin() as connection:
        connection.execute(ledger_version.update().values(version=LATEST + 1))
    with pytest.raises(
        LedgerVersionError, match=f"version {LATEST + 1} and this release knows up to {LATEST}"
    ):
        Ledger(empty_url)
    with engine.connect() as connection:
        assert connection.scalars(sa.select(ledger_version.c.version)).all() == [LATEST + 1]


def test_an_upgrade_that_breaks_changes_nothing(
    version_1: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shape(engine)

    def broken(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE studies ADD COLUMN half_way INTEGER")
        raise sqlite3.ProgrammingError

    monkeypatch.setitem(_STEPS, LATEST, broken)
    with pytest.raises(sqlite3.ProgrammingError):
        Ledger(version_1)
    assert shape(engine) == before


def test_a_ledger_that_is_up_to_date_is_opened_without_a_write(empty_url: str) -> None:
    one = Ledger(empty_url)
    with one.writing():
        Ledger(empty_url).close()
    one.close()
