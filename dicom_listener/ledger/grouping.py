"""Group commit: what several threads bring at once goes into one transaction, and one wait for the disk.

Nobody waits for company. The first thread that finds no transaction under way takes what is queued, its
own entry included; who comes meanwhile queues for the next. Alone, a thread is as fast as without.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

_Entry = TypeVar("_Entry")
_Answer = TypeVar("_Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[_Entry, _Answer]):
    entry: _Entry
    answer: _Answer | BaseException | None = None


class GroupCommit(Generic[_Entry, _Answer]):
    """A door through which threads commit together.

    Args:
        commit: makes all of some entries durable and answers each, or raises and has done nothing. An
            answer that is an exception is raised to who brought that entry.
    """

    def __init__(self, commit: Callable[[Sequence[_Entry]], Sequence[_Answer | Exception]]) -> None:
        self._commit = commit
        self._queue: list[_Waiting[_Entry, _Answer]] = []
        self._queue_lock = threading.Lock()
        self._turn = threading.Lock()

    def submit(self, entry: _Entry) -> _Answer:
        """Commit an entry, alone or in company, and give its answer once it is durable.

        Raises:
            Exception: what the commit raised, or answered to this entry.
        """
        waiting = _Waiting[_Entry, _Answer](entry)
        with self._queue_lock:
            self._queue.append(waiting)
        with self._turn:
            if waiting.answer is None:
                self._serve_queue()
        if isinstance(waiting.answer, BaseException):
            raise waiting.answer
        return cast("_Answer", waiting.answer)

    def _serve_queue(self) -> None:
        with self._queue_lock:
            group, self._queue = self._queue, []
        answered: list[tuple[_Waiting[_Entry, _Answer], _Answer | BaseException]]
        try:
            answers = self._commit([waiting.entry for waiting in group])
            answered = list(zip(group, answers, strict=True))
        except BaseException as error:  # noqa: BLE001 - it belongs to each of the group, and is raised there
            answered = [(waiting, error) for waiting in group]
        for waiting, answer in answered:
            waiting.answer = answer
