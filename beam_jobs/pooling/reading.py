"""Read what the pool is chosen from: a bucket's stored frames, and what the tables say of them.

A bucket (`beam_jobs.result_files.bucket_of`) has whole studies, and the same ones in every table, so that
stored frames and tables meet within it and nothing has to be shuffled for that. It makes no difference
whether a bucket of a table is in many files or rolled up into one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.pool_dataset import READ_ROWS
from beam_jobs.pooling.references import DTYPE, References, digest_frames, frame_ids, frames_in, pack_keys
from beam_jobs.pooling.rules import UNKNOWN_MACHINE, FrameFacts, PoolRules, satisfy
from beam_jobs.result_files import ResultFile, Results, list_files, source_of
from echo_models.views import A4C

_KEYS: Final = ["study_key", "instance_key", "frame_index"]
_FACTS: Final = ["view_confidence", "fov_area_ratio", "lv_area_ratio"]
_IS_KNOWN: Final = "is_known"
"""Column of the open-set filter; files of older versions have none."""
_TABLE_ROWS: Final = 1 << 16
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class BucketTables:
    """What the tables say of the studies of a bucket.

    Attributes:
        frames: [M], S36, sorted: the `frame_ids` of the frames that are apical four chamber or unknown.
        is_known: [M], bool: whether the open-set filter knows them.
        machines: of each study, by its packed key.
    """

    frames: npt.NDArray[np.bytes_]
    is_known: npt.NDArray[np.bool_]
    machines: Mapping[bytes, str]


def list_buckets(stored: Path) -> list[str]:
    """List the buckets that have stored frames, as folders are named."""
    return sorted(path.name for path in stored.glob("bucket=*"))


def read_tables(results: Results, bucket: str) -> BucketTables:
    """Read a bucket of the tables `frames` and `studies`.

    Files that vanish meanwhile were replaced, by a new revision or by a packed file: the bucket is read anew.

    Raises:
        FileNotFoundError: again and again a file was listed that was gone.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            return _read_tables(results, bucket)
    return _read_tables(results, bucket)


def _read_tables(results: Results, bucket: str) -> BucketTables:
    ids, known = [np.empty(0, "S36")], [np.empty(0, bool)]
    for batch in _table_batches(results, "frames", bucket, [*_KEYS, "view", _IS_KNOWN]):
        is_known = _is_known(batch)
        wanted = np.asarray(pc.equal(batch.column("view"), A4C)) | ~is_known
        ids.append(_ids(batch.filter(pa.array(wanted))))
        known.append(is_known[wanted])
    machines: dict[bytes, str] = {}
    for batch in _table_batches(results, "studies", bucket, ["study_key", "manufacturer"]):
        names = batch.column("manufacturer").to_pylist()
        for key, name in zip(pack_keys(batch.column("study_key")), names, strict=True):
            machines[bytes(key)] = name or UNKNOWN_MACHINE
    joined = np.concatenate(ids)
    order = np.argsort(joined, kind="stable")
    return BucketTables(joined[order], np.concatenate(known)[order], machines)


def read_references(
    stored: Path,
    bucket: str,
    tables: BucketTables,
    rules: PoolRules,
    held_out: npt.NDArray[np.bytes_],
) -> tuple[References, Counter[str]]:
    """Read the references of a bucket's stored frames that satisfy the rules by themselves.

    Only the pixels of these are digested; a few hundred frames are in memory at a time.

    Args:
        stored: the folder of stored frames.
        bucket: one of `list_buckets`.
        tables: of the same bucket.
        rules: what a frame must satisfy.
        held_out: [S], S16, packed keys of subjects to leave out.

    Returns:
        the references, and the number of frames that each rule dropped.

    Raises:
        ValueError: a key or a frame is not in the form that this version writes.
    """
    dropped: Counter[str] = Counter()
    blocks = []
    for file in sorted((stored / bucket).glob("*.parquet")):
        for batch in batches_of(file, ["subject_key", *_KEYS, *_FACTS, "frame"]):
            rows = _reference_rows(batch, tables)
            passing, by_rule = satisfy(_facts(batch, rows, tables, held_out), rules)
            dropped.update(by_rule)
            chosen = rows[passing]
            chosen["pixel_digest"] = digest_frames(frames_in(batch.column("frame"))[passing])
            blocks.append(References(chosen))
    return References.join(blocks), dropped


def batches_of(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read stored frames, a few hundred at a time; a study that is gone or being redone gives none."""
    with suppress(FileNotFoundError):
        yield from _batches(file, columns, READ_ROWS)


def _table_batches(
    results: Results, table: str, bucket: str, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    for file in list_files(results, table, bucket=bucket):
        yield from _batches(file, columns, _TABLE_ROWS)


def _batches(file: ResultFile, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(source_of(file)) as opened:
        there = [name for name in columns if name in opened.schema_arrow.names]
        yield from opened.iter_batches(rows, columns=there)


def _reference_rows(batch: pa.RecordBatch, tables: BucketTables) -> npt.NDArray[np.void]:
    """Make the rows of a batch: [N], `DTYPE`, without digests."""
    rows = np.empty(batch.num_rows, DTYPE)
    for name in ("subject_key", "study_key", "instance_key"):
        rows[name] = pack_keys(batch.column(name))
    rows["frame_index"] = batch.column("frame_index").to_numpy()
    studies, which = np.unique(rows["study_key"], return_inverse=True)
    machines = [tables.machines.get(bytes(study), UNKNOWN_MACHINE) for study in studies]
    rows["machine"] = np.array(machines, DTYPE["machine"])[which]
    return rows


def _facts(
    batch: pa.RecordBatch,
    rows: npt.NDArray[np.void],
    tables: BucketTables,
    held_out: npt.NDArray[np.bytes_],
) -> FrameFacts:
    ids = References(rows).frame_ids()
    found = np.searchsorted(tables.frames, ids)
    found[found == len(tables.frames)] = 0
    in_results = tables.frames[found] == ids if len(tables.frames) else np.zeros(len(ids), bool)
    return FrameFacts(
        in_results=in_results,
        held_out=np.isin(rows["subject_key"], held_out),
        known=tables.is_known[found] if len(tables.is_known) else np.ones(len(ids), bool),
        **{name: batch.column(name).to_numpy() for name in _FACTS},
    )


def _ids(batch: pa.RecordBatch) -> npt.NDArray[np.bytes_]:
    return frame_ids(
        pack_keys(batch.column("study_key")),
        pack_keys(batch.column("instance_key")),
        batch.column("frame_index").to_numpy(),
    )


def _is_known(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Say which frames the open-set filter knows; where it said nothing, all."""
    if _IS_KNOWN not in batch.schema.names:
        return np.ones(batch.num_rows, bool)
    return np.asarray(batch.column(_IS_KNOWN).fill_null(True).to_numpy(zero_copy_only=False), bool)
