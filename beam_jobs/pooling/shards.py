"""Copy the chosen frames into the shards of a dataset, a study at a time."""

import os
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.pooling.reading import batches_of
from beam_jobs.pooling.references import (
    References,
    digest_frames,
    frame_ids,
    frames_in,
    key_text,
    pack_keys,
)
from beam_jobs.result_files import bucket_of
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import Fingerprint


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What a shard turned out to be, for the manifest.

    Attributes:
        frames: by machine.
        fingerprint: of its frames' identities and pixels.
        studies: how many; no study is in two shards.
        subject_keys: sorted.
    """

    number: int
    file: str
    frames: dict[str, int]
    fingerprint: str
    studies: int
    subject_keys: tuple[str, ...]


def shard_numbers(references: References, shards: int) -> npt.NDArray[np.int64]:
    """Cut the studies by range of their keys, which are hashes and so spread evenly: [N], int64."""
    heads = references.head("study_key") >> np.uint64(32)
    return (heads * np.uint64(shards) >> np.uint64(32)).astype(np.int64)


def write_shard(
    chosen: References, stored: Path, destination: Path, *, number: int, shards: int
) -> WrittenShard:
    """Copy one shard's frames; its file appears whole, whoever else tries too.

    Frames whose pixels are no longer those that were chosen are left out.

    Args:
        chosen: references of the frames, in any order.
        stored: the folder of stored frames.
        destination: the folder of the shards.
        number: of this shard, from 0.
        shards: how many there are.
    """
    file = f"frames-{number:05d}-of-{shards:05d}.parquet"
    unfinished = destination / f"{file}.{os.urandom(4).hex()}"
    written = []
    with pq.ParquetWriter(unfinished, A4C_SCHEMA, compression="zstd") as writer:
        for of_study in _by_study(chosen.in_place()):
            frames, found = _frames_of_study(of_study, stored)
            if len(found):
                writer.write_table(frames)
                written.append(found)
    unfinished.rename(destination / file)
    rows = References.join(written)
    machines = Counter(machine.decode() for machine in rows.rows["machine"])
    return WrittenShard(
        number=number,
        file=file,
        frames=dict(sorted(machines.items())),
        fingerprint=fingerprint(rows),
        studies=len(written),
        subject_keys=tuple(key_text(key) for key in np.unique(rows.rows["subject_key"])),
    )


def fingerprint(references: References) -> str:
    """Digest a set of frames: their identities and pixels, whatever their order."""
    total = Fingerprint()
    names = ["subject_key", "study_key", "instance_key", "frame_index", "pixel_digest"]
    identities = np.empty(len(references), [(name, references.rows.dtype[name]) for name in names])
    for name in names:
        identities[name] = references.rows[name]
    for identity in identities:
        total.join(sha256(identity.tobytes()).hexdigest())
    return total.hexdigest()


def _by_study(references: References) -> list[References]:
    studies = references.column("study_key")
    begins = np.flatnonzero(studies[1:] != studies[:-1]) + 1
    return [References(rows) for rows in np.split(references.rows, begins) if len(rows)]


def _frames_of_study(wanted: References, stored: Path) -> tuple[pa.Table, References]:
    """Read the wanted frames of one study, in order, and say which there still are."""
    study = key_text(wanted.rows["study_key"][0])
    file = stored.joinpath(f"bucket={bucket_of(study)}", f"{study}.parquet")
    ids = wanted.frame_ids()  # sorted, as the rows are
    batches, places = [], []
    for batch in batches_of(file, A4C_SCHEMA.names):
        names = frame_ids(
            pack_keys(batch.column("study_key")),
            pack_keys(batch.column("instance_key")),
            batch.column("frame_index").to_numpy(),
        )
        place = np.minimum(np.searchsorted(ids, names), len(ids) - 1)
        of_interest = batch.filter(pa.array(ids[place] == names))
        place = place[ids[place] == names]
        same = digest_frames(frames_in(of_interest.column("frame"))) == wanted.column("pixel_digest")[place]
        batches.append(of_interest.filter(pa.array(same)))
        places.append(place[same])
    found = np.concatenate([np.empty(0, np.int64), *places])
    table = pa.Table.from_batches(batches, A4C_SCHEMA)
    return table.take(np.argsort(found, kind="stable")), wanted.take(np.sort(found))
