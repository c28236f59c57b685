"""Text over the image itself: found in a few full-size frames, and blacked out in all.

What is burned in stands still while the tissue under it moves. So the darkest that each pixel was in
frames spread over a clip keeps the letters and loses the speckle; most clips have no bright thin strokes
left in it, and cost no more than that. Where there are some, they are read. A frame unlike the others is
looked at by itself: what is brighter in it than in any other may be text that came and went.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from beam_jobs.deid.ocr import LEGIBLE, Ocr, Word
from beam_jobs.deid.regions import Box
from beam_jobs.records import FRAME_COLUMNS, FRAME_ROWS
from echo_models.preprocessing import nearest_positions

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Decode = Callable[[Sequence[int]], Iterable[npt.NDArray[np.uint8]]]
"""Takes indexes of frames, ascending; gives these frames, [H, W, 3], uint8."""

STILL_FRAMES: Final = 8
"""Frames over a clip whose darkest values are looked at."""

MOST_FLASHES: Final = 3
"""Frames unlike the others that are looked at, in each clip."""

_INK: Final = 90
_STROKE_CONTRAST: Final = 60
_STROKE_ROWS_RATIO: Final = 1 / 50
"""Strokes of letters are thinner than this part of the screen's height."""

_LEAST_STROKE_PX: Final = 4
"""Smaller specks are noise."""

_LEAST_INK_PX: Final = 24
"""Fewer pixels of ink are no word that could be read: one letter of the smallest type has about ten."""

_FLASH: Final = 90
_LEAST_FLASH_PX: Final = 6
_UNUSUAL: Final = 4.0
"""Median absolute deviations that a frame's count must lie above the median."""

_FLAT_RATIO: Final = 0.85
"""Letters have one colour: most of their pixels are as bright as the brightest of them, to this part."""

_LEAST_FLAT_RATIO: Final = 0.5
_LETTER_HEIGHT_RATIO: Final = 0.35
_FEWEST_LETTERS: Final = 2
"""A line is one piece; letters are several, though some run together in a lossy picture."""

_TALLEST_ROWS_RATIO: Final = 1 / 18
_TALLEST_PX: Final = 28.0
"""In a small frame letters may be as tall as in a large one."""

_SHORTEST_LETTER_PX: Final = 5
_WIDEST_RATIO: Final = 3.0
"""Several letters that run together are at most so many of the tallest wide."""
_DOUBTFUL_LETTERS: Final = 3
"""So many letters may be a word whatever the program's confidence, if they look like letters."""

_CERTAIN: Final = 85.0
"""From this confidence on a word is one whatever it looks like."""

_LETTER_ROWS_RATIO: Final = 1 / 60
_REACH_LETTERS: Final = 12
_MARGIN_ROWS_RATIO: Final = 1 / 120


@dataclass(frozen=True, slots=True)
class FoundText:
    """Text within the kept part of the screen.

    Attributes:
        boxes: in pixels of a full-size frame, with a margin.
        is_doubtful: whether something looked like text that could not be read well.
    """

    boxes: tuple[Box, ...] = ()
    is_doubtful: bool = False


