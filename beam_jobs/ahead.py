"""Work ahead: threads make what a step will need next, while it is still busy with what it has.

Whoever takes the items cannot tell, but by the clock, that anything was done ahead: they come in the same
order, and an error is raised where its item would have come.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

_END: Final = object()
"""Given by an iterator that has no more; `None` may be an item."""


class Ahead(Generic[Item]):
    """Keeps iterators a step ahead of whoever takes what they give.

    Of each iterator one item at most waits to be taken, and its next is begun when that is taken. So what
    waits is bounded by the weights, however long an iterator is, and nothing in a thread ever waits.

    Args:
        threads: how many iterators are worked on at once.
        most: what the weights of the iterators that are begun may sum up to; a heavier one is alone.
    """

    def __init__(self, *, threads: int, most: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._most = most
        self._begun: deque[_Begun[Item]] = deque()

    def add(self, items: Iterator[Item], *, weight: int) -> Iterator[Item]:
        """Begin an iterator, after giving what must be taken to make room for it.

        Args:
            items: used by one thread at a time, but not by the same.
            weight: of one of its items.

        Raises:
            Exception: what an iterator that was begun before raised.
        """
        while self._begun and sum(begun.weight for begun in self._begun) + weight > self._most:
            yield from self._first()
        self._begun.append(_Begun(items, weight, self._next_of(items)))

    def rest(self) -> Iterator[Item]:
        """Give what is left of all that was begun.

        Raises:
            Exception: what an iterator raised.
        """
        while self._begun:
            yield from self._first()

    def drop(self) -> None:
        """Forget all that was begun: what fails is begun anew by somebody else."""
        left = [begun.item for begun in self._begun]
        self._begun.clear()
        for item in left:
            item.cancel()
        wait(left)

    def close(self) -> None:
        """Forget all that was begun, and end the threads."""
        self.drop()
        self._threads.shutdown()

    def _first(self) -> Iterator[Item]:
        first = self._begun[0]
        while (item := first.item.result()) is not _END:
            first.item = self._next_of(first.items)
            yield item
        self._begun.popleft()

    def _next_of(self, items: Iterator[Item]) -> "Future[Item]":
        return self._threads.submit(next, items, _END)  # type: ignore[arg-type]  # the end is no item


@dataclass(slots=True)
class _Begun(Generic[Item]):
    """An iterator, and its next item: made, being made, or waiting for a thread."""

    items: Iterator[Item]
    weight: int
    item: "Future[Item]"
