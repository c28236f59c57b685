"""The pool to name views by: frames of every view, out of the archive of de-identified DICOM.

The worker stores four-chamber frames only; frames of other views are in the archive, where a site keeps one.
Clips are chosen by the clips table, so that views are as equal in number as the archive lets them be, and
only what was chosen is decoded. In memory are references of clips, and the frames of one.
"""

import dataclasses
import heapq
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.deid import Pseudonymizer, RejectedError, deidentify_instance, read_instance
from beam_jobs.deid.archive import study_folder
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import segment_field_of_view, spread
from beam_jobs.pool_dataset import MANIFEST_FILE, TEMPORARY_PREFIX, PoolDataset, PoolManifest, Shard
from beam_jobs.records import Placement
from beam_jobs.result_files import Results, list_files, source_of
from beam_jobs.schemas import A4C_SCHEMA
from beam_jobs.selection import Candidate, Fingerprint, SelectionRules, pixel_digest
from echo_models.bundle import Bundle
from echo_models.preprocessing import apply_mask
from echo_models.views import VIEWS

VIEW_POOL: Final = "views"
"""What such a dataset is of, as others are of one view; its folder's name begins with it."""

SCHEMA: Final = pa.schema(
    [
        *(A4C_SCHEMA.field(name) for name in ("subject_key", "study_key", "instance_key", "frame_index")),
        pa.field("view", pa.string(), metadata={"description": "View of the clip, as the tables name it."}),
        *(A4C_SCHEMA.field(name) for name in ("view_confidence", "fov_area_ratio", "frame")),
    ]
)

FRAMES_PER_CLIP: Final = 2
"""Of one clip all frames are alike: two phases of the beat."""

_FILE: Final = "frames-00000-of-00001.parquet"
_NO_KEY: Final = bytes(32)
"""The files are de-identified already, and no date is taken from them: no secret is needed to read them."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of the archive, without its frames."""

    subject_key: str
    study_key: str
    series_key: str
    instance_key: str
    view: str
    view_confidence: float
    fov_area_ratio: float

    @property
    def rank(self) -> bytes:
        """Order clips by a hash of their identity; the lowest are chosen first."""
        return blake2b(self.instance_key.encode(), digest_size=8).digest()

    def file(self, archive: Path) -> Path:
        """Give where the archive has it."""
        return study_folder(archive, self.study_key) / self.series_key / f"{self.instance_key}.dcm"


def build_view_pool(
    pool: Path,
    results: Results,
    archive: Path,
    rules: SelectionRules,
    fov: Bundle,
    *,
    limit: int,
    held_out: Collection[str] = (),
) -> PoolDataset:
    """Write a dataset of frames of every view under `pool/datasets/<name>/`.

    The folder appears whole or not at all. Equal inputs and rules give the same frames.

    Args:
        pool: the folder with `datasets/`.
        results: where the tables are.
        archive: the folder of de-identified DICOM.
        rules: what a clip must satisfy; caps count frames.
        fov: the field-of-view model in production.
        limit: most frames in all.
        held_out: keys of subjects of whom no frame is taken.

    Raises:
        OSError: a folder cannot be read or written, as where the disk is full.
    """
    dropped: Counter[str] = Counter()
    clips = choose_clips(read_clips(results, archive, dropped), rules, limit, frozenset(held_out), dropped)
    unfinished = pool / "datasets" / f"{TEMPORARY_PREFIX}{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        manifest = _write(unfinished, clips, _Reader(archive, fov), rules, dropped)
        folder = unfinished.with_name(manifest.name)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return PoolDataset.open(folder)


def read_clips(results: Results, archive: Path, dropped: Counter[str]) -> Iterator[Clip]:
    """Read the clips table, a file at a time; clips that the archive does not have are counted."""
    columns = [field.name for field in dataclasses.fields(Clip)]
    for path in list_files(results, "clips"):
        with pq.ParquetFile(source_of(path)) as file:
            for batch in file.iter_batches(columns=columns):
                for clip in (Clip(**row) for row in batch.to_pylist()):
                    if not clip.file(archive).exists():
                        dropped["not_in_archive"] += FRAMES_PER_CLIP
                    elif clip.view not in VIEWS:
                        dropped["unknown_view"] += FRAMES_PER_CLIP
                    else:
                        yield clip


