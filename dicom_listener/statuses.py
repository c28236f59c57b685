"""What is answered on the wire, and why."""

from enum import IntEnum
from typing import Final

from pydicom.dataset import Dataset

from dicom_listener.errors import (
    InvalidInstanceUidError,
    ListenerError,
    MismatchedInstanceError,
    RetryLaterError,
    UnreadableHeaderError,
)


class StoreStatus(IntEnum):
    """Statuses of a C-STORE response that this listener gives (PS3.4 Table B.2-1, PS3.7 9.1.1.1.9)."""

    SUCCESS = 0x0000
    INVALID_SOP_INSTANCE = 0x0117  # PS3.7 C.5.11
    OUT_OF_RESOURCES = 0xA700  # the sender may try again
    DATASET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


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
    InvalidInstanceUidError: (StoreStatus.INVALID_SOP_INSTANCE, "a study, series or instance UID is invalid"),
}


def failure_response(error: ListenerError) -> Dataset:
    """Build the status elements of a failed C-STORE: the status, and words for the sender's log.

    Args:
        error: a `RetryLaterError` or one of the `RefusedInstanceError`s.

    Raises:
        KeyError: if the error is none that a sender is told about.
    """
    kind = next((kind for kind in _ANSWERS if isinstance(error, kind)), None)
    if kind is None:
        raise KeyError(f"no status is listed for {type(error).__name__}")
    status, comment = _ANSWERS[kind]
    response = Dataset()
    response.Status = int(status)
    response.ErrorComment = comment  # VR LO: 64 characters at most
    return response
