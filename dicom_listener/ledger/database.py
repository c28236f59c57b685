"""The database behind the ledger: transactions that read, transactions that write, and what fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.schema import holds, metadata, open_engine


class Database:
    """The ledger's tables behind a database URL. Threads and processes may share it."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Open the ledger and create its tables where they are absent.

        Args:
            url: SQLAlchemy URL.
            must_exist: refuse to create a SQLite file, for those who only ask questions.

        Raises:
            LedgerUnavailableError: if the database cannot be opened.
        """
        try:
            self._engine = open_engine(url, must_exist=must_exist)
        except FileNotFoundError as error:
            raise LedgerUnavailableError(
                "There is no ledger yet: start `echobeam listen` or `echobeam up`, or give the --root it uses"
            ) from error
        except OSError as error:
            raise LedgerUnavailableError(
                f"The ledger's folder cannot be made ({error.strerror}): give this user the right to "
                "write there, or set another ledger_url"
            ) from error
        self._reader = self._engine.execution_options(echobeam_reading=True)
        with self.writing() as connection:
            metadata.create_all(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def check_writable(self) -> None:
        """Take the write lock and let it go.

        Raises:
            LedgerUnavailableError: if that fails.
        """
        with self.writing() as connection:
            connection.execute(holds.delete().where(sa.false()))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection in one transaction, committed when the block ends, undone if it raises.

        Raises:
            LedgerUnavailableError: if the database fails, in the block or at the commit.
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection in one transaction that only reads and never waits for a writer.

        Raises:
            LedgerUnavailableError: if the database fails.
        """
        with _translated(), self._reader.begin() as connection:
            yield connection


def first_row(connection: Connection, statement: sa.Select[Any]) -> RowMapping | None:
    """Give the first row by column names, or None."""
    return connection.execute(statement).mappings().first()


def all_rows(connection: Connection, statement: sa.Select[Any]) -> list[RowMapping]:
    """Give every row by column names."""
    return list(connection.execute(statement).mappings().all())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        cause = error.orig
        name = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
        raise LedgerUnavailableError(
            f"The ledger cannot be used ({name}): check its URL, its disk, its permissions and that "
            "nothing else locks it"
        ) from error
