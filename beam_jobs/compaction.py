"""Pack the files of many studies into few large ones, partition by partition, while others read and write.

A partition is packed into a new folder that nobody sees, and the two folders change places in one call of
the system (renameat2 with RENAME_EXCHANGE, Linux). Whoever lists the partition sees all of the old files or
all of the new ones, never a row twice and never a row less. Somebody who listed the old files and opens them
too late finds them gone, which is an error to try again on and not a wrong answer.

Packed files are split by the key of the study (`beam_jobs.packed`). A partition is packed anew, whole, so
that what lies together tells nothing of what came together.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.errors import BeamJobsError
from beam_jobs.packed import is_packed, merge, packed_name, prefix_of, write_packed
from beam_jobs.schemas import RESULT_SCHEMAS
from beam_jobs.staging import locked_bucket, settle_folder, unfinished_room
from dicom_listener.exit_codes import ExitCode

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_HEX: Final = "0123456789abcdef"


class CompactionError(BeamJobsError):
    """A partition could not be packed; it is as it was."""


class ExchangeError(CompactionError):
    """The file system cannot let two folders change places."""

    exit_code = ExitCode.REFUSED


@dataclass(frozen=True, slots=True)
class CompactionRules:
    """Which partitions are packed, and how large a file gets.

    Attributes:
        loose: fewest files of single studies that are worth it.
        share: what they must weigh beside what is packed already, in bytes: each growth by this share
            costs writing the partition once more.
        rows_per_file: most rows of a packed file; one is in memory at a time, twice.
    """

    loose: int = 8
    share: float = 0.1
    rows_per_file: int = 500_000


@dataclass(frozen=True, slots=True)
class PackedPartition:
    """What was done to one partition.

    Attributes:
        rows: in it; the same before and after.
    """

    table: str
    partition: str
    files_before: int
    files_after: int
    rows: int


def compact(
    results: Path, rules: CompactionRules, *, stopping: Callable[[], bool] = lambda: False
) -> Iterator[PackedPartition]:
    """Pack each partition of each table that is due; it may be stopped or killed at any moment.

    A partition in which a study is released meanwhile is left for the next time.

    Args:
        results: the results folder.
        rules: which are due.
        stopping: asked before each partition.

    Raises:
        ExchangeError: if the file system or the system cannot exchange folders.
        CompactionError: if a partition's packed rows are not those of its files.
    """
    check_exchange(results)
    for table in RESULT_SCHEMAS:
        for partition in sorted(results.glob(f"{table}/study_year=*/bucket=*")):
            if stopping():
                return
            if _is_due(partition, rules):
                packed = _pack(partition, table, results, rules)
                if packed is not None:
                    yield packed


def check_exchange(results: Path) -> None:
    """Find out whether folders can change places here.

    Raises:
        ExchangeError: if not.
    """
    with unfinished_room(results) as room:
        pair = room / "a", room / "b"
        for folder in pair:
            folder.mkdir()
        exchange_folders(*pair)


def exchange_folders(one: Path, other: Path) -> None:
    """Let two folders of one file system change places, at once for everybody.

    Raises:
        ExchangeError: if that cannot be done here; nothing was moved.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        code = errno.ENOSYS
    else:
        names = (os.fsencode(one.absolute()), os.fsencode(other.absolute()))
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
    raise ExchangeError(
        "packing needs a file system on which two folders can change places, such as ext4, XFS, Btrfs or "
        f"tmpfs of Linux; received: {os.strerror(code)}. Results stay one file a study, which is as right"
    )


def _is_due(partition: Path, rules: CompactionRules) -> bool:
    loose, packed = 0, 0
    loose_files = 0
    for path in partition.glob("*.parquet"):
        size = path.stat().st_size
        if is_packed(path):
            packed += size
        else:
            loose += size
            loose_files += 1
    return loose_files >= rules.loose and loose >= rules.share * packed


def _pack(partition: Path, table: str, results: Path, rules: CompactionRules) -> PackedPartition | None:
    before = _listing(partition)
    files = [partition / name for name, *_ in before]
    try:
        rows = {path: pq.read_metadata(path).num_rows for path in files}
        with unfinished_room(results) as room:
            new = room / partition.name
            new.mkdir()
            written = 0
            for prefix in _prefixes(sum(rows.values()), rules.rows_per_file):
                written += _write(files, prefix, RESULT_SCHEMAS[table], new / packed_name(prefix))
            if written != sum(rows.values()) and _listing(partition) == before:
                raise CompactionError(
                    f"{table} {partition.name}: expected to pack {sum(rows.values())} rows, received "
                    f"{written}; nothing was changed. Is a file damaged, or a study in two of them?"
                )
            settle_folder(new, results)
            with locked_bucket(results, partition.name):
                if _listing(partition) != before:
                    return None
                exchange_folders(new, partition)
            settle_folder(partition, results)
            settle_folder(partition.parent, results)
            after = len(list(partition.glob("*.parquet")))
    except FileNotFoundError:  # a study was replaced while its old file was about to be read
        return None
    where = str(partition.relative_to(results / table))
    return PackedPartition(table, where, len(files), after, written)


def _listing(partition: Path) -> list[tuple[str, int, int, int]]:
    """List the files so that any change of any of them shows."""
    found = ((path.name, path.stat()) for path in sorted(partition.glob("*.parquet")))
    return [(name, stat.st_ino, stat.st_size, stat.st_ctime_ns) for name, stat in found]


def _prefixes(rows: int, most: int) -> list[str]:
    """Split all keys evenly into as many ranges as keep a file below its most rows."""
    digits = 0
    while rows > most * len(_HEX) ** digits:
        digits += 1
    return ["".join(prefix) for prefix in product(_HEX, repeat=digits)]


def _write(files: list[Path], prefix: str, schema: pa.Schema, target: Path) -> int:
    """Write the packed file of the studies whose keys begin with the prefix; give its rows."""
    tables = [part for path in files for part in _rows_of(path, prefix)]
    if not tables:
        return 0
    packed = merge(tables, schema)
    write_packed(packed, target)
    return int(packed.num_rows)


def _rows_of(path: Path, prefix: str) -> list[pa.Table]:
    if not is_packed(path):
        return [pq.read_table(path, partitioning=None)] if path.stem.startswith(prefix) else []
    own = prefix_of(path)
    if own.startswith(prefix):
        return [pq.read_table(path, partitioning=None)]
    if not prefix.startswith(own):
        return []
    between = [("study_key", ">=", prefix), ("study_key", "<", f"{prefix}g")]
    found = pq.read_table(path, partitioning=None, filters=between)
    return [found] if found.num_rows else []
