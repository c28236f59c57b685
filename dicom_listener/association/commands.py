"""The command sets of DIMSE messages as far as the listener reads them itself: C-STORE, on the fast way.

Command sets are encoded in Implicit VR Little Endian whatever was negotiated (PS3.7 section 6.3.1).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dicom_listener.association.guard import BreachError
from dicom_listener.reception.breaches import Breach

_ELEMENT: Final = struct.Struct("<HHL")
_US: Final = struct.Struct("<H")
_UL: Final = struct.Struct("<L")
NO_DATASET: Final = 0x0101
"""The value of Command Data Set Type that says that no dataset follows (PS3.7 Table 9.1-1)."""

_GROUP: Final = 0x0000
_AFFECTED_SOP_CLASS_UID: Final = 0x0002
_COMMAND_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_MESSAGE_ID_RESPONDED_TO: Final = 0x0120
_DATASET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_ERROR_COMMENT: Final = 0x0902
_AFFECTED_SOP_INSTANCE_UID: Final = 0x1000


class CommandField(IntEnum):
    """What a message is (PS3.7 section E.1); those that the listener looks at."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    N_EVENT_REPORT_RQ = 0x0100


@dataclass(frozen=True, slots=True)
class Command:
    """What a command set says.

    Attributes:
        field: what the message is; not always a `CommandField`.
        message_id: 0 where there is none.
        sop_class_uid: as sent, without padding; "" where there is none.
        sop_instance_uid: likewise.
        has_dataset: whether a dataset follows.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_dataset: bool


def parse_command(encoded: bytes | bytearray) -> Command:
    """Read a command set.

    Raises:
        BreachError: if it is none.
    """
    values: dict[int, bytes] = {}
    place = 0
    while place < len(encoded):
        if len(encoded) - place < _ELEMENT.size:
            raise BreachError(Breach.UNREADABLE_PDU)
        group, element, length = _ELEMENT.unpack_from(encoded, place)
        place += _ELEMENT.size
        if group != _GROUP or length > len(encoded) - place:
            raise BreachError(Breach.UNREADABLE_PDU)
        values[element] = bytes(encoded[place : place + length])
        place += length
    return Command(
        field=_number(values, _COMMAND_FIELD),
        message_id=_number(values, _MESSAGE_ID, 0),
        sop_class_uid=_uid(values, _AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(values, _AFFECTED_SOP_INSTANCE_UID),
        has_dataset=_number(values, _DATASET_TYPE) != NO_DATASET,
    )


def encode_store_response(request: Command, status: int, comment: str = "") -> bytes:
    """Encode the command set of a C-STORE response (PS3.7 Table 9.3-2).

    Args:
        request: what is answered.
        status: one of `StoreStatus`.
        comment: for the sender's log, 64 ASCII characters at most.
    """
    elements = (
        _element(_AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid, b"\0"))
        + _element(_COMMAND_FIELD, _US.pack(CommandField.C_STORE_RSP))
        + _element(_MESSAGE_ID_RESPONDED_TO, _US.pack(request.message_id))
        + _element(_DATASET_TYPE, _US.pack(NO_DATASET))
        + _element(_STATUS, _US.pack(status))
    )
    if comment:
        elements += _element(_ERROR_COMMENT, _padded(comment, b" "))
    elements += _element(_AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid, b"\0"))
    return _element(_GROUP, _UL.pack(len(elements))) + elements


def _number(values: dict[int, bytes], element: int, default: int | None = None) -> int:
    value = values.get(element)
    if value is None and default is not None:
        return default
    if value is None or len(value) != _US.size:
        raise BreachError(Breach.UNREADABLE_PDU)
    number: int = _US.unpack(value)[0]
    return number


def _uid(values: dict[int, bytes], element: int) -> str:
    # Latin-1 maps any bytes to a string, and back to the same bytes in the answer.
    return values.get(element, b"").decode("latin-1").rstrip("\0 ")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(_GROUP, element, len(value)) + value


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("latin-1")
    return value + padding * (len(value) % 2)
