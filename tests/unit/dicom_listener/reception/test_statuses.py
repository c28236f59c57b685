import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicom_listener.errors import (
    InvalidInstanceUidError,
    LedgerUnavailableError,
    ListenerError,
    MismatchedInstanceError,
    OversizedInstanceError,
    SpoolUnavailableError,
    StudyNotFoundError,
    UnreadableHeaderError,
    UnsupportedSopClassError,
)
from dicom_listener.reception.statuses import (
    EchoStatus,
    StoreAnswer,
    StoreStatus,
    failure_answer,
    status_elements,
)


@pytest.mark.parametrize(
    ("error", "status", "meaning"),
    [
        (SpoolUnavailableError("x"), 0xA700, "Refused: Out of Resources"),
        (LedgerUnavailableError("x"), 0xA700, "Refused: Out of Resources"),
        (MismatchedInstanceError("x"), 0xA900, "Data Set Does Not Match SOP Class"),
        (UnreadableHeaderError("x"), 0xC000, "Cannot Understand"),
        (InvalidInstanceUidError("x"), 0x0117, "Invalid Object Instance"),
        (OversizedInstanceError("x"), 0xA700, "Refused: Out of Resources"),
        (UnsupportedSopClassError("x"), 0x0122, "Refused: SOP Class Not Supported"),
    ],
)
def test_a_failure_is_answered_as_the_standard_has_it(
    error: ListenerError, status: int, meaning: str
) -> None:
    response = status_elements(failure_answer(error))
    assert response.Status == status
    assert code_to_category(response.Status) == "Failure"
    assert STORAGE_SERVICE_CLASS_STATUS[response.Status][1] == meaning
    assert 0 < len(response.ErrorComment) <= 64


def test_success_has_no_comment() -> None:
    assert "ErrorComment" not in status_elements(StoreAnswer(StoreStatus.SUCCESS))


def test_success_is_zero() -> None:
    assert [int(StoreStatus.SUCCESS), int(EchoStatus.SUCCESS)] == [0, 0]


def test_an_error_that_no_sender_causes_has_no_status() -> None:
    with pytest.raises(KeyError, match="StudyNotFoundError"):
        failure_answer(StudyNotFoundError("x"))
