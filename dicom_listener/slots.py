"""Counting what is open at once across processes: a slot is a locked file, and a dead process holds none."""

import fcntl
import os
from pathlib import Path


class Slots:
    """Slots in a folder that processes share. Any thread of any of them may take one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(self, name: str, number: int) -> int | None:
        """Take one of the `number` slots of a name, if one is free.

        Args:
            name: what is counted; part of a file name.
            number: how many may be taken at once.

        Returns:
            What `give_back` wants; None if all are taken.

        Raises:
            OSError: if the folder cannot be used.
        """
        for index in range(number):
            slot = os.open(self._folder / f"{name}-{index}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(slot)
                continue
            return slot
        return None

    @staticmethod
    def give_back(slot: int) -> None:
        """Free a slot."""
        os.close(slot)

    def clear(self) -> None:
        """Delete the files of slots that nobody uses any more; only while no process takes any."""
        for file in self._folder.iterdir():
            file.unlink()
