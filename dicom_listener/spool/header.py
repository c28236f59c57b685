"""Reading from a received dataset only what says which instance it is and whose. Never pixels.

Not pydicom's reader: that takes whole values into memory, follows sequences by recursion and warns
with raw values, and what is read here was written by anybody. This one skips what it does not want, in
constant memory, and gives up on a header that takes too many steps.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom import config
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_listener.errors import InvalidInstanceUidError, UnreadableHeaderError

_SOP_CLASS_UID: Final = 0x0008_0016
_SOP_INSTANCE_UID: Final = 0x0008_0018
_PATIENT_ID: Final = 0x0010_0020
_STUDY_INSTANCE_UID: Final = 0x0020_000D
_SERIES_INSTANCE_UID: Final = 0x0020_000E
_UIDS: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)
_WANTED: Final = frozenset((*_UIDS, _PATIENT_ID))

_ITEM: Final = 0xFFFE_E000
_ITEM_DELIMITATION: Final = 0xFFFE_E00D
_SEQUENCE_DELIMITATION: Final = 0xFFFE_E0DD
_ITEM_GROUP: Final = 0xFFFE
_UNDEFINED: Final = 0xFFFF_FFFF

# PS3.5 section 7.1.2: these have a length of 32 bits behind two reserved bytes.
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAXIMUM_VALUE_BYTES: Final = 256
_MAXIMUM_STEPS: Final = 100_000
_MAXIMUM_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """What an instance is and whose.

    Attributes:
        patient_id: as sent, without padding; "" where there is none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str


def read_identity(dataset: BinaryIO, transfer_syntax: UID) -> InstanceIdentity:
    """Read an encoded dataset as far as its series UID.

    Args:
        dataset: at its start; encoded as the transfer syntax says, elements in ascending order (PS3.5
            section 7.1).
        transfer_syntax: not a deflated one.

    Raises:
        UnreadableHeaderError: if it cannot be parsed, or an identifying UID is absent.
        InvalidInstanceUidError: if such a UID is malformed (PS3.5 section 9.1).
    """
    elements = _Elements(dataset, is_implicit=transfer_syntax.is_implicit_VR, order=_order(transfer_syntax))
    values: dict[int, str] = {}
    try:
        for tag, length in elements:
            if tag in _WANTED:
                values[tag] = _text(elements.value(length))
            else:
                elements.skip(length)
    except (EOFError, ValueError) as error:
        raise UnreadableHeaderError(
            f"The dataset cannot be parsed as {transfer_syntax.name}: {error}"
        ) from error
    for tag in _UIDS:
        value = values.get(tag)
        if not value:
            raise UnreadableHeaderError(
                f"The dataset has no element {Tag(tag)}, which says what it belongs to"
            )
        if not is_valid_uid(value):
            raise InvalidInstanceUidError(f"Element {Tag(tag)} is not a valid UID (PS3.5 section 9.1)")
    return InstanceIdentity(
        sop_class_uid=values[_SOP_CLASS_UID],
        sop_instance_uid=values[_SOP_INSTANCE_UID],
        study_instance_uid=values[_STUDY_INSTANCE_UID],
        series_instance_uid=values[_SERIES_INSTANCE_UID],
        patient_id=values.get(_PATIENT_ID, ""),
    )


def is_valid_uid(value: str) -> bool:
    """Say whether a string is a UID (PS3.5 section 9.1), without a warning that repeats it."""
    return UID(value, validation_mode=config.IGNORE).is_valid


def _order(transfer_syntax: UID) -> str:
    return "<" if transfer_syntax.is_little_endian else ">"


def _text(value: bytes) -> str:
    # Latin-1 maps any bytes to a string and different bytes to different strings: enough to tell
    # patients apart, and nobody is shown it.
    return value.decode("latin-1").strip("\0 ")


class _Elements:
    """The elements of a dataset as far as the series UID. For each, its value must be taken or skipped."""

    def __init__(self, dataset: BinaryIO, *, is_implicit: bool, order: str) -> None:
        self._dataset = dataset
        self._is_implicit = is_implicit
        self._tag = struct.Struct(f"{order}HH")
        self._short = struct.Struct(f"{order}H")
        self._long = struct.Struct(f"{order}L")
        self._steps = 0
        self._vr = b""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while True:
            header = self._dataset.read(8)
            if not header:
                return
            tag, length = self._parse(header, is_implicit=self._is_implicit)
            if tag >> 16 == _ITEM_GROUP:
                continue  # some real files have stray delimiters between elements; they end nothing
            if tag > _SERIES_INSTANCE_UID:
                return
            yield tag, length

    def value(self, length: int) -> bytes:
        """Read the value of a short element; of a longer one only the start."""
        if length == _UNDEFINED:
            raise ValueError("an identifying element has no length")
        value = self._dataset.read(min(length, _MAXIMUM_VALUE_BYTES))
        if len(value) < min(length, _MAXIMUM_VALUE_BYTES):
            raise EOFError("it ends inside an element")  # half a UID may be a valid UID
        self._jump(length - len(value))
        return value

    def skip(self, length: int) -> None:
        """Go to the end of a value, through nested items where it has no length (PS3.5 section 7.5)."""
        if length != _UNDEFINED:
            self._jump(length)
            return
        open_lengths = 1  # of sequences and items that a delimiter ends
        # What a sender did not know either is within in Implicit VR (PS3.5 section 6.2.2, Note 4).
        is_implicit = self._is_implicit or self._vr == b"UN"
        while open_lengths:
            header = self._dataset.read(8)
            if not header:
                raise EOFError("it ends inside a sequence")
            tag, length = self._parse(header, is_implicit=is_implicit)
            if tag in (_ITEM_DELIMITATION, _SEQUENCE_DELIMITATION):
                open_lengths -= 1
            elif length == _UNDEFINED:
                open_lengths += 1
                if open_lengths > _MAXIMUM_DEPTH:
                    raise ValueError("sequences are nested too deep")
            else:
                self._jump(length)

    def _parse(self, header: bytes, *, is_implicit: bool) -> tuple[int, int]:
        self._steps += 1
        if self._steps > _MAXIMUM_STEPS:
            raise ValueError(f"more than {_MAXIMUM_STEPS} elements come before the series UID")
        if len(header) < 8:
            raise EOFError("it ends inside an element")
        group, element = self._tag.unpack_from(header)
        tag = group << 16 | element
        self._vr = vr = header[4:6]
        if is_implicit or group == _ITEM_GROUP or not (vr.isalpha() and vr.isupper()):
            return tag, self._long.unpack_from(header, 4)[0]  # some writers switch to implicit VR midway
        if vr not in _LONG_VRS:
            return tag, self._short.unpack_from(header, 6)[0]
        length = self._dataset.read(4)
        if len(length) < 4:
            raise EOFError("it ends inside an element")
        return tag, self._long.unpack(length)[0]

    def _jump(self, length: int) -> None:
        self._dataset.seek(length, 1)
