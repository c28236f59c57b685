"""Where a header says the image lies: `SequenceOfUltrasoundRegions` (PS3.3 C.8.5.5), disbelieved where odd.

Boxes in real files are wider than the screen, empty, or left over from a copy at another size. A box
is used only where it can be true; where none can, the caller looks at the whole screen and keeps
what its pixels show.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from beam_jobs.deid.reading import integer
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS
from echo_models.preprocessing import nearest_positions


class SpatialFormat(IntEnum):
    """Region Spatial Format, PS3.3 C.8.5.5.1.1: those that show the patient's inside."""

    TWO_DIMENSIONAL = 1
    M_MODE = 2
    SPECTRAL = 3


class DataType(IntEnum):
    """Region Data Type, PS3.3 C.8.5.5.1.2: those that name a mode."""

    TISSUE = 1
    COLOUR_FLOW = 2
    PW_SPECTRAL_DOPPLER = 3
    CW_SPECTRAL_DOPPLER = 4


class Box(NamedTuple):
    """A rectangle of the screen in pixels; `right` and `bottom` are just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area_px(self) -> int:
        """Pixels inside."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Region:
    """One region that shows the patient's inside.

    Attributes:
        box: None where the header's cannot be true.
        data_type: as the header has it, 0 where absent.
    """

    spatial_format: SpatialFormat
    data_type: int
    box: Box | None


_OVERSHOOT_RATIO: Final = 0.02
"""A box may end this far outside the screen, of its size, and still be this screen's."""

_STRIP_AREA_RATIO: Final = 0.8
"""A Doppler or M-mode box larger than this, of the screen, is no strip."""

_SMALLEST_BOX_RATIO: Final = 0.02
"""Narrower or lower boxes, of the screen, show nothing."""


def read_regions(ds: Dataset, rows: int, columns: int) -> tuple[Region, ...]:
    """List the regions of spatial format 1, 2 and 3.

    Graphics and waveforms (4, 5) and undefined ones (0, which some vendors lay over the whole
    screen) are left out: they show text.
    """
    return tuple(_regions(ds, rows, columns))


def _regions(ds: Dataset, rows: int, columns: int) -> Iterator[Region]:
    for item in ds.get("SequenceOfUltrasoundRegions") or ():
        spatial_format = integer(item, "RegionSpatialFormat")
        if spatial_format in tuple(SpatialFormat):
            box = _believable_box(item, rows, columns)
            yield Region(SpatialFormat(spatial_format), integer(item, "RegionDataType") or 0, box)


def _believable_box(item: Dataset, rows: int, columns: int) -> Box | None:
    left = integer(item, "RegionLocationMinX0")
    top = integer(item, "RegionLocationMinY0")
    # Both edges belong to the region; some vendors mean the first pixel outside, which clamps away.
    right = integer(item, "RegionLocationMaxX1")
    bottom = integer(item, "RegionLocationMaxY1")
    if left is None or top is None or right is None or bottom is None:
        return None
    if right > columns * (1 + _OVERSHOOT_RATIO) or bottom > rows * (1 + _OVERSHOOT_RATIO):
        return None
    box = Box(max(left, 0), max(top, 0), min(right + 1, columns), min(bottom + 1, rows))
    if (
        box.right - box.left < columns * _SMALLEST_BOX_RATIO
        or box.bottom - box.top < rows * _SMALLEST_BOX_RATIO
    ):
        return None
    return box


def need_review(regions: tuple[Region, ...], rows: int, columns: int) -> bool:
    """Say whether a person should look at what was kept of the screen.

    That is so where the header names no region that shows the patient's inside, or one whose box
    cannot be true, or a Doppler or M-mode strip of the size of the screen.
    """
    return not regions or any(
        region.box is None or _is_odd_strip(region, rows, columns) for region in regions
    )


def _is_odd_strip(region: Region, rows: int, columns: int) -> bool:
    if region.box is None or region.spatial_format is SpatialFormat.TWO_DIMENSIONAL:
        return False
    return region.box.area_px > _STRIP_AREA_RATIO * rows * columns


@dataclass(frozen=True, slots=True, eq=False)
class RegionMasks:
    """The regions at the size of a clean frame.

    Attributes:
        images: each [120, 160], bool: a box within which the fan is looked for in the pixels.
        strips: each [120, 160], bool: a Doppler or M-mode box, kept whole where it shows a trace.
        are_of_header: False where the image must be looked for on the whole screen.
    """

    images: tuple[npt.NDArray[np.bool_], ...]
    strips: tuple[npt.NDArray[np.bool_], ...]
    are_of_header: bool


def region_masks(regions: tuple[Region, ...], rows: int, columns: int) -> RegionMasks:
    """Draw the believable boxes; without one, the image is looked for on the whole screen."""
    images: list[npt.NDArray[np.bool_]] = []
    strips: list[npt.NDArray[np.bool_]] = []
    for region in regions:
        if region.box is None:
            continue
        mask = _draw(region.box, rows, columns)
        is_strip = region.spatial_format is not SpatialFormat.TWO_DIMENSIONAL
        if is_strip and not _is_odd_strip(region, rows, columns):
            strips.append(mask)
        else:
            images.append(mask)
    if images or strips:
        return RegionMasks(tuple(images), tuple(strips), are_of_header=True)
    return RegionMasks((np.ones((FRAME_ROWS, FRAME_COLUMNS), np.bool_),), (), are_of_header=False)


def full_size_mask(
    keep: npt.NDArray[np.bool_], regions: tuple[Region, ...], rows: int, columns: int
) -> npt.NDArray[np.bool_]:
    """Enlarge a keep-mask to the whole screen, where the boxes of the header cut it to the pixel.

    Args:
        keep: [120, 160], bool.
        regions: as `read_regions` has them.
        rows: H of the screen.
        columns: W of the screen.

    Returns:
        [H, W], bool.
    """
    ys = np.arange(rows) * FRAME_ROWS // rows
    xs = np.arange(columns) * FRAME_COLUMNS // columns
    mask = keep.take(ys, axis=0).take(xs, axis=1)
    boxes = [region.box for region in regions if region.box is not None]
    if not boxes:
        return mask
    inside = np.zeros_like(mask)
    for box in boxes:
        inside[box.top : box.bottom, box.left : box.right] = True
    return mask & inside


def _draw(box: Box, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    ys = nearest_positions(rows, FRAME_ROWS)
    xs = nearest_positions(columns, FRAME_COLUMNS)
    inside_rows: npt.NDArray[np.bool_] = (ys >= box.top) & (ys < box.bottom)
    inside_columns: npt.NDArray[np.bool_] = (xs >= box.left) & (xs < box.right)
    return inside_rows[:, None] & inside_columns
