"""Flatten instances to frames: grey, 120 x 160, clean (paper, Methods: nearest-neighbour sampling)."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_jobs.deid import CleanInstance, RejectedError
from beam_jobs.deid.decoders import decode_grey
from beam_jobs.deid.pixels import keep_mask, sampled_places
from beam_jobs.records import CHUNK_FRAMES, FRAME_COLUMNS, FRAME_ROWS, Chunk


def flatten_frames(clean: CleanInstance) -> Iterator[Chunk]:
    """Decode, shrink and clean every frame of an instance, one at a time.

    The keep-mask is found in frames spread over the whole clip, and holds for all. A clip that fits
    into a chunk is decoded once; of a longer one those few frames are decoded before the rest.

    Yields:
        Chunks of at most `CHUNK_FRAMES` frames in order; the last says how many there are.

    Raises:
        RejectedError: NO_IMAGE_REGION, CORRUPT_PIXELS, UNSUPPORTED_PIXELS or TRUNCATED_PIXELS. The
            frames before the fault have been yielded, in chunks that do not close the instance.
    """
    fault: RejectedError | None = None
    chunks = _Chunks(clean)
    try:
        if clean.header.number_of_frames > CHUNK_FRAMES:
            chunks.keep = keep_mask(_sampled(clean), clean._regions)  # noqa: SLF001 - the door's other half
        for grey in _decode(clean):
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


def _decode(clean: CleanInstance) -> Iterator[npt.NDArray[np.uint8]]:
    return decode_grey(clean._source, clean._tones)  # noqa: SLF001 - frames is the door's other half


def _sampled(clean: CleanInstance) -> npt.NDArray[np.uint8]:
    """Decode the frames that the fan is looked for in, as far as the clip has them."""
    found: list[npt.NDArray[np.uint8]] = []
    fault: RejectedError | None = None
    places = frozenset(sampled_places(clean.header.number_of_frames).tolist())
    try:
        found.extend(decode_grey(clean._source, clean._tones, places))  # noqa: SLF001
    except RejectedError as error:
        fault = error
    if fault is not None and not found:
        raise RejectedError(fault.reason)
    return np.stack(found)


class _Chunks:
    """Collects the frames of an instance into chunks and masks them."""

    def __init__(self, clean: CleanInstance) -> None:
        self._clean = clean
        self._frames: list[npt.NDArray[np.uint8]] = []
        self.keep: npt.NDArray[np.bool_] | None = None
        self.frames_taken = 0
        self.parts_taken = 0

    @property
    def frames_waiting(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        return len(self._frames) == CHUNK_FRAMES

    def add(self, grey: npt.NDArray[np.uint8]) -> None:
        self._frames.append(grey)

    def take(self, *, is_last: bool) -> Chunk:
        frames = np.stack(self._frames).reshape(-1, FRAME_ROWS, FRAME_COLUMNS)
        if self.keep is None:
            self.keep = keep_mask(frames[sampled_places(len(frames))], self._clean._regions)  # noqa: SLF001
        frames[:, ~self.keep] = 0
        chunk = Chunk(
            placement=self._clean.placement,
            header=self._clean.header,
            first_frame_index=self.frames_taken,
            frames=frames,
            parts=self.parts_taken + 1 if is_last else 0,
            frame_times_ms=self._clean._frame_times.between(self.frames_taken, len(frames)),  # noqa: SLF001
        )
        self._frames = []
        self.frames_taken += len(frames)
        self.parts_taken += 1
        return chunk
