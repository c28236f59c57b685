"""When the next study may be fetched: at night only, and not too fast."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Self


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day in which studies are fetched, by the clock of this machine.

    Attributes:
        opens: when it opens.
        closes: when it closes; before `opens`, it is the next day's.
    """

    opens: time
    closes: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `22:00-06:00`.

        Raises:
            ValueError: if it is not written so, or opens when it closes.
        """
        opens, separator, closes = text.partition("-")
        if not separator:
            raise ValueError("expected two times of day such as 22:00-06:00")
        window = cls(_time(opens), _time(closes))
        if window.opens == window.closes:
            raise ValueError("it opens when it closes: leave the option out to fetch at any time")
        return window

    def wait_s(self, now: datetime) -> float:
        """Give the seconds until it is open, 0 while it is."""
        at = now.time()
        is_open = (
            self.opens <= at < self.closes
            if self.opens < self.closes
            else at >= self.opens or at < self.closes
        )
        if is_open:
            return 0.0
        opens = datetime.combine(now.date(), self.opens, tzinfo=now.tzinfo)
        if opens < now:
            opens += timedelta(days=1)
        return (opens - now).total_seconds()


class Pace:
    """Keeps to a rate over the whole job: what one study took too much of, the next ones wait for.

    Args:
        studies_per_minute: None for no limit.
        megabytes_per_minute: likewise; a megabyte is 10⁶ bytes.
    """

    def __init__(
        self, studies_per_minute: float | None = None, megabytes_per_minute: float | None = None
    ) -> None:
        self._study_s = 0.0 if studies_per_minute is None else 60.0 / studies_per_minute
        self._byte_s = 0.0 if megabytes_per_minute is None else 60.0 / (megabytes_per_minute * 1e6)
        self._next_at = 0.0

    def wait_s(self, now: float) -> float:
        """Give the seconds until the next study may be fetched."""
        return max(0.0, self._next_at - now)

    def note(self, size_bytes: int, *, began_at: float) -> None:
        """Count a study that was fetched.

        Args:
            size_bytes: what it was.
            began_at: when its fetching began, seconds on the clock that `wait_s` is asked by.
        """
        cost_s = max(self._study_s, size_bytes * self._byte_s)
        self._next_at = max(self._next_at, began_at) + cost_s


def _time(text: str) -> time:
    try:
        return time.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text.strip()!r} is no time of day such as 22:00") from None