class TextFinder:
    """Finds text in the frames of a clip."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr

    def find(self, small: Grey, keep: Mask, decode: Decode) -> FoundText:
        """Look for text to black out.

        Args:
            small: [N, 120, 160], uint8: every frame of the clip, or of a part of it.
            keep: [120, 160], bool: what is kept of the screen.
            decode: gives the frames of these indexes, ascending, in colour and full size.

        Raises:
            OcrError: if the program for reading fails.
        """
        boxes: dict[Box, None] = {}
        is_doubtful = False
        for look in self._looks(small, keep, decode):
            margin = max(2, round(len(look.picture) * _MARGIN_ROWS_RATIO))
            sure, doubtful = self._judged(look, keep)
            is_doubtful |= bool(doubtful)
            boxes |= dict.fromkeys(_widened(box, margin) for box in (*sure, *doubtful))
        return FoundText(tuple(boxes), is_doubtful)

    def read(self, small: Grey, keep: Mask, decode: Decode) -> list[Word]:
        """Read all the words, whatever their confidence; the arguments are those of `find`.

        Raises:
            OcrError: if the program for reading fails.
        """
        looks = self._looks(small, keep, decode)
        return [word for look in looks for word in self.words_in(look.picture, keep, look.seen)]

    def _judged(self, look: "_Look", keep: Mask) -> tuple[list[Box], list[Box]]:
        """Give the boxes of what was read, and of what looks like letters that could not be read well."""
        inside = _kept(look.picture, keep)
        ink = strokes(inside)
        words = self._words(inside, ink, look.seen)
        if not words and not look.is_flash:
            return [], []
        sure = [
            word.box
            for word in words
            if word.confidence >= _CERTAIN
            or (word.confidence >= LEGIBLE and _is_like_letters(look, ink, word.box))
        ]
        candidates = [
            word.box for word in words if word.confidence < LEGIBLE and len(word.text) >= _DOUBTFUL_LETTERS
        ]
        if look.is_flash:
            candidates += _stretches(ink)
        doubtful = [box for box in candidates if box not in sure and _is_like_letters(look, ink, box)]
        return sure, doubtful

    @staticmethod
    def _looks(small: Grey, keep: Mask, decode: Decode) -> Iterator["_Look"]:
        places = np.unique(np.linspace(0, len(small) - 1, STILL_FRAMES).astype(int)).tolist()
        flashes = flashing_frames(small, keep)
        wanted = sorted({*places, *flashes})
        brightness = dict(zip(wanted, map(_brightest_channel, decode(wanted)), strict=False))
        return _pictures(brightness, places, flashes)

    def words_in(self, picture: Grey, keep: Mask | None = None, seen: Grey | None = None) -> list[Word]:
        """Read a picture [H, W], where it has anything like letters; small pictures are scaled up more.

        Args:
            picture: light text on dark.
            keep: [120, 160], bool: what of it is looked at; None for all.
            seen: the frame in which its letters have one brightness, if not the picture.

        Raises:
            OcrError: if the program for reading fails.
        """
        inside = picture if keep is None else _kept(picture, keep)
        return self._words(inside, strokes(inside), picture if seen is None else seen)

    def _words(self, inside: Grey, ink: Mask, seen: Grey) -> list[Word]:
        if ink.sum() < _LEAST_INK_PX:
            return []
        lines = _lines(ink)
        legible = _letters(ink, lines, seen)
        if legible.sum() < _LEAST_INK_PX:
            return []
        rows, columns = (np.flatnonzero(legible.any(axis=axis)) for axis in (1, 0))
        pad = max(8, round(_tallest_px(ink)))
        top, left = max(int(rows[0]) - pad, 0), max(int(columns[0]) - pad, 0)
        crop = inside[top : int(rows[-1]) + pad, left : int(columns[-1]) + pad].astype(np.uint8)
        scale = 2 if len(inside) > 2 * FRAME_ROWS else 4
        words = (word._replace(box=_moved(word.box, left, top)) for word in self._ocr.read(crop, scale=scale))
        return [word._replace(box=_whole_line(word.box, lines)) for word in words if _has_ink(ink, word.box)]


class _Look(NamedTuple):
    """A picture to read.

    Attributes:
        seen: the frame that it was made from, or itself.
        is_flash: whether it is what one frame has and no other.
    """

    picture: Grey
    seen: Grey
    is_flash: bool


def _pictures(brightness: dict[int, Grey], places: list[int], flashes: list[int]) -> Iterator[_Look]:
    """Make the pictures to read out of the brightness of some frames."""
    spread = [brightness[place] for place in places if place in brightness]
    if spread:
        # Of a still this is the picture itself. Where too much is bright, its brightest alone is read too.
        darkest = reduce(np.minimum, spread)
        yield _Look(darkest, darkest, is_flash=False)
        yield _Look(np.where(darkest >= _FLAT_RATIO * darkest.max(), darkest, 0), darkest, is_flash=False)
    for place in flashes:
        others = [other for at, other in brightness.items() if at != place]
        if place in brightness and others:
            frame = brightness[place]
            yield _Look(frame - np.minimum(frame, reduce(np.maximum, others)), frame, is_flash=True)


def _tallest_px(ink: Mask) -> float:
    return max(_TALLEST_ROWS_RATIO * len(ink), _TALLEST_PX)


def _kept(picture: Grey, keep: Mask) -> Grey:
    kept: Grey = np.where(_enlarged(keep, picture.shape), picture, 0)
    return kept


def _letters(ink: Mask, lines: npt.NDArray[np.int32], seen: Grey) -> Mask:
    """Mark stretches of ink in which several pieces have the size of letters and one brightness.

    It decides whether reading is worth its cost, so it lets pass more than `_is_like_letters`.
    """
    pieces = ndimage.label(ink, np.ones((3, 3)))[0]
    tallest = _tallest_px(ink)
    letters = np.zeros_like(ink)
    count: dict[int, int] = {}
    for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not (_SHORTEST_LETTER_PX <= height <= tallest and width <= _WIDEST_RATIO * tallest):
            continue
        mine = pieces[rows, columns] == number
        values = seen[rows, columns][mine]
        if (values >= _FLAT_RATIO * values.max()).mean() < _LEAST_FLAT_RATIO:
            continue
        letters[rows, columns] |= mine
        line = int(lines[rows.start, columns.start + int(np.flatnonzero(mine[0])[0])])
        count[line] = count.get(line, 0) + 1
    legible = [line for line, pieces_of in count.items() if pieces_of >= _FEWEST_LETTERS]
    marked: Mask = letters & np.isin(lines, legible)
    return marked


def _stretches(ink: Mask) -> list[Box]:
    """List the boxes of stretches of ink that are long enough for a word."""
    lines = _lines(ink)
    found = []
    for rows, columns in ndimage.find_objects(lines):
        box = Box(columns.start, rows.start, columns.stop, rows.stop)
        if (
            ink[rows, columns].sum() >= _LEAST_INK_PX
            and columns.stop - columns.start > rows.stop - rows.start
        ):
            found.append(box)
    return found


def _is_like_letters(look: _Look, ink: Mask, box: Box) -> bool:
    """Say whether ink has the height of letters, their number and, unlike tissue, one brightness."""
    height = box.bottom - box.top
    inside = (slice(box.top, box.bottom), slice(box.left, box.right))
    letters = ndimage.find_objects(ndimage.label(ink[inside], np.ones((3, 3)))[0])
    tall = [rows for rows, _ in letters if rows.stop - rows.start >= _LETTER_HEIGHT_RATIO * height]
    if height > _tallest_px(ink) or len(tall) < (1 if look.is_flash else _FEWEST_LETTERS):
        return False
    values = look.seen[inside][ink[inside]]
    return float((values >= _FLAT_RATIO * values.max()).mean()) >= _LEAST_FLAT_RATIO


def strokes(picture: Grey) -> Mask:
    """Mark bright strokes that are thin against the screen: [H, W], bool."""
    size = max(5, round(picture.shape[0] * _STROKE_ROWS_RATIO))
    bright: Mask = picture >= _INK
    strokes_only = np.zeros_like(bright)
    if not bright.any():
        return strokes_only
    # Whether a pixel is ink depends on none further away than the opening reaches.
    around = _around(bright, size)
    part = picture[around]
    opened = ndimage.grey_opening(part, size=(size, size))
    ink = bright[around] & (part - np.minimum(opened, part) >= _STROKE_CONTRAST)
    labels, count = ndimage.label(ink, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large: Mask = sizes >= _LEAST_STROKE_PX
    large[0] = False
    strokes_only[around] = large[labels]
    return strokes_only


def _around(mask: Mask, margin_px: int) -> tuple[slice, slice]:
    """Give the rows and columns that hold all of a mask, and a margin as far as there is one."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(int(rows[0]) - margin_px, 0), max(int(columns[0]) - margin_px, 0)
    return slice(top, int(rows[-1]) + margin_px + 1), slice(left, int(columns[-1]) + margin_px + 1)


