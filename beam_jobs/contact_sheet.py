"""A picture of what the models saw: frames, outlines, and what was predicted.

The pixels shown are those of the de-identified zone: each file goes through the door and the same
plain functions that the pipeline uses, so the sheet shows what was processed and nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydicom

from beam_jobs.deid import deidentify_instance
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import (
    classify_hypertrophy,
    classify_views,
    segment_field_of_view,
    segment_left_ventricle,
    spread,
)
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, AssessedChunk, Chunk, Placement
from beam_jobs.schemas import UNKNOWN_VIEW
from beam_jobs.sheet import Tile, draw_sheet
from echo_models.bundle import Bundle, load_bundle_cached
from echo_models.registry import Registry
from echo_models.views import VIEWS

PREDICTED: Final = "predicted view and its probability · probability of hypertrophy (LVH)"

_FOV_FRAMES: Final = 3
_BATCH: Final = 64


@dataclass(frozen=True)
class Models:
    """The four models in the order in which they are applied."""

    fov: Bundle
    view: Bundle
    lv: Bundle
    lvh: Bundle


@dataclass(frozen=True)
class Exhibit:
    """A file to show.

    Attributes:
        caption: what it is, for people; goes into the picture as it is.
        frames: how many of its frames to show, evenly spread.
    """

    path: Path
    caption: str
    frames: int = 1


def write_contact_sheet(
    exhibits: Sequence[Exhibit], models: Models, pseudonymizer: Pseudonymizer, target: Path
) -> int:
    """Write the sheet as PNG, replacing an older one at once.

    Files that the door rejects are passed over: the table `rejections` tells of them.

    Returns:
        How many frames are shown.
    """
    tiles = [
        tile
        for exhibit in exhibits
        if (chunk := read_clean(exhibit.path, pseudonymizer)) is not None
        for tile in tiles_of(assess(chunk, models), exhibit)
    ]
    unfinished = target.with_suffix(".tmp")
    draw_sheet(tiles, PREDICTED).save(unfinished, format="PNG", optimize=True)
    unfinished.replace(target)
    return len(tiles)


def read_clean(path: Path, pseudonymizer: Pseudonymizer) -> Chunk | None:
    """Bring one file through the door.

    Returns:
        Its first chunk; None if the door rejects it before that.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path)
        placement = _placement(dataset, pseudonymizer)
        try:
            return next(flatten_frames(deidentify_instance(dataset, placement, pseudonymizer)), None)
        except RejectedError:
            return None


def _placement(dataset: pydicom.Dataset, pseudonymizer: Pseudonymizer) -> Placement:
    study = str(dataset.StudyInstanceUID)
    return Placement(
        claim_token="",  # nothing is claimed: the picture is written, the ledger is not
        study_key=pseudonymizer.study_key(study),
        subject_key=pseudonymizer.subject_key(str(dataset.get("PatientID") or ""), study),
        revision=0,
        instances_in_study=1,
        series_key=pseudonymizer.series_key(str(dataset.get("SeriesInstanceUID") or "")),
        instance_key=pseudonymizer.instance_key(str(dataset.SOPInstanceUID)),
    )


def assess(chunk: Chunk, models: Models) -> AssessedChunk:
    """Apply the four models to a chunk, as the pipeline does."""
    segmented = segment_field_of_view([chunk], models.fov, frames_per_clip=_FOV_FRAMES, batch_size=_BATCH)
    classified = classify_views(segmented, models.view, batch_size=_BATCH)
    outlined = segment_left_ventricle(classified, models.lv, batch_size=_BATCH)
    return classify_hypertrophy(outlined, models.lvh, batch_size=_BATCH)[0]


def tiles_of(chunk: AssessedChunk, exhibit: Exhibit) -> Iterator[Tile]:
    """Yield the tiles of a clip: some frames, with their outlines and what was predicted."""
    lvh = chunk.lvh_probabilities[~np.isnan(chunk.lvh_probabilities)]
    for index in spread(len(chunk.frames), exhibit.frames):
        probabilities = chunk.view_probabilities[index]
        verdict = f"{VIEWS[int(probabilities.argmax())]} {probabilities.max():.2f}"
        if not chunk.view_known[index]:
            verdict = UNKNOWN_VIEW
        if len(lvh):
            verdict += f" · LVH {lvh.mean():.2f}"
        outlined = np.flatnonzero(chunk.a4c_indexes == index)
        nothing = np.zeros((FRAME_ROWS, FRAME_COLUMNS), np.bool_)
        yield Tile(
            frame=chunk.frames[index],
            fov=chunk.fov_masks[0 if len(chunk.fov_masks) == 1 else index],
            lv=chunk.lv_masks[outlined[0]] if len(outlined) else nothing,
            caption=exhibit.caption,
            verdict=verdict,
        )


def load_models(registry: Registry) -> Models:
    """Load the four models that are in production.

    Raises:
        NotInRegistryError: if a task has none.
        BundleError: if a bundle is not whole.
    """
    return Models(*(load_bundle_cached(registry.resolve(task)) for task in ("fov", "view", "lv", "lvh")))
