"""Write the files of one study where nobody sees them, and put all of them in place at once.

    <results>/<table>/study_year=<year>/bucket=<xx>/<study_key>.parquet
    <pool>/a4c/bucket=<xx>/<study_key>.parquet
    <archive>/bucket=<xx>/<study_key>/

The same study gives the same bytes. Files are written and synced under `.unfinished/` of the same
folder and renamed into place; what an older revision left in another partition, or in a table that is
empty now, is removed just before. A study that was packed with others (`beam_jobs.packed`) is replaced
there. So a reader sees each row of a study at most once, whenever it looks.

Results may be in an object store (`beam_jobs.stored_study`): files wait in the pool's folder, are put by one
request each, and there are neither packed files nor locks.

Whoever changes what is in place holds the lock of the bucket, `<results>/.locks/<xx>`, for that moment.

Files are dated by their revision and folders by a constant: the real time would tell the day of
service, and with it by how much the dates were shifted.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.packed import is_packed, packed_holders, rewrite
from beam_jobs.result_files import ResultFile, Results, bucket_of, list_study_files
from beam_jobs.schemas import RESULT_SCHEMAS
from beam_jobs.stored_study import StoredStudy
from beam_jobs.tables import StudyTables
from dicom_listener.object_store import delete_objects
from echo_models.views import A4C

ARCHIVE: Final = "deid_archive"
"""Name of the archive's folder where findings and certificates speak of tables and folders alike."""

UNFINISHED: Final = ".unfinished"
"""Folder of what nobody may see yet, in each root."""

LOCKS: Final = ".locks"
"""Folder of the locks of buckets, in the results."""

_ABANDONED_S: Final = 3600.0
"""Nobody writes one study's files for an hour: what is older was left by a process that was killed."""

_EPOCH_S: Final = 946_684_800
"""Folders are dated 2000-01-01, files one second later for each revision, so that a copy tool still
sees what changed."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One table of a study: where its file waits, if it has rows, and where it goes.

    Attributes:
        name: of the table.
        root: under which its place is.
        released_as: its place, as a reader would see it, below the root.
        partitions: pattern of the folders, in which an earlier revision may be.
    """

    name: str
    root: Results
    waiting: Path | None
    released_as: Path
    partitions: str
    schema: pa.Schema

    def standing(self, root: Path) -> tuple[list[Path], list[Path]]:
        """List what is in place of the study: its own files, and packed ones that it is in."""
        table = root / self.name
        own = list(table.glob(f"{self.partitions}/{self.released_as.name}"))
        return own, packed_holders(table.glob(self.partitions), self.released_as.stem)


class StagedStudy:
    """Files of one study, complete and synced, that nobody can see yet."""

    def __init__(self, tables: StudyTables, results: Results, pool: Path, stack: ExitStack) -> None:
        self._bucket = f"bucket={bucket_of(tables.study_key)}"
        self._file = f"{tables.study_key}.parquet"
        self._year = f"study_year={tables.study_year}"
        self._modified_s = _EPOCH_S + tables.revision
        self._results = results
        folders = {root for root in (results, pool) if isinstance(root, Path)}
        self._rooms: dict[Results, Path] = {
            root: stack.enter_context(unfinished_room(root)) for root in folders
        }
        self._rooms.setdefault(results, self._rooms[pool])
        self._stored = None if isinstance(results, Path) else StoredStudy(results, tables.study_key)
        self.files: list[StagedFile] = []
        self._stage(pool, A4C, (self._bucket,), tables.a4c)
        for name, rows in tables.results.items():
            self.add(name, rows)

    def add(self, name: str, rows: pa.Table) -> StagedFile:
        """Write another table of the results."""
        return self._stage(self._results, name, (self._year, self._bucket), rows)

    def put_in_place(self) -> None:
        """Make the files of the study these, in every table: renames and removals only, or requests."""
        self._place({file.name: file.waiting for file in self.files})

    def withdraw(self, *, keep: Sequence[str]) -> None:
        """Put only some tables in place, and remove what earlier revisions left in all others."""
        self._place({file.name: file.waiting if file.name in keep else None for file in self.files})

    def _place(self, wanted: Mapping[str, Path | None]) -> None:
        with locked_bucket(self._results, self._bucket):
            for file in self.files:
                if isinstance(file.root, Path):
                    self._place_in_folder(file, file.root, wanted[file.name])
            if self._stored is not None:
                places = {
                    file.released_as.as_posix(): wanted[file.name]
                    for file in self.files
                    if file.root == self._results
                }
                self._stored.replace({key: path for key, path in places.items() if path is not None})

    def _place_in_folder(self, file: StagedFile, root: Path, waiting: Path | None) -> None:
        target = root / file.released_as
        own, packed = file.standing(root)
        home = next((path for path in packed if path.parent == target.parent), None)
        for old in own:
            if waiting is None or home is not None or old != target:
                _remove(old)
                _settle(old.parent, root)
        for path in packed:
            stays = waiting is not None and path == home
            rows = pq.read_table(waiting, partitioning=None) if stays else None
            rewrite(path, without=target.stem, rows=rows, schema=file.schema, room=self._rooms[root])
            _settle(path.parent, root)
        if waiting is not None and home is None:
            waiting.replace(target)
            _settle(target.parent, root)

    def _stage(self, root: Results, name: str, partitions: tuple[str, ...], rows: pa.Table) -> StagedFile:
        place = Path(name, *partitions, self._file)
        pattern = "/".join(["*"] * (len(partitions) - 1) + [self._bucket])
        waiting = None
        if rows.num_rows:
            waiting = self._rooms[root] / f"{name}.parquet"
            _write(rows, waiting, modified_s=self._modified_s)
            if isinstance(root, Path):
                _make_folders((root / place).parent, root)
        file = StagedFile(name, root, waiting, place, pattern, rows.schema)
        self.files = [other for other in self.files if other.name != name] + [file]
        return file


