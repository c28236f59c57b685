"""How the ledger's database is opened: SQLite on one machine, PostgreSQL for several.

Both answer a commit only once it would outlive a power cut, because the Success of a C-STORE rests on
it, and both let one transaction see one moment: a writer in SQLite holds the write lock from its
beginning (BEGIN IMMEDIATE); on PostgreSQL writers of different studies go on beside each other, and
whoever changes a study locks its row first.
"""

import logging
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext, make_url

LOCK_TIMEOUT_S: Final = 30
"""How long a transaction waits for another's lock before it fails."""

_ANSWER_TIMEOUT_S: Final = 60
"""How long a server may take for an answer, lock included, before it is taken for gone."""

_ON_CONNECT: Final = (
    f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'",
    "SET synchronous_commit = on",  # whatever the server's default: Success rests on it
    # A worker that freezes while it holds a study must not hold it for ever.
    f"SET idle_in_transaction_session_timeout = '{_ANSWER_TIMEOUT_S}s'",
)


def open_engine(url: str, *, must_exist: bool = False) -> Engine:
    """Open a database.

    An option `echobeam_reading` on an engine or connection makes its transactions read one snapshot and
    lock nothing.

    Args:
        url: SQLAlchemy URL.
        must_exist: refuse to create a SQLite file.

    Raises:
        FileNotFoundError: if a SQLite file must exist and does not.
        OSError: if its folder cannot be made.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed, must_exist=must_exist)
    return _open_postgresql(parsed)


def _open_sqlite(url: URL, *, must_exist: bool) -> Engine:
    if url.database:
        if must_exist and not Path(url.database).exists():
            raise FileNotFoundError(url.database)
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # they hold patients' identifiers, and errors are logged
        connect_args={"timeout": LOCK_TIMEOUT_S},
        max_overflow=-1,  # a thread that finds no connection free must not wait for one
    )
    sa.event.listen(engine, "connect", _on_sqlite_connect)
    sa.event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions of its own
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # Success rests on it: a commit outlives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _on_sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if _only_reads(connection) else "BEGIN IMMEDIATE")


def _open_postgresql(url: URL) -> Engine:
    # It tells, with a traceback, that a lost connection cannot be closed; that it is lost is told anyway.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    answers_in_time = {"timeout": _ANSWER_TIMEOUT_S} if url.get_driver_name() == "pg8000" else {}
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args=answers_in_time,
        isolation_level="READ COMMITTED",  # after a wait for a row its newest state is read
        pool_pre_ping=True,  # a server that was restarted is noticed before a transaction begins
        max_overflow=-1,
    )
    sa.event.listen(engine, "connect", _on_postgresql_connect)
    sa.event.listen(engine, "begin", _on_postgresql_begin)
    sa.event.listen(engine, "handle_error", _on_error)
    return engine


def _on_postgresql_connect(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for statement in _ON_CONNECT:
        cursor.execute(statement)
    cursor.close()
    connection.commit()  # or the first rollback would undo them


def _on_postgresql_begin(connection: Connection) -> None:
    if _only_reads(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _on_error(context: ExceptionContext) -> Exception | None:
    """Call a connection lost that does not answer in time; the driver raises a bare OSError."""
    error = context.original_exception
    if not isinstance(error, OSError):
        return None
    context.is_disconnect = True
    return sa.exc.OperationalError(context.statement, None, error, connection_invalidated=True)


def _only_reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("echobeam_reading", False))
