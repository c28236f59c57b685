"""Search bytes, texts, numbers and days for the originals of a header.

One pass over the data whatever the number of originals: two bytes of each needle are looked up in a
table, and only where both pairs fit is the needle compared. Long originals are searched anywhere, in
every encoding that a text or an array of integers may have; short ones (a name of three letters) only
as whole words of a text, because in pixels any three bytes occur.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.originals import Originals

SHORTEST_ANYWHERE: Final = 6
"""Bytes: in a gigabyte of noise, a needle of six is found by chance once in a quarter of a million."""

_EXACT_DIGITS: Final = 15
"""A double holds any whole number of so many digits."""

_SHORTEST_WORD: Final = 3
_SHORTEST_IDENTIFIER: Final = 4
_ENCODINGS: Final = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""UTF-16 and UTF-32 are also what an array of integers of 16 and 32 bits holds that spells a text."""

_WORD: Final = re.compile(r"[^\W_]+")
_TITLES: Final = frozenset(
    {"DOCTOR", "HERR", "FRAU", "MADAME", "MISS", "MRS", "PROF", "PROFESSOR", "VON", "VAN"}
)


class Kind(StrEnum):
    """What kind of original was found."""

    NAME = "name"
    IDENTIFIER = "identifier"
    DATE = "date"
    UID = "uid"


class Search:
    """Finds what must not be there.

    Args:
        originals: of every instance of the study.
        expected_days: shifted days that may be written, and so tell nothing if they are found.
        harmless: words that are written on purpose; a patient who is called like one is not found by it.
        fixed_text: in upper case, what every file has; an original that is in it by chance is looked for as
            a whole word only.
    """

    def __init__(
        self,
        originals: Originals,
        *,
        expected_days: Iterable[date] = (),
        harmless: frozenset[str] = frozenset(),
        fixed_text: str = "",
    ) -> None:
        days = originals.dates - frozenset(expected_days)
        self._words: dict[str, Kind] = {}
        self._numbers: dict[int, Kind] = {}
        self._days = frozenset(days)
        texts = list(_needles(originals, days, harmless | _TITLES))
        for kind, text in texts:
            if len(text) >= _SHORTEST_WORD and _WORD.fullmatch(text):
                self._words[text] = kind
            # Without the zeros before it: a number has none, and what is left may be any small one.
            digits = re.sub(r"\D", "", text).lstrip("0") if kind is not Kind.UID else ""
            if SHORTEST_ANYWHERE <= len(digits) <= _EXACT_DIGITS:
                self._numbers[int(digits)] = kind
        self._number_values = np.array(list(self._numbers), np.float64)
        self._bytes = _ByteSearch((kind, text) for kind, text in texts if text not in fixed_text)

    def in_bytes(self, data: bytes | memoryview) -> Kind | None:
        """Find a long original anywhere in bytes, whatever the case of its letters."""
        return self._bytes.find(bytes(data).upper())

    def in_text(self, text: str) -> Kind | None:
        """Find an original in a text: a long one anywhere, a short one as a whole word."""
        upper = text.upper()
        for word in _WORD.findall(upper):
            if word in self._words:
                return self._words[word]
        return self._bytes.find(upper.encode("utf-8", "surrogatepass"))

    def in_numbers(self, values: npt.NDArray[np.generic]) -> Kind | None:
        """Find an identifier or date that is a number, or a text that an array of integers spells."""
        wide = values.astype(np.float64)
        for number in wide[np.isin(wide, self._number_values)]:
            return self._numbers[int(number)]
        if values.dtype.kind in "iu":
            return self._bytes.find(_spelled(values))
        return None

    def in_days(self, days: Iterable[date]) -> Kind | None:
        """Find a real day among days."""
        return Kind.DATE if not self._days.isdisjoint(days) else None


def _spelled(values: npt.NDArray[np.generic]) -> bytes:
    codes = np.where((values >= 0) & (values < 0x10000), values, 0).astype("<u4")  # type: ignore[operator]
    return codes.tobytes().upper()


def _needles(
    originals: Originals, days: Iterable[date], harmless: frozenset[str]
) -> Iterator[tuple[Kind, str]]:
    for name in originals.names:
        upper = name.upper()
        words = _WORD.findall(upper)
        yield from ((Kind.NAME, word) for word in words if _tells(word, harmless))
        if len(words) > 1:
            yield Kind.NAME, upper.rstrip("^= ")
    for identifier in originals.identifiers:
        upper = identifier.upper()
        # What is one character again and again is a placeholder.
        if len(upper) >= _SHORTEST_IDENTIFIER and len(set(upper)) > 1 and upper not in harmless:
            yield Kind.IDENTIFIER, upper
    for day in days:
        for form in ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y"):
            yield Kind.DATE, day.strftime(form)
    for uid in originals.uids:
        yield Kind.UID, uid


def _tells(word: str, harmless: frozenset[str]) -> bool:
    # A word of a script without spaces may be a whole name.
    shortest = _SHORTEST_WORD if word.isascii() else 2
    return len(word) >= shortest and not word.isdigit() and word not in harmless


class _ByteSearch:
    """Searches for many needles at once."""

    def __init__(self, texts: Iterable[tuple[Kind, str]]) -> None:
        self._by_start: dict[bytes, list[tuple[bytes, Kind]]] = {}
        self._first = np.zeros(1 << 16, np.bool_)
        self._second = np.zeros(1 << 16, np.bool_)
        for needle, kind in {(needle, kind) for kind, text in texts for needle in _encoded(text)}:
            self._by_start.setdefault(needle[:4], []).append((needle, kind))
            self._first[needle[0] << 8 | needle[1]] = True
            self._second[needle[2] << 8 | needle[3]] = True

    def find(self, data: bytes) -> Kind | None:
        if len(data) < SHORTEST_ANYWHERE or not self._by_start:
            return None
        values = np.frombuffer(data, np.uint8)
        pairs = values[:-1].astype(np.uint16) << 8 | values[1:]
        for place in np.flatnonzero(self._first[pairs[:-2]] & self._second[pairs[2:]]).tolist():
            for needle, kind in self._by_start.get(data[place : place + 4], ()):
                if data.startswith(needle, place):
                    return kind
        return None


def _encoded(text: str) -> Iterator[bytes]:
    if len(text.encode("utf-8", "surrogatepass")) < SHORTEST_ANYWHERE:
        return
    # The data is in upper case as bytes, which leaves letters that are not ASCII as they are.
    for cased in {text.upper(), text.lower()}:
        for encoding in _ENCODINGS:
            with suppress(UnicodeEncodeError):
                yield cased.encode(encoding).upper()
