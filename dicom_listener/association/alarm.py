"""Waking a thread that waits at a socket."""

import contextlib
import os
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any


class Alarm:
    """What a thread waits at beside its socket, and any other rings."""

    def __init__(self) -> None:
        self._hears, self._rings = os.pipe()
        os.set_blocking(self._hears, False)
        os.set_blocking(self._rings, False)
        self._is_open = True
        self._owner = 0
        self._connection: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self._hears, select.POLLIN)
        self._lock = threading.Lock()  # or a ring might go into a file that took the closed one's number

    def belongs_to_this_thread(self) -> None:
        """Say who waits; when that thread rings, it is awake already."""
        self._owner = threading.get_ident()

    def ring(self) -> None:
        """Wake the thread; harmless once the alarm is closed."""
        if threading.get_ident() == self._owner:
            return
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it wakes anyway
            if self._is_open:
                os.write(self._rings, b"\0")

    def fileno(self) -> int:
        """Give what a selector can wait at."""
        return self._hears

    def hear(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._hears, 4096)

    def wait(self, connection: socket.socket | None, timeout_s: float) -> None:
        """Wait until the socket has something to read, somebody rings, or the time is over.

        Args:
            connection: the socket; None to wait without one.
            timeout_s: how long.

        Raises:
            ValueError: if the socket is closed.
        """
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return
        if connection is not self._connection:
            if self._connection is not None:
                self._poll.unregister(self._connection)
            self._connection = None
            if connection is not None:
                self._poll.register(connection, select.POLLIN)
                self._connection = connection
        if any(number == self._hears for number, _ in self._poll.poll(max(0.0, timeout_s) * 1000)):
            self.hear()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._hears)
                os.close(self._rings)


class TellingQueue(queue.Queue[Any]):
    """A queue that tells somebody of each entry.

    Args:
        tell: called after each.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Enter something."""
        super().put(item, block, timeout)
        self._tell()
