"""The tables of PS3.15 Annex E as they are published, row by row.

    Table E.1-1    what to do with which attribute           657 rows
    Table E.3.4-1  what to do with which SR content item     214 rows

Both are facts of the Standard, carried as files beside this module; the edition is in their names.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from beam_jobs.deid.profile.options import EDITION

ATTRIBUTES_FILE: Final = f"ps3_15_e1_1_{EDITION}.csv"
CONTENT_ITEMS_FILE: Final = f"ps3_15_e3_4_1_{EDITION}.csv"
ATTRIBUTE_TYPES_FILE: Final = "ps3_3_attribute_types.csv"
ALLOW_LIST_FILE: Final = "allow_list.csv"

PRIVATE: Final = "private"
"""The tag of the row for private attributes."""


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """A row of Table E.1-1.

    Attributes:
        number: place of the row in the table, from 1.
        tag: eight hexadecimal digits, with `x` where the row stands for many tags, or `PRIVATE`.
        vr: "" where the row stands for attributes of any.
        basic: action of the Basic Profile: X, Z, D, U, K, C, or several between slashes.
        device: action under the option Retain Device Identity, "" for none. So on for the others.
    """

    number: int
    tag: str
    keyword: str
    vr: str
    attribute: str
    basic: str
    device: str
    patient: str
    modified_dates: str
    descriptors: str
    content: str
    graphics: str

    @property
    def is_pattern(self) -> bool:
        """Whether the row stands for many tags."""
        return self.tag == PRIVATE or "x" in self.tag

    @property
    def tag_number(self) -> int:
        """The tag as a number, of a row that stands for one."""
        return int(self.tag, 16)


@dataclass(frozen=True, slots=True)
class ContentRule:
    """A row of Table E.3.4-1: a content item by the code of its concept name and its value type."""

    code: str
    scheme: str
    value_type: str
    basic: str
    device: str
    patient: str
    modified_dates: str
    descriptors: str


def read_table(name: str) -> Iterator[dict[str, str]]:
    """Read a file of this package: comma-separated, lines that begin with `#` are notes."""
    yield from csv.DictReader(_lines(name))


def read_words(name: str) -> frozenset[str]:
    """Read a file of this package: words between blanks, lines that begin with `#` are notes."""
    return frozenset(word for line in _lines(name) for word in line.split())


def _lines(name: str) -> list[str]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@cache
def attribute_rules() -> tuple[AttributeRule, ...]:
    """Give Table E.1-1, in its order."""
    kept = AttributeRule.__dataclass_fields__.keys() - {"number"}
    return tuple(
        AttributeRule(number=number, **{name: row[name] for name in kept})
        for number, row in enumerate(read_table(ATTRIBUTES_FILE), start=1)
    )


@cache
def content_rules() -> dict[tuple[str, str, str], ContentRule]:
    """Give Table E.3.4-1 by scheme, code and value type."""
    kept = ContentRule.__dataclass_fields__.keys()
    rules = (ContentRule(**{name: row[name] for name in kept}) for row in read_table(CONTENT_ITEMS_FILE))
    return {(rule.scheme, rule.code, rule.value_type): rule for rule in rules}
