"""The unlabeled pool as a dataset on disk: its folder, manifest and frames.

A dataset is a folder of Parquet shards with a `manifest.json` and a `README.md` beside them. The folder
is named by its content (`a4c-` and the first digits of the fingerprint) and appears whole, by a rename;
the same inputs give the same name. Shards have the columns of the stored frames
(`beam_jobs.schemas.A4C_SCHEMA`), are sorted by study, instance and frame, and cut by study.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.errors import BeamJobsError
from beam_jobs.pooling.references import frames_in
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS

MANIFEST_FILE: Final = "manifest.json"
README_FILE: Final = "README.md"
"""What the dataset is, in words, made of the manifest."""
PAST_MANIFESTS: Final = "manifests"
"""Folder beside the datasets: the manifest of each one ever made stays when its frames are pruned."""
TEMPORARY_PREFIX: Final = ".unfinished-"
READ_ROWS: Final = 512
"""Rows read at a time: 10 MB of frames."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset."""

    file: str
    frames: int


@dataclass(frozen=True, slots=True)
class PoolManifest:
    """What a dataset holds and why.

    Attributes:
        candidates: frames that were stored, before any rule.
        dropped: frames by the first rule that dropped them, every rule named.
        rules: the values the rules had.
        fingerprint: digest of the frames' identities and pixels, whatever their order.
        machines: frames by machine; empty in what older versions wrote.
        held_out_subjects: how many subjects were named that no model may learn from.
        subject_keys: of the subjects that frames are of, sorted, so that it can be told later whose frames
            a model may have learned from; empty in what older versions wrote.
    """

    view: str
    candidates: int
    frames: int
    studies: int
    subjects: int
    dropped: dict[str, int]
    rules: dict[str, float | None]
    fingerprint: str
    shards: tuple[Shard, ...]
    subject_keys: tuple[str, ...] = ()
    machines: dict[str, int] = field(default_factory=dict)
    held_out_subjects: int = 0

    @property
    def name(self) -> str:
        """Name the dataset by its content."""
        return f"{self.view}-{self.fingerprint[:16]}"

    def to_json(self) -> str:
        """Write the manifest as JSON; equal manifests give equal text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "PoolManifest":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["subject_keys"] = tuple(fields.get("subject_keys", ()))
        return cls(**fields)


class PoolDatasetError(BeamJobsError):
    """A dataset's folder is not whole, or not one that this version wrote."""


@dataclass(frozen=True, slots=True)
class PoolDataset:
    """An unlabeled pool that is on disk, whole."""

    folder: Path
    manifest: PoolManifest

    @classmethod
    def open(cls, folder: Path) -> "PoolDataset":
        """Open a dataset and check that its shards are as the manifest says.

        Raises:
            PoolDatasetError: the manifest or a shard is missing, or a shard has another length.
        """
        try:
            manifest = PoolManifest.from_json((folder / MANIFEST_FILE).read_text())
        except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
            raise PoolDatasetError(
                f"{folder} has no {MANIFEST_FILE} that can be read; build the pool again"
            ) from error
        for shard in manifest.shards:
            try:
                rows = pq.read_metadata(folder / shard.file).num_rows
            except (OSError, pa.ArrowInvalid) as error:
                raise PoolDatasetError(
                    f"{folder / shard.file} cannot be read; build the pool again"
                ) from error
            if rows != shard.frames:
                raise PoolDatasetError(
                    f"{folder / shard.file} must have {shard.frames} frames, has {rows}; build the pool again"
                )
        return cls(folder, manifest)

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Read the frames in the dataset's order, a block at a time.

        Yields:
            [N, 120, 160], uint8, 0 outside the field of view; N is at most `READ_ROWS`.
        """
        for shard in self.manifest.shards:
            with pq.ParquetFile(self.folder / shard.file) as file:
                for batch in file.iter_batches(READ_ROWS, columns=["frame"]):
                    yield frames_of(batch.column("frame"))

    def sample(self, limit: int, *, seed: int) -> npt.NDArray[np.uint8]:
        """Draw frames without replacement, reading only the row groups that they are in.

        Args:
            limit: how many at most; all when there are fewer.
            seed: equal seeds draw equal frames from equal datasets.

        Returns:
            [N, 120, 160], uint8, in the dataset's order.
        """
        chosen = np.random.default_rng(seed).permutation(self.manifest.frames)[:limit]
        chosen.sort()
        blocks = [np.zeros((0, FRAME_ROWS, FRAME_COLUMNS), np.uint8)]
        start = 0
        for shard in self.manifest.shards:
            with pq.ParquetFile(self.folder / shard.file) as file:
                for number in range(file.num_row_groups):
                    end = start + file.metadata.row_group(number).num_rows
                    wanted = chosen[slice(*np.searchsorted(chosen, [start, end]))] - start
                    if len(wanted):
                        column = file.read_row_group(number, columns=["frame"])["frame"]
                        blocks.append(frames_of(column.take(wanted).combine_chunks()))
                    start = end
        return np.concatenate(blocks)


def frames_of(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Turn a column of stored frames into an array.

    Returns:
        [N, 120, 160], uint8, a view that cannot be written to.

    Raises:
        ValueError: frames of another size.
    """
    return frames_in(column).reshape(-1, FRAME_ROWS, FRAME_COLUMNS)


def prune_datasets(datasets: Path, *, keep: int, current: str) -> list[str]:
    """Remove all but the newest datasets, and whatever an interrupted build left.

    Args:
        datasets: the folder of datasets.
        keep: how many whole ones stay, the current one among them.
        current: the name of the one in use.

    Returns:
        The names of the datasets removed.
    """
    whole: list[tuple[bool, float, Path]] = []
    for folder in datasets.iterdir():
        manifest = folder / MANIFEST_FILE
        if folder.name.startswith(TEMPORARY_PREFIX) or not manifest.exists():
            shutil.rmtree(folder)
        else:
            whole.append((folder.name == current, manifest.stat().st_mtime, folder))
    old = [folder for _, _, folder in sorted(whole, reverse=True)[keep:]]
    for folder in old:
        shutil.rmtree(folder)
    return sorted(folder.name for folder in old)


def manifest_counts(manifest: PoolManifest) -> dict[str, Any]:
    """Give what a person wants to see of a manifest: counts by rule, without the list of shards."""
    return {
        "name": manifest.name,
        "candidates": manifest.candidates,
        "frames": manifest.frames,
        "studies": manifest.studies,
        "subjects": manifest.subjects,
        "machines": dict(manifest.machines),
        "dropped": dict(manifest.dropped),
        "fingerprint": manifest.fingerprint,
    }
