"""Read words in a picture with the tesseract program, where it is installed.

One call is one process, on one thread, ended after a fixed time; the picture goes through a pipe, so
nothing of it is written to a disk.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.errors import DeidError
from beam_jobs.deid.regions import Box
from beam_jobs.deid.search import Search
from beam_jobs.deid.words import ULTRASOUND_WORDS

OcrMode = Literal["auto", "off", "require"]

PROGRAM: Final = "tesseract"
LEGIBLE: Final = 50.0
"""Confidence in percent from which a word is believed."""

_TIMEOUT_S: Final = 30.0
_SPARSE_TEXT: Final = "11"  # tesseract's page segmentation mode: text anywhere, in no order
_COLUMNS: Final = 12
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
    """

    def __init__(self, program: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._program = program
        self._timeout_s = timeout_s

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
        try:
            done = subprocess.run(  # noqa: S603 - a program found by its fixed name
                [self._program, "stdin", "stdout", "--psm", _SPARSE_TEXT, "-l", "eng", "tsv"],
                input=header + enlarged.tobytes(),
                capture_output=True,
                check=True,
                timeout=self._timeout_s,
                env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise OcrError(
                f"{PROGRAM} must read a picture within {self._timeout_s:.0f} s; it failed "
                f"({type(error).__name__}). Check it with `{PROGRAM} --version`, or set ocr to off"
            ) from None
        return list(_words(done.stdout.decode(errors="replace"), scale))


def find_ocr(mode: OcrMode) -> Ocr | None:
    """Find the program.

    Returns:
        None where it is off, or not installed and not required.

    Raises:
        OcrError: if it is required and not installed.
    """
    program = None if mode == "off" else shutil.which(PROGRAM)
    if program is not None:
        return Ocr(program)
    if mode == "require":
        raise OcrError(
            f"[deid] ocr is `require`, and there is no program {PROGRAM}: install it (Debian package "
            "tesseract-ocr), or set ocr to auto or off"
        )
    return None


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


def _words(table: str, scale: int) -> Iterable[Word]:
    for line in table.splitlines()[1:]:
        cells = line.split("\t")
        if len(cells) != _COLUMNS or not _WORD.search(cells[-1]):
            continue
        left, top, width, height = (int(cell) // scale for cell in cells[6:10])
        box = Box(left, top, left + width + 1, top + height + 1)
        yield Word(cells[-1].strip(), float(cells[-2]), box)
