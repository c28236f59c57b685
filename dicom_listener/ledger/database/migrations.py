"""From one version of the ledger's tables to the next.

    1   the first release: no table says which version it is
    2   storage commitment, what the archive says of a study, contents that are not at work, what is
        wrong with a file, counted duplicates
    3   when the work of a claim began

A ledger is brought to the latest version by the first process that opens it, in one transaction. Every
step adds; none removes or renames, so that a worker of the release before may go on meanwhile. Whoever
changes a table that an earlier step takes from `dicom_listener.ledger.database.schema` writes it out there,
as it was.
"""

import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_listener.errors import LedgerVersionError
from dicom_listener.ledger.database.schema import (
    commitment_instances,
    commitments,
    instances,
    ledger_version,
    metadata,
    other_contents,
    studies,
)

LATEST: Final = 3

_MIGRATION_LOCK: Final = 0x6563686F  # "echo"; any number that nobody else of this database uses


def migrate(connection: Connection) -> int:
    """Bring the tables to the latest version, or make them.

    Args:
        connection: in a transaction that may write.

    Returns:
        The version they had; 0 if there were none.

    Raises:
        LedgerVersionError: if they are of a newer version.
    """
    if connection.dialect.name == "postgresql":
        # SQLite's writers exclude each other already.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    found = find_version(connection)
    if found == LATEST:
        return found
    if found == 0:
        metadata.create_all(connection)
    else:
        for version in range(found + 1, LATEST + 1):
            _STEPS[version](connection)
    connection.execute(ledger_version.delete())
    connection.execute(ledger_version.insert().values(version=LATEST, since=time.time()))
    return found


def find_version(connection: Connection) -> int:
    """Find out which version the tables are of; 0 if there are none.

    Raises:
        LedgerVersionError: if they are of a newer version than this code knows.
    """
    inspector = sa.inspect(connection)
    if not inspector.has_table(ledger_version.name):
        return 1 if inspector.has_table(studies.name) else 0
    version = connection.scalar(sa.select(sa.func.max(ledger_version.c.version))) or 0
    if version > LATEST:
        raise LedgerVersionError(
            f"The ledger is of version {version} and this release knows up to {LATEST}: install the release "
            "that made it, or a newer one, or give another ledger_url"
        )
    return int(version)


def _to_version_2(connection: Connection) -> None:
    for table, column in (
        ("instances", "file_state VARCHAR(16)"),
        ("instances", "file_state_at FLOAT"),
        ("studies", "duplicates INTEGER DEFAULT 0 NOT NULL"),
        ("studies", "expected_instances INTEGER"),
        ("studies", "expected_at FLOAT"),
        ("studies", "queried_at FLOAT"),
        ("studies", "query_attempts INTEGER DEFAULT 0 NOT NULL"),
        ("conflicts", "sha256 VARCHAR(64)"),
        ("conflicts", "size_bytes BIGINT"),
        ("conflicts", "resolution VARCHAR(16)"),
        ("conflicts", "times INTEGER DEFAULT 1 NOT NULL"),
    ):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    for index in instances.indexes:
        if index.name in {"ix_instances_file_state", "ix_instances_folder"}:
            index.create(connection)
    for new in (other_contents, commitments, commitment_instances, ledger_version):
        new.create(connection)


def _to_version_3(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE studies ADD COLUMN begun_at FLOAT")


_STEPS: Final[dict[int, Callable[[Connection], None]]] = {2: _to_version_2, 3: _to_version_3}