def flashing_frames(small: Grey, keep: Mask) -> list[int]:
    """List the frames that have many bright pixels where the frames beside them have none: at most three."""
    if len(small) < 3:
        return []
    kept = small[:, keep].astype(np.int16)
    padded = np.concatenate([kept[1:2], kept, kept[-2:-1]])
    beside = np.maximum(padded[:-2], padded[2:])
    counts = (kept - beside >= _FLASH).sum(axis=1)
    usual = float(np.median(counts))
    deviation = float(np.median(np.abs(counts - usual)))
    # Of a few frames nothing is usual: the most unlike are looked at whatever their counts.
    least = 1 if len(small) <= STILL_FRAMES else usual + max(_LEAST_FLASH_PX, _UNUSUAL * deviation)
    order = np.argsort(counts, kind="stable")[::-1][:MOST_FLASHES]
    return sorted(int(place) for place in order if counts[place] >= least)


def text_mask(boxes: Iterable[Box], rows: int, columns: int) -> Mask:
    """Draw boxes of a full-size frame at the size of a clean frame: [120, 160], bool."""
    ys, xs = nearest_positions(rows, FRAME_ROWS), nearest_positions(columns, FRAME_COLUMNS)
    mask = np.zeros((FRAME_ROWS, FRAME_COLUMNS), np.bool_)
    for box in boxes:
        mask |= ((ys >= box.top) & (ys < box.bottom))[:, None] & ((xs >= box.left) & (xs < box.right))
    return mask


