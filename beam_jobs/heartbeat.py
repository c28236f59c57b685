"""Renew the leases of claims as long as the process that cares for them lives."""

import functools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.log import describe_error

_BEATS_PER_LEASE: Final = 3
"""So that a lease outlives two beats that fail."""

_WAITING_LEASES: Final = 12
"""How many leases a claim may wait for its work to begin. Nobody may have it: an engine that was started
again from a checkpoint may have lost what was on its way."""

_log = structlog.get_logger(__name__)


class Heartbeat:
    """Renews claims from a thread of its own, until they are done or lost. Threads may share it.

    Args:
        ledger: where the claims are.
        lease_s: seconds that each renewal is worth.
        is_waiting: whether to care for claims only until their work begins, and not for ever.
        clock: gives seconds since the epoch.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        lease_s: float,
        is_waiting: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._is_waiting = is_waiting
        self._clock = clock
        self._lock = threading.Lock()
        self._ages: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat until stopped, or until the process ends."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; the leases run out by themselves."""
        self._over.set()
        self._thread.join()

    def add(self, tokens: Iterable[str]) -> None:
        """Care for claims whose lease has just begun."""
        with self._lock:
            self._ages.update(dict.fromkeys(tokens, 0))

    def beat(self) -> None:
        """Renew every lease once; forget the claims that are done, lost, or waited for too long.

        Raises:
            LedgerUnavailableError: if the ledger does not answer.
        """
        with self._lock:
            tokens = list(self._ages)
        if not tokens:
            return
        held = self._ledger.extend_claims(
            tokens, lease_s=self._lease_s, now=self._clock(), is_waiting=self._is_waiting
        )
        with self._lock:
            for token in tokens:
                self._ages[token] += 1
                too_old = self._is_waiting and self._ages[token] >= _WAITING_LEASES * _BEATS_PER_LEASE
                if token not in held or too_old:
                    del self._ages[token]

    def _run(self) -> None:
        while not self._over.wait(self._lease_s / _BEATS_PER_LEASE):
            try:
                self.beat()
            except LedgerUnavailableError as error:
                _log.warning("heartbeat_failed", error=describe_error(error))


@functools.cache
def process_heartbeat(ledger_url: str, *, lease_s: float, is_waiting: bool) -> Heartbeat:
    """Give the heartbeat that all steps of this process share, beating: it ends with the process.

    Raises:
        LedgerUnavailableError: if the ledger cannot be opened.
    """
    heartbeat = Heartbeat(Ledger(ledger_url), lease_s=lease_s, is_waiting=is_waiting)
    heartbeat.start()
    return heartbeat
