"""Encapsulated pixels (PS3.5 A.4): fragments, joined to frames or to one stream."""

import io
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

from beam_jobs.deid.errors import RejectedError
from beam_jobs.records import Reason

MAX_FRAGMENTS: Final = 1 << 16
"""Fragments of one video stream; 4 GB of it fit into one."""

_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"

# What only the first fragment of a frame can begin with: entropy-coded data holds no marker, so a
# fragment of a frame's rest never does (ISO 10918-1 B.1.1.2, 14495-1 D.1, 15444-1 A.3).
_CODESTREAM_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
_CODESTREAM_END: Final = b"\xff\xd9"


def read_frames(file: BinaryIO, *, largest_bytes: int, is_rle: bool) -> Iterator[bytes]:
    """Join fragments to frames by what they begin and end with.

    The offset table is not needed for that, and where a cine is cut it names frames that are not
    there.

    Args:
        file: at the first item of the pixels.
        largest_bytes: no fragment of a frame is larger.
        is_rle: whether each fragment is a frame (PS3.5 A.4.2).

    Raises:
        RejectedError: TRUNCATED_PIXELS where the file ends too early, CORRUPT_PIXELS where something
            else lies where an item should.
    """
    parts: list[bytes] = []
    for fragment in _fragments(file, largest_bytes):
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


def _fragments(file: BinaryIO, largest_bytes: int) -> Iterator[bytes]:
    is_offset_table = True
    while True:
        length = _item_length(file)
        if length is None:
            return
        if length > largest_bytes and not is_offset_table:
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


def _item_length(file: BinaryIO) -> int | None:
    """Read the head of an item; None at the end of all."""
    header = file.read(8)
    # pydicom leaves the delimiter out in memory; whether frames lack is told by their number.
    if not header or header[:4] == _SEQUENCE_DELIMITER:
        return None
    if len(header) < 8:
        raise RejectedError(Reason.TRUNCATED_PIXELS)
    if header[:4] != _ITEM:
        raise RejectedError(Reason.CORRUPT_PIXELS)
    length: int = struct.unpack("<L", header[4:])[0]
    return length


def open_stream(opened: AbstractContextManager[BinaryIO], offset: int) -> io.RawIOBase:
    """Open the fragments as one stream, as a video lies in them (PS3.5 A.4.5): seekable, none is held.

    Args:
        opened: gives the file while the stream is open.
        offset: of the first item of the pixels.

    Raises:
        RejectedError: TRUNCATED_PIXELS or CORRUPT_PIXELS where the encapsulation is broken, TOO_LARGE
            for more fragments than any stream has.
    """
    return _FragmentStream(opened, offset)


class _FragmentStream(io.RawIOBase):
    def __init__(self, opened: AbstractContextManager[BinaryIO], offset: int) -> None:
        self._opened = opened
        self._file = opened.__enter__()
        try:
            self._file.seek(offset)
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
        length = _item_length(file)
        if length is None:
            return
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
