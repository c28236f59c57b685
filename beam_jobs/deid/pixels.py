"""Which pixels show the patient's inside: the fan, found in what the pixels do.

Speckle fills an area and flickers; text is thin, flat and stands still. The keep-mask is the convex
hull of the area that speckle fills, within the ultrasound regions of the header. Where in doubt a
pixel is not kept.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.regions import RegionMasks
from beam_jobs.records import Reason

Mask = npt.NDArray[np.bool_]

SAMPLED_FRAMES: Final = 16
"""Frames over a clip that the fan is looked for in."""


def keep_mask(frames: npt.NDArray[np.uint8], regions: RegionMasks) -> Mask:
    """Find the pixels to keep, the same for all frames of the clip.

    Args:
        frames: [N, 120, 160], uint8, N at least 1; a few are looked at, spread over all.
        regions: what the header says of the image, at the same size.

    Returns:
        [120, 160], bool.

    Raises:
        RejectedError: NO_IMAGE_REGION where nothing looks like an image.
    """
    places = np.unique(np.linspace(0, len(frames) - 1, SAMPLED_FRAMES).astype(int))
    sampled = frames[places]
    keep = regions.strips.copy()
    for image in regions.images:
        keep |= _find_fan(sampled, image)
    if not keep.any():
        raise RejectedError(Reason.NO_IMAGE_REGION)
    return keep


_OFTEN: Final = 0.3
"""What changes between fewer of the sampled frames than this is a mark in one of them, or a clock."""

_CHANGE_LEVELS: Final = (1, 8)
"""Smallest changes that count as motion; the second where a noisy copy makes everything change."""

_MOVING_RATIOS: Final = (0.02, 0.85)
"""Less motion, of the screen, is no moving image; more is noise."""

_WINDOW_PX: Final = 7
_BLACK: Final = 3
_GRADED: Final = (0.12, 0.94)
"""Greys between these parts of the contrast around them are neither background nor ink."""

_DENSE_RATIO: Final = 0.5
"""Ink, and the shade at its rims, covers less than this of a line of text."""

_BRIDGED_RADIUS_PX: Final = 5
"""Chambers between moving walls may be black all the time: gaps up to twice this are filled."""

_THINNEST_RADIUS_PX: Final = 3
_SMALLEST_AREA_RATIO: Final = 0.015
_SECOND_AREA_RATIO: Final = 0.3


def _find_fan(frames: npt.NDArray[np.uint8], inside: Mask) -> Mask:
    """Draw the convex hull of each large area that speckle fills."""
    filled = _filled_by_speckle(frames) & inside
    solid = ndimage.binary_opening(filled, _disk(_THINNEST_RADIUS_PX))
    labels, count = ndimage.label(solid)
    fan = np.zeros_like(inside)
    if count == 0:
        return fan
    areas = ndimage.sum_labels(solid, labels, np.arange(1, count + 1))
    for label, area in enumerate(areas, start=1):
        if area >= max(_SECOND_AREA_RATIO * areas.max(), _SMALLEST_AREA_RATIO * solid.size):
            # What the opening took from its corners, but not what hangs on by a thread.
            grown = ndimage.binary_dilation(labels == label, iterations=_THINNEST_RADIUS_PX, mask=filled)
            fan |= _hull(grown)
    return fan & inside


def _filled_by_speckle(frames: npt.NDArray[np.uint8]) -> Mask:
    """Mark where much flickers, or in a still much is shaded."""
    wide = frames.astype(np.int16)
    moving = _moving(wide)
    if moving is not None:
        return _closed(_is_dense(moving))
    shaded: Mask = np.mean([_shaded(frame) for frame in wide], axis=0) >= 0.5
    return _is_dense(shaded)


def _moving(frames: npt.NDArray[np.int16]) -> Mask | None:
    """Mark pixels that change between many frames; None where the clip tells nothing by that."""
    if len(frames) <= 2:
        return None
    changes = np.abs(np.diff(frames, axis=0))
    for level in _CHANGE_LEVELS:
        moving: Mask = np.mean(changes >= level, axis=0) >= _OFTEN
        if _MOVING_RATIOS[0] <= moving.mean() <= _MOVING_RATIOS[1]:
            return moving
    return None


def _is_dense(mask: Mask) -> Mask:
    dense: Mask = ndimage.uniform_filter(mask.astype(np.float32), _WINDOW_PX) > _DENSE_RATIO
    return dense


def _closed(mask: Mask) -> Mask:
    # Padded, or the erosion would eat what touches the edge of the screen.
    padded = np.pad(mask, _BRIDGED_RADIUS_PX)
    closed: Mask = ndimage.binary_closing(padded, _disk(_BRIDGED_RADIUS_PX))
    return closed[_BRIDGED_RADIUS_PX:-_BRIDGED_RADIUS_PX, _BRIDGED_RADIUS_PX:-_BRIDGED_RADIUS_PX]


def _shaded(frame: npt.NDArray[np.int16]) -> Mask:
    """Mark greys between dark and bright: text has few, speckle little else."""
    darkest = ndimage.minimum_filter(frame, _WINDOW_PX)
    contrast = ndimage.maximum_filter(frame, _WINDOW_PX) - darkest
    low, high = _GRADED
    mask: Mask = (frame > _BLACK) & (frame > darkest + low * contrast) & (frame < darkest + high * contrast)
    return mask


def _disk(radius: int) -> Mask:
    span = np.arange(-radius, radius + 1)
    mask: Mask = span[:, None] ** 2 + span**2 <= radius**2
    return mask


def _hull(mask: Mask) -> Mask:
    """Fill the convex hull of a mask (Andrew's monotone chain, then half planes)."""
    # Only the first and the last pixel of a row can be a corner.
    ends = ((row, np.flatnonzero(mask[row])[[0, -1]].tolist()) for row in np.flatnonzero(mask.any(axis=1)))
    points = sorted({(int(row), column) for row, columns in ends for column in columns})
    corners = np.array(_half_hull(points)[:-1] + _half_hull(points[::-1])[:-1])
    rows, columns = np.indices(mask.shape)
    filled = np.ones_like(mask)
    for (row, column), (next_row, next_column) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        side = (next_row - row) * (columns - column) - (next_column - column) * (rows - row)
        filled &= side >= 0
    return filled


def _half_hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    chain: list[tuple[int, int]] = []
    for point in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain


def _turn(start: tuple[int, int], middle: tuple[int, int], end: tuple[int, int]) -> int:
    return (middle[0] - start[0]) * (end[1] - start[1]) - (middle[1] - start[1]) * (end[0] - start[0])
