"""What is done with an attribute: steps, the next of which is tried where one does not fit."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from beam_jobs.deid.profile.values import ValueFunction

ALLOW_LIST: Final = "allow-list"
UNREADABLE: Final = "unreadable"
PRIVATE_ROW: Final = "E.1-1 private attributes"
PIXELS: Final = "pixels"
CONTENT_ITEM: Final = "E.3.4-1"

ENCODING: Final = (False, True, "iso8859")
"""Explicit VR, little endian, the default repertoire: all that this package makes is ASCII."""


def raw_element(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """Make an element that pydicom writes as it is."""
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


class Action(NamedTuple):
    """What was done with one element of a dataset; it holds no value.

    Attributes:
        path: tags and, after a sequence, the index of its item: (0x00186011, 0, 0x00186012).
        code: as PS3.15 Table E.1-1a has them: X removed, Z emptied, D replaced by a dummy, U replaced by
            another UID, K kept, C cleaned.
        rule: what says so: a row of Table E.1-1 such as "E.1-1 (0010,0010)", of E.3.4-1, or the
            allow-list.
    """

    path: tuple[int, ...]
    code: str
    rule: str

    @property
    def place(self) -> str:
        """The path as text: tags, and indexes in brackets."""
        written = []
        for depth, number in enumerate(self.path):
            if depth % 2:
                written.append(f"[{number}]")
            else:
                written.append(f"{'.' if depth else ''}({number >> 16:04X},{number & 0xFFFF:04X})")
        return "".join(written)


class Items(Enum):
    """How the items of a sequence are gone through."""

    SAME_RULES = auto()
    CODES = auto()
    CONTENT = auto()
    DUMMY = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One way to treat an attribute.

    Attributes:
        vr: value representation of what is written.
        function: makes the new value, None if `constant` or `items` says it.
        constant: the new value whatever the old one was.
        items: for a sequence that is gone through.
        time_tag: of the time that belongs to this date, 0 for none.
        otherwise: what to do where this does not fit; None: the element is removed.
    """

    code: str
    rule: str
    vr: str
    function: ValueFunction | None = None
    constant: bytes | None = None
    items: Items | None = None
    time_tag: int = 0
    otherwise: "Step | None" = None
