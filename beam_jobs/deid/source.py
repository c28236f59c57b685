"""Where the pixels of an instance lie, checked against limits before a byte of them is decoded.

A source is a place in a file, or bytes where the dataset was made in memory. Its frames are read one
by one, still encoded.
"""

import io
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import pydicom
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import (
    HEVCM10P51,
    HEVCMP51,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    MPEGTransferSyntaxes,
    RLELossless,
)

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.fragments import open_stream, read_frames
from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.records import Reason

_BUFFER_BYTES: Final = 1 << 17
"""Read at once: many frames of a small clip, so that each costs no call of the system."""

_PIXEL_DATA: Final = 0x7FE00010
_FLOAT_PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009)

JPEG_TRANSFER_SYNTAXES: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})

VIDEO_TRANSFER_SYNTAXES: Final = frozenset({*MPEGTransferSyntaxes, HEVCMP51, HEVCM10P51})
"""One stream holds all frames of an instance (PS3.5 8.2.5 and following)."""


@dataclass(frozen=True, slots=True)
class PixelSource:
    """The encoded pixels of one instance.

    Attributes:
        pixels: how a frame is laid out.
        is_big_endian: whether words are; only native pixels can be.
        is_swapped: whether bytes of 8 bits come in big endian words (PS3.5 7.3, OW).
    """

    pixels: PixelFormat
    transfer_syntax: UID
    is_big_endian: bool
    is_swapped: bool
    _place: "_Place" = field(repr=False)

    @property
    def is_encapsulated(self) -> bool:
        """Whether the pixels lie in fragments, encoded."""
        return self.transfer_syntax.is_encapsulated

    @property
    def is_jpeg(self) -> bool:
        """Whether each frame is a JPEG with loss."""
        return self.transfer_syntax in JPEG_TRANSFER_SYNTAXES

    @property
    def is_video(self) -> bool:
        """Whether all frames are in one stream, and none can be decoded without those before it."""
        return self.transfer_syntax in VIDEO_TRANSFER_SYNTAXES

    @property
    def is_subsampled(self) -> bool:
        """Whether native pixels share their colour in pairs; some that say so do not."""
        pixels = self.pixels
        return (
            pixels.photometric_interpretation in {"YBR_FULL_422", "YBR_PARTIAL_422"}
            and pixels.columns % 2 == 0
            and self._place.length < pixels.frame_samples * pixels.number_of_frames
        )

    @property
    def native_frame_bytes(self) -> int:
        """Size of one native frame."""
        pixels = self.pixels
        samples = 2 if self.is_subsampled else pixels.samples_per_pixel
        return pixels.rows * pixels.columns * samples * pixels.bits_allocated // 8

    def frames(self, places: Collection[int] | None = None) -> Iterator[Any]:
        """Read the declared frames, one at a time and still encoded; of any source but video.

        Args:
            places: which frames, in their order; None for all.

        Yields:
            bytes; of native pixels a view of a buffer that the next frame is read into.

        Raises:
            RejectedError: TRUNCATED_PIXELS where they end too early, CORRUPT_PIXELS where their
                encapsulation is broken.
        """
        wanted = range(self.pixels.number_of_frames) if places is None else sorted(set(places))
        with self._place.open() as file:
            if self.is_encapsulated:
                file.seek(self._place.offset)
                yield from _chosen(self._encapsulated_frames(file), wanted)
            else:
                yield from self._native_frames(file, wanted)

    def stream(self) -> AbstractContextManager[io.RawIOBase]:
        """Open the fragments as one stream, as video lies in them (PS3.5 A.4.5).

        Raises:
            RejectedError: TRUNCATED_PIXELS or CORRUPT_PIXELS where the encapsulation is broken,
                TOO_LARGE for more fragments than any stream has.
        """
        return open_stream(self._place.open(), self._place.offset)

    def _native_frames(self, file: BinaryIO, wanted: Sequence[int]) -> Iterator[memoryview]:
        """Read into one buffer: to allocate each frame would take longer than to read it."""
        buffer = memoryview(bytearray(self.native_frame_bytes))
        for place in wanted:
            begin = place * len(buffer)
            file.seek(self._place.offset + begin)
            if begin + len(buffer) > self._place.length or not _read_into(file, buffer):
                raise RejectedError(Reason.TRUNCATED_PIXELS)
            yield buffer

    def _encapsulated_frames(self, file: BinaryIO) -> Iterator[bytes]:
        # No codec makes a frame twice as large as it was.
        largest_bytes = 2 * self.pixels.frame_samples * self.pixels.bits_allocated // 8 + (1 << 16)
        return read_frames(file, largest_bytes=largest_bytes, is_rle=self.transfer_syntax == RLELossless)


