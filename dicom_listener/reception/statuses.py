"""What is answered on the wire, and why."""

from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from pydicom.dataset import Dataset

from dicom_listener.errors import (
    ConflictingInstanceError,
    InvalidInstanceUidError,
    ListenerError,
    MismatchedInstanceError,
    OversizedInstanceError,
    RetryLaterError,
    UnreadableHeaderError,
    UnsupportedSopClassError,
)


class StoreStatus(IntEnum):
    """Statuses of a C-STORE response that this listener gives (PS3.4 Table B.2-1, PS3.7 9.1.1.1.9)."""

    SUCCESS = 0x0000
    INVALID_SOP_INSTANCE = 0x0117  # PS3.7 C.5.11
    SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6
    OUT_OF_RESOURCES = 0xA700  # the sender may try again
    DATASET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    CONFLICTING_INSTANCE = 0xA901  # of the range A9xx, dataset does not match


class Rejection(NamedTuple):
    """What an A-ASSOCIATE-RJ PDU says (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int


_PERMANENT: Final = 1
_TRANSIENT: Final = 2
_SERVICE_USER: Final = 1
_PRESENTATION: Final = 3

CALLED_AE_TITLE_NOT_RECOGNIZED: Final = Rejection(_PERMANENT, _SERVICE_USER, 7)
CALLING_AE_TITLE_NOT_RECOGNIZED: Final = Rejection(_PERMANENT, _SERVICE_USER, 3)
NO_REASON_GIVEN: Final = Rejection(_TRANSIENT, _SERVICE_USER, 1)
LOCAL_LIMIT_EXCEEDED: Final = Rejection(_TRANSIENT, _PRESENTATION, 2)


class AssociationRefusal(StrEnum):
    """Why an association, or a connection before it requested one, is refused; safe as a metric label."""

    CALLED_AE_TITLE = "called_ae_title"
    UNKNOWN_PEER = "unknown_peer"
    PEER_LIMIT = "peer_limit"
    ASSOCIATION_LIMIT = "association_limit"
    CONNECTION_LIMIT = "connection_limit"
    DISK_RESERVE = "disk_reserve"
    INTERNAL_ERROR = "internal_error"


REJECTIONS: Final = {
    AssociationRefusal.CALLED_AE_TITLE: CALLED_AE_TITLE_NOT_RECOGNIZED,
    AssociationRefusal.UNKNOWN_PEER: CALLING_AE_TITLE_NOT_RECOGNIZED,
    AssociationRefusal.PEER_LIMIT: LOCAL_LIMIT_EXCEEDED,
    AssociationRefusal.ASSOCIATION_LIMIT: LOCAL_LIMIT_EXCEEDED,
    AssociationRefusal.DISK_RESERVE: LOCAL_LIMIT_EXCEEDED,
    AssociationRefusal.INTERNAL_ERROR: NO_REASON_GIVEN,
}
"""What a requestor is told. A connection over the limit is closed before it can request anything."""


class EchoStatus(IntEnum):
    """The status of a C-ECHO response (PS3.4 A.4)."""

    SUCCESS = 0x0000


_ANSWERS: Final[dict[type[ListenerError], tuple[StoreStatus, str]]] = {
    RetryLaterError: (StoreStatus.OUT_OF_RESOURCES, "cannot be kept now, send it again later"),
    UnreadableHeaderError: (StoreStatus.CANNOT_UNDERSTAND, "header cannot be read"),
    MismatchedInstanceError: (
        StoreStatus.DATASET_DOES_NOT_MATCH_SOP_CLASS,
        "dataset is not the instance that was announced",
    ),
    ConflictingInstanceError: (
        StoreStatus.CONFLICTING_INSTANCE,
        "another content has this SOP Instance UID, and is kept",
    ),
    InvalidInstanceUidError: (StoreStatus.INVALID_SOP_INSTANCE, "a study, series or instance UID is invalid"),
    # Of the failures of PS3.4 Table B.2-1 the nearest: nothing is wrong with the dataset but its size.
    OversizedInstanceError: (StoreStatus.OUT_OF_RESOURCES, "larger than is kept here (maximum_object_bytes)"),
    UnsupportedSopClassError: (StoreStatus.SOP_CLASS_NOT_SUPPORTED, "not a storage class that is kept here"),
}


class StoreAnswer(NamedTuple):
    """What a C-STORE response says.

    Attributes:
        comment: for the sender's log, in the 64 characters that VR LO has; "" for none.
    """

    status: StoreStatus
    comment: str = ""


def failure_answer(error: ListenerError) -> StoreAnswer:
    """Say what the sender of an instance that was not kept is told.

    Args:
        error: a `RetryLaterError` or one of the `RefusedInstanceError`s.

    Raises:
        KeyError: if the error is none that a sender is told about.
    """
    for kind, (status, comment) in _ANSWERS.items():
        if isinstance(error, kind):
            return StoreAnswer(status, comment)
    raise KeyError(f"no status is listed for {type(error).__name__}")


def status_elements(answer: StoreAnswer) -> Dataset:
    """Put an answer into the elements that pynetdicom wants from a handler."""
    response = Dataset()
    response.Status = int(answer.status)
    if answer.comment:
        response.ErrorComment = answer.comment
    return response
