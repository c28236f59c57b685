"""Values that mark an element, for every value representation: none of them may come out anywhere."""

import struct
from typing import Any, Final

from pydicom import DataElement, Dataset, Sequence, config
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from beam_jobs.deid.quiet import quiet_pydicom

WORD: Final = "ZZMARK"
NUMBER: Final = 19670809
UID: Final = "1.2.826.0.1.19670809.7"

VALUES: Final[dict[str, Any]] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), WORD),
    "PN": f"{WORD}^{WORD}",
    "AS": "Z67Y",
    **dict.fromkeys(("DA", "DT", "DS", "IS"), str(NUMBER)),
    "TM": "196708",
    "UI": UID,
    **dict.fromkeys(("FD", "FL"), float(NUMBER)),
    **dict.fromkeys(("SL", "UL", "SV", "UV"), NUMBER),
    **dict.fromkeys(("SS", "US"), tuple(map(ord, WORD))),
    **dict.fromkeys(("OB", "OW", "UN", "OD", "OF", "OL", "OV"), WORD.encode() * 4),
    "AT": 0x5A5A4D41,
}

TELLING: Final = (
    WORD.encode(),
    b"".join(struct.pack("<H", ord(letter)) for letter in WORD),
    b"".join(struct.pack("<I", ord(letter)) for letter in WORD),
    b"".join(struct.pack("<f", ord(letter)) for letter in WORD),
    b"".join(struct.pack("<d", ord(letter)) for letter in WORD),
    str(NUMBER).encode(),
    struct.pack("<I", NUMBER),
    struct.pack("<f", float(NUMBER)),
    struct.pack("<d", float(NUMBER)),
    struct.pack("<HH", 0x5A5A, 0x4D41),
    b"196708",
    b"Z67Y",
)
"""Bytes by which a mark is known again, as text or as numbers."""


def element(tag: int, vr: str, value: Any) -> DataElement:
    """Make an element whatever its value; a sequence gets an item."""
    if vr == "SQ" and not isinstance(value, Sequence | list):
        item = Dataset()
        item.add(element(0x00100010, "PN", VALUES["PN"]))
        item.add(element(0x00081155, "UI", UID))
        value = Sequence([item])
    if isinstance(value, tuple):
        value = list(value)
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def marked(tag: int) -> DataElement:
    """Make an element of PS3.6 that holds a mark."""
    vr = vr_of(tag)
    return element(tag, vr, VALUES.get(vr))


def vr_of(tag: int) -> str:
    """Give the value representation of a tag, the first where there are several."""
    return dictionary_VR(tag).partition(" ")[0]


def find_marks(data: bytes) -> list[bytes]:
    """List the marks in bytes."""
    return [mark for mark in TELLING if mark in data]


def encoded(ds: Dataset) -> bytes:
    """Give a dataset as a file has it, explicit little endian, to look for marks in."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    with quiet_pydicom():
        write_dataset(buffer, ds)
    return buffer.getvalue()
