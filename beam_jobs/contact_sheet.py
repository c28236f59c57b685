"""A picture of what the models saw: frames, outlines, and what was predicted.

The pixels shown are those of the de-identified zone: each file goes through the door and the same
plain functions that the pipeline uses, so the sheet shows what was processed and nothing else.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw, ImageFont

from beam_jobs.deid import deidentify_instance
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.keys import Pseudonymizer
from beam_jobs.frames import flatten_frames
from beam_jobs.inference import (
    classify_hypertrophy,
    classify_views,
    segment_field_of_view,
    segment_left_ventricle,
    spread,
)
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS, AssessedChunk, Chunk, Placement
from echo_models.bundle import Bundle
from echo_models.views import VIEWS

SCALE: Final = 2
"""Frames are shown at twice their size, so that text beside them is legible."""

TITLE_PX: Final = 46
GAP_PX: Final = 6
COLUMNS: Final = 5
HEAD_PX: Final = 34

_PAPER: Final = (18, 18, 22)
_INK: Final = (235, 235, 235)
_FAINT: Final = (150, 150, 160)
FOV_COLOUR: Final = (64, 200, 255)
LV_COLOUR: Final = (255, 140, 40)

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


@dataclass(frozen=True, eq=False)
class Tile:
    """One frame on the sheet.

    Attributes:
        frame: [120, 160], uint8.
        fov: [120, 160], bool: the field of view.
        lv: [120, 160], bool: the left ventricle; all False where it was not segmented.
        caption: what the clip is.
        verdict: what the models say of the frame.
    """

    frame: npt.NDArray[np.uint8]
    fov: npt.NDArray[np.bool_]
    lv: npt.NDArray[np.bool_]
    caption: str
    verdict: str


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
    draw_sheet(tiles).save(unfinished, format="PNG", optimize=True)
    unfinished.replace(target)
    return len(tiles)


def read_clean(path: Path, pseudonymizer: Pseudonymizer) -> Chunk | None:
    """Bring one file through the door.

    Returns:
        Its first chunk; None if the door rejects it before that.
    """
    dataset = pydicom.dcmread(path)
    study = str(dataset.StudyInstanceUID)
    subject_key = pseudonymizer.subject_key(str(dataset.get("PatientID") or ""), study)
    placement = Placement(
        claim_token="",  # nothing is claimed: the picture is written, the ledger is not
        study_key=pseudonymizer.study_key(study),
        subject_key=subject_key,
        revision=0,
        instances_in_study=1,
        series_key=pseudonymizer.series_key(str(dataset.get("SeriesInstanceUID") or "")),
        instance_key=pseudonymizer.instance_key(str(dataset.SOPInstanceUID)),
    )
    try:
        return next(flatten_frames(deidentify_instance(dataset, placement, pseudonymizer)), None)
    except RejectedError:
        return None


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


def draw_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Draw tiles in rows, with a line at the top that says what the colours mean."""
    width, height = FRAME_COLUMNS * SCALE, FRAME_ROWS * SCALE + TITLE_PX
    rows = max(1, -(-len(tiles) // COLUMNS))
    sheet = Image.new(
        "RGB",
        (COLUMNS * (width + GAP_PX) + GAP_PX, HEAD_PX + rows * (height + GAP_PX) + GAP_PX),
        _PAPER,
    )
    _draw_head(sheet)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        corner = (GAP_PX + column * (width + GAP_PX), HEAD_PX + row * (height + GAP_PX))
        _draw_tile(sheet, tile, corner)
    return sheet


def _draw_head(sheet: Image.Image) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    at = float(GAP_PX)
    words = (
        ("echobeam", _INK),
        ("field of view", FOV_COLOUR),
        ("left ventricle", LV_COLOUR),
        ("predicted view and its probability · probability of hypertrophy (LVH)", _INK),
        ("models trained on synthetic frames only; research use", _FAINT),
    )
    for text, colour in words:
        draw.text((at, 8), text, fill=colour, font=font)
        at += draw.textlength(text, font=font) + 24


def _draw_tile(sheet: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    caption = textwrap.shorten(tile.caption, 48, placeholder="…")
    draw.text((left + 2, top + 3), tile.verdict, fill=_INK, font=ImageFont.load_default(18))
    draw.text((left + 2, top + 26), caption, fill=_FAINT, font=ImageFont.load_default(13))
    pixels = np.repeat(_enlarged(tile.frame)[:, :, np.newaxis], 3, axis=2)
    for mask, colour in ((tile.fov, FOV_COLOUR), (tile.lv, LV_COLOUR)):
        pixels[outline(_enlarged(mask))] = colour
    sheet.paste(Image.fromarray(pixels), (left, top + TITLE_PX))


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a mask that touch its outside, or the edge of the picture: [H, W], bool."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _enlarged(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