def locate_pixels(
    ds: Dataset, transfer_syntax: UID, pixels: PixelFormat, path: Path | None = None
) -> PixelSource:
    """Find the pixels of a dataset, in memory if they are there, else in the file it was read from.

    Args:
        ds: of the instance.
        transfer_syntax: as its file has it.
        pixels: as `read_pixel_format` has them.
        path: the file, where the dataset does not know it.

    Raises:
        RejectedError: NO_PIXELS where there are none, UNSUPPORTED_PIXELS where they are floats,
            MISSING_FILE where their file is gone.
    """
    place = _find(ds, path)
    is_big_endian = not (transfer_syntax.is_little_endian or transfer_syntax.is_encapsulated)
    return PixelSource(
        pixels=pixels,
        transfer_syntax=transfer_syntax,
        is_big_endian=is_big_endian,
        is_swapped=is_big_endian and place.vr == "OW" and pixels.bits_allocated == 8,
        _place=place,
    )


def _chosen(frames: Iterator[bytes], wanted: Sequence[int]) -> Iterator[bytes]:
    """Give the frames at some places, ascending.

    Raises:
        RejectedError: TRUNCATED_PIXELS where they end too early.
    """
    place = -1
    for next_place in wanted:
        frame = next(islice(frames, next_place - place - 1, None), None)
        if frame is None:
            raise RejectedError(Reason.TRUNCATED_PIXELS)
        place = next_place
        yield frame


def _read_into(file: BinaryIO, buffer: memoryview) -> bool:
    """Fill a buffer; say whether there was enough."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])  # type: ignore[attr-defined] # BinaryIO has it, its type not
        if not count:
            return False
        filled += count
    return True


class _Place(NamedTuple):
    """A stretch of a file, or of bytes in memory."""

    path: Path | None
    data: bytes
    offset: int
    length: int
    vr: str

    def open(self) -> AbstractContextManager[BinaryIO]:
        if self.path is None:
            return nullcontext(io.BytesIO(self.data))
        return _open(self.path, _BUFFER_BYTES)


def _open(path: Path, buffer_bytes: int = io.DEFAULT_BUFFER_SIZE) -> BinaryIO:
    try:
        return path.open("rb", buffering=buffer_bytes)
    except OSError:
        raise RejectedError(Reason.MISSING_FILE) from None


def _find(ds: Dataset, path: Path | None) -> _Place:
    if any(tag in ds for tag in _FLOAT_PIXEL_DATA):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    element = ds.get_item(_PIXEL_DATA) if _PIXEL_DATA in ds else None
    if element is not None and isinstance(element.value, bytes):
        return _Place(None, element.value, 0, len(element.value), str(element.VR or "OW"))
    if isinstance(element, RawDataElement) or element is None:
        place = _find_in_file(path or getattr(ds, "filename", None))
        if place is not None:
            return place
    raise RejectedError(Reason.NO_PIXELS)


def _find_in_file(filename: Path | str | None) -> _Place | None:
    if not filename:
        return None
    path = Path(filename)
    with _open(path) as file:
        with quiet_pydicom():
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        is_implicit, is_little_endian = header.original_encoding
        order = "<" if is_little_endian else ">"
        start = file.read(8)
        if len(start) < 8:
            return None
        tag = "".join(f"{part:04X}" for part in struct.unpack(f"{order}HH", start[:4]))
        if int(tag, 16) in _FLOAT_PIXEL_DATA:
            raise RejectedError(Reason.UNSUPPORTED_PIXELS)
        if int(tag, 16) != _PIXEL_DATA:
            return None
        vr, length_bytes = ("OW", start[4:]) if is_implicit else (start[4:6].decode("latin-1"), file.read(4))
        if len(length_bytes) < 4:
            return None
        (length,) = struct.unpack(f"{order}L", length_bytes)
        return _Place(path, b"", file.tell(), length, vr)
