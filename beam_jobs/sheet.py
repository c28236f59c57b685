"""Draw frames in rows, each with its outlines and two lines of text."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS

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


def draw_sheet(tiles: Sequence[Tile], legend: str) -> Image.Image:
    """Draw tiles in rows, with a line at the top that says what the colours mean.

    Args:
        tiles: what to draw, in this order.
        legend: what the verdicts are.
    """
    width, height = FRAME_COLUMNS * SCALE, FRAME_ROWS * SCALE + TITLE_PX
    rows = max(1, -(-len(tiles) // COLUMNS))
    sheet = Image.new(
        "RGB",
        (COLUMNS * (width + GAP_PX) + GAP_PX, HEAD_PX + rows * (height + GAP_PX) + GAP_PX),
        _PAPER,
    )
    _draw_head(sheet, legend)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        corner = (GAP_PX + column * (width + GAP_PX), HEAD_PX + row * (height + GAP_PX))
        _draw_tile(sheet, tile, corner)
    return sheet


def _draw_head(sheet: Image.Image, legend: str) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    at = float(GAP_PX)
    words = (
        ("echobeam", _INK),
        ("field of view", FOV_COLOUR),
        ("left ventricle", LV_COLOUR),
        (legend, _INK),
        ("research use only", _FAINT),
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


def _enlarged(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
