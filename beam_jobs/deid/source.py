"""Where the pixels of an instance lie, checked against limits before a byte of them is decoded.

A source is a place in a file, or bytes where the dataset was made in memory. Its frames are read one
by one, still encoded.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import pydicom
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID, RLELossless

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import integer, text
from beam_jobs.records import Reason

MAX_FRAME_SAMPLES: Final = 1 << 26
"""Rows x columns x samples of one frame: twice a screen of 4K in colour is allowed."""

MAX_FRAMES: Final = 36_000
"""Ten minutes at 60 frames a second."""

MAX_TOTAL_SAMPLES: Final = 1 << 36
"""Samples of all frames: 36,000 frames of 800 x 600 in colour are allowed, and not much more."""

_PIXEL_DATA: Final = 0x7FE00010
_FLOAT_PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009)
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"

# What only the first fragment of a frame can begin with: entropy-coded data holds no marker, so a
# fragment of a frame's rest never does (ISO 10918-1 B.1.1.2, 14495-1 D.1, 15444-1 A.3).
_CODESTREAM_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
_CODESTREAM_END: Final = b"\xff\xd9"

_SAMPLES_PER_PIXEL: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the header describes a frame: the image pixel module, PS3.3 C.7.6.3."""

    number_of_frames: int
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    is_planar: bool


def read_pixel_format(ds: Dataset) -> PixelFormat:
    """Read and check the description of the pixels.

    Raises:
        RejectedError: TOO_LARGE beyond a limit, UNSUPPORTED_PIXELS for a description that is not
            that of an ultrasound image.
    """
    photometric_interpretation = text(ds, "PhotometricInterpretation").upper()
    bits_allocated = integer(ds, "BitsAllocated") or 0
    pixels = PixelFormat(
        number_of_frames=declared if (declared := integer(ds, "NumberOfFrames")) is not None else 1,
        rows=integer(ds, "Rows") or 0,
        columns=integer(ds, "Columns") or 0,
        samples_per_pixel=integer(ds, "SamplesPerPixel") or 0,
        bits_allocated=bits_allocated,
        bits_stored=integer(ds, "BitsStored") or bits_allocated,
        is_signed=integer(ds, "PixelRepresentation") == 1,
        photometric_interpretation=photometric_interpretation,
        is_planar=integer(ds, "PlanarConfiguration") == 1,
    )
    if (
        min(pixels.number_of_frames, pixels.rows, pixels.columns) < 1
        or pixels.samples_per_pixel != _SAMPLES_PER_PIXEL.get(photometric_interpretation)
        or bits_allocated not in {8, 16}
        or not 1 <= pixels.bits_stored <= bits_allocated
    ):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    frame_samples = pixels.rows * pixels.columns * pixels.samples_per_pixel
    if (
        frame_samples > MAX_FRAME_SAMPLES
        or pixels.number_of_frames > MAX_FRAMES
        or frame_samples * pixels.number_of_frames > MAX_TOTAL_SAMPLES
    ):
        raise RejectedError(Reason.TOO_LARGE)
    return pixels


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
        """Whether each frame is a codestream of its own."""
        return self.transfer_syntax.is_encapsulated

    @property
    def is_subsampled(self) -> bool:
        """Whether native pixels share their colour in pairs; some that say so do not."""
        pixels = self.pixels
        full = pixels.rows * pixels.columns * 3 * pixels.number_of_frames
        return pixels.photometric_interpretation == "YBR_FULL_422" and self._place.length < full

    @property
    def native_frame_bytes(self) -> int:
        """Size of one native frame."""
        pixels = self.pixels
        samples = 2 if self.is_subsampled else pixels.samples_per_pixel
        return pixels.rows * pixels.columns * samples * pixels.bits_allocated // 8

    def frames(self) -> Iterator[bytes]:
        """Read the declared frames, one at a time and still encoded.

        Raises:
            RejectedError: TRUNCATED_PIXELS where they end too early, CORRUPT_PIXELS where their
                encapsulation is broken.
        """
        with self._place.open() as file:
            file.seek(self._place.offset)
            frames = self._encapsulated_frames(file) if self.is_encapsulated else self._native_frames(file)
            count = 0
            for frame in islice(frames, self.pixels.number_of_frames):
                count += 1
                yield frame
        if count < self.pixels.number_of_frames:
            raise RejectedError(Reason.TRUNCATED_PIXELS)

    def _native_frames(self, file: BinaryIO) -> Iterator[bytes]:
        size = self.native_frame_bytes
        left = self._place.length
        while left >= size:
            frame = file.read(size)
            if len(frame) < size:
                return
            left -= size
            yield frame

    def _encapsulated_frames(self, file: BinaryIO) -> Iterator[bytes]:
        """Join fragments to frames by what they begin and end with.

        The offset table is not needed for that, and where a cine is cut it names frames that are
        not there.
        """
        is_rle = self.transfer_syntax == RLELossless
        parts: list[bytes] = []
        for fragment in self._fragments(file):
            if parts and fragment.startswith(_CODESTREAM_STARTS):
                yield b"".join(parts)
                parts = []
            parts.append(fragment)
            # A fragment is padded to even length (PS3.5 A.4).
            if is_rle or fragment[-8:].rstrip(b"\0").endswith(_CODESTREAM_END):
                yield b"".join(parts)
                parts = []
        if parts:
            yield b"".join(parts)

    def _fragments(self, file: BinaryIO) -> Iterator[bytes]:
        pixels = self.pixels
        # No codec makes a frame twice as large as it was.
        largest = 2 * pixels.rows * pixels.columns * pixels.samples_per_pixel * pixels.bits_allocated // 8 + (
            1 << 16
        )
        is_offset_table = True
        while True:
            header = file.read(8)
            # pydicom leaves the delimiter out in memory; whether frames lack is told by their number.
            if not header or header[:4] == _SEQUENCE_DELIMITER:
                return
            if len(header) < 8:
                raise RejectedError(Reason.TRUNCATED_PIXELS)
            (length,) = struct.unpack("<L", header[4:])
            if header[:4] != _ITEM or (length > largest and not is_offset_table):
                raise RejectedError(Reason.CORRUPT_PIXELS)
            if is_offset_table:
                file.seek(length, io.SEEK_CUR)
                is_offset_table = False
                continue
            fragment = file.read(length)
            if len(fragment) < length:
                raise RejectedError(Reason.TRUNCATED_PIXELS)
            if fragment:
                yield fragment


