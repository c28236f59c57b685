"""Flatten instances to frames: grey, 120 x 160, clean (paper, Methods: nearest-neighbour sampling)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from beam_jobs.deid import CleanInstance, RejectedError
from beam_jobs.deid.decoders import decode_grey, decode_rgb
from beam_jobs.deid.ocr import OcrError
from beam_jobs.deid.pixels import find_keep_mask, keep_mask, sampled_places
from beam_jobs.deid.screen_text import TextFinder, text_mask
from beam_jobs.records import CHUNK_FRAMES, FRAME_COLUMNS, FRAME_ROWS, Chunk, Reason


def flatten_frames(clean: CleanInstance, text_finder: TextFinder | None = None) -> Iterator[Chunk]:
    """Decode, shrink and clean every frame of an instance, one at a time.

    The keep-mask is found in frames spread over the whole clip, and holds for all. A clip that fits
    into a chunk is decoded once; of a longer one those few frames are decoded before the rest.

    Args:
        clean: the instance, through the door.
        text_finder: looks for text within what is kept, in full-size frames; None for nobody. What it finds
            in some frames of a chunk is black in all of it and of those after it.

    Yields:
        Chunks of at most `CHUNK_FRAMES` frames in order; the last says how many there are.

    Raises:
        RejectedError: NO_IMAGE_REGION, CORRUPT_PIXELS, UNSUPPORTED_PIXELS, TRUNCATED_PIXELS, or
            UNREAD_TEXT where the text finder fails. The frames before the fault have been yielded, in
            chunks that do not close the instance.
    """
    fault: RejectedError | None = None
    chunks = _Chunks(clean, text_finder)
    try:
        if clean.header.number_of_frames > CHUNK_FRAMES:
            chunks.keep = find_keep_mask(clean._source, clean._tones, clean._regions)  # noqa: SLF001
        for grey in grey_frames(clean):
            if chunks.is_full:
                yield chunks.take(is_last=False)
            chunks.add(grey)
    except RejectedError as error:
        fault = error
    if fault is None:
        yield chunks.take(is_last=True)
        return
    if chunks.frames_waiting:
        yield chunks.take(is_last=False)
    raise RejectedError(fault.reason, chunks.frames_taken, chunks.parts_taken + 1)


def grey_frames(clean: CleanInstance) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode every frame to luminance at the size of a clean frame, [120, 160], not cleaned.

    Raises:
        RejectedError: as `flatten_frames`.
    """
    return decode_grey(clean._source, clean._tones)  # noqa: SLF001 - frames is the door's other half


def colour_frames(clean: CleanInstance, places: Iterable[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode some frames to colour at full size, [H, W, 3], not cleaned, in their order.

    Raises:
        RejectedError: as `flatten_frames`.
    """
    return decode_rgb(clean._source, clean._tones, frozenset(places))  # noqa: SLF001


class _Chunks:
    """Collects the frames of an instance into chunks and masks them."""

    def __init__(self, clean: CleanInstance, text_finder: TextFinder | None) -> None:
        self._clean = clean
        self._text_finder = text_finder
        self._header = clean.header
        self._room = min(clean.header.number_of_frames, CHUNK_FRAMES)
        self._frames = self._empty()
        self._waiting = 0
        self.keep: npt.NDArray[np.bool_] | None = None
        self.frames_taken = 0
        self.parts_taken = 0

    @property
    def frames_waiting(self) -> int:
        return self._waiting

    @property
    def is_full(self) -> bool:
        return self._waiting == self._room

    def add(self, grey: npt.NDArray[np.uint8]) -> None:
        self._frames[self._waiting] = grey
        self._waiting += 1

    def take(self, *, is_last: bool) -> Chunk:
        frames = self._frames[: self._waiting]
        if self.keep is None:
            self.keep = keep_mask(frames[sampled_places(len(frames))], self._clean._regions)  # noqa: SLF001
        if self._text_finder is not None:
            self.keep = self.keep & ~self._text(self._text_finder, frames, self.keep)
        np.multiply(frames, self.keep, out=frames)
        chunk = Chunk(
            placement=self._clean.placement,
            header=self._header,
            first_frame_index=self.frames_taken,
            frames=frames,
            parts=self.parts_taken + 1 if is_last else 0,
            frame_times_ms=self._clean._frame_times.between(self.frames_taken, len(frames)),  # noqa: SLF001
        )
        self._frames, self._waiting = self._empty(), 0
        self.frames_taken += len(frames)
        self.parts_taken += 1
        return chunk

    def _empty(self) -> npt.NDArray[np.uint8]:
        return np.empty((self._room, FRAME_ROWS, FRAME_COLUMNS), np.uint8)

    def _text(
        self, finder: TextFinder, frames: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Mark text in the frames that are about to be taken, and note it in the header."""
        first = self.frames_taken

        def decode(places: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
            return colour_frames(self._clean, (first + place for place in places))

        try:
            found = finder.find(frames, keep, decode)
        except OcrError:
            raise RejectedError(Reason.UNREAD_TEXT, self.frames_taken, self.parts_taken + 1) from None
        self._header = replace(
            self._header,
            needs_review=self._header.needs_review or found.is_doubtful,
            text_boxes=(*(self._header.text_boxes or ()), *found.boxes),
        )
        return text_mask(found.boxes, self._header.rows, self._header.columns)