@contextmanager
def staged(tables: StudyTables, results: Results, pool: Path) -> Iterator[StagedStudy]:
    """Write the files of a study where they wait to be put in place; drop them when the block ends."""
    with ExitStack() as stack:
        yield StagedStudy(tables, results, pool, stack)


def files_of_study(
    study_key: str, results: Results, pool: Path, archive: Path
) -> dict[str, list[ResultFile]]:
    """List what is in place of a study: files by table, packed ones too, and its folder of the archive."""
    bucket, file = f"bucket={bucket_of(study_key)}", f"{study_key}.parquet"
    found: dict[str, list[ResultFile]] = {A4C: [*(pool / A4C).glob(f"{bucket}/{file}")]}
    found |= list_study_files(results, study_key)
    found[ARCHIVE] = [*archive.glob(f"{bucket}/{study_key}")]
    return {name: paths for name, paths in found.items() if paths}


def settle_folder(folder: Path, root: Path) -> None:
    """Let a folder in which something was put in place, and its root, not tell when that was."""
    _settle(folder, root)


def remove_released(study_key: str, results: Results, pool: Path, archive: Path) -> None:
    """Remove all that is in place of a study, durably, without leaving the time of it on folders."""
    roots: dict[str, Results] = {A4C: pool, ARCHIVE: archive}
    with locked_bucket(results, f"bucket={bucket_of(study_key)}"):
        for name, files in files_of_study(study_key, results, pool, archive).items():
            root = roots.get(name, results)
            for file in files:
                if isinstance(file, Path) and isinstance(root, Path):
                    _remove_in_folder(file, root, name, study_key)
                elif not isinstance(file, Path):
                    delete_objects(file.url, [file.key])


def _remove_in_folder(path: Path, root: Path, table: str, study_key: str) -> None:
    if is_packed(path):
        with unfinished_room(root) as room:
            rewrite(path, without=study_key, rows=None, schema=RESULT_SCHEMAS[table], room=room)
    else:
        _remove(path)
    _settle(path.parent, root)


@contextmanager
def locked_bucket(results: Results, bucket: str) -> Iterator[None]:
    """Keep everybody else, in any process, from changing what is in place in a bucket.

    An object store has no lock and needs none: no object there has rows of two studies, and a study is
    changed by nobody but who holds it in the ledger.

    Args:
        results: where the tables are.
        bucket: name of its partition.
    """
    if not isinstance(results, Path):
        yield
        return
    locks = results / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with locks.joinpath(bucket).open("a") as lock:
        os.utime(lock.fileno(), (_EPOCH_S, _EPOCH_S))
        _date(locks, _EPOCH_S)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep_unfinished(root: Path, *, now: float) -> int:
    """Remove what killed processes left unfinished under a folder.

    Args:
        root: the results, the pool or the archive.
        now: seconds since the epoch.

    Returns:
        how many unfinished studies were removed.
    """
    abandoned = [
        room for room in root.joinpath(UNFINISHED).glob("*") if room.stat().st_mtime < now - _ABANDONED_S
    ]
    for room in abandoned:
        shutil.rmtree(room, ignore_errors=True)
    return len(abandoned)


@contextmanager
def unfinished_room(root: Path) -> Iterator[Path]:
    """Give a folder below a root that nobody looks into; it goes when the block ends."""
    unfinished = root / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=unfinished, ignore_cleanup_errors=True) as room:
        yield Path(room)
    _date(unfinished, _EPOCH_S)
    _date(root, _EPOCH_S)


def _write(rows: pa.Table, path: Path, *, modified_s: int) -> None:
    with path.open("wb") as file:
        pq.write_table(rows, file, compression="zstd")
        file.flush()
        os.utime(file.fileno(), (modified_s, modified_s))
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(folder: Path, root: Path) -> None:
    """Make a change in a folder durable, and let no folder tell when it was."""
    if folder.exists():
        _sync(folder)
        _date(folder, _EPOCH_S)
        _date(root, _EPOCH_S)


def _make_folders(folder: Path, root: Path) -> None:
    """Make a folder and those above it, so that they outlive a power cut."""
    missing = [folder, *folder.parents]
    missing = missing[: next(place for place, path in enumerate(missing) if path.exists())]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync(path.parent)
        _date(path.parent, _EPOCH_S, unless_above=root)


def _date(folder: Path, modified_s: int, *, unless_above: Path | None = None) -> None:
    """Set a folder's time; a folder that somebody else removed or owns keeps its own."""
    if unless_above is not None and not folder.is_relative_to(unless_above):
        return
    try:
        os.utime(folder, (modified_s, modified_s))
    except OSError:
        return


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
