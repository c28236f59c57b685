"""A throw-away PostgreSQL: its own folder, its own socket, no port, gone when the tests end."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from dicom_listener.ledger.database.migrations import migrate
from dicom_listener.ledger.database.schema import metadata
from tests.programs import DEADLINE_S, wait_for

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a power cut is not what is tested
_MEMORY: Final = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
_INSTALLED: Final = Path("/usr/lib/postgresql")
_QUICK: Final = ("fsync=off", "full_page_writes=off", "autovacuum=off")
"""What makes a database that nobody needs tomorrow quick; commits themselves are as always."""


class Cluster:
    """A PostgreSQL server that can be stopped and started.

    Attributes:
        folder: holds its data and its socket.
        options: server settings, as `name=value`.
    """

    def __init__(self, programs: Path, folder: Path, *, options: tuple[str, ...] = _QUICK) -> None:
        self.folder = folder
        self.options = options
        self._programs = programs
        self._owner = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._owner is not None:
            account = pwd.getpwnam(self._owner)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._run(
            "initdb", "--no-sync", "-A", "trust", "-U", "echobeam", "-E", "UTF8", "-D", f"{folder}/data"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["listen_addresses=", f"unix_socket_directories={self.folder}", *self.options]
        self._process = subprocess.Popen(
            [
                self._programs / "postgres",
                "-D",
                self.folder / "data",
                *(word for option in options for word in ("-c", option)),
            ],
            user=self._owner,
            group=self._owner,
            extra_groups=[] if self._owner else None,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for("PostgreSQL", self._answers)

    def stop(self) -> None:
        """Stop the server at once, as a power cut does to those who are connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(DEADLINE_S)
            self._process = None

    def make_database(self) -> str:
        """Make an empty database; give its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        """Give the URL of a database."""
        return f"postgresql+pg8000://echobeam@/{database}?unix_sock={self.folder}/.s.PGSQL.5432"

    def execute(self, statement: str) -> None:
        """Run one statement outside any transaction, connected to the database `postgres`.

        Raises:
            sqlalchemy.exc.DBAPIError: if the server is not there, or refuses.
        """
        engine = sa.create_engine(
            self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except sa.exc.DBAPIError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self._owner,
            group=self._owner,
            extra_groups=[] if self._owner else None,
            cwd=self.folder,
            check=True,
            capture_output=True,
        )


def find_programs() -> Path | None:
    """Give the folder of the newest PostgreSQL, or None."""
    versions = [folder for folder in _INSTALLED.glob("*/bin") if (folder / "initdb").exists()]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    found = shutil.which("initdb")
    return None if found is None else Path(found).parent


@contextmanager
def running_postgres(*, options: tuple[str, ...] = _QUICK, below: Path | None = _MEMORY) -> Iterator[Cluster]:
    """Run a PostgreSQL for the block.

    Args:
        options: server settings, as `name=value`.
        below: folder that its own is made in; None for the system's temporary folder.

    Raises:
        FileNotFoundError: if none is installed.
    """
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian package postgresql)")
    with tempfile.TemporaryDirectory(prefix="echobeam-postgres-", dir=below) as folder:
        cluster = Cluster(programs, Path(folder), options=options)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """Run one PostgreSQL for all tests of the process; skip them where there is none."""
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with running_postgres() as cluster:
        yield cluster


BACK_ENDS: Final = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def emptied_ledger(postgres: Cluster) -> Callable[[], str]:
    """Give a function that empties one ledger on PostgreSQL and gives its URL: quicker than a new one."""
    url = postgres.make_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        migrate(connection)

    def empty() -> str:
        names = ", ".join(metadata.tables.keys() - {"ledger_version"})
        with engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {names}")
        return url

    return empty


@pytest.fixture(params=BACK_ENDS)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty ledger, on each back-end in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    empty: Callable[[], str] = request.getfixturevalue("emptied_ledger")
    return empty()


@pytest.fixture(params=BACK_ENDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without a table, on each back-end in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.make_database()
