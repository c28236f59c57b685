"""Reading from a received dataset only what says which instance it is and whose. Never pixels."""

from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from dicom_listener.errors import InvalidInstanceUidError, UnreadableHeaderError

_SOP_CLASS_UID: Final = Tag("SOPClassUID")
_SOP_INSTANCE_UID: Final = Tag("SOPInstanceUID")
_PATIENT_ID: Final = Tag("PatientID")
_STUDY_INSTANCE_UID: Final = Tag("StudyInstanceUID")
_SERIES_INSTANCE_UID: Final = Tag("SeriesInstanceUID")
_WANTED: Final = (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _PATIENT_ID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)
_ITEM_GROUP: Final = 0xFFFE
_MAXIMUM_PATIENT_ID_LENGTH: Final = 256


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
    try:
        elements = read_dataset(
            dataset,
            is_implicit_VR=transfer_syntax.is_implicit_VR,
            is_little_endian=transfer_syntax.is_little_endian,
            stop_when=_is_past_the_identity,
            specific_tags=list(_WANTED),
        )
        values = {tag: _text(elements, tag) for tag in _WANTED}
    except Exception as error:  # a parser fed by the wire may raise anything
        raise UnreadableHeaderError(
            f"The dataset cannot be parsed as {transfer_syntax.name} ({type(error).__name__})"
        ) from error
    for tag in _WANTED:
        if tag == _PATIENT_ID:
            continue
        if not values[tag]:
            raise UnreadableHeaderError(f"The dataset has no element {tag}, which says what it belongs to")
        if not UID(values[tag], validation_mode=config.IGNORE).is_valid:
            raise InvalidInstanceUidError(f"Element {tag} is not a valid UID (PS3.5 section 9.1)")
    return InstanceIdentity(
        sop_class_uid=values[_SOP_CLASS_UID],
        sop_instance_uid=values[_SOP_INSTANCE_UID],
        study_instance_uid=values[_STUDY_INSTANCE_UID],
        series_instance_uid=values[_SERIES_INSTANCE_UID],
        patient_id=values[_PATIENT_ID][:_MAXIMUM_PATIENT_ID_LENGTH],
    )


def _is_past_the_identity(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    # Some real files have a stray item delimiter between elements; it sorts last but ends nothing.
    return tag > _SERIES_INSTANCE_UID and tag.group != _ITEM_GROUP


def _text(elements: Dataset, tag: BaseTag) -> str:
    if tag not in elements:
        return ""
    element = elements.get_item(tag)
    value = element.value or b""
    if isinstance(value, bytes) and isinstance(element, RawDataElement) and len(value) != element.length:
        raise EOFError("the dataset ends inside an element")  # half a UID may be a valid UID
    # Not pydicom's decoding, which warns with the raw value. Latin-1 maps any bytes to a string and
    # different bytes to different strings: enough to tell patients apart, and nobody is shown it.
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text.strip("\0 ")
