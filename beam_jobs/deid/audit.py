"""What was done to the header of an instance on its way to the tables, element by element, without a value.

The tables are built from an allow-list, so the list of actions is short: whatever is not named below is
removed. The archive's copies have a list of their own, which `beam_jobs.deid.profile` gives.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from beam_jobs.deid.reading import HEADER_KEYWORDS

PROFILE: Final = "echobeam allow-list over PS3.15 Table E.1-1 2026d"

TABLES: Final = "tables"

KEYED: Final = "keyed"
SHIFTED: Final = "shifted"
CAPPED: Final = "capped"
MAPPED: Final = "mapped"
CLEANED: Final = "cleaned"
REMOVED: Final = "removed"

_KEYED: Final = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID"})
_SERVICE_DATES: Final = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_AGES: Final = ("PatientAge", "PatientBirthDate")
_REGION: Final = (
    "RegionSpatialFormat",
    "RegionDataType",
    "RegionLocationMinX0",
    "RegionLocationMinY0",
    "RegionLocationMaxX1",
    "RegionLocationMaxY1",
)
_MAPPED: Final = frozenset({*HEADER_KEYWORDS, *_REGION}) - {*_SERVICE_DATES, *_AGES}


class AuditedAction(NamedTuple):
    """One action.

    Attributes:
        output: `TABLES`, or the archive's name.
        element: keyword, tag, or "private" for all private elements together.
        elements: on how many it was taken.
        rule: the row of a table of PS3.15 that asked for it, None where the allow-list did.
    """

    output: str
    element: str
    rule: str | None
    action: str
    elements: int


def table_actions(elements: Counter[str], *, frames: int) -> Iterator[AuditedAction]:
    """List what became of each element of a header in the tables.

    Args:
        elements: how often each occurs.
        frames: how many frames were cleaned.

    Yields:
        keyed: became a keyed hash; shifted: a shifted day; capped: an age of at most 90; mapped: a number
        or a word of a closed list; removed: nothing. Pixels: cleaned, or removed where there is no frame.
    """
    shifted = next((keyword for keyword in _SERVICE_DATES if keyword in elements), None)
    capped = next((keyword for keyword in _AGES if keyword in elements), None)
    for element, count in sorted(elements.items()):
        if element in _KEYED:
            action = KEYED
        elif element == shifted:
            action = SHIFTED
        elif element == capped:
            action = CAPPED
        else:
            action = MAPPED if element in _MAPPED else REMOVED
        yield AuditedAction(TABLES, element, None, action, count)
    yield AuditedAction(TABLES, "PixelData", None, CLEANED if frames else REMOVED, 1)