def _brightest_channel(frame: npt.NDArray[np.uint8]) -> Grey:
    # Coloured letters are as bright as white ones. Three times as fast as a maximum over the last axis.
    brightest: Grey = np.maximum(np.maximum(frame[..., 0], frame[..., 1]), frame[..., 2])
    return brightest


def _enlarged(mask: Mask, shape: tuple[int, ...]) -> Mask:
    rows, columns = shape[:2]
    ys = np.arange(rows) * FRAME_ROWS // rows
    xs = np.arange(columns) * FRAME_COLUMNS // columns
    return mask[ys][:, xs]


def _lines(ink: Mask) -> npt.NDArray[np.int32]:
    """Number the stretches of ink with no gap wider than a letter: [H, W], 0 is none."""
    letter = max(5, round(ink.shape[0] * _LETTER_ROWS_RATIO))
    # A maximum is a dilation whose axes are gone through one by one: ten times as fast.
    joined = ndimage.maximum_filter(ink.astype(np.uint8), size=(3, 2 * letter + 1))
    labels: npt.NDArray[np.int32] = ndimage.label(joined)[0]
    return labels


def _whole_line(box: Box, lines: npt.NDArray[np.int32]) -> Box:
    """Widen the box of a word to the letters beside it, of which the program may have read only some."""
    height = box.bottom - box.top
    reach = _REACH_LETTERS * height
    left = max(box.left - reach, 0)
    band = lines[box.top : box.bottom, left : box.right + reach]
    mine = np.unique(lines[box.top : box.bottom, box.left : box.right])
    columns = np.flatnonzero(np.isin(band, mine[mine > 0]).any(axis=0))
    if not len(columns):
        return box
    return Box(
        min(box.left, left + int(columns[0])),
        box.top,
        max(box.right, left + int(columns[-1]) + 1),
        box.bottom,
    )


def _has_ink(ink: Mask, box: Box) -> bool:
    return bool(ink[box.top : box.bottom, box.left : box.right].any())


def _moved(box: Box, left: int, top: int) -> Box:
    return Box(box.left + left, box.top + top, box.right + left, box.bottom + top)


def _widened(box: Box, margin: int) -> Box:
    return Box(max(box.left - margin, 0), max(box.top - margin, 0), box.right + margin, box.bottom + margin)
