"""Which of several actions the table offers is taken: the Type of the attribute in the IOD decides.

PS3.15 E.1, after Table E.1-1: `X/Z` is X unless Z is needed to keep the object valid, and so on. So an
attribute of Type 3 is removed, of Type 2 emptied, of Type 1 given a dummy (or, in the rows X/Z/U*,
keeps its references under other UIDs).
"""

from functools import cache
from typing import Final

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    EnhancedUSVolumeStorage,
    ExtensibleSRStorage,
    KeyObjectSelectionDocumentStorage,
    SimplifiedAdultEchoSRStorage,
)

from beam_jobs.deid.headers import ULTRASOUND_SOP_CLASSES
from beam_jobs.deid.profile.table import ATTRIBUTE_TYPES_FILE, read_table

REPORT_SOP_CLASSES: Final = frozenset(
    (
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        ExtensibleSRStorage,
        SimplifiedAdultEchoSRStorage,
        KeyObjectSelectionDocumentStorage,
    )
)
"""The storage classes of structured reports (PS3.4 B.5)."""

_STRONGEST_FIRST: Final = ("X", "Z", "D", "U*")
_KEEPS_VALID: Final = {
    "3": frozenset(_STRONGEST_FIRST),
    "2": frozenset({"Z", "D", "U*"}),
    "1": frozenset({"D", "U*"}),
}


def iod_of(sop_class_uid: str) -> str | None:
    """Name the column of the table of types that is for a SOP class, None where there is none."""
    uid = UID(sop_class_uid)
    if uid == EnhancedUSVolumeStorage:
        return "us_volume"
    if uid in ULTRASOUND_SOP_CLASSES:
        return "us"
    return "sr" if uid in REPORT_SOP_CLASSES else None


@cache
def _types() -> dict[tuple[str, str], str]:
    return {
        (row["keyword"], iod): row[iod]
        for row in read_table(ATTRIBUTE_TYPES_FILE)
        for iod in ("us", "us_volume", "sr", "us_nested")
    }


def type_of(keyword: str, iod: str | None, *, is_nested: bool) -> str | None:
    """Give the Type of an attribute: "1", "2" or "3", None where it is not known.

    A conditional attribute that is there counts as one whose condition is met: 1C is 1, 2C is 2. Where
    the modules of the IOD do not name the attribute, it came by a Standard Extended SOP Class, where it
    is of Type 3 (PS3.4 B.4.1). Inside of sequences the Type depends on the macro: it is not known, but
    for the few attributes that occur in one macro only.
    """
    if iod is None:
        return None
    if is_nested:
        return (iod != "sr" and _types().get((keyword, "us_nested"))) or None
    return _types().get((keyword, iod), "3")


def choose(basic: str, attribute_type: str | None) -> str:
    """Take one of the actions that a row offers.

    Args:
        basic: as the row has it, such as `X/Z/D`.
        attribute_type: "1", "2", "3", or None: then the last, which keeps any object valid and holds
            nothing of what was there either.

    Returns:
        X, Z, D, U, or U*.
    """
    offered = basic.split("/")
    if len(offered) == 1:
        return basic
    keeps_valid = _KEEPS_VALID[attribute_type or "1"]
    fitting = [action for action in _STRONGEST_FIRST if action in offered and action in keeps_valid]
    return fitting[0] if fitting else offered[-1]
