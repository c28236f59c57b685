"""Read how large a compressed frame will be before it is decompressed."""

import struct
from contextlib import suppress
from typing import Final, NamedTuple

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.records import Reason

_JPEG_START: Final = b"\xff\xd8"
_JPEG_2000_START: Final = b"\xff\x4f\xff\x51"
_JP2_START: Final = b"\x00\x00\x00\x0cjP  "
_START_OF_SCAN: Final = 0xDA
# Start of frame, C0 to CF and JPEG-LS' F7, without the tables DHT, JPG and DAC (ISO 10918-1 B.1).
_STARTS_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


class FrameSize(NamedTuple):
    """What a codestream says of itself."""

    rows: int
    columns: int
    components: int
    precision: int


def read_frame_size(frame: bytes) -> FrameSize:
    """Read the size from a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        RejectedError: CORRUPT_PIXELS if it is none of these or ends before its size.
    """
    size: FrameSize | None = None
    with suppress(struct.error):
        size = _jpeg_size(frame) if frame.startswith(_JPEG_START) else _jpeg_2000_size(frame)
    if size is None:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    return size


def is_deep_jpeg(frame: bytes, pixels: PixelFormat) -> bool:
    """Check the size that a JPEG gives itself against the header's; say whether it has 12 bits.

    Raises:
        RejectedError: CORRUPT_PIXELS for another size, UNSUPPORTED_PIXELS for what is neither grey nor
            colour of 8 bits, nor grey of 12.
    """
    size = read_frame_size(frame)
    if (size.rows, size.columns) != (pixels.rows, pixels.columns):
        raise RejectedError(Reason.CORRUPT_PIXELS)
    if size.precision == 8 and size.components in {1, 3}:
        return False
    is_grey = size.components == pixels.samples_per_pixel == 1
    if size.precision != 12 or not is_grey or pixels.bits_allocated != 16:
        raise RejectedError(Reason.UNSUPPORTED_PIXELS)
    return True


def _jpeg_size(frame: bytes) -> FrameSize | None:
    position = len(_JPEG_START)
    while True:
        fill, marker = struct.unpack_from(">BB", frame, position)
        if fill != 0xFF or marker == _START_OF_SCAN:
            return None
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _STARTS_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return FrameSize(rows, columns, components, precision)
        (length,) = struct.unpack_from(">H", frame, position + 2)
        position += 2 + length


def _jpeg_2000_size(frame: bytes) -> FrameSize | None:
    # The codestream may lie in a JP2 file, whose boxes come first (ISO 15444-1 Annex I).
    start = frame.find(_JPEG_2000_START, 0, 4096) if frame.startswith(_JP2_START) else 0
    if frame[start : start + 4] != _JPEG_2000_START:
        return None
    right, bottom, left, top = struct.unpack_from(">LLLL", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    return FrameSize(bottom - top, right - left, components, (depth & 0x7F) + 1)
