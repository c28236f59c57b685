"""Which pixels show the patient's inside: the fan, found in what the pixels do.

Speckle fills an area, has every shade and flickers; text is thin, black or white, and stands still
or jumps. The keep-mask is the convex hull of the area that speckle fills, within the ultrasound
regions of the header. Where in doubt a pixel is not kept.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from beam_jobs.deid.decoders import decode_grey
from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.hull import convex_hull
from beam_jobs.deid.luminance import Tones
from beam_jobs.deid.morphology import closed, grown, opened
from beam_jobs.deid.regions import RegionMasks
from beam_jobs.deid.source import PixelSource
from beam_jobs.records import Reason

Mask = npt.NDArray[np.bool_]
_Greys = npt.NDArray[np.uint8]
_Wide = npt.NDArray[np.int16]

SAMPLED_FRAMES: Final = 16
"""Frames over a clip that the fan is looked for in."""


def sampled_places(number_of_frames: int) -> npt.NDArray[np.int64]:
    """Name the frames that the fan is looked for in: the first, the last, and some evenly between.

    Returns:
        [at most `SAMPLED_FRAMES`], int64, ascending, each once.
    """
    return np.unique(np.linspace(0, number_of_frames - 1, SAMPLED_FRAMES).astype(np.int64))


def find_keep_mask(source: PixelSource, tones: Tones, regions: RegionMasks) -> Mask:
    """Find the pixels to keep of an instance, in a few of its frames as far as it has them.

    Returns:
        [120, 160], bool.

    Raises:
        RejectedError: NO_IMAGE_REGION where nothing looks like an image; or what decoding raises, where
            not one frame can be decoded.
    """
    found: list[npt.NDArray[np.uint8]] = []
    fault: RejectedError | None = None
    places = frozenset(sampled_places(source.pixels.number_of_frames).tolist())
    try:
        found.extend(decode_grey(source, tones, places))
    except RejectedError as error:
        fault = error
    if fault is not None and not found:
        raise RejectedError(fault.reason)
    return keep_mask(np.stack(found), regions)


def keep_mask(frames: npt.NDArray[np.uint8], regions: RegionMasks) -> Mask:
    """Find the pixels to keep, the same for all frames of the clip.

    Args:
        frames: [N, 120, 160], uint8, N at least 1: the frames at `sampled_places` of a clip.
        regions: what the header says of the image, at the same size.

    Returns:
        [120, 160], bool.

    Raises:
        RejectedError: NO_IMAGE_REGION where nothing looks like an image.
    """
    keep = np.zeros(frames.shape[1:], np.bool_)
    speckle = _Speckle(frames)
    for image in regions.images:
        keep |= _fan(speckle, image, is_one_image=regions.are_of_header)
    for strip in regions.strips:
        # A header that lies may call a line of text a strip; a trace or an M-mode is full of speckle.
        if any(filled[strip].mean() >= _SMALLEST_TRACE_RATIO for filled in speckle.within(strip)):
            keep |= strip
    if not keep.any():
        raise RejectedError(Reason.NO_IMAGE_REGION)
    return keep


_OFTEN: Final = 0.3
"""What changes between fewer of the sampled frames than this is a mark in one of them, or a clock."""

_CHANGE_LEVELS: Final = (1, 8)
"""Smallest changes that count as motion; the second where a noisy copy makes everything change."""

_CHANGE_RATIO: Final = 0.015
"""Smallest mean change, of the grey it is a change of: JPEG makes still bars flicker by less."""

_MOVING_RATIOS: Final = (0.02, 0.85)
"""Less motion, of the screen, is no moving image; more is noise."""

_INK_CONTRAST: Final = 80
"""Text that moves makes a pixel black and white in turn: this far apart, at least."""

_BETWEEN: Final = (0.15, 0.85)
_BETWEEN_RATIO: Final = 0.2
"""Speckle of such contrast is seldom near its extremes: this share of the frames is between them."""

_WINDOW_PX: Final = 7
_BLACK: Final = 3
_GRADED: Final = (0.12, 0.94)
"""Greys between these parts of the contrast around them are neither background nor ink."""

_DENSE_RATIO: Final = 0.5
"""Ink, and the shade at its rims, covers less than this of a line of text."""

_THINNEST_PX: Final = 7
_BRIDGED_PX: Final = 11
"""Walls and cords of the heart may leave an image in pieces: without a box, these far apart at most."""

_SMALLEST_AREA_RATIO: Final = 0.012
"""A piece smaller than this, of the screen, is a clock, a symbol or a bar."""

_PIECE_RATIO: Final = 0.1
"""Nor is a piece of an image smaller than this, of the largest piece."""

_IMAGE_RATIO: Final = 0.3
"""A second image on a screen without boxes is not smaller than this, of the first."""

_SMALLEST_TRACE_RATIO: Final = 0.04
_STRIPE_RATIO: Final = 0.015
"""Neighbours in a bar differ by less than this, of their grey, in one direction at least."""

_ROUNDS_OF_GROWTH: Final = 3
_FEW: Final = 4


class _Speckle:
    """Where much flickers, or in what stands still much is shaded."""

    def __init__(self, frames: _Greys) -> None:
        self._frames = frames

    @cached_property
    def support(self) -> Mask:
        """Mark what is not the background, in any of the frames: [120, 160], bool."""
        brightest = self._frames.max(axis=0).astype(np.int16)
        support: Mask = np.abs(brightest - _background(brightest)) > _BLACK
        return support

    def within(self, inside: Mask) -> Iterator[Mask]:
        """Mark the area that speckle fills: by what moves, then by what is shaded.

        Beside a Doppler strip that runs, the picture is often frozen: each box is judged for itself.

        Yields:
            [120, 160], bool.
        """
        if self._moving is not None:
            yield _is_dense(self._moving & inside) & inside
        yield _is_dense(self._shaded & inside) & inside

    @cached_property
    def _moving(self) -> Mask | None:
        return _moving(self._frames)

    @cached_property
    def _shaded(self) -> Mask:
        # Of what stands still a few frames tell as much as all.
        few = self._frames[:: -(-len(self._frames) // _FEW)].astype(np.int16)
        shaded: Mask = np.mean([_shaded(frame) for frame in few], axis=0) >= _DENSE_RATIO
        return shaded


def _background(frame: _Wide) -> int:
    """Give the commonest grey, if it is dark: some screens are not quite black."""
    commonest = int(np.bincount(frame.ravel(), minlength=256).argmax())
    return commonest if commonest < _INK_CONTRAST else 0


def _fan(speckle: _Speckle, inside: Mask, *, is_one_image: bool) -> Mask:
    """Draw the convex hull of the large areas that speckle fills.

    Args:
        speckle: of the whole screen.
        inside: [120, 160], bool: where to look.
        is_one_image: whether all that is inside belongs together. A box of the header says so; on a
            screen without one only what touches, or almost, does.
    """
    pieces = next(filter(np.any, map(_pieces, speckle.within(inside))), np.zeros_like(inside))
    if is_one_image:
        return convex_hull(pieces) & inside
    joined = closed(pieces, _BRIDGED_PX) | opened(speckle.support & inside, _THINNEST_PX)
    labels, count = ndimage.label(joined)
    groups = [pieces & (labels == label) for label in range(1, count + 1)]
    largest = max((int(group.sum()) for group in groups), default=0)
    fan = np.zeros_like(inside)
    for group in groups:
        if group.sum() >= _IMAGE_RATIO * largest:
            fan |= convex_hull(group)
    return fan & inside


def _pieces(filled: Mask) -> Mask:
    large = _large(opened(filled, _THINNEST_PX), _PIECE_RATIO)
    # What the opening took from its corners, but not what hangs on by a thread.
    return grown(large, filled, _ROUNDS_OF_GROWTH)


def _large(mask: Mask, ratio: float) -> Mask:
    """Take the connected pieces that are no clock, symbol or bar, by their size."""
    labels, count = ndimage.label(mask)
    if count == 1:
        return mask if np.count_nonzero(mask) >= _SMALLEST_AREA_RATIO * mask.size else np.zeros_like(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    is_large = areas >= max(ratio * areas.max(), _SMALLEST_AREA_RATIO * mask.size)
    large: Mask = is_large[labels]
    return large


def _moving(frames: _Greys) -> Mask | None:
    """Mark pixels that flicker as speckle does; None where the clip tells nothing by that."""
    if len(frames) <= 2:
        return None
    changes = np.maximum(frames[1:], frames[:-1]) - np.minimum(frames[1:], frames[:-1])
    change, grey = (part.sum(axis=0, dtype=np.uint16) for part in (changes, frames))
    least = np.float32(_CHANGE_RATIO * len(changes) / len(frames)) * grey
    is_speckle = _is_not_ink(frames) & (change >= least)
    for level in _CHANGE_LEVELS:
        often = (changes >= level).sum(axis=0, dtype=np.uint8)
        moving = often >= _OFTEN * len(changes)
        if _MOVING_RATIOS[0] <= moving.mean() <= _MOVING_RATIOS[1]:
            found: Mask = moving & is_speckle
            return found
    return None


def _is_not_ink(frames: _Greys) -> Mask:
    """Tell what has shades over the time from what is black and white in turn, as moving text is."""
    darkest, brightest = frames.min(axis=0), frames.max(axis=0)
    contrast = brightest - darkest
    low, high = (darkest + (part * contrast).astype(np.uint8) for part in _BETWEEN)
    between = ((frames > low) & (frames < high)).sum(axis=0, dtype=np.uint8)
    is_not_ink: Mask = (contrast < _INK_CONTRAST) | (between >= _BETWEEN_RATIO * len(frames))
    return is_not_ink


def _shaded(frame: _Wide) -> Mask:
    """Mark greys between dark and bright: text has few, speckle little else; and grey bars have stripes."""
    darkest = ndimage.minimum_filter(frame, _WINDOW_PX)
    contrast = ndimage.maximum_filter(frame, _WINDOW_PX) - darkest
    low, high = _GRADED
    graded = (frame > _BLACK) & (frame > darkest + low * contrast) & (frame < darkest + high * contrast)
    mask: Mask = graded & _differs(frame, axis=0) & _differs(frame, axis=1)
    return mask


def _differs(frame: _Wide, axis: int) -> Mask:
    """Mark what differs from the pixel before it or from the one after it."""
    # A screen smaller than the frame has each line several times: copies are no neighbours.
    is_new = np.concatenate([[True], np.diff(frame, axis=axis).any(axis=1 - axis)])
    lines = frame.compress(is_new, axis)
    steps = np.abs(np.diff(lines, axis=axis)) > _STRIPE_RATIO * lines.take(range(1, lines.shape[axis]), axis)
    edge = np.zeros_like(lines.take([0], axis), np.bool_)
    mask: Mask = np.concatenate([edge, steps], axis) | np.concatenate([steps, edge], axis)
    return mask.take(np.cumsum(is_new) - 1, axis)


def _is_dense(mask: Mask) -> Mask:
    dense: Mask = ndimage.uniform_filter(mask.astype(np.float32), _WINDOW_PX) > _DENSE_RATIO
    return dense