def choose_clips(
    clips: Iterator[Clip],
    rules: SelectionRules,
    limit: int,
    held_out: Collection[str],
    dropped: Counter[str],
) -> list[Clip]:
    """Choose clips that satisfy the rules, of each view as many as the rarest views leave room for.

    Args:
        clips: of the archive.
        rules: what a clip must satisfy; caps count frames.
        limit: most frames in all.
        held_out: keys of subjects of whom none is taken.
        dropped: frames by the rule that dropped them first; added to.

    Returns:
        in the order of study and instance.
    """
    by_view: dict[str, list[Clip]] = {view: [] for view in VIEWS}
    of_study: dict[str, list[Clip]] = {}
    for clip in clips:
        broken = _broken_rule(clip, rules, held_out)
        if broken is None:
            of_study.setdefault(clip.study_key, []).append(clip)
        else:
            dropped[broken] += FRAMES_PER_CLIP
    capped = _cap(of_study.values(), rules.max_frames_per_study)
    dropped["over_study_cap"] += FRAMES_PER_CLIP * (sum(map(len, of_study.values())) - len(capped))
    of_subject: dict[str, list[Clip]] = {}
    for clip in capped:
        of_subject.setdefault(clip.subject_key, []).append(clip)
    kept = _cap(of_subject.values(), rules.max_frames_per_subject)
    dropped["over_subject_cap"] += FRAMES_PER_CLIP * (len(capped) - len(kept))
    for clip in kept:
        by_view[clip.view].append(clip)
    chosen = _share_out(by_view, limit // FRAMES_PER_CLIP)
    dropped["over_balanced_share"] += FRAMES_PER_CLIP * (len(kept) - len(chosen))
    return sorted(chosen, key=lambda clip: (clip.study_key, clip.instance_key))


def _broken_rule(clip: Clip, rules: SelectionRules, held_out: Collection[str]) -> str | None:
    if clip.subject_key in held_out:
        return "held_out_subject"
    if clip.view_confidence < rules.min_view_confidence:
        return "low_confidence"
    if clip.fov_area_ratio < rules.min_fov_area_ratio:
        return "small_field_of_view"
    return None


def _cap(groups: Any, most_frames: int) -> list[Clip]:
    most = max(1, most_frames // FRAMES_PER_CLIP)
    return [clip for group in groups for clip in heapq.nsmallest(most, group, key=lambda it: it.rank)]


def _share_out(by_view: Mapping[str, list[Clip]], room: int) -> list[Clip]:
    """Give each view an equal share; what a rare one leaves goes to the others."""
    chosen: list[Clip] = []
    rarest_first = sorted(by_view.values(), key=len)
    for number, clips in enumerate(rarest_first):
        share = (room - len(chosen)) // (len(rarest_first) - number)
        chosen += heapq.nsmallest(share, clips, key=lambda clip: clip.rank)
    return chosen


def _write(
    folder: Path, clips: list[Clip], reader: "_Reader", rules: SelectionRules, dropped: Counter[str]
) -> PoolManifest:
    fingerprint = Fingerprint()
    digests: set[str] = set()
    written: list[Clip] = []
    with pq.ParquetWriter(folder / _FILE, SCHEMA, compression="zstd") as writer:
        for clip in clips:
            rows = []
            for candidate, pixels in reader.read(clip, dropped):
                if candidate.pixel_digest in digests:
                    dropped["duplicate"] += 1
                    continue
                digests.add(candidate.pixel_digest)
                fingerprint.add(candidate)
                facts = {name: getattr(candidate, name) for name in SCHEMA.names if hasattr(candidate, name)}
                rows.append(facts | {"view": clip.view, "frame": pixels})
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                written.append(clip)
    subjects = sorted({clip.subject_key for clip in written})
    manifest = PoolManifest(
        view=VIEW_POOL,
        candidates=len(digests) + sum(dropped.values()),
        frames=len(digests),
        studies=len({clip.study_key for clip in written}),
        subjects=len(subjects),
        dropped=dict(sorted(dropped.items())),
        rules=dataclasses.asdict(rules),
        fingerprint=fingerprint.hexdigest(),
        shards=(Shard(_FILE, len(digests)),),
        subject_keys=tuple(subjects),
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return manifest


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads frames of clips out of the archive."""

    archive: Path
    fov: Bundle

    def read(self, clip: Clip, dropped: Counter[str]) -> Iterator[tuple[Candidate, bytes]]:
        """Give frames spread over a clip, masked by its field of view; none if it has gone meanwhile."""
        path = clip.file(self.archive)
        try:
            frames = self._masked_frames(path, clip)
        except (RejectedError, FileNotFoundError):
            dropped["changed_meanwhile"] += FRAMES_PER_CLIP
            return
        for index in spread(len(frames), FRAMES_PER_CLIP):
            pixels = frames[index].tobytes()
            yield (
                Candidate(
                    subject_key=clip.subject_key,
                    study_key=clip.study_key,
                    instance_key=clip.instance_key,
                    frame_index=int(index),
                    view_confidence=clip.view_confidence,
                    fov_area_ratio=clip.fov_area_ratio,
                    pixel_digest=pixel_digest(pixels),
                    source=path.name,
                ),
                pixels,
            )

    def _masked_frames(self, path: Path, clip: Clip) -> npt.NDArray[np.uint8]:
        """Decode a clip and mask it as the worker does: [N, 120, 160], uint8."""
        placement = Placement(
            claim_token="",  # nothing is claimed
            study_key=clip.study_key,
            subject_key=clip.subject_key,
            revision=0,
            instances_in_study=1,
            series_key=clip.series_key,
            instance_key=clip.instance_key,
        )
        clean = deidentify_instance(read_instance(path), placement, Pseudonymizer(_NO_KEY))
        chunks = segment_field_of_view(
            list(flatten_frames(clean)), self.fov, frames_per_clip=3, batch_size=64
        )
        return np.concatenate(
            [
                apply_mask(chunk.frames, np.broadcast_to(chunk.fov_masks, chunk.frames.shape))
                for chunk in chunks
            ]
        )
