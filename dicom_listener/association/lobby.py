"""Where connections wait until they have requested an association: one thread, no slots, little memory.

Only an A-ASSOCIATE-RQ of bounded length is read here, with TLS's handshake before it where that is on,
all within one time limit. When too many wait, the one that waits longest has to go, so that whoever
comes to send, and requests at once, always finds room.
"""

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dicom_listener.association.alarm import Alarm
from dicom_listener.association.guard import MAXIMUM_REQUEST_BYTES, BreachError, PduType
from dicom_listener.association.wire import (
    NOT_NOW,
    PDU_HEADER_BYTES,
    AbortReason,
    encode_abort,
    parse_pdu_header,
)
from dicom_listener.reception.breaches import Breach

MAXIMUM_WAITING: Final = 128
_ALLOWED: Final[dict[int, int]] = {PduType.ASSOCIATE_RQ: MAXIMUM_REQUEST_BYTES}
_CHUNK_BYTES: Final = 64 * 1024
_LONGEST_WAIT_S: Final = 1.0
_ABORT_REASONS: Final = {
    Breach.OVERSIZED_PDU: AbortReason.INVALID_PARAMETER,
    Breach.UNREADABLE_PDU: AbortReason.INVALID_PARAMETER,
    Breach.UNEXPECTED_PDU: AbortReason.UNEXPECTED_PDU,
}

Address = Any
"""What `socket.accept` gives: host and port, with IPv6 two more numbers."""


@dataclass(eq=False, slots=True)
class _Guest:
    connection: socket.socket
    address: Address
    deadline: float
    is_shaking_hands: bool
    received: bytearray = field(default_factory=bytearray)


class Lobby:
    """The connections that have not requested an association yet.

    Args:
        limit_s: from connection to request.
        on_request: given a connection and its A-ASSOCIATE-RQ PDU, whole but not decoded; it has left then.
        on_breach: told of a connection that is closed for what it did, or did not do.
        on_left: told of a connection that its peer closed.
        ssl_context: speak TLS; None for plain DICOM.
        maximum_waiting: how many may wait at once.
    """

    def __init__(
        self,
        *,
        limit_s: float,
        on_request: Callable[[socket.socket, Address, bytes], None],
        on_breach: Callable[[Address, Breach], None],
        on_left: Callable[[Address], None],
        ssl_context: ssl.SSLContext | None = None,
        maximum_waiting: int = MAXIMUM_WAITING,
    ) -> None:
        self._limit_s = limit_s
        self._on_request = on_request
        self._on_breach = on_breach
        self._on_left = on_left
        self._ssl_context = ssl_context
        self._maximum_waiting = maximum_waiting
        self._door: deque[tuple[socket.socket, Address]] = deque()
        self._guests: dict[_Guest, None] = {}  # in the order in which they came
        self._selector = selectors.DefaultSelector()
        self._alarm = Alarm()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="dicom-lobby", daemon=True)
        self._thread.start()

    def enter(self, connection: socket.socket, address: Address) -> None:
        """Let a new connection in. Any thread may call."""
        self._door.append((connection, address))
        self._alarm.ring()

    def close(self) -> None:
        """Close every connection that waits, and end the thread."""
        self._is_open = False
        self._alarm.ring()
        self._thread.join()

    def _run(self) -> None:
        self._selector.register(self._alarm, selectors.EVENT_READ)
        while self._is_open:
            for key, _ in self._selector.select(self._patience_s()):
                if key.data is None:
                    self._alarm.hear()
                    self._let_in()
                else:
                    self._serve(key.data)
            now = time.monotonic()
            for guest in [guest for guest in self._guests if guest.deadline <= now]:
                self._turn_out(guest, Breach.NEGOTIATION_TIMEOUT)
        self._let_in()
        for guest in list(self._guests):
            self._see_off(guest)
        self._selector.close()
        self._alarm.close()

    def _patience_s(self) -> float:
        first = next(iter(self._guests), None)
        return _LONGEST_WAIT_S if first is None else max(0.0, first.deadline - time.monotonic())

    def _let_in(self) -> None:
        while self._door:
            connection, address = self._door.popleft()
            if len(self._guests) >= self._maximum_waiting:
                self._turn_out(next(iter(self._guests)), Breach.TOO_MANY_WAITING)
            try:
                connection = self._prepare(connection)
            except OSError:  # its peer is gone already
                connection.close()
                self._on_left(address)
                continue
            guest = _Guest(
                connection, address, time.monotonic() + self._limit_s, self._ssl_context is not None
            )
            self._guests[guest] = None
            self._selector.register(connection, selectors.EVENT_READ, guest)

    def _prepare(self, connection: socket.socket) -> socket.socket:
        connection.setblocking(False)
        if self._ssl_context is None:
            return connection
        return self._ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _serve(self, guest: _Guest) -> None:
        """Go on with a connection that has something to read."""
        try:
            if guest.is_shaking_hands and isinstance(guest.connection, ssl.SSLSocket):
                guest.connection.do_handshake()
                guest.is_shaking_hands = False
            is_whole = self._read(guest)
        except NOT_NOW:
            return
        except BreachError as error:
            self._turn_out(guest, error.breach)
        except (OSError, EOFError) as error:
            if guest.is_shaking_hands and isinstance(error, ssl.SSLError):
                self._turn_out(guest, Breach.TLS_HANDSHAKE)
            else:
                self._see_off(guest)
        else:
            if is_whole:
                self._forget(guest)
                self._on_request(guest.connection, guest.address, bytes(guest.received))

    def _read(self, guest: _Guest) -> bool:
        """Read what has come, never beyond the request; say whether that is whole."""
        received = guest.received
        while True:
            whole = PDU_HEADER_BYTES
            if len(received) >= PDU_HEADER_BYTES:
                whole += parse_pdu_header(received[:PDU_HEADER_BYTES], _ALLOWED)[1]
                if len(received) >= whole:
                    return True
            chunk = guest.connection.recv(min(whole - len(received), _CHUNK_BYTES))
            if not chunk:
                raise EOFError
            received += chunk

    def _turn_out(self, guest: _Guest, breach: Breach) -> None:
        self._forget(guest)
        if not guest.is_shaking_hands and breach in _ABORT_REASONS:
            with contextlib.suppress(OSError):
                guest.connection.send(encode_abort(_ABORT_REASONS[breach]))
        guest.connection.close()
        self._on_breach(guest.address, breach)

    def _see_off(self, guest: _Guest) -> None:
        self._forget(guest)
        guest.connection.close()
        self._on_left(guest.address)

    def _forget(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        del self._guests[guest]