def locate_pixels(ds: Dataset, transfer_syntax: UID, pixels: PixelFormat) -> PixelSource:
    """Find the pixels of a dataset, in memory if they are there, else in the file it was read from.

    Raises:
        RejectedError: NO_PIXELS where there are none, UNSUPPORTED_PIXELS where they are floats,
            MISSING_FILE where their file is gone.
    """
    place = _find(ds)
    is_big_endian = not (transfer_syntax.is_little_endian or transfer_syntax.is_encapsulated)
    return PixelSource(
        pixels=pixels,
        transfer_syntax=transfer_syntax,
        is_big_endian=is_big_endian,
        is_swapped=is_big_endian and place.vr == "OW" and pixels.bits_allocated == 8,
        _place=place,
    )


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
        return _open(self.path)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError:
        raise RejectedError(Reason.MISSING_FILE) from None


def _find(ds: Dataset) -> _Place:
    if any(tag in ds for tag in _FLOAT_PIXEL_DATA):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    element = ds.get_item(_PIXEL_DATA) if _PIXEL_DATA in ds else None
    if element is not None and isinstance(element.value, bytes):
        return _Place(None, element.value, 0, len(element.value), str(element.VR or "OW"))
    if isinstance(element, RawDataElement) or element is None:
        place = _find_in_file(ds)
        if place is not None:
            return place
    raise RejectedError(Reason.NO_PIXELS)


def _find_in_file(ds: Dataset) -> _Place | None:
    filename = getattr(ds, "filename", None)
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
