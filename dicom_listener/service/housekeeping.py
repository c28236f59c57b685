"""What is done again and again while a listener runs, in one thread."""

import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

import structlog

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.log import describe_error
from dicom_listener.reception.incoming import HOLD_S, Reception
from dicom_listener.spool.writing import Spool

_STOP_WAIT_S: Final = 60.0

_log = structlog.get_logger(__name__)

Chore = Callable[[float], None]
"""Does what is due at a time (seconds since the epoch)."""


class Housekeeper:
    """A thread that does chores, in their order, every so often while its `with` block runs.

    Args:
        chores: what to do; a ledger that is away is logged, and the chore is tried again next time.
        every_s: pause between two rounds.
        clock: seconds since the epoch.
    """

    def __init__(self, chores: Sequence[Chore], every_s: float, clock: Callable[[], float]) -> None:
        self._chores = chores
        self._every_s = every_s
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_STOP_WAIT_S)

    def is_alive(self) -> bool:
        """Say whether the chores are being done."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            for chore in self._chores:
                try:
                    chore(self._clock())
                except LedgerUnavailableError as error:
                    _log.warning("housekeeping_failed", error=describe_error(error))


def extending_holds(reception: Reception) -> Chore:
    """Make the chore that lets open associations hold their studies for longer."""
    extended_at = reception.clock()

    def extend(now: float) -> None:
        nonlocal extended_at
        if now - extended_at < HOLD_S / 3:
            return
        for association in reception.open_associations.names():
            reception.ledger.extend_holds(association, until=now + HOLD_S)
        extended_at = now

    return extend


def completing_studies(ledger: Ledger, rule: CompletionRule) -> Chore:
    """Make the chore that hands complete studies on."""

    def complete(now: float) -> None:
        completed = ledger.complete_studies(rule, now=now)
        if completed:
            _log.info("studies_complete", studies=completed)

    return complete


def sweeping(spool: Spool, longest_s: float) -> Chore:
    """Make the chore that deletes what a receiving process left unfinished when it died.

    Args:
        spool: owned by this process.
        longest_s: how long an instance may be under way.
    """
    due_at = 0.0

    def sweep(now: float) -> None:
        nonlocal due_at
        if now < due_at:
            return
        due_at = now + longest_s
        try:
            deleted = spool.sweep(untouched_since=now - 2 * longest_s)
        except OSError as error:
            _log.warning("spool_not_swept", error=describe_error(error))
            return
        if deleted:
            _log.info("unfinished_files_deleted", files=deleted)

    return sweep
