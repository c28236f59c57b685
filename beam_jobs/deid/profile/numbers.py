"""Numbers: kept within the range that their attribute makes sense in, and never as letters of a text."""

import re
import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.profile.values import Subject, ValueFunction, padded, stripped

_FORMATS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TEXT_OF_NUMBER: Final = re.compile(rb"[+-]?[0-9.]{1,16}(?:[eE][+-]?[0-9]{1,2})?")
_MOST_VALUES: Final = 100_000
_SHORTEST_WORD: Final = 5
_LETTER_CODES: Final = frozenset(map(float, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz^ "))
_IS_SIGN: Final = np.isin(np.arange(256), [*_LETTER_CODES, *b"0123456789."])
_PRINTABLE: Final = re.compile(rb"[ -~]+\0*")
_SMALLEST: Final = {"f": 1e-12, "d": 1e-30}
"""Of what is measured nothing is so small: it is something else, read as a floating point number."""

_SHORTEST_TABLE: Final = 32
_DISCRETE: Final = 0
_SEGMENT_NUMBERS: Final = {_DISCRETE: 0, 1: 1, 2: 2}
"""Opcodes of segments, and how many numbers follow the length: discrete, linear, indirect."""


@cache
def keep_numbers(vr: str, low: float, high: float, multiplicity: str) -> ValueFunction:
    """Make a function that keeps numbers within a range, as many as the attribute may have."""
    count = None if multiplicity == "n" else int(multiplicity)
    if vr in _FORMATS:
        return _keep_binary(_FORMATS[vr], low, high, count)
    return _keep_decimal(low, high, count)


def _keep_binary(code: str, low: float, high: float, count: int | None) -> ValueFunction:
    size = struct.calcsize(code)

    def keep(value: bytes, _: Subject) -> bytes | None:
        found = len(value) // size
        if (count is not None and found != count) or not 0 < found <= _MOST_VALUES:
            return None
        # A single number of two or four bytes is out of range where its bytes are a text.
        if (found > 1 or code in _SMALLEST) and _PRINTABLE.fullmatch(value):
            return None
        numbers = struct.unpack(f"<{found}{code}", value)
        smallest = _SMALLEST.get(code, 0)
        if smallest and any(0 < abs(number) < smallest for number in numbers):
            return None
        return value if _are_plain(numbers, low, high, is_array=count is None) else None

    return keep


def _keep_decimal(low: float, high: float, count: int | None) -> ValueFunction:
    def keep(value: bytes, _: Subject) -> bytes | None:
        parts = [stripped(part) for part in value.split(b"\\")]
        if len(parts) != count and (count is not None or len(parts) > _MOST_VALUES):
            return None
        if not all(map(_TEXT_OF_NUMBER.fullmatch, parts)):
            return None
        numbers = [float(part) for part in parts]
        is_fit = _are_plain(numbers, low, high, is_array=count is None)
        return (value if not len(value) % 2 else padded(b"\\".join(parts))) if is_fit else None

    return keep


def _are_plain(numbers: Sequence[float], low: float, high: float, *, is_array: bool) -> bool:
    """Tell whether numbers are in range, and if they are many, not the letters of a text."""
    if not all(low <= number <= high for number in numbers):
        return False
    if not is_array:
        return True
    run: list[float] = []
    for number in numbers:
        run = [*run, number] if number in _LETTER_CODES else []
        if len(run) == _SHORTEST_WORD:
            if not _is_ramp(run):
                return False
            run = run[1:]
    return True


def keep_palette(value: bytes, _: Subject) -> bytes | None:
    """Keep a colour table, unless a text hides in it or it is too short to be one (PS3.3 C.7.6.3.1.6)."""
    is_fit = _SHORTEST_TABLE <= len(value) <= 2 * 65536 and not hides_text(value)
    return value if is_fit else None


def keep_segments(value: bytes, _: Subject) -> bytes | None:
    """Keep a colour table in segments, unless a text hides in it or it is none (PS3.3 C.7.9.2)."""
    if len(value) > 2 * 65536 or hides_text(value):
        return None
    words = struct.unpack(f"<{len(value) // 2}H", value)
    return value if _are_segments(words) or _are_segments(tuple(value)) else None


def _are_segments(numbers: Sequence[int]) -> bool:
    """Tell whether numbers are segments: an opcode, a length, and what the opcode wants, to the end."""
    place = 0
    while len(numbers) - place > 1:
        opcode, length = numbers[place : place + 2]
        if opcode not in _SEGMENT_NUMBERS or length == 0:
            return False
        place += 2 + (length if opcode == _DISCRETE else _SEGMENT_NUMBERS[opcode])
    # A byte may pad what has an odd number of them.
    return place > 0 and len(numbers) - place in {0, 1} and not any(numbers[place:])


@lru_cache(maxsize=32)  # the tables of one machine are the same in all its clips
def hides_text(value: bytes) -> bool:
    """Tell whether a table holds a text or an identifier, a sign in each byte or in each 16-bit word."""
    return _reads_as_text(np.frombuffer(value, np.uint8)) or _reads_as_text(
        np.frombuffer(value[: len(value) // 2 * 2], "<u2")
    )


def _reads_as_text(numbers: npt.NDArray[np.unsignedinteger]) -> bool:
    is_letter = _IS_SIGN[np.minimum(numbers, 255)]
    if np.count_nonzero(is_letter) < _SHORTEST_WORD:
        return False
    count = len(numbers) - _SHORTEST_WORD + 1
    starts = is_letter[:count].copy()
    for offset in range(1, _SHORTEST_WORD):
        starts &= is_letter[offset : offset + count]
    in_word = starts.nonzero()[0]
    words = numbers[in_word[:, None] + np.arange(_SHORTEST_WORD)].astype(np.int64)
    steps = np.diff(words, axis=1)
    return bool(((steps > 0).any(axis=1) & (steps < 0).any(axis=1)).any())


def _is_ramp(numbers: Sequence[float]) -> bool:
    """Tell whether numbers only rise, or only fall, or stay: as tables do and words hardly ever."""
    steps = [second - first for first, second in pairwise(numbers)]
    return all(step >= 0 for step in steps) or all(step <= 0 for step in steps)
