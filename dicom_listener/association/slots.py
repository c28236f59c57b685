"""Counting what is open at once across processes: a slot is a locked file, and a dead process holds none."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that was taken."""

    path: Path
    descriptor: int

    def give_back(self) -> None:
        """Free the slot."""
        self.path.unlink(missing_ok=True)  # still locked: whoever opens it from here on makes a new one
        os.close(self.descriptor)


class Slots:
    """Slots in a folder that processes share. Any thread of any of them may take one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(self, name: str, number: int) -> Slot | None:
        """Take one of the `number` slots of a name, if one is free.

        Args:
            name: what is counted; part of a file name.
            number: how many may be taken at once.

        Returns:
            The slot; None if all are taken.

        Raises:
            OSError: if the folder cannot be used.
        """
        for index in range(number):
            slot = _lock(self._folder / f"{name}-{index}")
            if slot is not None:
                return slot
        return None

    def clear(self) -> None:
        """Delete what dead processes left; only while no process takes any."""
        for file in self._folder.iterdir():
            file.unlink()


def _lock(path: Path) -> Slot | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return Slot(path, descriptor)
        os.close(descriptor)  # given back, and so deleted, between opening and locking: it counts no more
