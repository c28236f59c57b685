"""What a JPEG says beside its picture: comments and application data, which vendors fill with text."""

import struct
from contextlib import suppress
from typing import Final

from beam_jobs.deid.errors import RejectedError
from beam_jobs.records import Reason

_START: Final = b"\xff\xd8"
_START_OF_SCAN: Final = 0xDA
_COMMENT: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
_ADOBE_MARKER: Final = 0xEE
_JFIF_MARKER: Final = 0xE0
_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE_BYTES: Final = 12


def strip_segments(frame: bytes) -> bytes:
    """Drop comments and application data of a JPEG or JPEG-LS frame; its picture stays bit for bit.

    Two of them say which colour space the picture is in, so they are written anew, with that and
    nothing else: JFIF, and Adobe's.

    Raises:
        RejectedError: CORRUPT_PIXELS if the frame is no JPEG, or ends before its first scan.
    """
    parts: list[bytes] | None = None
    with suppress(struct.error):
        parts = _parts(frame)
    if parts is None:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    return b"".join(parts)


def _parts(frame: bytes) -> list[bytes]:
    if not frame.startswith(_START):
        raise struct.error
    parts, position = [_START], len(_START)
    while True:
        fill, marker = struct.unpack_from(">BB", frame, position)
        if fill != 0xFF:
            raise struct.error
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN:
            # Between scans there may be tables, and comments again.
            return [*parts, _without_late_segments(frame, position)]
        (length,) = struct.unpack_from(">H", frame, position + 2)
        segment = frame[position : position + 2 + length]
        parts.append(_kept(marker, segment))
        position += 2 + length


def _kept(marker: int, segment: bytes) -> bytes:
    if marker == _JFIF_MARKER and segment[4:9] == b"JFIF\0":
        return _JFIF
    if marker == _ADOBE_MARKER and segment[4:9] == b"Adobe" and len(segment) >= 4 + _ADOBE_BYTES:
        transform = segment[4 + _ADOBE_BYTES - 1 : 4 + _ADOBE_BYTES]
        return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + transform
    return b"" if marker == _COMMENT or marker in _APPLICATION else segment


def _without_late_segments(frame: bytes, position: int) -> bytes:
    """Copy from the first scan to the end of the image, and nothing that hides between or behind."""
    kept, begin = bytearray(), position
    while True:
        position = frame.find(b"\xff", position)
        if position < 0 or position + 1 >= len(frame):
            return bytes(kept + frame[begin:])
        marker = frame[position + 1]
        if marker == 0xD9:
            end = position + 2
            kept += frame[begin:end]
            return bytes(kept + b"\0" * (len(kept) % 2))
        if marker == _COMMENT or marker in _APPLICATION:
            (length,) = struct.unpack_from(">H", frame, position + 2)
            kept += frame[begin:position]
            position += 2 + length
            begin = position
        elif marker == 0xFF:
            position += 1
        else:
            position += 2
