"""The database behind the ledger: transactions that read, transactions that write, and what fails."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import ArgumentError, DBAPIError

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger.database.engine import open_engine
from dicom_listener.ledger.database.migrations import LATEST, find_version, migrate
from dicom_listener.ledger.database.prepared import Prepared
from dicom_listener.ledger.database.schema import holds, studies

_TRIES: Final = 4
_TO_BE_REPEATED: Final = frozenset(
    {
        "40001",  # serialization failure
        "40P01",  # deadlock
        "23505",  # unique violation: somebody entered the same row at the same moment
    }
)  # PostgreSQL, appendix A

_LOCK_STUDY: Final = Prepared(
    sa.select(studies).where(studies.c.study_instance_uid == sa.bindparam("of_study")).with_for_update()
)

_Answer = TypeVar("_Answer")


class Database:
    """The ledger's tables behind a database URL. Threads and processes may share it."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Open the ledger; make its tables where they are absent, bring older ones up to date.

        Args:
            url: SQLAlchemy URL.
            must_exist: refuse to create a SQLite file, for those who only ask questions.

        Raises:
            LedgerUnavailableError: if the database cannot be opened.
            LedgerVersionError: if a newer release made it.
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
        except (ArgumentError, ImportError) as error:
            raise LedgerUnavailableError(
                f"ledger_url names no usable database ({type(error).__name__}): expected a URL such "
                "as sqlite:////var/lib/echobeam/ledger.sqlite, or postgresql+pg8000://user@host/name with "
                "the extra `postgresql` installed"
            ) from None  # the URL may hold a password
        self._reader = self._engine.execution_options(echobeam_reading=True)
        try:
            self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

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

    def _bring_up_to_date(self) -> None:
        with self.reading() as connection:
            is_latest = find_version(connection) == LATEST
        if not is_latest:
            self.write(migrate)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection in one transaction, committed when the block ends, undone if it raises.

        On SQLite nobody else writes meanwhile. On PostgreSQL others do: lock the rows of `studies` that
        the block is about before reading what it decides by, in the order of their UIDs.

        Raises:
            LedgerUnavailableError: if the database fails, in the block or at the commit.
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    def write(self, work: Callable[[Connection], _Answer]) -> _Answer:
        """Run work in one transaction, again if it got into another's way or the connection was lost.

        A connection may be lost after the commit and before its answer, so that work runs once more upon
        what it did: it must then do no harm.

        Raises:
            LedgerUnavailableError: if the database fails.
        """
        for _ in range(_TRIES - 1):
            try:
                with self.writing() as connection:
                    return work(connection)
            except LedgerUnavailableError as error:
                if not _may_be_repeated(error.__cause__):
                    raise
        with self.writing() as connection:
            return work(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection in one transaction that only reads and never waits for a writer.

        Raises:
            LedgerUnavailableError: if the database fails.
        """
        with _translated(), self._reader.begin() as connection:
            yield connection


def first_row(
    connection: Connection, statement: sa.Select[Any], parameters: Mapping[str, Any] | None = None
) -> RowMapping | None:
    """Give the first row by column names, or None."""
    return connection.execute(statement, parameters).mappings().first()


def all_rows(connection: Connection, statement: sa.Select[Any]) -> list[RowMapping]:
    """Give every row by column names."""
    return list(connection.execute(statement).mappings().all())


def lock_study(connection: Connection, study_instance_uid: str) -> RowMapping | None:
    """Give the row of a study, or None, and let nobody else change it until the transaction ends."""
    return _LOCK_STUDY.first(connection, of_study=study_instance_uid)


def _may_be_repeated(cause: BaseException | None) -> bool:
    if not isinstance(cause, DBAPIError):
        return False
    return cause.connection_invalidated or _code(cause) in _TO_BE_REPEATED


def _code(error: DBAPIError) -> str:
    """Give the short code that the database has for an error, never its text, which may hold values."""
    cause = error.orig
    sqlite = getattr(cause, "sqlite_errorname", None)
    if sqlite is not None:
        return str(sqlite)
    told = cause.args[0] if cause is not None and cause.args else None
    code = told.get("C") if isinstance(told, dict) else getattr(cause, "sqlstate", None)
    return str(code or type(cause).__name__)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise LedgerUnavailableError(
            f"The ledger cannot be used ({_code(error)}): check its URL, its disk, its permissions and that "
            "nothing else locks it"
        ) from error
