"""Outlines as text: polygons, PNG masks, or the statement that there is none.

Vertices are pixels of a frame of 120 x 160, (0, 0) in the middle of its upper left pixel, x to the right,
y down: what matplotlib gives on a picture of the frame.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from echo_models.errors import DatasetError
from echo_models.preprocessing import COLUMNS, ROWS, shrink

Vertices = tuple[tuple[float, float], ...]
"""(x, y) of each corner, in order; the last is joined to the first."""

NO_OUTLINE: Final = "none"
"""Says that somebody looked and there is no such structure in the frame."""

_MASK_NAME: Final = re.compile(r"[^/\\]+(?:/[^/\\]+)*\.png", re.IGNORECASE)


def polygon_text(vertices: Sequence[tuple[float, float]]) -> str:
    """Write a polygon: "12.5 3, 40 110.25, 150 90", at a hundredth of a pixel."""
    return ", ".join(f"{round(float(x), 2):g} {round(float(y), 2):g}" for x, y in vertices)


def read_polygon(text: str) -> Vertices:
    """Read what `polygon_text` wrote.

    Raises:
        ValueError: if it is no polygon of three corners or more with finite numbers.
    """
    try:
        corners = [tuple(float(number) for number in pair.split()) for pair in text.split(",")]
    except ValueError:
        corners = []
    vertices = tuple((corner[0], corner[1]) for corner in corners if len(corner) == 2)
    finite = all(math.isfinite(number) for vertex in vertices for number in vertex)
    if len(vertices) < 3 or len(vertices) != len(corners) or not finite:
        raise ValueError('expected at least three corners as "x y, x y, x y"')
    return vertices


def check_outline(text: str) -> None:
    """Check that a text is an outline: "none", a polygon, or the name of a PNG below the file's folder.

    Raises:
        ValueError: if it is neither.
    """
    if text == NO_OUTLINE:
        return
    if text.lower().endswith(".png"):
        if not _MASK_NAME.fullmatch(text) or ".." in text.split("/"):
            raise ValueError("expected the name of a PNG relative to this file, without ..")
        return
    read_polygon(text)


def outline_mask(text: str, folder: Path) -> npt.NDArray[np.bool_]:
    """Turn an outline into a mask.

    Args:
        text: as `check_outline` accepts it.
        folder: what the name of a PNG is relative to.

    Returns:
        [120, 160], bool, True inside.

    Raises:
        DatasetError: if the PNG cannot be read.
    """
    if text == NO_OUTLINE:
        return np.zeros((ROWS, COLUMNS), bool)
    if text.lower().endswith(".png"):
        return read_mask(folder / text)
    return polygon_mask(read_polygon(text), ROWS, COLUMNS)


def polygon_mask(
    vertices: Sequence[tuple[float, float]] | npt.NDArray[np.float64], rows: int, columns: int
) -> npt.NDArray[np.bool_]:
    """Fill a polygon by the even-odd rule; a pixel is inside when its middle is.

    Args:
        vertices: (x, y) in pixels, (0, 0) in the middle of the upper left one.
        rows: H.
        columns: W.

    Returns:
        [rows, columns], bool.
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    inside = np.zeros((rows, columns), bool)
    corners = np.asarray(vertices, np.float64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a mask from a PNG of any size: [120, 160], bool, True where it is not black.

    Raises:
        DatasetError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
    except OSError as error:
        raise DatasetError(f"{path} must be a PNG that can be read; {type(error).__name__}") from error
    return shrink(grey > 0)


def write_mask(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask as a PNG of 0 and 255, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(temporary, format="PNG")
    temporary.replace(path)
