"""Telling of what repeats: the first time at once, then no more often than once a minute, with a count.

Whoever is refused may try again as fast as the network allows. Each time counts in the metrics, and
none of it may fill the disk with lines of a log.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

PAUSE_S: Final = 60.0
_MOST: Final = 1000


class Repeats:
    """Counts what happens again and again. Any thread may ask; memory is bounded.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[Hashable, tuple[float, int]] = {}  # when it was told last, and how often it was not

    def count(self, *what: Hashable) -> int:
        """Count one time more.

        Args:
            what: tells one thing that repeats from another.

        Returns:
            How many times it happened since it was told last, this time included, if it is to be told
            now; 0 if it is not.
        """
        now = self._clock()
        with self._lock:
            told_at, untold = self._told.pop(what, (-PAUSE_S, 0))
            is_due = now - told_at >= PAUSE_S
            self._told[what] = (now, 0) if is_due else (told_at, untold + 1)
            if len(self._told) > _MOST:
                del self._told[next(iter(self._told))]  # what has not happened for longest
            return untold + 1 if is_due else 0
