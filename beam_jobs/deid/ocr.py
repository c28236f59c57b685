"""Read words in a picture with the tesseract program, where it is installed.

A process is on one thread, ends after a fixed time with one picture, and stays for the next where the system
lets it; nothing of a picture is written to a disk. Whatever goes wrong with one that stays, the picture is
read by a process of its own, so that all that changes is how long it takes.
"""

import os
import re
import shutil
import subprocess
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.errors import DeidError
from beam_jobs.deid.regions import Box
from beam_jobs.deid.resident_ocr import ResidentTesseract
from beam_jobs.deid.search import Search
from beam_jobs.deid.words import ULTRASOUND_WORDS

OcrMode = Literal["auto", "off", "require"]

PROGRAM: Final = "tesseract"
LEGIBLE: Final = 50.0
"""Confidence in percent from which a word is believed."""

_TIMEOUT_S: Final = 30.0
_SPARSE_TEXT: Final = "11"  # tesseract's page segmentation mode: text anywhere, in no order
_COLUMNS: Final = 12
_HEADING: Final = "level"
_PICTURES_OF_A_PROCESS: Final = 1000
"""Then another takes its place: what a program keeps of each picture by mistake stays small."""

_WORD: Final = re.compile(r"[^\W_]{2,}")
_DATE: Final = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}|(?:19|20)\d{6}")
_LONG_NUMBER: Final = re.compile(r"\d{6,}")
_NAME: Final = re.compile(r"[^\W\d_]{4,}")


class OcrError(DeidError):
    """The program for reading words is missing where it is required, failed, or took too long."""


class Word(NamedTuple):
    """What was read at one place.

    Attributes:
        confidence: in percent.
        box: in pixels of the picture.
    """

    text: str
    confidence: float
    box: Box


class Ocr:
    """Reads words in pictures.

    Args:
        program: path of tesseract.
        timeout_s: seconds after which one picture is given up.
        stays: whether a process may stay for the next picture.

    Any thread may use it.
    """

    def __init__(self, program: str, *, timeout_s: float = _TIMEOUT_S, stays: bool = True) -> None:
        self._command = (program, "--psm", _SPARSE_TEXT, "-l", "eng", "tsv")
        self._timeout_s = timeout_s
        self._may_stay, self._has_stayed = stays, False
        self._idle: list[ResidentTesseract] = []
        weakref.finalize(self, _close_all, self._idle)

    def read(self, picture: npt.NDArray[np.uint8], *, scale: int = 2) -> list[Word]:
        """Read a picture.

        Args:
            picture: [H, W], uint8, light text on dark.
            scale: how often each pixel is repeated before: small letters are read better.

        Returns:
            what has two letters or digits side by side, whatever the confidence.

        Raises:
            OcrError: if the program fails or takes too long.
        """
        enlarged = 255 - picture.repeat(scale, axis=0).repeat(scale, axis=1)  # it was taught dark on light
        header = b"P5 %d %d 255\n" % (enlarged.shape[1], enlarged.shape[0])
        file = header + enlarged.tobytes()
        lines = self._read_by_resident(file)
        return list(_words(self._read_alone(file) if lines is None else lines, scale))

    def _read_by_resident(self, file: bytes) -> list[str] | None:
        """Have a process that stays read a picture; None where there is none, or it fails."""
        if not self._may_stay:
            return None
        try:
            resident = self._idle.pop() if self._idle else ResidentTesseract(self._command, _environment())
        except (OSError, IndexError):  # or another thread took the last one
            return None
        try:
            lines = resident.read(file, timeout_s=self._timeout_s)
        except OSError:
            self._may_stay = self._has_stayed  # a program that never answered never will
            resident.close()
            return None
        self._has_stayed = True
        if resident.pictures < _PICTURES_OF_A_PROCESS:
            self._idle.append(resident)
        else:
            resident.close()
        return lines

    def _read_alone(self, file: bytes) -> list[str]:
        program, *options = self._command
        try:
            done = subprocess.run(  # noqa: S603 - a program found by its fixed name
                [program, "stdin", "stdout", *options],
                input=file,
                capture_output=True,
                check=True,
                timeout=self._timeout_s,
                env=_environment(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise OcrError(
                f"{PROGRAM} must read a picture within {self._timeout_s:.0f} s; it failed "
                f"({type(error).__name__}). Check it with `{PROGRAM} --version`, or set ocr to off"
            ) from None
        return done.stdout.decode(errors="replace").split("\n")


def find_ocr(mode: OcrMode) -> Ocr | None:
    """Find the program.

    Returns:
        None where it is off, or not installed and not required.

    Raises:
        OcrError: if it is required and not installed.
    """
    program = None if mode == "off" else shutil.which(PROGRAM)
    if program is not None:
        return _ocr_of(program)
    if mode == "require":
        raise OcrError(
            f"[deid] ocr is `require`, and there is no program {PROGRAM}: install it (Debian package "
            "tesseract-ocr), or set ocr to auto or off"
        )
    return None


@cache
def _ocr_of(program: str) -> Ocr:
    """Keep one for the life of the process, and with it the processes that stay."""
    return Ocr(program)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_THREAD_LIMIT": "1"}


def _close_all(idle: list[ResidentTesseract]) -> None:
    for resident in idle:
        resident.close()


def tells_something(word: Word, search: Search | None = None) -> bool:
    """Say whether a word may name somebody: a name, a date or a number, or one of the study's originals.

    What an ultrasound screen shows of its own accord, such as "HR 62 bpm", does not.
    """
    if search is not None and search.in_text(word.text) is not None:
        return True
    if word.confidence < LEGIBLE:
        return False
    if _DATE.search(word.text) or _LONG_NUMBER.search(word.text):
        return True
    return any(name.upper() not in ULTRASOUND_WORDS for name in _NAME.findall(word.text))


def _words(lines: Iterable[str], scale: int) -> Iterable[Word]:
    for line in lines:
        cells = line.split("\t")
        if len(cells) != _COLUMNS or cells[0] == _HEADING or not _WORD.search(cells[-1]):
            continue
        left, top, width, height = (int(cell) // scale for cell in cells[6:10])
        box = Box(left, top, left + width + 1, top + height + 1)
        yield Word(cells[-1].strip(), float(cells[-2]), box)
