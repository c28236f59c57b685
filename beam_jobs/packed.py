"""Packed files: many studies of one partition in one file, in place of a file for each.

    <results>/<table>/study_year=<year>/bucket=<xx>/packed-<prefix>.parquet

Rows are sorted by study, and a file holds the studies whose keys begin with its prefix, `all` standing for
every key. So which file could hold a study follows from its key, and what is packed together tells nothing
of when it came. `beam_jobs.compaction` makes these files; here one study is found in them, replaced or
taken out, by one rename: a reader sees the old rows or the new ones.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NAME: Final = "packed-"
_ALL: Final = "all"
_MOST_DIGITS: Final = 4
"""Of a prefix: 65,536 files in a partition, far more than there will be."""

_ROWS_IN_GROUP: Final = 65_536
_EPOCH_S: Final = 946_684_800
_CONTENT_DATES_S: Final = 1 << 28


def packed_name(prefix: str) -> str:
    """Name the packed file of the studies whose keys begin so."""
    return f"{_NAME}{prefix or _ALL}.parquet"


def is_packed(path: Path) -> bool:
    """Say whether a file may hold several studies."""
    return path.name.startswith(_NAME)


def prefix_of(path: Path) -> str:
    """Give what the keys of the studies in a packed file begin with."""
    prefix = path.stem.removeprefix(_NAME)
    return "" if prefix == _ALL else prefix


def packed_holders(partitions: Iterable[Path], study_key: str) -> list[Path]:
    """List the packed files that hold rows of a study.

    Args:
        partitions: folders to look in.
        study_key: of the study.
    """
    names = [packed_name(study_key[:digits]) for digits in range(_MOST_DIGITS + 1)]
    candidates = (folder / name for folder in partitions for name in names)
    return [path for path in candidates if _holds(path, study_key)]


def read_study(path: Path | BinaryIO, study_key: str) -> pa.Table:
    """Read the rows of one study out of a packed file, or out of its own."""
    return pq.read_table(path, partitioning=None, filters=[("study_key", "==", study_key)])


def rewrite(packed: Path, *, without: str, rows: pa.Table | None, schema: pa.Schema, room: Path) -> None:
    """Replace the rows of a study in a packed file by others or by none.

    The caller keeps everybody else from changing the partition.

    Args:
        packed: the file; it goes when no row is left.
        without: key of the study.
        rows: the study's new rows, if it is to stay here.
        schema: of the table.
        room: folder for what nobody may see yet, on the same file system.
    """
    others = pq.read_table(packed, partitioning=None, filters=[("study_key", "!=", without)])
    table = merge([others] if rows is None else [others, rows], schema)
    if not table.num_rows:
        packed.unlink()
        return
    waiting = room / packed.name
    write_packed(table, waiting)
    waiting.replace(packed)


def merge(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Put tables together, sorted by study; the rows of one keep their order.

    A column that an older file lacks is null there, so it may be null in the whole; one that the schema
    has no more is left out.
    """
    whole = [_filled(table, schema) for table in tables]
    fields = [
        field.with_nullable(field.nullable or any(table[field.name].null_count for table in whole))
        for field in schema
    ]
    joined = pa.concat_tables(
        [table.cast(pa.schema(fields, metadata=schema.metadata)) for table in whole]
    ).combine_chunks()
    return joined if len(tables) == 1 else joined.take(pc.sort_indices(joined["study_key"]))


def write_packed(table: pa.Table, path: Path) -> None:
    """Write a packed file and sync it; its date follows from its content, not from the day.

    So a copy tool that compares dates sees that it changed.
    """
    with path.open("w+b") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=_ROWS_IN_GROUP)
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        dated_s = _EPOCH_S + int.from_bytes(digest[:4]) % _CONTENT_DATES_S
        os.utime(file.fileno(), (dated_s, dated_s))
        os.fsync(file.fileno())


def _holds(path: Path, study_key: str) -> bool:
    if not path.exists():
        return False
    found = pq.read_table(
        path, columns=["study_key"], partitioning=None, filters=[("study_key", "==", study_key)]
    )
    return bool(found.num_rows)


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table the columns of a schema, in its order."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    fields = [field.with_nullable(True) for field in schema]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=schema.metadata))
