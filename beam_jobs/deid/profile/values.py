"""What may be made of a value: functions from the bytes of an element to the bytes that stand for them.

Bytes are little endian; text is what it is whatever the character set says, as only ASCII gets through.
Each function gives None where the value does not fit its rule: then the caller falls back to the next
weaker rule, in the end to removal. Nothing here raises for what a file holds, except `ValueError`,
`UnicodeDecodeError` and `struct.error`, which the caller takes for None.
"""

import re
import struct
from collections.abc import Callable
from functools import cache
from typing import Final, Protocol

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag

from beam_jobs.deid.headers import known_manufacturer
from beam_jobs.deid.profile.descriptors import keep_known_words


class Subject(Protocol):
    """What a value may be replaced by depends on whose it is."""

    subject_key: str
    day_shift: int
    second_shift: int
    shifts_times: bool

    def uid(self, uid: str) -> str:
        """Give the UID that stands for another."""


ValueFunction = Callable[[bytes, Subject], bytes | None]

_HEX_FLAGS: Final = re.compile(rb"[0-9A-Fa-f]{4}")
_UID: Final = re.compile(rb"[0-9.]{1,64}")

_IMAGE_TYPES: Final = frozenset(
    # PS3.3 C.8.5.6.1.1 (value 3), C.8.24.3.1 and C.8.16.1
    b"""ORIGINAL DERIVED PRIMARY SECONDARY ABDOMINAL BREAST CHEST ENDOCAVITARY ENDORECTAL ENDOVAGINAL
    EPICARDIAL FETAL_HEART GYNECOLOGY INTRACARDIAC INTRAOPERATIVE INTRAVASCULAR MUSCULOSKELETAL
    NEONATAL_HEAD OBSTETRICAL OPHTHALMIC PEDIATRIC PELVIC RETROPERITONEAL SCROTAL SMALL_PARTS TEE THYROID
    TRANSCRANIAL TTE VASCULAR VOLUME NONE MIXED LOCALIZER RESAMPLED""".split()
) | {b"FETAL HEART", b"NEONATAL HEAD", b"SMALL PARTS"}


def padded(value: bytes, pad: bytes = b" ") -> bytes:
    """Pad a value to even length (PS3.5 6.2)."""
    return value + pad if len(value) % 2 else value


def stripped(value: bytes) -> bytes:
    """Drop what pads a value to even length."""
    return value.strip(b" \0")


def hash_uids(value: bytes, subject: Subject) -> bytes | None:
    """Replace every UID of a value but those that PS3.6 Annex A registers; what is no UID is removed."""
    parts = []
    for part in value.split(b"\\"):
        uid = stripped(part)
        if not uid or not _UID.fullmatch(uid):
            return None
        written = uid.decode("ascii")
        parts.append(written if written in UID_dictionary else subject.uid(written))
    return padded("\\".join(parts).encode("ascii"), b"\0")


def name_manufacturer(value: bytes, _: Subject) -> bytes | None:
    """Name the vendor that a text stands for, of a closed list."""
    vendor = known_manufacturer(value.decode("ascii", "replace"))
    return None if vendor is None else padded(vendor.encode("ascii"))


def keep_descriptor(value: bytes, _: Subject | None = None) -> bytes | None:
    """Keep of a text the words that name echo, and no others (PS3.15 E.3.5)."""
    return padded(kept.encode("ascii")) if (kept := keep_known_words(value)) else None


def keep_image_type(value: bytes, _: Subject) -> bytes | None:
    """Keep the defined words of an image type and its bit map of modes; other values are emptied."""
    parts = [stripped(part) for part in value.split(b"\\")]
    kept = [
        part if part in _IMAGE_TYPES or (place == 3 and _HEX_FLAGS.fullmatch(part)) else b""
        for place, part in enumerate(parts[:8])
    ]
    return padded(b"\\".join(kept)) if any(kept[:2]) else None


def keep_identity(value: bytes, _: Subject | None = None) -> bytes | None:
    """Keep a text of a device as it is, where it is short and ASCII (PS3.15 E.3.8)."""
    kept = stripped(value)
    is_plain = 0 < len(kept) <= 64 and all(32 <= byte < 127 for byte in kept)
    return padded(kept) if is_plain else None


def drop(_: bytes, __: Subject) -> None:
    """Keep nothing."""


def keep_tags(value: bytes, _: Subject) -> bytes | None:
    """Keep pointers to attributes that PS3.6 names."""
    numbers = struct.unpack(f"<{len(value) // 2}H", value)
    is_known = len(value) == 4 or len(value) == 8
    tags = [group << 16 | element for group, element in zip(numbers[::2], numbers[1::2], strict=True)]
    return value if is_known and all(dictionary_has_tag(tag) for tag in tags) else None


@cache
def keep_words(words: tuple[str, ...], *, many: bool) -> ValueFunction:
    """Make a function that keeps values of a closed vocabulary."""
    known = frozenset(word.encode("ascii") for word in words)

    def keep(value: bytes, _: Subject) -> bytes | None:
        if value in known and not len(value) % 2:
            return value
        parts = [stripped(part) for part in value.split(b"\\")]
        is_known = (many or len(parts) == 1) and all(part in known for part in parts)
        return padded(b"\\".join(parts)) if is_known else None

    return keep


@cache
def keep_pattern(pattern: str, most: int) -> ValueFunction:
    """Make a function that keeps values of a form."""
    form = re.compile(pattern.encode("ascii"))

    def keep(value: bytes, _: Subject) -> bytes | None:
        parts = [stripped(part) for part in value.split(b"\\")]
        is_fit = len(parts) <= most and all(map(form.fullmatch, parts))
        return padded(b"\\".join(parts)) if is_fit else None

    return keep


def dummy(vr: str) -> bytes:
    """Give a value that says nothing, of a value representation (action D).

    A UID has none: it is replaced by the UID that stands for it.
    """
    return _DUMMIES.get(vr, b"REMOVED ")


_DUMMIES: Final = {
    "AS": b"000Y",
    "DA": b"20000101",
    "DT": b"20000101",
    "TM": b"000000",
    "DS": b"0 ",
    "IS": b"0 ",
    "UR": b"urn:removed ",
    "US": b"\0\0",
    "SS": b"\0\0",
    "UL": b"\0\0\0\0",
    "SL": b"\0\0\0\0",
    "FL": b"\0\0\0\0",
    "FD": b"\0\0\0\0\0\0\0\0",
    "OB": b"\0\0",
    "OW": b"\0\0",
    "UN": b"\0\0",
}
