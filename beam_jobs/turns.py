"""Whose turn it is: several batches are at work at once, but a study that was claimed before is alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicom_listener.ledger import ClaimedStudy


class Turns:
    """Lets batches claim one after another, and work beside each other.

    What takes the process down spoils every batch that is at work. So a study that was claimed before, which
    may have been what did it, is claimed only when nothing else is at work, and then nothing else is.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at_work = 0
        self._is_alone = False

    @contextmanager
    def of(self, claim: Callable[[bool], list[ClaimedStudy]]) -> Iterator[list[ClaimedStudy]]:
        """Claim a batch, and count it as at work while the block runs.

        Args:
            claim: told whether nothing else is at work, claims a batch.
        """
        with self._changed:
            claimed = [] if self._is_alone else claim(not self._at_work)
            if claimed:
                self._at_work += 1
                self._is_alone = any(study.attempts > 1 for study in claimed)
        if not claimed:
            yield []
            return
        try:
            yield claimed
        finally:
            with self._changed:
                self._at_work -= 1
                self._is_alone = False
                self._changed.notify_all()

    def are_over(self, *, wait_s: float) -> bool:
        """Say whether nothing is at work; if something is, wait first, until a batch ends or for so long."""
        with self._changed:
            if self._at_work:
                self._changed.wait(wait_s)
                return False
            return True
