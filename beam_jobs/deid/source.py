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

import numpy as np
import numpy.typing as npt
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
from beam_jobs.deid.quiet import quiet_pydicom
from beam_jobs.deid.reading import integer, text
from beam_jobs.records import Reason

MAX_FRAME_SAMPLES: Final = 1 << 26
"""Rows x columns x samples of one frame: twice a screen of 4K in colour is allowed."""

MAX_FRAMES: Final = 36_000
"""Ten minutes at 60 frames a second."""

MAX_FRAGMENTS: Final = 1 << 16
"""Fragments of one video stream; 4 GB of it fit into one."""

MAX_TOTAL_SAMPLES: Final = 1 << 36
"""Samples of all frames: 36,000 frames of 800 x 600 in colour are allowed, and not much more."""

_BUFFER_BYTES: Final = 1 << 17
"""Read at once: many frames of a small clip, so that each costs no call of the system."""

_PIXEL_DATA: Final = 0x7FE00010
_FLOAT_PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009)
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"

# What only the first fragment of a frame can begin with: entropy-coded data holds no marker, so a
# fragment of a frame's rest never does (ISO 10918-1 B.1.1.2, 14495-1 D.1, 15444-1 A.3).
_CODESTREAM_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
_CODESTREAM_END: Final = b"\xff\xd9"

JPEG_TRANSFER_SYNTAXES: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})

VIDEO_TRANSFER_SYNTAXES: Final = frozenset({*MPEGTransferSyntaxes, HEVCMP51, HEVCM10P51})
"""One stream holds all frames of an instance (PS3.5 8.2.5 to 8.2.8, 10.9 to 10.17)."""

_SAMPLES_PER_PIXEL: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_422": 3,
    "YBR_PARTIAL_420": 3,
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
    high_bit: int
    is_signed: bool
    photometric_interpretation: str
    is_planar: bool

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return self.rows * self.columns * self.samples_per_pixel

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample, in this machine's order of bytes."""
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.bits_allocated // 8}")


def read_pixel_format(ds: Dataset) -> PixelFormat:
    """Read and check the description of the pixels.

    Raises:
        RejectedError: TOO_LARGE beyond a limit, UNSUPPORTED_PIXELS for a description that is not
            that of an ultrasound image.
    """
    photometric_interpretation = text(ds, "PhotometricInterpretation").upper()
    bits_allocated = integer(ds, "BitsAllocated") or 0
    bits_stored = integer(ds, "BitsStored") or bits_allocated
    high_bit = integer(ds, "HighBit")
    pixels = PixelFormat(
        number_of_frames=declared if (declared := integer(ds, "NumberOfFrames")) is not None else 1,
        rows=integer(ds, "Rows") or 0,
        columns=integer(ds, "Columns") or 0,
        samples_per_pixel=integer(ds, "SamplesPerPixel") or 0,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=bits_stored - 1 if high_bit is None else high_bit,
        is_signed=integer(ds, "PixelRepresentation") == 1,
        photometric_interpretation=photometric_interpretation,
        is_planar=integer(ds, "PlanarConfiguration") == 1,
    )
    if (
        min(pixels.number_of_frames, pixels.rows, pixels.columns) < 1
        or pixels.samples_per_pixel != _SAMPLES_PER_PIXEL.get(photometric_interpretation)
        or bits_allocated not in {8, 16}
        or not 1 <= bits_stored <= bits_allocated
        or not bits_stored <= pixels.high_bit + 1 <= bits_allocated
    ):
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    if (
        pixels.frame_samples > MAX_FRAME_SAMPLES
        or pixels.number_of_frames > MAX_FRAMES
        or pixels.frame_samples * pixels.number_of_frames > MAX_TOTAL_SAMPLES
    ):
        raise RejectedError(Reason.TOO_LARGE)
    return pixels


def used_bits(samples: npt.NDArray[Any], pixels: PixelFormat) -> npt.NDArray[Any]:
    """Drop bits that are no pixel's: old overlays are hidden there (PS3.3 C.9.2, retired).

    Args:
        samples: any shape, as they are stored.
        pixels: which bits are used.

    Returns:
        The same shape and type, in this machine's order of bytes where anything was to be dropped.
    """
    if pixels.bits_stored == pixels.bits_allocated:
        return samples
    above, below = pixels.bits_allocated - 1 - pixels.high_bit, pixels.bits_allocated - pixels.bits_stored
    # Shifting a signed number down keeps its sign.
    shifted: npt.NDArray[Any] = (samples.astype(pixels.dtype) << above) >> below
    return shifted


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
        return _FragmentStream(self._place)

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


class _FragmentStream(io.RawIOBase):
    """Fragments joined: readable and seekable, nothing of them is held."""

    def __init__(self, place: "_Place") -> None:
        self._opened = place.open()
        self._file = self._opened.__enter__()
        try:
            self._file.seek(place.offset)
            self._fragments = list(_fragment_places(self._file))
        except RejectedError:
            self.close()
            raise
        self._length = sum(length for _, length in self._fragments)
        self._position = 0

    def close(self) -> None:
        if not self.closed:
            self._opened.__exit__(None, None, None)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        wanted = self._length if size < 0 else size
        parts: list[bytes] = []
        begin = 0
        for offset, length in self._fragments:
            inside = self._position - begin
            if wanted and 0 <= inside < length:
                self._file.seek(offset + inside)
                parts.append(self._file.read(min(wanted, length - inside)))
                self._position += len(parts[-1])
                wanted -= len(parts[-1])
            begin += length
        return b"".join(parts)


def _fragment_places(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """List where fragments begin and how long they are, without the offset table."""
    end = _size(file)
    is_offset_table = True
    for _ in range(MAX_FRAGMENTS):
        header = file.read(8)
        if not header or header[:4] == _SEQUENCE_DELIMITER:
            return
        if len(header) < 8:
            raise RejectedError(Reason.TRUNCATED_PIXELS)
        (length,) = struct.unpack("<L", header[4:])
        if header[:4] != _ITEM:
            raise RejectedError(Reason.CORRUPT_PIXELS)
        if file.tell() + length > end:
            raise RejectedError(Reason.TRUNCATED_PIXELS)
        if not is_offset_table and length:
            yield file.tell(), length
        is_offset_table = False
        file.seek(length, io.SEEK_CUR)
    raise RejectedError(Reason.TOO_LARGE)


def _size(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end


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
