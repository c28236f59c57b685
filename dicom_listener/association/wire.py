"""PDUs off a socket: one reusable buffer for each connection, and nothing is read that is not allowed.

The socket never blocks. A connection's thread waits with `poll`, takes what has come, and looks at the
whole PDUs in it, so that a peer which stops in the middle of one holds nobody up.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from dicom_listener.association.guard import BreachError, PduType
from dicom_listener.reception.breaches import Breach

PDU_HEADER_BYTES: Final = 6
_PDU_HEADER: Final = struct.Struct(">BBL")
_PDV_HEADER: Final = struct.Struct(">LBB")
_BUFFER_BYTES: Final = 512 * 1024
"""Several PDUs for each call of the system; they are looked at where they came to lie."""

NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket that does not block raises when there is nothing to do now."""
IS_COMMAND: Final = 1
IS_LAST: Final = 2


class AbortReason(IntEnum):
    """Why the service provider aborts (PS3.8 Table 9-26)."""

    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


def encode_abort(reason: AbortReason) -> bytes:
    """Encode an A-ABORT PDU of the service provider (PS3.8 section 9.3.8)."""
    return _PDU_HEADER.pack(PduType.ABORT, 0, 4) + bytes((0, 0, 2, reason))


def parse_pdu_header(
    header: bytes | bytearray | memoryview, maximum: Mapping[int, int]
) -> tuple[PduType, int]:
    """Read the header of a PDU, and check that it is allowed.

    Args:
        header: six bytes.
        maximum: the types that are allowed now, and how long each may be.

    Returns:
        Its type, and the length of what follows.

    Raises:
        BreachError: if it is of another type, or longer.
    """
    kind, _, length = _PDU_HEADER.unpack(header)
    allowed = maximum.get(kind)
    if allowed is None:
        raise BreachError(Breach.UNEXPECTED_PDU)
    if length > allowed:
        raise BreachError(Breach.OVERSIZED_PDU)
    return PduType(kind), length


def split_pdvs(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Split the body of a P-DATA-TF PDU into its presentation data values (PS3.8 section 9.3.5).

    Yields:
        Context ID, message control header (PS3.8 section E.2), fragment.

    Raises:
        BreachError: if the lengths do not fit.
    """
    place, end = 0, len(body)
    while place < end:
        if end - place < _PDV_HEADER.size:
            raise BreachError(Breach.UNREADABLE_PDU)
        length, context_id, control = _PDV_HEADER.unpack_from(body, place)
        after = place + 4 + length
        if length < 2 or after > end:
            raise BreachError(Breach.UNREADABLE_PDU)
        yield context_id, control, body[place + _PDV_HEADER.size : after]
        place = after


class PduReader:
    """Takes PDUs out of what a socket has received.

    Args:
        connection: a socket that does not block.
        capacity_bytes: the longest PDU that may come, with its header.
    """

    def __init__(self, connection: socket.socket, capacity_bytes: int) -> None:
        self._connection = connection
        self._capacity_bytes = capacity_bytes
        self._buffer = memoryview(bytearray(max(_BUFFER_BYTES, 2 * capacity_bytes)))
        self._start = self._end = 0

    @property
    def is_within_pdu(self) -> bool:
        """Whether a PDU has begun and is not whole."""
        return self._end > self._start

    def fill(self) -> int | None:
        """Take what has come, as far as the buffer has room.

        Returns:
            How many bytes; 0 if the peer has closed; None if nothing is there now.

        Raises:
            OSError: if the connection is broken.
        """
        rest = self._end - self._start
        if rest == 0 or len(self._buffer) - self._start < self._capacity_bytes:
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        try:
            count = self._connection.recv_into(self._buffer[self._end :])
        except NOT_NOW:
            return None
        self._end += count
        return count

    def next(self, maximum: Mapping[int, int]) -> tuple[PduType, memoryview] | None:
        """Give the next PDU if it is whole; what is given is good until the next `fill`.

        Args:
            maximum: the types that are allowed now, and how long each may be.

        Returns:
            Its type and all its bytes.

        Raises:
            BreachError: if a PDU begins that is not allowed.
        """
        have = self._end - self._start
        if have < PDU_HEADER_BYTES:
            return None
        kind, length = parse_pdu_header(self._buffer[self._start : self._start + PDU_HEADER_BYTES], maximum)
        whole = PDU_HEADER_BYTES + length
        if have < whole:
            return None
        pdu = self._buffer[self._start : self._start + whole]
        self._start += whole
        return kind, pdu


class GuardedSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom has no types
    """A socket that never blocks for reading, and not for ever for writing.

    Args:
        assoc: whose socket it is.
        connection: an accepted connection.
        send_timeout_s: how long the peer may let us wait until it takes what we send.
    """

    def __init__(self, assoc: Association, connection: socket.socket, *, send_timeout_s: float) -> None:
        super().__init__(assoc, client_socket=connection)
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # not every kind of socket has it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send_timeout_s = send_timeout_s

    def send(self, bytestream: bytes) -> None:
        """Send all of it, or report the connection as closed (Evt17)."""
        rest = memoryview(bytestream)
        deadline = time.monotonic() + self._send_timeout_s
        try:
            while rest:
                if self.socket is None:
                    raise ConnectionError
                try:
                    rest = rest[self.socket.send(rest) :]
                except NOT_NOW:
                    if not _wait_writable(self.socket, deadline):
                        raise
        except (OSError, ValueError):
            self.event_queue.put("Evt17")

    def _shutdown_socket(self) -> None:
        # pynetdicom's leaves a socket open that its peer has closed before.
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


def _wait_writable(connection: socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
