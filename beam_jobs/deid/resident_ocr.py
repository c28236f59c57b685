"""One tesseract that stays and reads picture after picture: to start it costs several times what most do.

It is told names of pictures, one a line (its option `stream_filelist`), and these are names of places in
memory, so nothing is written to a disk. Its answers have page numbers: every other page is a blank one, and
that page's first line says that the one before is complete. They come through a terminal, since it
would keep lines for a pipe back until it has some thousand bytes of them.
"""

import os
import pty
import select
import subprocess
import tty
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Final

_BLANK: Final = b"P5 64 64 255\n" + b"\xff" * 64 * 64
_READ_BYTES: Final = 1 << 16


class ResidentTesseract:
    """A process that reads one picture at a time.

    Args:
        command: program, options and output format, but not what is read, nor where it is written.
        environment: of the process.

    Attributes:
        pictures: how many it has read.

    Raises:
        OSError: if it cannot be started, or there is no memory to give it a name of.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.pictures = 0
        self._unread = b""
        with ExitStack() as stack:
            self._picture, blank = (_memory(stack, name) for name in ("picture", "blank"))
            _put(blank, _BLANK)
            self._answers, theirs = pty.openpty()
            stack.callback(os.close, self._answers)
            try:
                tty.setraw(theirs)
                self._process = subprocess.Popen(  # noqa: S603 - a program found by its fixed name
                    [command[0], "stdin", "stdout", "-c", "stream_filelist=1", *command[1:]],
                    stdin=subprocess.PIPE,
                    stdout=theirs,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(self._picture, blank),
                    env=environment,
                    bufsize=0,
                )
            finally:
                os.close(theirs)
            stack.callback(self._end)
            self._names = f"/proc/self/fd/{self._picture}\n/proc/self/fd/{blank}\n".encode()
            self._stack = stack.pop_all()

    def read(self, picture: bytes, *, timeout_s: float) -> list[str]:
        """Read a picture.

        Args:
            picture: a whole file.
            timeout_s: seconds after which it is given up.

        Returns:
            the lines of the table that are about it.

        Raises:
            OSError: if the process has ended, or not answered in time. It must be closed.
        """
        _put(self._picture, picture)
        page = 2 * self.pictures + 1
        self._tell(self._names)
        deadline = monotonic() + timeout_s
        lines = []
        while (number := _page_of(line := self._line(deadline))) != str(page + 1):
            if number == str(page):
                lines.append(line)
        self.pictures += 1
        return lines

    def close(self) -> None:
        """End the process."""
        self._stack.close()

    def _tell(self, names: bytes) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(names)

    def _line(self, deadline: float) -> str:
        answers = select.poll()
        answers.register(self._answers, select.POLLIN)
        while b"\n" not in self._unread:
            left_s = deadline - monotonic()
            if left_s <= 0 or not answers.poll(left_s * 1000):
                raise TimeoutError
            read = os.read(self._answers, _READ_BYTES)
            if not read:
                raise BrokenPipeError
            self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode(errors="replace")

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def _page_of(line: str) -> str:
    return line.split("\t", 2)[1] if "\t" in line else ""


def _memory(stack: ExitStack, name: str) -> int:
    if not hasattr(os, "memfd_create"):
        raise OSError("only Linux gives names to places in memory")
    place = os.memfd_create(name)
    stack.callback(os.close, place)
    return place


def _put(place: int, content: bytes) -> None:
    with open(place, "wb", closefd=False) as file:
        file.seek(0)
        file.truncate()
        file.write(content)
